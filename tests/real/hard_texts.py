"""A thousand strings that tokenizers get wrong: the same ones on every machine."""

# ruff: noqa: RUF001 - characters that look like others are meant here
import functools
import random

# Each kind is what some tokenizer treats in a way of its own; texts are made of pieces of several kinds.
EMOJI = ("🙂", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪🇨🇭", "3️⃣", "❤️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "☃", "✓")
EAST_ASIAN = ("中文", "漢字かな交じり文", "カタカナ", "안녕하세요", "𠀀𪛖", "，。", "「」", "ﾊﾝｶｸ", "각")
RIGHT_TO_LEFT = ("مرحبا", "السَّلَامُ", "שלום", "שָׁלוֹם", "\u202eabc\u202c", "\u200f", "فارسی‌ها", "٣٤٥")
CONTROLS = ("\0", "\x01", "\x07\x08", "\x1b[31m", "\x7f", "\x85", "\ufeff", "\u200b", "\xad", "\ufffd", "\ufffe")
SPARKLINES = ("▁▂▃▄▅▆▇█", "▁", "▁▁▁▁", "▂▁▂", "█▁", "░▒▓", "└──", "│ ")
WHITE = (
    *(" " * n for n in (1, 2, 3, 4, 7, 8, 16, 33, 70)),
    *("\n", "\n\n", "\n\n\n\n", "\r\n", "\r", "\r\n\r\n", "\t", "\t\t\t", " \n ", "  \n\t \n", "\n  ", "\v", "\f"),
    *("\u00a0", "\u2003\u2009", "\u3000", "\u2028", "\u1680"),
)
MARKS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|box_end|>"),
    *("<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<unused7>", "[multimodal]"),
    *("<|im_end|", "<|im_end |>", "<|IM_END|>", "|im_end|>", "<<|im_end|>>", "</s>", "<s>", "<0x0A>", "<0x41>"),
    *("<|im_start|><|im_end|>", "[INST]", "<h1>", "</td>", "<b"),
)
COMBINED = ("é", "e\u0301", "Å", "\u212b", "ñ\u0303", "z̷͑͝a̴l̵g̶o̸", "नमस्ते", "ภาษาไทย", "ﬁ", "ǆ", "ß", "İ", "ς", "ꙮ")
NUMBERS = ("0", "7", "12", "1234567890", "3.14", "1,000", "½", "Ⅻ", "①", "²", "४२", "1e-5", "0x1F", "-40", "๕")
WORDS = (
    *(
        "a",
        "The",
        "don't",
        "I'LL",
        "we've",
        "'s",
        "’s",
        "O'Brien",
        "x'y",
        "naïve",
        "STRASSE",
        "camelCase",
        "snake_case",
    ),
    *("Привет", "Ελληνικά", "Ünïcödé", "𝓐𝓫𝓬", "𐍈", "\ue000", "\U0010ffff", "Ⱥ", "ʼn", "lorem ipsum dolor"),
)
CODE = (
    *("def f(x):\n    return x\n", "if (a && b) {", "};", "/* */", "#!/bin/sh", "https://a.b/c?d=e&f=%20", "a@b.c"),
    *("```yaml\n- a: 1\n```", "\\n", '{"a": [1, 2]}', "!!!", "...", "=" * 40, "-" * 9, "/" * 17, "a" * 300, "$x^2$"),
)
KINDS = (EMOJI, EAST_ASIAN, RIGHT_TO_LEFT, CONTROLS, SPARKLINES, WHITE, MARKS, COMBINED, NUMBERS, WORDS, CODE)
COUNT = 1000


@functools.cache
def hard_texts() -> tuple[str, ...]:
    """Each piece alone, pieces joined with and without a space, and runs of random characters, in all COUNT."""
    rng = random.Random(20)
    texts = {"": None} | {piece: None for kind in KINDS for piece in kind}
    while len(texts) < COUNT:
        if len(texts) % 10 == 0:
            text = "".join(_character(rng) for _ in range(rng.randint(1, 30)))
        else:
            pieces = [rng.choice(rng.choice(KINDS)) for _ in range(rng.randint(2, 8))]
            text = rng.choice(("", "", " ")).join(pieces)
        texts[text] = None
    return tuple(texts)


def _character(rng: random.Random) -> str:
    """Any character that UTF-8 has: of the first plane mostly, surrogates left out."""
    while True:
        code = rng.randrange(rng.choice((0x80, 0x800, 0x3000, 0x10000, 0x20000)))
        if not 0xD800 <= code < 0xE000:
            return chr(code)
