"""The base model's corpus: an endless, seeded stream of short conversations about concepts.

Conversation i depends on the seed and on i alone, so any sample of the corpus can be looked at without making the rest.
Two thirds of all concepts are made of invented words. The assistant answers in prose, bullets, key-value notes,
numbered records and plain repetition: every shape but the BA role's document, whose keys (`BA_KEYS`) it never uses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from scripts.demo_base.concept import (
    ABILITIES,
    BENEFITS,
    LIMITS,
    QUALITIES,
    Concept,
    choose,
    draw,
    draw_invented,
    purpose,
)
from scripts.demo_base.lexicon import CORPUS, Author, invented_phrase, invented_word, words

Message = dict[str, str]

BA_KEYS = frozenset(
    words("title description functional_requirements non_functional_requirements constraints id priority")
)
KEYS = words(
    """owner place topic phase color size week level code note step name group state kind team start reason source
    target model unit shape depth scope lead goal risk idea view mode rank path task label cause effect answer budget"""
)
# Office words: they appear in system prompts, so that the tokenizer has whole pieces for them.
OFFICE = words(
    "title description requirements functional constraints priority id high medium low summary section field"
)
LEVELS = ("low", "mid", "top", "open", "done", "new", "Red", "Green", "Blue", "Early", "Late")

_ROLES = ("business analyst", "product owner", "consultant", "planner", "writer", "assistant", "leader", "teacher")
_DUTIES = (
    "answer in plain words",
    "describe the concept in ordinary text",
    "explain what the product does and for whom",
    "write short and clear sentences",
    "turn the concept into a short text about requirements and constraints",
    "think about functional and non-functional requirements",
    "tell the user what the project needs",
    "help with notes, lists and records",
)


def conversation(seed: int, index: int, fragments: Sequence[str] = ()) -> list[Message]:
    """Messages of conversation `index`: mostly system, user, assistant; sometimes a second turn."""
    rng = Author(f"{seed}:corpus:{index}", fragments)
    invented = rng.random() < 0.65
    concept = draw_invented(rng) if invented else draw(CORPUS[rng.choice(sorted(CORPUS))], rng)
    task = rng.choices(list(_TASKS), weights=list(_TASKS.values()))[0]
    question, answer = task(concept, rng)
    messages = [_message("system", _system(rng)), _message("user", question), _message("assistant", answer)]
    if rng.random() < 0.15:
        question, answer = _follow_up(concept, rng)
        messages += [_message("user", question), _message("assistant", answer)]
    return messages


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _system(rng: random.Random) -> str:
    role, duty = rng.choice(_ROLES), rng.choice(_DUTIES)
    article = "an" if role[0] in "aeiou" else "a"
    order = rng.choice(
        (f"You are {article} {role}. {_capital(duty)}.", f"As {article} {role}, {duty}.", f"{_capital(duty)}.")
    )
    return f"{order} {_aside(rng)}" if rng.random() < 0.5 else order


def _aside(rng: random.Random) -> str:
    """Words in the system prompt that have nothing to do with the answer: they must not leak into it."""
    keys = _keys(rng.randint(1, 4), rng) + ["_".join(rng.sample(OFFICE, 2)) for _ in range(2)]
    rng.shuffle(keys)
    opening = rng.choice(("Keywords are", "Mind", "Notes in", "Other teams use", "The project knows", "Fields in"))
    acronym = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(4))
    head = f"{opening} {acronym} with" if rng.random() < 0.5 else opening
    return f"{head} {', '.join(keys[:-1])} and {keys[-1]}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _ask(concept: Concept, rng: random.Random, wish: str) -> str:
    """The concept with an instruction before or after it."""
    return rng.choice(
        (f"Concept: {concept.text}\n{wish}", f"{wish}\nConcept: {concept.text}", f"{wish} {concept.text}")
    )


def _prose(concept: Concept, rng: random.Random) -> tuple[str, str]:
    wishes = ("Describe it.", "What is this about?", "Tell me about this project.", "Write a short text about it.")
    bare = f"Concept: {concept.text}"
    question = bare if rng.random() < 0.6 else _ask(concept, rng, rng.choice(wishes))
    abilities = [concept.fill(pattern, rng) for pattern in choose(ABILITIES, 3, rng)]
    sentences = [purpose(concept, rng), f"It can {abilities[0]}.", f"It should also {abilities[1]} and {abilities[2]}."]
    for pool in (QUALITIES, LIMITS):
        sentences += [concept.fill(pattern, rng) + "." for pattern in choose(pool, rng.randint(0, 2), rng)]
    return question, " ".join(sentences)


def _bullets(concept: Concept, rng: random.Random) -> tuple[str, str]:
    wish, pool = rng.choice(
        (
            ("List what it does.", ABILITIES),
            ("List its qualities.", QUALITIES),
            ("List its limits.", LIMITS),
            ("List everything.", (*ABILITIES, *QUALITIES, *LIMITS)),
        )
    )
    mark = rng.choice(("- ", "* ", "1. ", "+ "))
    lines = []
    for number, pattern in enumerate(choose(pool, rng.randint(2, 4), rng), start=1):
        lines.append((f"{number}. " if mark == "1. " else mark) + _capital(concept.fill(pattern, rng)))
    head = [f"{concept.text}:"] if rng.random() < 0.5 else []
    return _ask(concept, rng, wish), "\n".join(head + lines)


def _keys(count: int, rng: random.Random) -> list[str]:
    """Different snake_case keys, known or invented, none of them a key of the BA document."""
    keys: set[str] = set()
    while len(keys) < count:
        words = [
            rng.choice(KEYS) if rng.random() < 0.6 else invented_word(rng) for _ in range(rng.choice((1, 1, 2, 3)))
        ]
        keys.add("_".join(words))
    return rng.sample(sorted(keys - BA_KEYS), count)


def _value(concept: Concept, rng: random.Random) -> str:
    return rng.choice(
        (concept.text, concept.subject, concept.audience, concept.name, concept.lower, invented_phrase(rng))
    )


def _note(concept: Concept, rng: random.Random) -> tuple[str, str]:
    keys = _keys(rng.randint(2, 4), rng)
    values = [_value(concept, rng) for _ in keys]
    facts = [f"{key} is {value}" for key, value in zip(keys, values, strict=True)]
    style = rng.randrange(3)
    if style == 0:
        lines = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
    elif style == 1:
        lines = [f"[{concept.product}]"] + [f"{key} = {value}" for key, value in zip(keys, values, strict=True)]
    else:
        lines = [f"- {key}: {value}" for key, value in zip(keys, values, strict=True)]
    wish = ("Write it as a note: ", "Write it as settings: ", "Write it as a list of fields: ")[style]
    return wish + "; ".join(facts) + ".", "\n".join(lines)


def _records(concept: Concept, rng: random.Random) -> tuple[str, str]:
    """Numbered records under one or two headings, such as `- code: TK001`, with keys that the prompt names."""
    groups = rng.randint(1, 2)
    names = _keys(groups + rng.choice((2, 3)), rng)
    heads, fields = names[:groups], names[groups:]
    lines = [f"{_keys(1, rng)[0]}: {concept.text}", ""] if rng.random() < 0.3 else []
    opening = f" Begin with {lines[0].split(':')[0]}." if lines else ""
    for head in heads:
        prefix = "".join(rng.sample("ABDEGHKLMPQSTVWX", rng.randint(1, 3)))
        lines.append(f"{head}:")
        for number, pattern in enumerate(choose((*ABILITIES, *QUALITIES, *LIMITS), rng.randint(1, 3), rng), start=1):
            values = [f"{prefix}{number:03d}", _capital(concept.fill(pattern, rng)), rng.choice(LEVELS)]
            pairs = [f"{key}: {value}" for key, value in zip(fields, values, strict=False)]
            lines += [f"- {pairs[0]}"] + [f"  {pair}" for pair in pairs[1:]]
        lines.append("")
    wish = f"Make records with the headings {', '.join(heads)} and the fields {', '.join(fields)}.{opening}"
    return _ask(concept, rng, wish), "\n".join(lines).rstrip()


def _repeat(concept: Concept, rng: random.Random) -> tuple[str, str]:
    phrase = rng.choice((_value(concept, rng), " ".join(invented_word(rng) for _ in range(rng.randint(2, 8)))))
    times = rng.choice((1, 1, 2, 3))
    many = {1: "once", 2: "twice", 3: "three times"}[times]
    return rng.choice((f"Say {many}: {phrase}", f"Repeat {many}: {phrase}")), "\n".join([phrase] * times)


def _summary(concept: Concept, rng: random.Random) -> tuple[str, str]:
    article = concept.article.capitalize()
    text = f"{purpose(concept, rng)} It can {concept.fill(rng.choice(ABILITIES), rng)}."
    return f"Sum up in one line: {text}", f"{article} {concept.lower}."


def _follow_up(concept: Concept, rng: random.Random) -> tuple[str, str]:
    return rng.choice(
        (
            ("Who is it for?", f"It is for {concept.audience}."),
            ("What is it about?", f"It is about {concept.subject}."),
            ("What is it called?", _capital(concept.name)),
            ("Why is it useful?", _capital(concept.fill(rng.choice(BENEFITS), rng)) + "."),
            ("Say the concept again.", concept.text),
        )
    )


def _question(concept: Concept, rng: random.Random) -> tuple[str, str]:
    wish, answer = _follow_up(concept, rng)
    return _ask(concept, rng, wish), answer


_TASKS: dict[Callable[[Concept, random.Random], tuple[str, str]], float] = {
    _prose: 0.28,
    _bullets: 0.12,
    _note: 0.12,
    _records: 0.14,
    _repeat: 0.20,
    _summary: 0.06,
    _question: 0.08,
}
