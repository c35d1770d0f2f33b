"""What metrics are made of: parts of a score, and careful looks into documents that nobody has vouched for.

A document that a model wrote may hold anything anywhere. Whatever asks for a text, a list of texts or a list of
mappings gets one, if need be an empty one, so that a metric needs no case for each thing that could stand there
instead.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cpuft.errors import list_faults
from cpuft.roles.answer import read_answer
from cpuft.roles.role import Inputs, Part

REQUIREMENT = re.compile(r"(?:FR|NFR|C)\d{3}")  # the id of a business analyst's requirement
# What depends on an input that is missing or cannot be read is left out of a total: it weighs nothing.
LEFT_OUT = Part(1.0, 0.0)


def point(good: bool, weight: float, fault: str) -> Part:
    """The part that is either there or not."""
    return Part(1.0, weight) if good else Part(0.0, weight, fault)


def share(faults: Sequence[str], total: int, weight: float) -> Part:
    """The part that `total` things (at least 1) have in common, each of which is right or has a fault."""
    return Part(max(0.0, 1.0 - len(faults) / total), weight, list_faults(faults))


def share_of(
    items: Sequence[Mapping[str, Any]],
    fault_of: Callable[[int, Mapping[str, Any]], str],
    weight: float,
    name: str,
    least: int,
) -> Part:
    """The share of a list's items that are right, of at least `least`: items that are missing are wrong.

    fault_of: (position, item) -> what is wrong with it; an empty text where nothing is.
    """
    faults = [fault for i, item in enumerate(items) if (fault := fault_of(i, item))]
    missing = max(0, least - len(items))
    lacking = [f"{name} has {len(items)} items, expected at least {least}"] if missing else []
    return Part(max(0.0, 1.0 - (len(faults) + missing) / max(least, len(items))), weight, list_faults(lacking + faults))


def filled_fields(document: Mapping[str, Any], names: Sequence[str], weight: float) -> Part:
    """The part that a document has where none of its fields is missing or empty."""
    missing = [name for name in names if not document.get(name)]
    return point(not missing, weight, f"these fields are missing or empty: {', '.join(missing)}")


def valid_yaml(answer: str, weight: float) -> Part:
    """The part that an answer has which is one YAML document."""
    return point(read_answer(answer) is not None, weight, "the answer is not one valid YAML document")


def text_of(value: Any) -> str:
    """A text without the space around it; empty where the value is no text."""
    return value.strip() if isinstance(value, str) else ""


def texts_of(value: Any) -> list[str]:
    """The texts of a list that hold something; none where the value is no list."""
    return [text for item in value if (text := text_of(item))] if isinstance(value, list) else []


def items_of(value: Any) -> list[Mapping[str, Any]]:
    """The items of a list, an empty mapping for each that is none: it counts, as one that lacks everything."""
    return [item if isinstance(item, Mapping) else {} for item in value] if isinstance(value, list) else []


def mapping_of(value: Any) -> Mapping[str, Any]:
    """A mapping; an empty one where the value is none."""
    return value if isinstance(value, Mapping) else {}


def ids_in(value: Any) -> list[str]:
    """The ids of requirements in a list of them."""
    return [text for text in texts_of(value) if REQUIREMENT.fullmatch(text)]


def is_one_of(value: Any, choices: Sequence[str]) -> bool:
    """Whether a value is one of some texts. It may be something that no set can be asked for."""
    return isinstance(value, str) and value.strip() in choices


def missing_texts(item: Mapping[str, Any], names: Iterable[str]) -> str:
    """Which of an item's fields hold no text, as the end of a sentence; empty where all do."""
    missing = [name for name in names if not text_of(item.get(name))]
    return f"has no {' and no '.join(missing)}" if missing else ""


def repeated(texts: Iterable[str]) -> Iterator[bool]:
    """Yields for each text whether it says what an earlier one said."""
    seen: set[str] = set()
    for text in texts:
        words = " ".join(text.casefold().split())
        yield words in seen
        seen.add(words)


def normalized(text: str) -> str:
    """A text's words: letters and digits in lower case, one space between."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def read_input(inputs: Inputs, name: str) -> Mapping[str, Any]:
    """The document that was given as an input; an empty one where it is missing or cannot be read."""
    text = inputs.get(name)
    return (read_answer(text) or {}) if isinstance(text, str) else {}


def requirement_ids(requirements: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(all ids, those of functional requirements) in a business analyst's document."""
    names = ("functional_requirements", "non_functional_requirements", "constraints")
    items = [item for name in names for item in items_of(requirements.get(name))]
    ids = ids_in([item.get("id") for item in items])
    return ids, [identity for identity in ids if identity.startswith("FR")]


def known_ids(named: Iterable[str], known: Sequence[str], weight: float, what: str) -> Part:
    """The share of ids that were named and exist; left out where none is known."""
    if not known:
        return LEFT_OUT
    distinct = list(dict.fromkeys(named))
    if not distinct:
        return Part(0.0, weight, f"no {what} is named")
    exist = set(known)
    return share([f"{name} is no {what} of the input" for name in distinct if name not in exist], len(distinct), weight)


def covered_ids(named: Iterable[str], wanted: Sequence[str], weight: float, what: str) -> Part:
    """The share of wanted ids that were named; left out where none is wanted."""
    if not wanted:
        return LEFT_OUT
    found, distinct = set(named), list(dict.fromkeys(wanted))
    return share([f"{name} is covered by no {what}" for name in distinct if name not in found], len(distinct), weight)
