"""A business concept, and the sentences that can be said about any concept.

The base corpus says these sentences in prose, bullets and records of many shapes; the training set says them in the
requirements document. So fine-tuning has to teach the document, not the language.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.demo_base.lexicon import ACTIVITIES, ADJECTIVES, PRODUCTS, Domain, invented_phrase


@dataclass(frozen=True)
class Concept:
    """Such as: smart | parcel | tracking | app | couriers."""

    adjective: str
    subject: str
    activity: str
    product: str
    audience: str

    @property
    def name(self) -> str:
        """Without the adjective and the audience: "parcel tracking app"."""
        return f"{self.subject} {self.activity} {self.product}"

    @property
    def lower(self) -> str:
        """As it stands within a sentence: "smart parcel tracking app for couriers"."""
        return f"{self.adjective} {self.name} for {self.audience}"

    @property
    def text(self) -> str:
        """As a user types it: "Smart parcel tracking app for couriers"."""
        return self.lower[0].upper() + self.lower[1:]

    @property
    def article(self) -> str:
        """The indefinite article that goes before the adjective."""
        return "an" if self.adjective[0] in "aeiou" else "a"

    def fill(self, pattern: str, rng: random.Random) -> str:
        """`pattern` with its {fields} replaced; {n}, {few} and {many} are drawn from `rng`."""
        return pattern.format(
            subject=self.subject,
            audience=self.audience,
            product=self.product,
            activity=self.activity,
            name=self.name,
            few=rng.choice(["2", "3", "4", "5", "6"]),
            n=rng.choice(["10", "12", "15", "20", "30", "60", "90"]),
            many=rng.choice(["100", "200", "500", "1000", "2000", "5000"]),
        )


def draw(domain: Domain, rng: random.Random) -> Concept:
    """A concept of one domain."""
    return Concept(
        rng.choice(ADJECTIVES),
        rng.choice(domain.subjects),
        rng.choice(ACTIVITIES),
        rng.choice(PRODUCTS),
        rng.choice(domain.audiences),
    )


def draw_invented(rng: random.Random) -> Concept:
    """A concept whose subject and audience are words that exist nowhere."""
    return Concept(
        rng.choice(ADJECTIVES),
        invented_phrase(rng),
        rng.choice(ACTIVITIES),
        rng.choice(PRODUCTS),
        invented_phrase(rng, plural=True),
    )


# What the product does: each follows "The product can", "It lets them" or stands alone with a capital.
ABILITIES = (
    "let {audience} create and edit {subject} entries",
    "send {audience} an alert when {subject} data changes",
    "show {audience} a summary of {subject} activity",
    "export {subject} reports as spreadsheet files",
    "search {subject} entries by date and status",
    "let {audience} share {subject} notes with each other",
    "remind {audience} of every open {subject} task",
    "keep a history of all {subject} changes",
    "import {subject} data from older files",
    "let {audience} attach photos to {subject} entries",
    "compare {subject} figures from month to month",
    "let {audience} approve or reject {subject} requests",
    "show {subject} entries on a map",
    "let {audience} plan {subject} work for the week",
    "warn {audience} of missing {subject} data",
    "let {audience} set their own {subject} limits",
)

# How well it does it: each is a whole sentence without its full stop.
QUALITIES = (
    "Every page of the {product} loads in {few} seconds",
    "The {product} serves {many} {audience} at the same time",
    "All {subject} data is encrypted at rest",
    "Outages of the {product} last {n} minutes at most",
    "Backups of {subject} data are made every {n} minutes",
    "New {audience} learn the {product} in {n} minutes",
    "The {product} works on phones and on desktops",
    "Only signed in {audience} can see {subject} data",
)

# What limits it: each is a whole sentence without its full stop.
LIMITS = (
    "The first release of the {product} is ready in {few} months",
    "The {product} runs on hardware that {audience} already own",
    "The team for the {product} has {few} people",
    "The {product} keeps {subject} data inside the country",
    "The yearly cost of the {product} stays under {many} euros",
    "The {product} uses open standards for {subject} data",
)

BENEFITS = (
    "nothing about {subject} work gets lost",
    "{audience} spend less time on {subject} paperwork",
    "{audience} can trust every {subject} figure",
    "{subject} problems are seen early",
    "{audience} decide faster and make fewer mistakes",
)

VERBS = ("record", "follow", "review", "plan", "check", "sort", "report", "compare")


def choose(pool: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` different entries in the order of the pool: who writes such a list need not remember what is on it."""
    return [pool[index] for index in sorted(rng.sample(range(len(pool)), count))]


def purpose(concept: Concept, rng: random.Random) -> str:
    """One sentence of at least 100 characters that says what the product is, for whom, and what it is good for."""
    first, second, third = choose(VERBS, 3, rng)
    benefit = concept.fill(rng.choice(BENEFITS), rng)
    article = concept.article.capitalize()
    return (
        f"{article} {concept.adjective} {concept.name} that helps {concept.audience} {first}, {second} and {third} "
        f"{concept.subject} entries in one place, so that {benefit}."
    )
