"""How good an architect's answer is, ten points in all.

0.5  the answer is one valid YAML document
1    all three fields are there
1    the share of epics that have an id of their own (E1, E2, …), a name and a goal
1    the share of stories, of at least two, that have an id of their own (S1, S2, …), the form "As a … I want … so
     that …" and a requirement's id
0.5  the share of stories and epics that belong together: the story's epic exists, the epic has a story
0.5  the share of stories with a priority (P1 to P3) and a size (XS to XL)
1.5  the share of stories with at least two acceptance criteria, none of them twice or shorter than 15 characters
2    the architecture: 0.5 each for components, data stores, interfaces and decisions that are there and whole; an
     interface's provider is a component
0.5  the share of the ids that were named which exist in the requirements
1.5  the share of the functional requirements that a story names

Without requirements that can be read, the last two are left out of the total.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cpuft.errors import list_faults
from cpuft.roles.answer import read_fields
from cpuft.roles.checks import (
    covered_ids,
    filled_fields,
    ids_in,
    is_one_of,
    items_of,
    known_ids,
    mapping_of,
    missing_texts,
    read_input,
    repeated,
    requirement_ids,
    share,
    share_of,
    text_of,
    texts_of,
    valid_yaml,
)
from cpuft.roles.role import Inputs, Part, Score

FIELDS = ("epics", "stories", "architecture")
PRIORITIES, SIZES = ("P1", "P2", "P3"), ("XS", "S", "M", "L", "XL")
MIN_STORIES = MIN_CRITERIA = 2
CRITERION_LENGTH = 15  # in characters: a shorter one tells nobody what to look at
# The lists of an architecture and the texts that their items hold.
LISTS = {
    "components": ("name", "responsibility", "technology"),
    "data_stores": ("name", "holds", "technology"),
    "interfaces": ("name", "provider", "description"),
    "decisions": ("decision", "reason"),
}
_EPIC_ID, _STORY_ID = re.compile(r"E[1-9]\d*"), re.compile(r"S[1-9]\d*")


def score(answer: str, inputs: Inputs) -> Score:
    """The score of an architect's answer."""
    fields = read_fields(answer)
    epics, stories = items_of(fields.get("epics")), items_of(fields.get("stories"))
    known, functional = requirement_ids(read_input(inputs, "requirements"))
    named = [identity for story in stories for identity in ids_in(story.get("requirements"))]
    return Score.of(
        {
            "yaml_valid": valid_yaml(answer, 0.5),
            "fields": filled_fields(fields, FIELDS, 1.0),
            "epics": _epics(epics),
            "stories": _stories(stories),
            "epic_links": _epic_links(epics, stories),
            "estimates": share_of(stories, _estimate_fault, 0.5, "stories", 1),
            "acceptance": share_of(stories, _acceptance_fault, 1.5, "stories", 1),
            "architecture": _architecture(mapping_of(fields.get("architecture"))),
            "ids": known_ids(named, known, 0.5, "requirement"),
            "coverage": covered_ids(named, functional, 1.5, "story"),
        }
    )


def _epics(epics: Sequence[Mapping[str, Any]]) -> Part:
    taken = list(repeated(text_of(epic.get("id")) for epic in epics))

    def fault_of(i: int, epic: Mapping[str, Any]) -> str:
        faults = [*_id_faults(epic, _EPIC_ID, taken[i], "E1"), missing_texts(epic, ("name", "goal"))]
        return _sentence(f"epic {i + 1}", faults)

    return share_of(epics, fault_of, 1.0, "epics", 1)


def _stories(stories: Sequence[Mapping[str, Any]]) -> Part:
    taken = list(repeated(text_of(story.get("id")) for story in stories))

    def fault_of(i: int, story: Mapping[str, Any]) -> str:
        faults = _id_faults(story, _STORY_ID, taken[i], "S1")
        if not _is_story(text_of(story.get("story"))):
            faults.append("does not say 'As a … I want … so that …'")
        if not ids_in(story.get("requirements")):
            faults.append("names no requirement such as FR001")
        return _sentence(f"story {i + 1}", faults)

    return share_of(stories, fault_of, 1.0, "stories", MIN_STORIES)


def _epic_links(epics: Sequence[Mapping[str, Any]], stories: Sequence[Mapping[str, Any]]) -> Part:
    if not epics or not stories:
        return Part(0.0, 0.5, "without epics and stories none belong together")
    names, used = ({text_of(item.get(key)) for item in items} for items, key in ((epics, "id"), (stories, "epic")))
    lost = [f"story {i + 1} belongs to no epic" for i, s in enumerate(stories) if text_of(s.get("epic")) not in names]
    idle = [f"epic {i + 1} has no story" for i, epic in enumerate(epics) if text_of(epic.get("id")) not in used]
    return share(lost + idle, len(epics) + len(stories), 0.5)


def _estimate_fault(i: int, story: Mapping[str, Any]) -> str:
    faults = []
    if not is_one_of(story.get("priority"), PRIORITIES):
        faults.append(f"has no priority of {', '.join(PRIORITIES)}")
    if not is_one_of(story.get("size"), SIZES):
        faults.append(f"has no size of {', '.join(SIZES)}")
    return _sentence(f"story {i + 1}", faults)


def _acceptance_fault(i: int, story: Mapping[str, Any]) -> str:
    criteria = texts_of(story.get("acceptance_criteria"))
    faults = []
    if len(criteria) < MIN_CRITERIA:
        faults.append(f"has {len(criteria)} acceptance criteria, expected at least {MIN_CRITERIA}")
    if any(len(criterion) < CRITERION_LENGTH for criterion in criteria):
        faults.append("has an acceptance criterion too short to be tested")
    if any(repeated(criteria)):
        faults.append("has an acceptance criterion twice")
    return _sentence(f"story {i + 1}", faults)


def _architecture(architecture: Mapping[str, Any]) -> Part:
    components = {text_of(item.get("name")) for item in items_of(architecture.get("components"))}
    faults = []
    for name, texts in LISTS.items():
        items = items_of(architecture.get(name))
        lacking = [fault for i, item in enumerate(items) if (fault := _item_fault(name, i, item, texts, components))]
        if not items:
            faults.append(f"architecture.{name} has no items")
        elif lacking:
            faults.append(list_faults(lacking, most=2))
    return share(faults, len(LISTS), 2.0)


def _item_fault(name: str, i: int, item: Mapping[str, Any], texts: Sequence[str], components: set[str]) -> str:
    faults = [missing_texts(item, texts)]
    if name == "interfaces" and text_of(item.get("provider")) not in components:
        faults.append("has a provider that is no component")
    return _sentence(f"item {i + 1} of architecture.{name}", faults)


def _id_faults(item: Mapping[str, Any], form: re.Pattern[str], taken: bool, example: str) -> list[str]:
    if not form.fullmatch(text_of(item.get("id"))):
        return [f"has no id such as {example}"]
    return ["has the id of an earlier one"] if taken else []


def _is_story(text: str) -> bool:
    """Whether a text is a story. It is read from left to right: a pattern could take long over a hostile one."""
    start, _, rest = " ".join(text.casefold().split()).partition("i want ")
    want, _, reason = rest.partition("so that ")
    role = re.match(r"as an? ", start)
    return bool(role and start[role.end() :].strip(" ,") and want.strip(" ,") and reason.strip(" ."))


def _sentence(subject: str, faults: Sequence[str]) -> str:
    said = [fault for fault in faults if fault]
    return f"{subject} {' and '.join(said)}" if said else ""
