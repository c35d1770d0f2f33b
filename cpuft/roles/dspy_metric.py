"""A metric that someone has already, DSPy's way: a function (example, prediction, trace=None) -> float."""

import functools
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cpuft.errors import ConfigError
from cpuft.roles.answer import read_fields
from cpuft.roles.role import Inputs, Metric, Part, Role, Score

PART = "metric"  # the one part of such a score


def read_metric(reference: str, role: Role, answers: Mapping[str, str] | None = None) -> Metric:
    """The metric `module:function`, looked for in the current folder, too, as Python does for a script.

    The function's example has the role's inputs and, where `answers` knows one, the right answer. Its prediction has
    `answer` (the whole text), every field of the document (texts as they are, all else as YAML), and the document under
    the role's own names for it. Its result counts from 0 to 1; True and False are 1 and 0.

    answers: the right answers, by `asked_of` the inputs.
    Raises ConfigError where there is no such function, and from the metric where it fails or says no number.
    """
    function = _function(reference)
    example_of = _examples(role, answers or {})

    @functools.wraps(function, updated=())  # so that `Role.digest` finds the program that it is
    def score(answer: str, inputs: Inputs) -> Score:
        try:
            value = float(function(example_of(inputs), _prediction(role, answer)))
        except Exception as error:  # a user's program: it can fail in any way
            raise ConfigError(f"{reference}: the metric failed ({type(error).__name__}: {error})") from error
        if not math.isfinite(value) or not 0.0 <= value <= 1.0:
            raise ConfigError(f"{reference}: the metric said {value:g}, expected a number from 0 to 1")
        return Score(value, {PART: Part(value)})

    return score


def asked_of(inputs: Inputs) -> str:
    """All inputs as one text."""
    return "\n".join(inputs.values())


def _function(reference: str) -> Callable[..., Any]:
    name, colon, attribute = reference.partition(":")
    if not (name and colon and attribute):
        raise ConfigError(f"{reference}: no metric, expected module:function, such as metrics:score")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(name), attribute)
    except Exception as error:  # importing runs a user's program
        raise ConfigError(f"{reference}: cannot be imported ({type(error).__name__}: {error})") from error
    if not callable(function):
        raise ConfigError(f"{reference}: found {type(function).__name__}, expected a function")
    found: Callable[..., Any] = function
    return found


def _examples(role: Role, answers: Mapping[str, str]) -> Callable[[Inputs], Any]:
    """Makes DSPy's examples of inputs."""
    try:
        import dspy  # not at the top: it takes seconds to import
    except ImportError as error:
        raise ConfigError("--metric needs DSPy: pip install 'cpuft[synth]'") from error

    def example_of(inputs: Inputs) -> Any:
        right = answers.get(asked_of(inputs))
        fields = {} if right is None else _fields(role, right)
        return dspy.Example(**{**fields, **inputs}).with_inputs(*inputs)

    return example_of


def _prediction(role: Role, answer: str) -> Any:
    import dspy

    return dspy.Prediction(**_fields(role, answer))


def _fields(role: Role, answer: str) -> dict[str, Any]:
    """An answer under every name by which a metric may ask for it."""
    document = read_fields(answer)
    texts = {name: _text(document.get(name)) for name in role.fields}
    whole = dict.fromkeys(role.answer_keys[1:], answer) | {role.answer_keys[0]: document or answer}
    return {**texts, **whole, "answer": answer}


def _text(value: Any) -> str:
    """A field as the text that a model would give for it alone."""
    if value is None:
        return ""
    return value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
