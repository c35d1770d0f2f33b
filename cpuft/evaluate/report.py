"""The comparison of several base models as a text for people: Markdown, with pictures beside it."""

import html
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpuft.evaluate import plots
from cpuft.evaluate.selection import CRITERIA, Selection, Verdict, gain_over, number_of
from cpuft.machine.files import write_text
from cpuft.machine.terminal import printable
from cpuft.roles.checks import mapping_of

Entry = Mapping[str, Any]
UNKNOWN = "n/a"
DIGITS = 12  # of a digest
PLOTS = (
    ("quality", plots.plot_quality, "Average scores with their intervals"),
    ("speed", plots.plot_speed, "Average score against tokens a second"),
    ("memory", plots.plot_memory, "Memory of each model's server"),
)


def write_report(path: Path, entries: Mapping[str, Entry], made_by: Mapping[str, Any], selection: Selection) -> None:
    """Writes the report to `path`, and its pictures beside it as STEM-quality.svg and so on.

    entries, made_by: of a result file of `cpuft eval models`. Raises ResourceError where they cannot be written.
    """
    pictures = {}
    for kind, plot, title in PLOTS:
        picture = path.with_name(f"{path.stem}-{kind}.svg")
        if plot(picture, entries, selection):
            pictures[kind] = f"![{title}]({picture.name.replace(' ', '%20')})"
    write_text(path, report(entries, made_by, selection, pictures))


def report(
    entries: Mapping[str, Entry], made_by: Mapping[str, Any], selection: Selection, pictures: Mapping[str, str]
) -> str:
    """The text. pictures: the Markdown that shows each, by kind."""
    ranked = dict(sorted(entries.items(), key=lambda pair: number_of(pair[1].get("avg_score")) or -1.0, reverse=True))
    role = _of(made_by, "role", "name")
    sections = [
        [f"# Which base model to tune for the role {cell(role)}", _setting(entries, made_by)],
        ["## Decision", *_decision(ranked, selection)],
        ["## Results", _results(ranked, selection), _legend(made_by), pictures.get("quality", "")],
        ["## What is asked of a base model", _bounds(ranked, selection)],
        ["## What these examples tell apart", *_apart(ranked)],
        ["## Parts of the score", _parts(ranked)],
        ["## What the answers hold", _quantities(ranked)],
        ["## Speed and memory", *_speed(ranked), pictures.get("speed", ""), pictures.get("memory", "")],
        _failed(made_by),
        ["## How to do it again", *_again(ranked, made_by)],
    ]
    paragraphs = [text for section in sections for text in section if text]
    return "\n\n".join(paragraphs) + "\n"


def _setting(entries: Mapping[str, Entry], made_by: Mapping[str, Any]) -> str:
    counts = sorted({str(entry.get("n_examples", UNKNOWN)) for entry in entries.values()})
    data, metric = code(_of(made_by, "data", "path")), code(_of(made_by, "metric"))
    return (
        f"{' or '.join(counts)} examples of {data}, scored by {metric}. "
        f"Measured on {cell(_of(made_by, 'date'))} on {cell(_of(made_by, 'machine'))} "
        f"with cpuft {cell(_of(made_by, 'cpuft'))} and {cell(_of(made_by, 'server'))}."
    )


def _decision(entries: Mapping[str, Entry], selection: Selection) -> Iterator[str]:
    if selection.winner is None:
        yield "**No model qualifies.** What keeps each of them from it:"
        yield "\n".join(f"- {code(name)}: {'; '.join(selection.faults(name))}." for name in selection.verdicts)
        yield "Try other models, a better prompt (`cpuft data optimize-prompt`), or bounds that are yours."
        return
    score = entries[selection.winner]
    others = len(selection.verdicts) - len(selection.rivals) - 1
    rest = f" Bounds are broken by {others} of {len(selection.verdicts)} models." if others else ""
    yield (
        f"**{code(selection.winner)}**: it has the best average score, {_score(score)}, of the models that keep all "
        f"bounds.{rest}"
    )
    bound, low = selection.thresholds.score, number_of(mapping_of(score.get("interval")).get("low"))
    if bound is not None and low is not None and low <= bound:
        yield (
            f"Its interval reaches down to {low:.3f}, below the bound of {bound:.3f}: more examples could still show "
            "that it does not qualify."
        )
    if selection.undecided:
        names = ", ".join(map(code, selection.undecided))
        yield (
            f"The bounds are kept by {names}, too, and these examples do not tell the scores apart: speed, memory and "
            "licence may decide as well. More examples would say more."
        )


def _results(entries: Mapping[str, Entry], selection: Selection) -> str:
    heads = ("Model", "Average score", "YAML", "Schema", "Complete", "IDs", "Tokens/s", "Memory", "Keeps all bounds")
    rows = [
        (
            f"**{code(name)}**" if name == selection.winner else code(name),
            _score(entry),
            *(_share(entry.get(key)) for key in ("yaml_valid", "schema_valid", "completeness", "id_compliance")),
            _plain(entry.get("tokens_per_sec"), "{:.1f}"),
            _gigabytes(entry),
            "yes" if not selection.faults(name) else "no",
        )
        for name, entry in entries.items()
    ]
    return table(heads, rows)


def _legend(made_by: Mapping[str, Any]) -> str:
    return (
        "Average score: with the 95 % interval of the mean over examples (bootstrap). YAML: share of the answers "
        "that are one YAML document. Schema: share that the role's schema accepts. Complete: share of its required "
        "fields that are there and not empty. IDs: share of the values under a pattern of the schema that match it. "
        f"Quality was measured with {cell(_of(made_by, 'n_parallel'))} requests in flight; speed and memory apart from "
        f"it, one request at a time. {UNKNOWN}: not measured. In the pictures the chosen model is green, and bounds "
        "are dashed."
    )


def _bounds(entries: Mapping[str, Entry], selection: Selection) -> str:
    bounds = {c.key: value for c in CRITERIA if (value := getattr(selection.thresholds, c.key)) is not None}
    asked = [criterion for criterion in CRITERIA if criterion.key in bounds]
    heads = [
        f"{criterion.title} {'<' if criterion.at_most else '>'} {criterion.show(bounds[criterion.key])}"
        for criterion in asked
    ]
    rows = []
    for name in entries:
        verdicts = {verdict.criterion.key: verdict for verdict in selection.verdicts[name]}
        rows.append((code(name), *(_verdict(verdicts[criterion.key]) for criterion in asked)))
    return table(("Model", *heads), rows)


def _verdict(verdict: Verdict) -> str:
    found = "not measured" if verdict.value is None else verdict.criterion.show(verdict.value)
    return f"{found}: {'yes' if verdict.passed else '**no**'}"


def _apart(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Every model beside the one with the best score, example by example."""
    best, *others = entries
    rows = []
    for name in others:
        gain = gain_over(entries[best], entries[name])
        if gain is None:
            rows.append((code(name), UNKNOWN, UNKNOWN, "unknown"))
            continue
        counts = f"{gain.wins} / {gain.ties} / {gain.losses}"
        rows.append((code(name), str(gain.mean), counts, "yes" if gain.mean.low > 0 else "**no**"))
    if rows:
        yield (
            f"How much better {code(best)}, which has the best score, answered the same examples. Where the interval "
            "holds 0, these examples do not tell the two models apart, whatever their averages are."
        )
        yield table(("Than", "Difference of the scores", "Better / equal / worse", "Told apart"), rows)
    else:
        yield "There is one model alone."


def _parts(entries: Mapping[str, Entry]) -> str:
    return _by_name(entries, "parts", "{:.2f}", "The metric names no parts.")


def _quantities(entries: Mapping[str, Entry]) -> str:
    return _by_name(entries, "quantities", "{:.1f}", "The role's schema has no lists.", "Items in ")


def _by_name(entries: Mapping[str, Entry], key: str, form: str, none: str, before: str = "") -> str:
    """A table of what stands under one key of all models, its names as columns."""
    names = list(dict.fromkeys(name for entry in entries.values() for name in mapping_of(entry.get(key))))
    if not names:
        return none
    rows = [
        (code(model), *(_plain(mapping_of(entry.get(key)).get(name), form) for name in names))
        for model, entry in entries.items()
    ]
    return table(("Model", *(f"{before}{cell(name)}" for name in names)), rows)


def _speed(entries: Mapping[str, Entry]) -> Iterator[str]:
    heads = ("Model", "Generation, tokens/s", "Prompt, tokens/s", "To the first token, s", "Memory")
    rows = [
        (
            code(name),
            _plain(entry.get("tokens_per_sec"), "{:.1f}"),
            _plain(entry.get("prompt_tokens_per_sec"), "{:.1f}"),
            _plain(entry.get("time_to_first_token_s"), "{:.2f}"),
            _gigabytes(entry),
        )
        for name, entry in entries.items()
    ]
    if any(entry.get("speed_measured") for entry in entries.values()):
        yield (
            "What one user gets: a few questions were asked one at a time, with prompts that the server had not read "
            "before. To the first token: until the prompt was read. Memory: the most that the server's process held, "
            "the model's file included. Other programs on the machine make all of these worse."
        )
        yield table(heads, rows)
    else:
        yield "Neither was measured."


def _failed(made_by: Mapping[str, Any]) -> list[str]:
    failed = mapping_of(made_by.get("failed"))
    if not failed:
        return []
    rows = [(code(str(name)), cell(str(why))) for name, why in failed.items()]
    return ["## Models that could not be measured", table(("Model", "Why"), rows)]


def _again(entries: Mapping[str, Entry], made_by: Mapping[str, Any]) -> Iterator[str]:
    words = made_by.get("command")
    if isinstance(words, list) and words:
        yield f"````\n{printable(shlex.join(map(str, words))).replace('````', '')}\n````"
    shown = ", ".join(f"{key} {value}" for key, value in mapping_of(made_by.get("sampling")).items()) or UNKNOWN
    held = " Answers were held to the role's schema." if made_by.get("constrained") else ""
    yield (
        f"Asked by {cell(_of(made_by, 'asked_by'))}. Sampling: {cell(shown)}.{held} What was measured, by the first "
        "digits of the SHA-256 digests:"
    )
    yield table(
        ("What", "Digest"),
        [
            (f"test set {code(_of(made_by, 'data', 'path'))}", code(_of(made_by, "data", "digest")[:DIGITS])),
            (f"role {code(_of(made_by, 'role', 'name'))}", code(_of(made_by, "role", "digest")[:DIGITS])),
            *((code(name), code(str(entry.get("digest") or UNKNOWN)[:DIGITS])) for name, entry in entries.items()),
        ],
    )


def _of(made_by: Mapping[str, Any], *path: str) -> str:
    """A fact of what made the result, as text."""
    value: Any = made_by
    for name in path:
        value = mapping_of(value).get(name)
    return UNKNOWN if value is None else " ".join(printable(str(value)).split())


def _score(entry: Entry) -> str:
    ends = [number_of(mapping_of(entry.get("interval")).get(name)) for name in ("low", "high")]
    shown = [f"{end:.3f}" for end in ends if end is not None]
    score = _plain(entry.get("avg_score"), "{:.3f}")
    return f"{score} [{', '.join(shown)}]" if len(shown) == 2 else score


def _share(value: Any) -> str:
    return _plain(value, "{:.0%}")


def _gigabytes(entry: Entry) -> str:
    megabytes = number_of(entry.get("ram_usage_mb"))
    return UNKNOWN if megabytes is None else f"{megabytes / 1000:.2f} GB"


def _plain(value: Any, form: str) -> str:
    number = number_of(value)
    return UNKNOWN if number is None else form.format(number)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what stands in its cells is Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """A text from a file or a command as code, whatever it holds."""
    shown = " ".join(printable(str(text)).split()).replace("`", "'").replace("|", "\\|")
    return f"`{shown}`" if shown else UNKNOWN


def cell(text: str) -> str:
    """A text from a file as plain words: nothing in it is Markdown or HTML."""
    shown = html.escape(" ".join(printable(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#|!~])", r"\\\1", shown)
