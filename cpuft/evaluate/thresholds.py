"""What a tuned model must reach: what configs/gate.yaml holds and how it is checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.config.document import read_document

# Name -> (the words of a bound that make sense of it: a model may be too slow, but never too fast; what measures it).
MORE, LESS = ("above", "at_least"), ("below", "at_most")
CRITERIA: dict[str, tuple[tuple[str, str], str]] = {
    "gain": (MORE, "cpuft eval compare"),
    "relative_gain": (MORE, "cpuft eval compare"),
    "yaml_valid": (MORE, "cpuft eval compare"),
    "generalization": (MORE, "cpuft eval original"),
    "speed": (MORE, "cpuft eval compare"),
    "ram_mb": (LESS, "cpuft eval compare"),
    "stress": (MORE, "cpuft eval stress"),
    "perplexity_growth": (LESS, "cpuft eval forgetting"),
    "general_questions": (MORE, "cpuft eval forgetting"),
    "win_rate": (MORE, "cpuft eval compare` with reviewers' verdicts of `cpuft review"),
    "satisfaction": (MORE, "cpuft eval compare` with reviewers' verdicts of `cpuft review"),
}
SIGNS = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<="}
INTERVAL, VALUE = DECIDE_ON = ("interval", "value")


@dataclass(frozen=True)
class Threshold:
    """A bound of a criterion.

    sign:      how the figure stands to the limit where all is well: one of SIGNS.
    decide_on: INTERVAL, whose worse end must keep the bound, or VALUE, which alone may be luck.
    critical:  whether the decision depends on it. optional: whether its figure may be missing.
    """

    name: str
    sign: str
    limit: float
    decide_on: str = INTERVAL
    critical: bool = True
    optional: bool = False

    @property
    def more_is_better(self) -> bool:
        """Whether the limit is a lower one."""
        return self.sign in (">", ">=")

    @property
    def bound(self) -> str:
        """As people write it: >= 0.1."""
        return f"{self.sign} {self.limit:g}"


@dataclass(frozen=True)
class Thresholds:
    """All bounds, and how sure one wants to be.

    confidence:   of a bound of a share; intervals of means come with the results.
    power:        with which chance as many examples as are said to be enough would show what is looked for.
    min_examples: fewer decide nothing, however well they look.
    """

    criteria: tuple[Threshold, ...]
    confidence: float = 0.95
    power: float = 0.80
    min_examples: int = 20

    def named(self, name: str) -> Threshold | None:
        """The bound of a criterion, where there is one."""
        return next((one for one in self.criteria if one.name == name), None)


def read_thresholds(path: Path) -> Thresholds:
    """The bounds of a YAML file. Raises ConfigError, which lists all faults with their key paths at once."""
    document = read_document(path, SCHEMA)
    criteria = tuple(_threshold(name, entry) for name, entry in document["criteria"].items())
    rest = {key: value for key, value in document.items() if key != "criteria"}
    return Thresholds(criteria, **rest)


def _threshold(name: str, entry: dict[str, Any]) -> Threshold:
    word = next(word for word in SIGNS if word in entry)
    rest = {key: value for key, value in entry.items() if key != word}
    return Threshold(name, SIGNS[word], float(entry[word]), **rest)


def _criterion(words: tuple[str, str]) -> dict[str, Any]:
    number = {"type": "number", "description": "a number"}
    flag = {"type": "boolean", "description": "true or false"}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **dict.fromkeys(words, number),
            "decide_on": {"enum": list(DECIDE_ON), "description": " or ".join(DECIDE_ON)},
            "critical": flag,
            "optional": flag,
        },
        "oneOf": [{"required": [word]} for word in words],
        "description": f"one of {' and '.join(words)}, with a number",
    }


def _share(what: str) -> dict[str, Any]:
    return {"type": "number", "minimum": 0.5, "exclusiveMaximum": 1, "description": what}


SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["criteria"],
    "properties": {
        "confidence": _share("a share from 0.5, below 1"),
        "power": _share("a share from 0.5, below 1"),
        "min_examples": {"type": "integer", "minimum": 1, "description": "a whole number of at least 1"},
        "criteria": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": False,
            "properties": {name: _criterion(words) for name, (words, _) in CRITERIA.items()},
            "description": "criteria and their bounds",
        },
    },
    "description": "the key criteria",
}
