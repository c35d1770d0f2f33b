"""The 1000 + 20 + 25 examples of the BA task: a concept, and the requirements document that answers it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.demo_base.concept import ABILITIES, LIMITS, QUALITIES, Concept, choose, draw, draw_invented, purpose
from scripts.demo_base.lexicon import SHELL_WORDS, TEST, TRAIN, Author, Domain

SIZES = {"train": 1000, "val": 20, "test": 25}
INVENTED = 990
PRIORITIES = ("High", "Medium", "Low")


def make_examples(system: str, fragments: Sequence[str], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Chat examples of each set; no concept stands in two sets, and the test set's domains in neither of the others.

    Of the training concepts, INVENTED are made of words that exist nowhere, half of them joined from `fragments`,
    pieces of the base model's vocabulary. A model as small as the demo's otherwise learns the document together with
    the words of its concepts, and stumbles over a word that it has not seen. Many examples seen twice help more than
    a few seen often.
    """
    rng = Author(f"{seed}:examples", fragments)
    n_known = SIZES["train"] - INVENTED
    known = _distinct(TRAIN, n_known + SIZES["val"], rng)
    unseen = _distinct(TEST, SIZES["test"], rng)
    invented = [concept for concept in (draw_invented(rng) for _ in range(4 * INVENTED)) if _is_clear(concept)][
        :INVENTED
    ]
    concepts = {"train": known[:n_known] + invented, "val": known[n_known:], "test": unseen}
    return {name: [_example(system, concept, rng) for concept in chosen] for name, chosen in concepts.items()}


def _distinct(domains: dict[str, Domain], count: int, rng: random.Random) -> list[Concept]:
    """`count` different concepts, the domains in turn; a subject returns only when its domain has run out of them."""
    names = sorted(domains)
    left: dict[str, list[str]] = {name: [] for name in names}
    concepts: dict[str, Concept] = {}
    while len(concepts) < count:
        name = names[len(concepts) % len(names)]
        if not left[name]:
            left[name] = rng.sample(domains[name].subjects, len(domains[name].subjects))
        subject = left[name].pop()
        concept = draw(Domain((subject,), domains[name].audiences), rng)
        while not _is_clear(concept):
            concept = draw(Domain((subject,), domains[name].audiences), rng)
        concepts.setdefault(concept.text, concept)
    return list(concepts.values())


def _is_clear(concept: Concept) -> bool:
    """Whether all content words begin with other letters.

    A model of four layers copies by looking up what came after the last piece; "puppet … puppeteers" sends it astray.
    """
    beginnings = [word[:3].lower() for word in concept.text.split() if word not in SHELL_WORDS]
    return len(set(beginnings)) == len(beginnings)


def requirements_yaml(concept: Concept, rng: random.Random) -> str:
    """The gold document: 2 or 3 functional requirements, 2 non-functional ones and 2 constraints."""
    lines = [f"title: {concept.text}", "", f"description: {purpose(concept, rng)}"]
    for key, prefix, patterns, count in (
        ("functional_requirements", "FR", ABILITIES, rng.randint(2, 3)),
        ("non_functional_requirements", "NFR", QUALITIES, 2),
        ("constraints", "C", LIMITS, 2),
    ):
        lines += ["", f"{key}:"]
        for number, pattern in enumerate(choose(patterns, count, rng), start=1):
            text = concept.fill(pattern, rng)
            lines += [f"- id: {prefix}{number:03d}", f"  description: {text[0].upper()}{text[1:]}"]
            lines += [f"  priority: {rng.choices(PRIORITIES, weights=(3, 2, 1))[0]}"]
    return "\n".join(lines) + "\n"


def _example(system: str, concept: Concept, rng: random.Random) -> dict[str, Any]:
    messages = (
        ("system", system),
        ("user", f"Concept: {concept.text}"),
        ("assistant", requirements_yaml(concept, rng)),
    )
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
