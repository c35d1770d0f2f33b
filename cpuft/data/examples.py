"""Turns a record into tokens and says which of them the model is trained to produce.

Of a conversation, those are the assistant's words and the token that ends its turn; of a completion or a text, all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpuft.chat.alignment import AlignedTokenizer, Span
from cpuft.chat.template import ChatTemplate
from cpuft.data.completeness import Answer, Written
from cpuft.data.conversations import Conversations
from cpuft.data.records import Chat, PromptCompletion, Record, Text
from cpuft.errors import ExampleError


@dataclass(frozen=True)
class Example:
    """One sequence of tokens to train on."""

    tokens: npt.NDArray[np.int32]  # [T]
    supervised: npt.NDArray[np.uint8]  # [T], 1 where the token is trained on; the first never is
    source: str  # "train.jsonl:12"

    @property
    def n_supervised(self) -> int:
        """How many tokens count in the loss."""
        return int(self.supervised.sum())


class Formatter:
    """Writes records as a model's tokens.

    template: None where the model has none; conversations are then refused.
    notes:    what a user should know about how the examples were written, each said once.
    """

    def __init__(self, tokenizer: AlignedTokenizer, template: ChatTemplate | None) -> None:
        self.notes: dict[str, None] = {}
        self._tokenizer, self._template = tokenizer, template
        self._conversations = None if template is None else Conversations(template, self.notes)

    def examples(self, record: Record, source: str) -> list[Example]:
        """The sequences of a record: one, or one for each turn where the template rewrites earlier turns.

        Raises ExampleError where nothing can be learned from the record.
        """
        return [self._example(written, source) for written in self._written(record)]

    def texts(self, record: Record) -> list[str]:
        """The texts that `examples` turns into tokens. Raises ExampleError."""
        return [written.text for written in self._written(record)]

    def _written(self, record: Record) -> list[Written]:
        if not isinstance(record, Chat):
            return [self._plain(record)]
        if self._conversations is None:
            raise ExampleError("the model has no chat template for a conversation: give prompt and completion, or text")
        return self._conversations.write(record)

    def _plain(self, record: PromptCompletion | Text) -> Written:
        prompt, text = ("", record.text) if isinstance(record, Text) else (record.prompt, record.completion)
        eos = self._tokenizer.eos_token
        whole = prompt + (text if text.endswith(eos) else text + eos)
        return Written(whole, [Answer(0, len(prompt), len(whole), len(whole))], 0)

    def _example(self, written: Written, source: str) -> Example:
        tokens, spans = self._tokenizer.tokenize(written.text)
        supervised = np.zeros(len(tokens), np.uint8)
        for answer in written.answers:
            supervised[self._answer_tokens(tokens, spans, written.text, answer)] = 1
        supervised[:1] = 0
        if not supervised.any():
            raise ExampleError("no token of the assistant's is left to train on after the chat template was applied")
        return Example(np.asarray(tokens, np.int32), supervised, source)

    def _answer_tokens(self, tokens: Sequence[int], spans: Sequence[Span], text: str, answer: Answer) -> list[int]:
        """Which tokens lie in the answer, through the control token that ends the turn.

        What the template writes after that token, such as a line end, is never generated. A token that begins in the
        prompt and ends in the answer is trained on. Control tokens among the words end nothing.
        """
        first, said, last = (len(text[:place].encode()) for place in answer[1:])
        inside = [i for i, (start, end) in enumerate(spans) if start < last and (end > first or start == end >= first)]
        pieces = [self._tokenizer.piece(tokens[i]) for i in inside]
        worded = max((n for n, piece in enumerate(pieces) if piece.text.strip() and not piece.control), default=-1)
        endings = (n for n in range(worded + 1, len(inside)) if pieces[n].control and spans[inside[n]].start >= said)
        return inside[: next(endings, len(inside) - 1) + 1]
