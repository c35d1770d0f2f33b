"""How good a requirements document is: the specification's `ba_requirements_metric`, seven points in all.

1    all five fields are there
0.5  the title has 10 to 100 characters
0.5  the description has at least 100
1.5  for each of the three lists: 0.5 where it is a list, 0.5 where it has at least two items, 0.5 where at least two
     have an id of the list's form (FR001, NFR001, C001), a description and a priority
0.5  the whole is one valid YAML document

What can be read of an answer that is as a whole no YAML counts: each field from its key to the next.
"""

import re
from collections.abc import Mapping
from typing import Any

from cpuft.roles.answer import read_fields
from cpuft.roles.checks import filled_fields, point, text_of, valid_yaml
from cpuft.roles.role import Inputs, Part, Score

LISTS = {"functional_requirements": "FR", "non_functional_requirements": "NFR", "constraints": "C"}
FIELDS = ("title", "description", *LISTS)
TITLE_LENGTHS, DESCRIPTION_LENGTH = (10, 100), 100  # in characters
MIN_ITEMS = 2


def score(answer: str, inputs: Inputs) -> Score:  # noqa: ARG001 - the metric looks at the document alone
    """The score of a business analyst's answer."""
    fields = read_fields(answer)
    parts = {
        "fields": filled_fields(fields, FIELDS, 1.0),
        "title": _length("title", fields.get("title"), *TITLE_LENGTHS),
        "description": _length("description", fields.get("description"), DESCRIPTION_LENGTH),
        **{name: _list(name, fields.get(name), prefix) for name, prefix in LISTS.items()},
        "yaml_valid": valid_yaml(answer, 0.5),
    }
    return Score.of(parts)


def _length(name: str, text: Any, least: int, most: int | None = None) -> Part:
    length = len(text_of(text))
    wanted = f"at least {least}" if most is None else f"{least} to {most}"
    good = length >= least and (most is None or length <= most)
    return point(good, 0.5, f"{name} has {length} characters, expected {wanted}")


def _list(name: str, items: Any, prefix: str) -> Part:
    """Three half points of one list: that it is one, its length, and what its items have."""
    if not isinstance(items, list):
        return Part(0.0, 1.5, f"{name} is no list")
    whole = sum(_is_whole(item, prefix) for item in items)
    points, faults = 0.5, []
    if len(items) >= MIN_ITEMS:
        points += 0.5
    else:
        faults.append(f"{name} has {len(items)} items, expected at least {MIN_ITEMS}")
    if whole >= MIN_ITEMS:
        points += 0.5
    else:
        faults.append(
            f"{whole} items of {name} have an id such as {prefix}001, a description and a priority, "
            f"expected at least {MIN_ITEMS}"
        )
    return Part(points / 1.5, 1.5, "; ".join(faults))


def _is_whole(item: Any, prefix: str) -> bool:
    if not isinstance(item, Mapping):
        return False
    texts = [item.get(name) for name in ("id", "description", "priority")]
    return all(isinstance(text, str) and text.strip() for text in texts) and bool(
        re.fullmatch(rf"{prefix}\d{{3}}", item["id"].strip())
    )
