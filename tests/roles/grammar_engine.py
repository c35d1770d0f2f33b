"""llama.cpp's own grammar engine, given texts and asked for texts, with the vocabulary of the bundled base."""

import codecs
import ctypes
import random
from functools import cache
from typing import Any

from cpuft import toolchain
from cpuft.demo import BASE_MODEL


class GrammarEngine:
    """A grammar as llama-server holds a model to it."""

    def __init__(self, grammar: str) -> None:
        self._llama, self._vocab, self._pieces = _vocabulary()
        self._tokens = {piece: token for token, piece in reversed(list(enumerate(self._pieces))) if piece}
        self._end = self._llama.llama_vocab_eos(self._vocab)
        self._grammar = self._llama.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
        assert self._grammar, "llama.cpp cannot read the grammar"

    def accepts(self, text: str) -> bool:
        """Whether the grammar takes a text, and an end behind it."""
        state = self._llama.llama_sampler_clone(self._grammar)
        try:
            for character in text:
                whole = self._tokens.get(character.encode())
                parts = [self._tokens[bytes([byte])] for byte in character.encode()] if whole is None else [whole]
                for token in parts:
                    if not self._allowed(state, [token]):
                        return False
                    self._llama.llama_sampler_accept(state, token)
            return bool(self._allowed(state, [self._end]))
        finally:
            self._llama.llama_sampler_free(state)

    def text(self, seed: int, hurry: float = 0.3) -> str:
        """A text that it takes, by chance: at each token one that it allows, where it may, in haste, one that ends."""
        rng, said = random.Random(seed), b""
        every = [token for token, piece in enumerate(self._pieces) if piece] + [self._end]
        closing = [self._tokens[end] for end in (b"\n", b"'", b'"')] + [self._end]
        state = self._llama.llama_sampler_clone(self._grammar)
        try:
            while True:
                hasty = self._allowed(state, closing) if rng.random() < hurry else []
                token = rng.choice(hasty or self._allowed(state, every))
                if not _may_be_utf8(said + self._pieces[token]):
                    continue  # llama.cpp allows bytes of no character, which no model has learned to write
                if token == self._end:
                    return said.decode()
                said += self._pieces[token]
                self._llama.llama_sampler_accept(state, token)
        finally:
            self._llama.llama_sampler_free(state)

    def close(self) -> None:
        """Frees it."""
        self._llama.llama_sampler_free(self._grammar)

    def _allowed(self, state: Any, tokens: list[int]) -> list[int]:
        data = (self._llama.llama_token_data * len(tokens))()
        for i, token in enumerate(tokens):
            data[i].id, data[i].logit = token, 0.0
        asked = self._llama.llama_token_data_array(data, len(tokens), -1, False)
        self._llama.llama_sampler_apply(state, ctypes.byref(asked))
        return [one.id for one in data if one.logit == 0.0]


def _may_be_utf8(said: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(said[-16:].lstrip(bytes(range(0x80, 0xC0))))
    except UnicodeDecodeError:
        return False
    return True


@cache
def _vocabulary() -> tuple[Any, Any, list[bytes]]:
    toolchain.use_llama_cpp()
    import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(BASE_MODEL).encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    buffer = ctypes.create_string_buffer(256)
    pieces = []
    for token in range(llama_cpp.llama_vocab_n_tokens(vocab)):
        size = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
        pieces.append(b"" if llama_cpp.llama_vocab_is_eog(vocab, token) else buffer.raw[: max(size, 0)])
    return llama_cpp, vocab, pieces
