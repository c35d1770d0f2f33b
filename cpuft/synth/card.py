"""The card of a data set: what is in it, where it comes from, and what was left out, in Markdown with a picture."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from cpuft.machine.files import atomic_write, write_text
from cpuft.roles import Role
from cpuft.synth.filter import Filtered
from cpuft.synth.records import RoleRecord

SHOWN = 20  # dropped examples that the card quotes


def write_card(
    path: Path, role: Role, parts: dict[str, Sequence[RoleRecord]], filtered: Filtered | None = None
) -> None:
    """Writes the card to `path` and the picture of scores beside it, as .svg.

    parts: the sets by name, such as train and val. filtered: what was kept and dropped before.
    """
    everything = [record for records in parts.values() for record in records]
    picture = path.with_suffix(".svg")
    _draw_scores(picture, parts)
    lines = [f"# Data set for the role {role.name} ({role.title})", ""]
    lines += [
        "| set | examples | domains | score, mean (least) | an answer's words, median (most) | its tokens |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(name, records) for name, records in parts.items()]
    lines += ["", f"![Scores]({picture.name})", "", "## Where it comes from", ""]
    lines += [f"- {name}: {_counted(everything, name)}" for name in ("model", "prompt", "domain", "source")]
    lines += [f"- sha256 of {name}: {_digest(records)}" for name, records in parts.items()]
    if filtered is not None:
        lines += ["", "## What was left out", "", *_reasons(filtered)]
    write_text(path, "\n".join(lines) + "\n")


def _row(name: str, records: Sequence[RoleRecord]) -> str:
    scores = [float(record.facts.get("score", 0.0)) for record in records] or [0.0]
    words = [len(record.answer.split()) for record in records]
    tokens = [int(record.facts["tokens"]) for record in records if "tokens" in record.facts]  # as its model counted
    domains = len({record.facts.get("domain", "") for record in records})
    return (
        f"| {name} | {len(records)} | {domains} | {mean(scores):.3f} ({min(scores):.3f}) | "
        f"{_middle(words)} | {_middle(tokens)} |"
    )


def _middle(counts: Sequence[int]) -> str:
    return f"{median(counts):.0f} ({max(counts)})" if counts else "unknown"


def _counted(records: Sequence[RoleRecord], name: str) -> str:
    counts = Counter(str(record.facts[name]) for record in records if name in record.facts)
    return ", ".join(f"{value} ({count})" for value, count in counts.most_common()) or "unknown"


def _digest(records: Sequence[RoleRecord]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record.asked}\n{record.answer}\n".encode())
    return digest.hexdigest()


def _reasons(filtered: Filtered) -> list[str]:
    lines = [f"{len(filtered.dropped)} of {len(filtered.dropped) + len(filtered.kept)} examples.", ""]
    lines += ["| reason | examples |", "|---|---|"]
    lines += [f"| {reason} | {count} |" for reason, count in filtered.reasons.most_common()]
    lines += [""]
    for dropped in filtered.dropped[:SHOWN]:
        why = "; ".join(sentence for _, sentence in dropped.reasons)
        lines.append(f"- {_plain(dropped.record.asked)}: {_plain(why)}")
    return lines


def _plain(text: str, most: int = 160) -> str:
    """Text of a model as Markdown that stays text: it may hold anything."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#!&" else c for c in " ".join(text.split())[:most])


def _draw_scores(path: Path, parts: dict[str, Sequence[RoleRecord]]) -> None:
    from matplotlib.figure import Figure  # not at the top: it takes a second to load

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    scores = [[float(record.facts.get("score", 0.0)) for record in records] for records in parts.values()]
    axes.hist(scores, bins=20, range=(0, 1), stacked=True, label=list(parts))
    axes.set_xlabel("score")
    axes.set_ylabel("examples")
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
