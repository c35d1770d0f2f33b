"""A role whose lexicon and seeds are small, made of the business analyst's."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from cpuft.roles import Role
from cpuft.roles.answer import write_answer
from cpuft.roles.check import write_skeleton
from cpuft.roles.folder import read_role
from cpuft.synth.records import RoleRecord

BA = Path(__file__).resolve().parents[2] / "cpuft" / "roles" / "ba"
LEXICON = {
    "product": ["app", "platform", "portal", "service"],
    "audience": ["small shops", "hospitals", "travellers", "teachers", "city councils"],
    "complexity": ["simple", "large"],
    "domain fintech": ["invoice", "loan", "savings", "tax"],
    "domain healthcare": ["appointment", "prescription", "triage", "blood donor"],
}


def document(subject: str) -> dict[str, object]:
    """A good answer."""

    def items(prefix: str) -> list[dict[str, str]]:
        return [
            {"id": f"{prefix}00{n}", "description": f"Number {n} about {subject} and more", "priority": "High"}
            for n in (1, 2)
        ]

    return {
        "title": f"Something for {subject}",
        "description": f"A piece of software that helps people with {subject}, whatever they do with it all day long. "
        "It does so well.",
        "functional_requirements": items("FR"),
        "non_functional_requirements": items("NFR"),
        "constraints": items("C"),
    }


def record(concept: str, **facts: object) -> RoleRecord:
    """A good example."""
    return RoleRecord({"concept": concept}, write_answer(document(concept)), facts)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a role."""
    folder = tmp_path_factory.mktemp("role") / "analyst"
    shutil.copytree(BA, folder)
    (folder / "lexicon.yaml").write_text(yaml.safe_dump(LEXICON))
    seeds = [
        {"inputs": {"concept": f"An app for {name}"}, "answer": document(name)} for name in ("bakers", "beekeepers")
    ]
    (folder / "seeds.yaml").write_text(yaml.safe_dump(seeds, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def role(folder: Path) -> Role:
    """The role."""
    return read_role(folder)


@pytest.fixture(scope="session")
def clerk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a role whose answers are so short that the bundled model ends them."""
    folder = tmp_path_factory.mktemp("short") / "clerk"
    write_skeleton(folder)
    schema = json.loads((folder / "schema.json").read_text())
    schema["properties"]["summary"]["maxLength"] = 40
    schema["properties"]["points"] |= {"maxItems": 2, "items": {"type": "string", "maxLength": 20}}
    (folder / "schema.json").write_text(json.dumps(schema))
    (folder / "lexicon.yaml").write_text(yaml.safe_dump(LEXICON))
    return folder
