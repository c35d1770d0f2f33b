"""Whether a role is one that the rest of cpuft can work with, and the skeleton of a new one."""

import json
import string
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import yaml

from cpuft.errors import ConfigError
from cpuft.machine.files import write_text
from cpuft.roles.answer import write_answer
from cpuft.roles.folder import FILE
from cpuft.roles.role import Role

GOOD = 0.9  # what a seed must score at the least: it is what people's data sets begin with
# What models answer sooner or later, and no metric may fall over.
HOSTILE = ("", "prose", "- a\n- b", "a: &a [*a]", "[" * 2000, "\x00", "x: " + "y" * 200_000, "<script>", "a: 1\na: 2")


def faults_of(role: Role) -> Iterator[str]:
    """What is wrong with a role that could be read, a sentence each."""
    for field in role.fields:
        if field not in role.prompt:
            yield f"prompt.md: does not name the field {field}, so an untuned model cannot know of it"
    validator = jsonschema.Draft202012Validator(dict(role.schema))
    for number, seed in enumerate(role.seeds):
        if missing := [name for name in role.sources if name not in seed.inputs]:
            yield f"seeds.yaml: example {number + 1} lacks the input {missing[0]}"
            continue
        for error in validator.iter_errors(seed.answer):
            yield f"seeds.yaml: example {number + 1}: {error.json_path.removeprefix('$.')}: {error.message[:120]}"
        score = role.metric(write_answer(seed.answer), seed.inputs)
        if score.total < GOOD:
            why = "; ".join(score.faults) or "no reason given"
            yield f"seeds.yaml: example {number + 1} scores {score.total:.2f}: {why}"
    if not role.seeds:
        yield "seeds.yaml: no examples, so no data set can be made from them"
    for answer in HOSTILE:
        yield from _metric_faults(role, answer)


def _metric_faults(role: Role, answer: str) -> Iterator[str]:
    shown = repr(answer[:20])
    try:
        score = role.metric(answer, dict.fromkeys(role.sources, ""))
    except Exception as error:  # it is a user's program: it can fail in any way
        yield f"metric.py: fails on the answer {shown} ({type(error).__name__}: {error})"
        return
    if not 0.0 <= score.total <= 1.0:
        yield f"metric.py: gives {score.total} for the answer {shown}, expected 0 to 1"
    if score.total > GOOD:
        yield f"metric.py: gives {score.total:.2f} for the answer {shown}, which is none"


METRIC = '''"""What an answer is worth. Answers are untrusted: `read_fields` reads what can be read of any text."""

from cpuft.roles.answer import read_answer, read_fields
from cpuft.roles.role import Inputs, Part, Score


def score(answer: str, inputs: Inputs) -> Score:
    """The score of an answer; `inputs` are what was asked, by name."""
    fields = read_fields(answer)
    summary, points = fields.get("summary"), fields.get("points")
    is_text = isinstance(summary, str) and len(summary) >= 20
    is_list = isinstance(points, list) and len(points) >= 2
    return Score.of(
        {
            "yaml_valid": Part(1.0) if read_answer(answer) else Part(0.0, fault="the answer is no YAML document"),
            "summary": Part(1.0) if is_text else Part(0.0, fault="summary is no text of at least 20 characters"),
            "points": Part(1.0) if is_list else Part(0.0, fault="points is no list of at least two"),
        }
    )
'''


def write_skeleton(folder: Path) -> None:
    """Writes a role that works and does little, to be edited. Raises ConfigError where there is something already."""
    name = folder.name
    if not name or not set(name) <= {*string.ascii_lowercase, *string.digits, "_", "-"}:
        raise ConfigError(f"{folder}: {name!r} is no name for a role, expected small letters, digits, - and _")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: the folder is not empty: give another name")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"title": name, "question": "Concept: {concept}", "sources": {"concept": "user"}, "answer_keys": ["answer"]}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["summary", "points"],
        "additionalProperties": False,
        "properties": {
            "summary": {"type": "string", "minLength": 20},
            "points": {"type": "array", "minItems": 2, "items": {"type": "string"}},
        },
    }
    answer = {"summary": "What this concept is, in one sentence.", "points": ["The first thing", "The second thing"]}
    prompt = f"You are a {name}. Answer with one YAML document that has the fields summary and points (a list)."
    write_text(folder / FILE, yaml.safe_dump(facts, sort_keys=False))
    write_text(folder / "schema.json", json.dumps(schema, indent=2) + "\n")
    write_text(folder / "prompt.md", prompt + "\n")
    write_text(folder / "short.md", f"You are a {name}. Answer in YAML.\n")
    write_text(folder / "metric.py", METRIC)
    seeds = [{"inputs": {"concept": "A library for tools"}, "answer": answer}]
    write_text(folder / "seeds.yaml", yaml.safe_dump(seeds, sort_keys=False))
