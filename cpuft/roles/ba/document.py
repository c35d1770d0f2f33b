"""What a business analyst is told, and what the document must look like."""

import json
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


@cache
def system_prompt() -> str:
    """What the model is told before it sees the concept."""
    return (_FOLDER / "prompt.md").read_text(encoding="utf-8").strip()


@cache
def schema() -> dict[str, Any]:
    """JSON Schema of the requirements document."""
    document: dict[str, Any] = json.loads((_FOLDER / "schema.json").read_text(encoding="utf-8"))
    return document
