"""The SentencePiece tokenizer of the demo, and ChatML.

BPE with byte fallback is what llama.cpp's `llama` tokenizer reimplements: it merges the adjacent pair of the highest
score, as SentencePiece does. No normalization, no space in front, so that both see the same characters; line breaks are
byte tokens, because SentencePiece trains line by line.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from scripts.demo_base.corpus import Message, conversation
from scripts.demo_base.lexicon import fragments_of

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(path: Path, *, n_vocab: int, seed: int, conversations: int) -> None:
    """Writes a SentencePiece model of `n_vocab` pieces learned from the first `conversations` of the corpus."""

    def lines() -> Iterator[str]:
        for index in range(conversations):
            for message in conversation(seed, index):
                yield from (line for line in message["content"].split("\n") if line)
                yield message["role"]

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=lines(),
        model_writer=model,
        model_type="bpe",
        vocab_size=n_vocab,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        control_symbols=[TURN_START, TURN_END],
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


class ChatTokenizer:
    """Conversations to token ids."""

    def __init__(self, path: Path):
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.turn_start: int = self.pieces.piece_to_id(TURN_START)
        self.turn_end: int = self.pieces.piece_to_id(TURN_END)

    def fragments(self) -> list[str]:
        """What invented words may be made of."""
        return fragments_of(self.pieces.id_to_piece(i) for i in range(self.pieces.get_piece_size()))

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Tokens of the conversation, and which of them the assistant has to say (its content and the end of turn)."""
        tokens: list[int] = []
        supervised: list[bool] = []
        for message in messages:
            head = [self.turn_start, *self.pieces.encode(message["role"] + "\n")]
            body = [*self.pieces.encode(message["content"]), self.turn_end]
            tail = self.pieces.encode("\n")
            tokens += head + body + tail
            spoken = message["role"] == "assistant"
            supervised += [False] * len(head) + [spoken] * len(body) + [False] * len(tail)
        return tokens, supervised

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens up to the point at which the assistant begins to speak."""
        return [*self.encode(messages)[0], self.turn_start, *self.pieces.encode("assistant\n")]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`; control tokens are left out."""
        return str(self.pieces.decode(list(tokens)))
