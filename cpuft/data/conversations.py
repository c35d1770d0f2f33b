"""Turns a conversation into text and says which of it are the answers that are trained on.

Those are the assistant's words and what ends its turn. They are found for any chat template by rendering the
conversation up to each of the assistant's turns as a prompt, as an inference server would: what the whole text has
after the prompt is the answer.
"""

from collections.abc import Sequence
from typing import Any

from cpuft.chat.alignment import common_prefix
from cpuft.chat.message import Message
from cpuft.chat.normalization import Taken, normalized, normalized_tools
from cpuft.chat.template import ChatTemplate
from cpuft.data.completeness import Answer, Written, check_complete, check_marks, marked, shape_of
from cpuft.data.records import Chat
from cpuft.errors import ExampleError

VARIANTS = ("One", "Two")  # contents that differ from their first letter on


class Conversations:
    """Writes conversations by a model's chat template.

    notes: takes down what a user should know about how they were written, each said once.
    """

    def __init__(self, template: ChatTemplate, notes: dict[str, None]) -> None:
        self._template, self._notes = template, notes
        self._known_shapes: set[Any] = set()

    def write(self, chat: Chat) -> list[Written]:
        """The conversation as one text with all its answers, else as one text for each answer.

        Raises ExampleError where the template refuses it, or where the text does not say all of it once.
        """
        messages = normalized(chat.messages, Taken(developer=True))
        if messages[0]["role"] in ("system", "developer") and not self._template.takes_system:
            self._notes["the chat template has no system role: the system prompt went before the user's words"] = None
        texts = self._written(chat.messages, chat)
        names = [tool["function"]["name"] for tool in normalized_tools(chat.tools) or ()]
        if any(name not in written.text for name in names for written in texts):
            self._notes["the chat template has no place for tools: the text is without their descriptions"] = None
        for written in texts:
            check_complete(messages, written)
        self._check_shape(messages, chat)
        return texts

    def _check_shape(self, messages: Sequence[Message], chat: Chat) -> None:
        """Counts marks in place of the words, where this was not done for a conversation of this shape.

        A template that refuses marks, because it wants JSON of a tool, say, is not asked.
        """
        key = (shape_of(messages), chat.tools is None, chat.untrained)
        if key in self._known_shapes:
            return
        try:
            texts = self._written(marked(messages), chat)
        except ExampleError:
            texts = []
        for written in texts:
            check_marks(messages, written)
        self._known_shapes.add(key)

    def _written(self, messages: Sequence[Message], chat: Chat) -> list[Written]:
        tools = chat.tools
        whole = self._render(messages, tools)
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant" and i not in chat.untrained]
        prompts = [self._template.render(messages[:i], answer=True, tools=tools) for i in turns]
        ends = [self._render(messages[: i + 1], tools) for i in turns]
        spans = [self._span(whole, prompt, end) for prompt, end in zip(prompts, ends, strict=True)]
        found = [(i, span) for i, span in zip(turns, spans, strict=True) if span is not None]
        if len(found) == len(turns):
            answers = [self._answer(whole, span, i, messages, tools) for i, span in found]
            return [Written(whole, answers, len(messages) - 1)]
        if len(turns) > 1:
            self._notes["the chat template rewrites earlier turns: each answer became a sequence of its own"] = None
        texts = []
        for i, prompt, end in zip(turns, prompts, ends, strict=True):
            text, span = self._turn(messages, i, tools, prompt, end)
            texts.append(Written(text, [self._answer(text, span, i, messages, tools)], i))
        return texts

    def _span(self, whole: str, prompt: str, end: str) -> tuple[int, int] | None:
        """What stands in `whole` between `prompt` and `end`, both of which must be beginnings of it."""
        for stop in (end, end.removesuffix(self._template.eos_token)):  # some templates close every text with EOS
            if whole.startswith(prompt) and whole.startswith(stop) and len(stop) > len(prompt):
                return len(prompt), len(stop)
        return None

    def _turn(
        self, messages: Sequence[Message], turn: int, tools: list[Any] | None, prompt: str, end: str
    ) -> tuple[str, tuple[int, int]]:
        """One answer as a text of its own: the conversation through it, `end`, which begins with `prompt` at best."""
        span = self._span(end, prompt, end)
        if span is not None:
            return end, span
        one, two = (self._variant(messages, turn, tools, content) for content in VARIANTS)
        header = common_prefix(one, two)
        before = len(self._render(messages[:turn], tools).removesuffix(self._template.eos_token))
        # An answer may begin as the prompt ends, <table> like <think>: it begins where words do, and with a whole tag.
        common = min(common_prefix(prompt, end), header)
        opened = end.rfind("<", before, common)
        common = opened if opened >= 0 and ">" not in end[opened:common] else common
        if before <= common < len(end):
            asked = prompt[common:]
            self._notes[f"the chat template asks for an answer with {asked!r}, which it leaves out of answers"] = None
            return end, (common, len(end))
        whole = prompt + self._answer_alone(turn, prompt, end, one[:header])
        return whole, (len(prompt), len(whole))

    def _answer_alone(self, turn: int, prompt: str, end: str, header: str) -> str:
        """An answer where the template writes what is before it in another way once it is there.

        Mistral's templates, for one, have the system message only while the user's message is the last. The answer
        begins where the text begins to depend on its content, but for a space that stands before words alone.
        """
        start = common_prefix(header, end)
        if header[start:].strip() or start == len(end):
            raise ExampleError(f"the chat template rewrites what is before messages[{turn}], so it cannot be found")
        space, asked = (text[len(text.rstrip()) :] for text in (header[:start], prompt))
        return (space.removeprefix(asked) if space.startswith(asked) else "") + end[start:]

    def _answer(
        self, text: str, span: tuple[int, int], turn: int, messages: Sequence[Message], tools: list[Any] | None
    ) -> Answer:
        start, stop = span
        words = (messages[turn].get("content") or "").strip()
        said = text.find(words, start, stop)
        if said >= 0 and not messages[turn].get("tool_calls"):
            return Answer(turn, start, said + len(words), stop)
        # What follows a call, or words that the template rewrites, is what follows any words.
        _, found, ending = self._variant(messages, turn, tools, VARIANTS[0]).rpartition(VARIANTS[0])
        for way in (ending, ending.removesuffix(self._template.eos_token)):
            if found and way and text.endswith(way, start, stop):
                return Answer(turn, start, stop - len(way), stop)
        return Answer(turn, start, start, stop)

    def _variant(self, messages: Sequence[Message], turn: int, tools: list[Any] | None, content: str) -> str:
        """The conversation through an answer of other words, and without calls."""
        return self._render([*messages[:turn], {"role": "assistant", "content": content}], tools)

    def _render(self, messages: Sequence[Message], tools: list[Any] | None) -> str:
        return self._template.render(messages, tools=tools)
