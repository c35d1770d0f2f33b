"""Tokenizers of other people's packages, made from what a GGUF file holds of the vocabulary.

BPE goes to Hugging Face's `tokenizers`, with the settings of Qwen2's tokenizer.json; SentencePiece to Google's
`sentencepiece`, with those of Gemma. Neither has seen llama.cpp's code.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from cpuft.gguf.reader import Gguf, read_gguf

Tokenize = Callable[[str], list[int]]
Vocabulary = Sequence[tuple[str, int]]  # tokens with their types
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens, in GGUF as in SentencePiece
SPACE_MARK = "▁"
# Tokens that llama.cpp takes for control tokens that end an answer, whatever the file says of them: it finds them by
# name. Both models have one, an HTML tag, as an ordinary token.
TAKEN_FOR_ENDS = ("</s>",)

# How Qwen2 cuts a text before it merges bytes; the first that fits counts.
ENGLISH_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"  # with one character before it, a space for instance
DIGIT = r"\p{N}"  # each on its own
SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
LINE_ENDS = r"\s*[\r\n]+"
SPACE_BEFORE_A_WORD = r"\s+(?!\S)"  # all but its last character
WHITE_SPACE = r"\s+"
QWEN2 = "|".join((ENGLISH_ENDINGS, WORD, DIGIT, SYMBOLS, LINE_ENDS, SPACE_BEFORE_A_WORD, WHITE_SPACE))


def packaged(path: Path, *, parse_special: bool, published: bool = False) -> Tokenize:
    """A function text -> tokens, without BOS.

    parse_special: whether control tokens that stand in a text are these tokens, and not their letters.
    published:     as the model's authors have it, where llama.cpp differs: TAKEN_FOR_ENDS is left out, and Qwen2 sees a
                   text in Unicode's form NFC.
    """
    model = read_gguf(path)
    texts, kinds = model.get("tokenizer.ggml.tokens"), model.get("tokenizer.ggml.token_type")
    ends = () if published else TAKEN_FOR_ENDS
    vocabulary = [(text, CONTROL if text in ends else kind) for text, kind in zip(texts, kinds, strict=True)]
    if model.get("tokenizer.ggml.model") == "llama":
        return _sentencepiece(model, vocabulary, parse_special)
    assert model.get("tokenizer.ggml.pre") == "qwen2"
    return _bpe(model, vocabulary, parse_special, normalizers.NFC() if published else None)


def _bpe(
    model: Gguf, vocabulary: Vocabulary, parse_special: bool, normalizer: normalizers.Normalizer | None
) -> Tokenize:
    merges = [tuple(merge.split(" ")) for merge in model.get("tokenizer.ggml.merges")]
    numbers = {text: number for number, (text, _) in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=numbers, merges=merges))
    tokenizer.normalizer = normalizer
    cut = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    whole = (CONTROL, USER_DEFINED) if parse_special else (USER_DEFINED,)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text, kind in vocabulary if kind in whole])
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _sentencepiece(model: Gguf, vocabulary: Vocabulary, parse_special: bool) -> Tokenize:
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined] # made when it is imported
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(model.get("tokenizer.ggml.add_space_prefix", True))
    proto.normalizer_spec.remove_extra_whitespaces = False
    for name, key in (("unk_id", "unknown"), ("bos_id", "bos"), ("eos_id", "eos"), ("pad_id", "padding")):
        setattr(proto.trainer_spec, name, model.get(f"tokenizer.ggml.{key}_token_id"))
    unknown = proto.trainer_spec.unk_id
    for (text, kind), score in zip(vocabulary, model.get("tokenizer.ggml.scores"), strict=True):
        whole = USER_DEFINED if kind == CONTROL and parse_special else kind
        proto.pieces.add(piece=text.replace(" ", SPACE_MARK), score=score, type=whole)
    proto.pieces[unknown].type = UNKNOWN
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def tokenize(text: str) -> list[int]:
        # The unknown token is never found by its name; where it should be, it is cut out before.
        first, *rest = text.split(vocabulary[unknown][0]) if parse_special else [text]
        tokens = list(processor.encode(first))
        for part in rest:
            tokens += [unknown, *processor.encode(part)]
        return tokens

    return tokenize
