"""Turns a record into tokens and says which of them the model is trained to produce.

Of a conversation, those are the assistant's words and the token that ends its turn. They are found for any chat
template by rendering the conversation up to each of the assistant's turns as a prompt, as an inference server would:
what the whole text has after the prompt is the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpuft.chat.alignment import AlignedTokenizer, Span, common_prefix
from cpuft.chat.template import ChatTemplate
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
        self._tokenizer, self._template = tokenizer, template
        self.notes: dict[str, None] = {}

    def examples(self, record: Record, source: str) -> list[Example]:
        """The sequences of a record: one, or one for each turn where the template rewrites earlier turns.

        Raises ExampleError where nothing can be learned from the record.
        """
        return [self._example(text, answers, source) for text, answers in self._written(record)]

    def texts(self, record: Record) -> list[str]:
        """The texts that `examples` turns into tokens. Raises ExampleError."""
        return [text for text, _ in self._written(record)]

    def _written(self, record: Record) -> list[tuple[str, list[Span]]]:
        return self._conversation(record) if isinstance(record, Chat) else [self._plain(record)]

    def _plain(self, record: PromptCompletion | Text) -> tuple[str, list[Span]]:
        prompt, text = ("", record.text) if isinstance(record, Text) else (record.prompt, record.completion)
        eos = self._tokenizer.eos_token
        whole = prompt + (text if text.endswith(eos) else text + eos)
        return whole, [_bytes(whole, len(prompt), len(whole))]

    def _conversation(self, chat: Chat) -> list[tuple[str, list[Span]]]:
        """The conversation as one text with all its answers, else as one text for each answer."""
        template, messages, tools = self._template, chat.messages, chat.tools
        if template is None:
            raise ExampleError("the model has no chat template for a conversation: give prompt and completion, or text")
        if messages[0]["role"] == "system" and not template.takes_system:
            self.notes["the chat template has no system role: the system prompt went before the user's words"] = None
        whole = template.render(messages, tools=tools)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        prompts = [template.render(messages[:i], answer=True, tools=tools) for i in turns]
        ends = [template.render(messages[: i + 1], tools=tools) for i in turns]
        answers = [self._answer(whole, prompt, end) for prompt, end in zip(prompts, ends, strict=True)]
        found = [answer for answer in answers if answer is not None]
        if len(found) == len(turns):
            return [(whole, found)]
        if len(turns) > 1:
            self.notes["the chat template rewrites earlier turns: each answer became a sequence of its own"] = None
        return [self._turn(chat, i, prompt, end) for i, prompt, end in zip(turns, prompts, ends, strict=True)]

    def _answer(self, whole: str, prompt: str, end: str) -> Span | None:
        """What stands in `whole` between `prompt` and `end`, both of which must be beginnings of it."""
        for stop in (end, end.removesuffix(self._tokenizer.eos_token)):  # some templates close every text with EOS
            if whole.startswith(prompt) and whole.startswith(stop) and len(stop) > len(prompt):
                return _bytes(whole, len(prompt), len(stop))
        return None

    def _turn(self, chat: Chat, turn: int, prompt: str, end: str) -> tuple[str, list[Span]]:
        """One answer as a text of its own: the conversation through it, `end`, which begins with `prompt` at best."""
        answer = self._answer(end, prompt, end)
        if answer is not None:
            return end, [answer]
        assert self._template is not None
        common = common_prefix(prompt, end)
        before = self._template.render(chat.messages[:turn], tools=chat.tools)
        if len(before.removesuffix(self._tokenizer.eos_token)) <= common < len(end):
            asked = prompt[common:]
            self.notes[f"the chat template asks for an answer with {asked!r}, which it leaves out of answers"] = None
            return end, [_bytes(end, common, len(end))]
        whole = prompt + self._answer_alone(chat, turn, prompt, end)
        return whole, [_bytes(whole, len(prompt), len(whole))]

    def _answer_alone(self, chat: Chat, turn: int, prompt: str, end: str) -> str:
        """An answer where the template writes what is before it in another way once it is there.

        Mistral's templates, for one, have the system message only while the user's message is the last. The answer
        begins where the text begins to depend on its content.
        """
        assert self._template is not None
        message = chat.messages[turn]
        if not isinstance(message.get("content"), str):
            raise ExampleError(f"the chat template rewrites what is before messages[{turn}], so it cannot be found")
        one, two = (
            self._template.render([*chat.messages[:turn], {**message, "content": content}], tools=chat.tools)
            for content in ("One", "Two")
        )
        start = common_prefix(one, two)
        if not end.startswith(one[:start]) or len(end) == start:
            raise ExampleError(f"the chat template rewrites what is before messages[{turn}], so it cannot be found")
        space, asked = (text[len(text.rstrip()) :] for text in (end[:start], prompt))
        return (space.removeprefix(asked) if space.startswith(asked) else "") + end[start:]

    def _example(self, text: str, answers: Sequence[Span], source: str) -> Example:
        tokens, spans = self._tokenizer.tokenize(text)
        supervised = np.zeros(len(tokens), np.uint8)
        for answer in answers:
            supervised[self._answer_tokens(tokens, spans, answer)] = 1
        supervised[:1] = 0
        if not supervised.any():
            raise ExampleError("no token of the assistant's is left to train on after the chat template was applied")
        return Example(np.asarray(tokens, np.int32), supervised, source)

    def _answer_tokens(self, tokens: Sequence[int], spans: Sequence[Span], answer: Span) -> list[int]:
        """Which tokens lie in the answer, through the control token that ends the turn.

        What the template writes after that token, such as a line end, is never generated. A token that begins in the
        prompt and ends in the answer is trained on.
        """
        inside = [
            i
            for i, (start, end) in enumerate(spans)
            if start < answer.end and (end > answer.start or start == end >= answer.start)
        ]
        pieces = [self._tokenizer.piece(tokens[i]) for i in inside]
        said = max((n for n, piece in enumerate(pieces) if piece.text.strip() and not piece.control), default=-1)
        ending = next((n for n in range(said + 1, len(inside)) if pieces[n].control), len(inside) - 1)
        return inside[: ending + 1]


def _bytes(text: str, start: int, end: int) -> Span:
    """A stretch of characters as bytes of UTF-8."""
    first = len(text[:start].encode())
    return Span(first, first + len(text[start:end].encode()))
