"""Whether a chat template has thoughts, which is when llama.cpp's server tells it that they are wanted.

The server finds out by comparing what a template makes of conversations that differ in one thing, and so does this. For
Apertus, whose answers hold thoughts in a form of their own, it finds none.
"""

import re
from collections.abc import Sequence
from typing import Any

from cpuft.chat.message import Message
from cpuft.chat.normalization import PROBE, Render, Taken, normalized

# What ends a thought: <…> or […]. The server knows tags by nothing else.
TAG = rb"\s*(?:<[^>]*>|\[[^\]]*\])"
ANCHOR = 64  # bytes at the end of a prompt, by which the server finds it in another
USER = {"role": "user", "content": "U_USER_MSG Hello END_U"}  # the server's words: their length matters to the anchor
THOUGHT = {"role": "assistant", "content": "I can help", "reasoning_content": PROBE}
CALL = {"id": "call00001", "type": "function", "function": {"name": "tool1", "arguments": {"arg": "value"}}}
PARAMETERS = {"type": "object", "properties": {"arg": {"type": "string", "description": "It."}}, "required": []}
TOOL = {"type": "function", "function": {"name": "tool1", "description": "It.", "parameters": PARAMETERS}}


def has_thoughts(render: Render, taken: Taken) -> bool:
    """Whether the text of an answer or of a prompt shows that the model thinks before it speaks."""

    def tried(messages: Sequence[Message], **options: Any) -> str:
        """What the template makes of a conversation, "" where it refuses it."""
        try:
            return render(normalized(messages, taken), **options)
        except Exception:  # a template is a program from elsewhere: it can fail in any way
            return ""

    return _writes_thoughts(tried) or _begins_thoughts(tried)


def _writes_thoughts(render: Render) -> bool:
    """Whether an answer's thoughts reach the text and end with a tag; some templates keep them with calls alone."""
    text = render([USER, THOUGHT], answer=False, tools=None, thinking=True)
    if PROBE not in text:
        called = {**THOUGHT, "content": "", "tool_calls": [CALL]}
        text = render([USER, called], answer=False, tools=[TOOL], thinking=True)
    return re.search(PROBE.encode() + TAG, text.encode()) is not None


def _begins_thoughts(render: Render) -> bool:
    """Whether a prompt ends with more where thoughts are wanted ("<think>"), or where not ("<think></think>")."""
    prompts = [render([USER], answer=True, tools=None, thinking=thinking).encode() for thinking in (True, False)]
    return all(prompts) and (_goes_on(*prompts) or _goes_on(*reversed(prompts)))


def _goes_on(prompt: bytes, other: bytes) -> bool:
    if other.startswith(prompt.rstrip()) and other[len(prompt.rstrip()) :].strip():
        return True
    end = prompt[-ANCHOR:]  # where they differ before the question, too
    found = other.rfind(end)
    return found >= 0 and re.fullmatch(TAG + TAG + rb"\s*", other[found + len(end) :]) is not None
