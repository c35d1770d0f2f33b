"""Tokens and the stretch of text that each of them stands for.

A text is always tokenized whole, by llama.cpp's own tokenizer, because its parts may tokenize differently. Which tokens
belong to a part is then read from where each token's piece lies in the text.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cpuft.errors import ExampleError

SPACE = b" \t\r\n"
# SentencePiece writes a space as this sign, so a text that has the sign (a sparkline) is read as having a space.
SPACE_MARK = "▁".encode()


class Tokenizer(Protocol):
    """The tokenizer of a GGUF model as llama.cpp runs it; `cpuft.engine.Engine` is one."""

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """The tokens of a text; add_special: with the BOS and EOS that the metadata ask for."""

    def detokenize(self, tokens: Sequence[int], *, render_special: bool = True) -> bytes:
        """The text of tokens in UTF-8; control tokens are left out unless render_special is set."""


class Span(NamedTuple):
    """Bytes [start, end) of a UTF-8 text."""

    start: int
    end: int


class Piece(NamedTuple):
    """What a token looks like inside a text; a control token, such as <|im_end|>, is never part of what is said."""

    text: bytes
    control: bool


class AlignedTokenizer:
    """Tokenizes texts as llama.cpp's server does and says where each token lies.

    bos_token, eos_token: the text of these tokens, "" where the model has none.
    """

    def __init__(self, tokenizer: Tokenizer, *, bos_token: str, eos_token: str) -> None:
        self.bos_token, self.eos_token = bos_token, eos_token
        self._tokenizer = tokenizer
        self._pieces: dict[int, Piece] = {}
        # A piece loses its leading space at the beginning of a text, so it is read behind this token.
        self._anchor = tokenizer.tokenize("a", add_special=False, parse_special=False)
        self._anchor_text = tokenizer.detokenize(self._anchor)
        added = tokenizer.tokenize("a", add_special=True, parse_special=False)
        starts = range(len(added) - len(self._anchor) + 1)
        self._n_before = next((i for i in starts if added[i : i + len(self._anchor)] == self._anchor), 0)
        self._n_after = len(added) - len(self._anchor) - self._n_before

    def tokenize(self, text: str) -> tuple[list[int], list[Span]]:
        """The tokens of a text, with the special ones that the model's metadata ask for, and where each lies in it.

        A BOS or EOS that the text already has is not doubled. Raises ExampleError where a part has no token.
        """
        offset, body = 0, text
        if self._n_before and self.bos_token and body.startswith(self.bos_token):
            body, offset = body.removeprefix(self.bos_token), len(self.bos_token.encode())
        if self._n_after and self.eos_token:
            body = body.removesuffix(self.eos_token)
        tokens = self._tokenizer.tokenize(body, add_special=True, parse_special=True)
        data = body.encode()
        inner = tokens[self._n_before : len(tokens) - self._n_after]
        spans = [Span(start + offset, end + offset) for start, end in self._align(inner, data)]
        end = Span(offset + len(data), len(text.encode()))
        return tokens, [Span(0, offset)] * self._n_before + spans + [end] * self._n_after

    def piece(self, token: int) -> Piece:
        """A token's text as it stands in the middle of a text."""
        known = self._pieces.get(token)
        if known is None:
            text = self._tokenizer.detokenize([*self._anchor, token], render_special=True)
            plain = self._tokenizer.detokenize([*self._anchor, token], render_special=False)
            known = Piece(text[len(self._anchor_text) :], control=len(plain) < len(text))
            self._pieces[token] = known
        return known

    def _align(self, tokens: Sequence[int], text: bytes) -> list[Span]:
        """Where each token's piece lies, from left to right.

        Two liberties of tokenizers are allowed for: a space that they put before a word, and white space that they
        swallow beside a control token. A piece of spaces behind such a token may be either that white space or, written
        as SPACE_MARK, what follows it: the whole text tells which, so where the one does not fit, the other is tried.
        """
        spans, end = self._walk(tokens, text, swallowed=False)
        if end is not None and SPACE_MARK in text:
            spans, again = self._walk(tokens, text, swallowed=True)
            end = again if again is None else end
        if end is not None:
            raise ExampleError(_unknown(text, end))
        return spans

    def _walk(self, tokens: Sequence[int], text: bytes, *, swallowed: bool) -> tuple[list[Span], int | None]:
        """The spans of the tokens, and where in the text there is none for it; None: there is one for all of it.

        swallowed: white space behind a control token has no token, wherever that can be.
        """
        spans: list[Span] = []
        position, after_control = 0, False
        for token in tokens:
            piece, control = self.piece(token)
            places = [position]
            if after_control and swallowed:
                places.insert(0, _behind_space(text, position))
            span = next((span for place in places if (span := _match(piece, text, place))), None)
            span = span or _match(piece, text, _behind_space(text, position))
            if span is None:
                return spans, position
            spans.append(span)
            position, after_control = span.end, control
        return spans, position if text[position:].strip(SPACE) else None


def _behind_space(text: bytes, position: int) -> int:
    return len(text) - len(text[position:].lstrip(SPACE))


def _match(piece: bytes, text: bytes, position: int) -> Span | None:
    end = _end(piece, text, position)
    if end is None and piece.startswith(b" "):
        end = _end(piece[1:], text, position)
    return None if end is None else Span(position, end)


def _end(piece: bytes, text: bytes, position: int) -> int | None:
    """Where a piece ends that the text has at `position`, perhaps with SPACE_MARK for its spaces; None: it has not."""
    if text.startswith(piece, position):
        return position + len(piece)
    first, *words = piece.split(b" ")
    if not text.startswith(first, position):
        return None
    position += len(first)
    for word in words:
        space = next((sign for sign in (b" ", SPACE_MARK) if text.startswith(sign + word, position)), None)
        if space is None:
            return None
        position += len(space + word)
    return position


def _unknown(text: bytes, position: int) -> str:
    around = text[position : position + 24].decode(errors="replace")
    return f"the model's tokenizer has no token for the text that begins with {around!r}"


def common_prefix(one: str, two: str) -> int:
    """How many characters two texts begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
