"""Two models' answers beside each other, as one HTML file that a person reviews without a server or a network.

All that models and data sets say reaches the page as data, never as markup: a block of JSON, from which the page's one
script makes nodes of text. A Content-Security-Policy lets run that script and no other, and forbids every request.
"""

import base64
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

import cpuft
from cpuft.errors import ConfigError
from cpuft.evaluate.answer_diff import Field, compare_answers
from cpuft.feedback.verdicts import KIND, MAX_NOTE, MAX_REVIEWER, Judged, Rivals, Verdict
from cpuft.machine.cache import key_of

FORMAT = 1  # of the page's data
DATA = "comparison"  # the id of the element that holds them
MAX_PAGE = 1 << 28  # bytes of a file that is read back
Facts = Mapping[str, Any]  # as `evaluate.result` describes them


@dataclass(frozen=True)
class Page:
    """What a page shows, ready for JSON, and which models it is about."""

    data: Facts
    rivals: Rivals

    @property
    def samples(self) -> list[str]:
        """The names of its samples."""
        return [sample["id"] for sample in self.data["samples"]]


def make_page(result: Facts, *, limit: int | None = None, seed: int = 0, blind: bool = False) -> Page:
    """The page of a result that has answers of two models to the same questions.

    limit: so many samples, drawn by `seed`, in their order; None: all. seed: also shuffles the sides of the blind mode.
    blind: the page opens in that mode.
    Raises ConfigError where there are not two models, or not the same questions.
    """
    try:
        return _page(result, limit, seed, blind)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the result is damaged ({error!r}): make it again with `cpuft eval compare --output FILE`"
        ) from error


def _page(result: Facts, limit: int | None, seed: int, blind: bool) -> Page:
    names = _names(result)
    base, tuned = (_require_answers(result, name) for name in names)
    if len(base) != len(tuned):
        raise ConfigError(
            f"{names[0]} has {len(base)} answers and {names[1]} {len(tuned)}, expected both to be asked the same: "
            "compare them again with `cpuft eval compare --output FILE`"
        )
    samples: dict[str, Facts] = {}
    for number, (one, two) in enumerate(zip(base, tuned, strict=True), 1):
        if one["inputs"] != two["inputs"]:
            raise ConfigError(
                f"answer {number} of {names[0]} and of {names[1]} is to another question, expected both to be asked "
                "the same: compare them again with `cpuft eval compare --output FILE`"
            )
        sample = _sample(one, two)
        samples.setdefault(sample["id"], sample)  # several seeds may have led to the same answers
    chosen = list(samples.values())
    if limit is not None and limit < len(chosen):
        places = sorted(random.Random(f"{seed}:samples").sample(range(len(chosen)), limit))
        chosen = [chosen[place] for place in places]
    # In the blind mode half of them have their sides swapped, so that who favours a side favours no model.
    by_lot = sorted(chosen, key=lambda sample: random.Random(f"{seed}:{sample['id']}").random())
    swapped = {sample["id"] for sample in by_lot[: len(by_lot) // 2]}
    chosen = [{**sample, "swapped": sample["id"] in swapped} for sample in chosen]
    rivals = Rivals(*(_judged(result, name) for name in names))
    return Page({**_data(result, rivals, chosen, seed), "blind": blind}, rivals)


def read_page(path: Path) -> Page:
    """The page in a file that `write_page` wrote: its data alone, nothing of what else the file holds.

    Raises ConfigError where it is none.
    """
    try:
        if path.stat().st_size > MAX_PAGE:
            raise ValueError(f"larger than {MAX_PAGE >> 20} MiB")
        reader = _DataReader()
        reader.feed(path.read_text(encoding="utf-8"))
        data = json.loads(reader.found)
        if data["format"] != FORMAT:
            raise ValueError(f"written by another version of cpuft (format {data['format']!r})")
        base, tuned = (Judged(str(data[side]["name"]), str(data[side]["key"])) for side in ("base", "tuned"))
        page = Page(data, Rivals(base, tuned))
        if not all(re.fullmatch("[0-9a-f]{16}", name) for name in page.samples):
            raise ValueError("a sample without its name")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{path}: no page of `cpuft eval samples` ({reason}): give one, or the JSON of `cpuft eval compare`"
        ) from error
    return page


def page_html(page: Page, *, verdicts: Sequence[Verdict] | None = None, store: str = "") -> str:
    """The whole file. verdicts, store: of a page that `cpuft review` serves, those it has, and where it keeps them."""
    served = None if verdicts is None else {"verdicts": [one.facts() for one in verdicts], "store": store}
    html: str = _template().render(
        policy=content_policy(served=served is not None),
        title=page.data["title"],
        style=_part("side_by_side.css"),
        script=_part("side_by_side.js"),
        data_id=DATA,
        data=script_safe({**page.data, "served": served}),
    )
    return html.encode("utf-8", "replace").decode()  # half a character in a name is none


def content_policy(*, served: bool) -> str:
    """The Content-Security-Policy of a page: its own script and style by their digests, and nothing from anywhere.

    served: it may send verdicts to whoever served it.
    """
    script, style = (_source_digest(_part(f"side_by_side.{kind}")) for kind in ("js", "css"))
    connect = "'self'" if served else "'none'"
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src {connect}; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def script_safe(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element, begins a comment or is a line's end."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _DataReader(HTMLParser):
    """Finds the text of the element that holds the data."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found, self._inside = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Looks for the element."""
        self._inside = tag == "script" and ("id", DATA) in attrs

    def handle_endtag(self, tag: str) -> None:
        """Ends it."""
        self._inside = False

    def handle_data(self, data: str) -> None:
        """Takes what it holds."""
        if self._inside:
            self.found += data


def _names(result: Facts) -> tuple[str, str]:
    comparison = result.get("comparison")
    if isinstance(comparison, Mapping):
        return comparison["base"], comparison["tuned"]
    models = [name for name, facts in result.items() if isinstance(facts, Mapping) and "answers" in facts]
    if len(models) != 2:
        raise ConfigError(
            f"found answers of {len(models)} models, expected a base and a tuned one: give a file of "
            "`cpuft eval compare --output FILE`"
        )
    return models[0], models[1]


def _require_answers(result: Facts, name: str) -> Sequence[Facts]:
    answers = result.get(name, {}).get("answers")
    if not answers:
        raise ConfigError(
            f"no answers of {name}, expected those of each model: give a file of `cpuft eval compare --output FILE`"
        )
    return list(answers)


def _judged(result: Facts, name: str) -> Judged:
    facts = result[name]
    return Judged.of(name, facts.get("digest"), facts.get("adapter_digest"))


def _data(result: Facts, rivals: Rivals, samples: Sequence[Facts], seed: int) -> Facts:
    made_by = result.get("made_by") or {}
    comparison = result.get("comparison") or {}
    role = (made_by.get("role") or {}).get("name", "")
    return {
        "format": FORMAT,
        "kind": KIND,
        "cpuft": cpuft.__version__,
        "id": key_of(base=[rivals.base.name, rivals.base.key], tuned=[rivals.tuned.name, rivals.tuned.key]),
        "title": f"{rivals.base.name} and {rivals.tuned.name}" + (f", role {role}" if role else ""),
        "base": {**_model(result[rivals.base.name]), "name": rivals.base.name, "key": rivals.base.key},
        "tuned": {**_model(result[rivals.tuned.name]), "name": rivals.tuned.name, "key": rivals.tuned.key},
        "difference": comparison.get("difference"),
        "made_by": {name: made_by.get(name) for name in ("date", "metric", "server", "sampling")},
        "n_answers": len(result[rivals.base.name]["answers"]),
        "seed": seed,
        "limits": {"note": MAX_NOTE, "reviewer": MAX_REVIEWER},
        "samples": list(samples),
    }


def _model(facts: Facts) -> Facts:
    """What the head of the page says of a model."""
    shown = ("avg_score", "interval", "n_examples", "yaml_valid", "schema_valid", "unfinished", "perplexity")
    return {name: facts.get(name) for name in shown}


def _sample(base: Facts, tuned: Facts) -> Facts:
    name = key_of(inputs=base["inputs"], base=base["answer"], tuned=tuned["answer"])
    gain = tuned["score"] - base["score"]
    return {
        "id": name,
        "inputs": dict(base["inputs"]),
        "outcome": "better" if gain > 0 else "worse" if gain < 0 else "equal",
        "base": _side(base),
        "tuned": _side(tuned),
        "fields": [_field(field) for field in compare_answers(base["answer"], tuned["answer"])],
    }


def _side(answer: Facts) -> Facts:
    return {name: answer.get(name) for name in ("score", "parts", "faults", "tokens", "finished")}


def _field(field: Field) -> Facts:
    """Segments as [marked, text] with 0 and 1: they are most of the file."""
    sides = {
        side: None if segments is None else [[int(mark), text] for mark, text in segments]
        for side, segments in (("base", field.base), ("tuned", field.tuned))
    }
    return {"name": field.name, "differs": field.differs, "rewritten": field.rewritten, **sides}


@cache
def _part(name: str) -> str:
    return resources.files("cpuft.evaluate").joinpath("page", name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_part("side_by_side.html"))


def _source_digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
