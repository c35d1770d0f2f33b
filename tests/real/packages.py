"""Tokenizers of other people's packages, made from what a GGUF file holds of the vocabulary.

BPE goes to Hugging Face's `tokenizers`, with the settings of Qwen2's tokenizer.json; SentencePiece to Google's
`sentencepiece`, with those of Gemma. Neither has seen llama.cpp's code.
"""

from collections.abc import Callable
from pathlib import Path

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from cpuft.models.gguf import Gguf, read_gguf

Tokenize = Callable[[str], list[int]]
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens, in GGUF as in SentencePiece
SPACE_MARK = "▁"

# How Qwen2 cuts a text before it merges bytes; the first that fits counts.
ENGLISH_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"  # with one character before it, a space for instance
DIGIT = r"\p{N}"  # each on its own
SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
LINE_ENDS = r"\s*[\r\n]+"
SPACE_BEFORE_A_WORD = r"\s+(?!\S)"  # all but its last character
SPACE = r"\s+"
QWEN2 = "|".join((ENGLISH_ENDINGS, WORD, DIGIT, SYMBOLS, LINE_ENDS, SPACE_BEFORE_A_WORD, SPACE))


def packaged(path: Path, *, parse_special: bool, normalize: bool = False) -> Tokenize:
    """A function text -> tokens, without BOS.

    parse_special: whether control tokens that stand in a text are these tokens, and not their letters.
    normalize:     whether BPE sees a text in Unicode's form NFC, as transformers does for Qwen2, and llama.cpp does not.
    """
    model = read_gguf(path)
    kind = model.get("tokenizer.ggml.model")
    return _bpe(model, parse_special, normalize) if kind == "gpt2" else _sentencepiece(model, parse_special)


def _bpe(model: Gguf, parse_special: bool, normalize: bool) -> Tokenize:
    assert model.get("tokenizer.ggml.pre") == "qwen2"
    texts, kinds = model.get("tokenizer.ggml.tokens"), model.get("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in model.get("tokenizer.ggml.merges")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=merges))
    if normalize:
        tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    whole = (CONTROL, USER_DEFINED) if parse_special else (USER_DEFINED,)
    found = [text for text, kind in zip(texts, kinds, strict=True) if kind in whole]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in found])
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _sentencepiece(model: Gguf, parse_special: bool) -> Tokenize:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(model.get("tokenizer.ggml.add_space_prefix", True))
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    for name, key in (("unk_id", "unknown"), ("bos_id", "bos"), ("eos_id", "eos"), ("pad_id", "padding")):
        setattr(proto.trainer_spec, name, model.get(f"tokenizer.ggml.{key}_token_id"))
    unknown = model.get("tokenizer.ggml.unknown_token_id")
    columns = (model.get(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type"))
    for i, (text, score, kind) in enumerate(zip(*columns, strict=True)):
        if i == unknown:
            kind = UNKNOWN
        elif kind == CONTROL and parse_special:
            kind = USER_DEFINED
        proto.pieces.add(piece=text.replace(" ", SPACE_MARK), score=score, type=kind)
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    return lambda text: list(processor.encode(text))
