"""The words of the demo: domains of the base corpus, of the training and validation sets, and of the test set.

Every word here was written for this project. `TEST` shares no content word with the others, and the base corpus draws
on `CORPUS` alone; `invented_word` makes words that exist nowhere else, so that the base model must learn to copy from
its prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """Things that a product can be about, and the people it can be for."""

    subjects: tuple[str, ...]
    audiences: tuple[str, ...]


def _domain(subjects: str, audiences: str) -> Domain:
    return Domain(_phrases(subjects), _phrases(audiences))


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


CORPUS: dict[str, Domain] = {
    "travel": _domain(
        """hotel room, train ticket, city tour, luggage, flight delay, camping site, travel visa, bike rental, bus pass,
        mountain hike, ferry booking, hostel bed, road trip, airport transfer""",
        """tourists, tour guides, hotel clerks, backpackers, travel agents, cyclists, bus companies, commuters""",
    ),
    "farming": _domain(
        """crop field, greenhouse humidity, milk yield, tractor, seed order, irrigation, soil sample, egg count,
        grain silo, cattle feed, fruit harvest, weed control, barn climate, compost""",
        """growers, dairy farmers, farm hands, orchard owners, vets, seed dealers, farm advisers, shepherds""",
    ),
    "energy": _domain(
        """solar panel, power meter, wind turbine, heat pump, battery, boiler service, grid outage, gas leak,
        charging station, energy bill, insulation, street light, cable repair, hydrogen tank""",
        """electricians, grid operators, landlords, engineers, meter readers, city planners, installers, tenants""",
    ),
    "housing": _domain(
        """flat rental, roof repair, key handover, moving day, building permit, lift inspection, garden share, cleaning,
        parking space, furniture, water damage, room viewing, house sale, laundry room""",
        """caretakers, house owners, flatmates, estate agents, architects, builders, neighbours, cleaners""",
    ),
    "sports": _domain(
        """training plan, match result, swim lane, club fee, injury, tennis court, running route, climbing wall,
        referee, yoga class, youth league, chess club, ski pass, rowing boat""",
        """coaches, runners, swimmers, club members, athletes, fans, climbers, team captains""",
    ),
    "food": _domain(
        """recipe, table booking, meal kit, bakery order, kitchen stock, food waste, wine cellar, lunch menu, coffee,
        allergen label, catering, spice rack, street food, cheese aging""",
        """cooks, waiters, bakers, home cooks, diners, food banks, brewers, canteen staff""",
    ),
    "repair": _domain(
        """bike repair, phone screen, tool loan, car tyre, sewing machine, warranty, watch service, shoe sole, printer,
        laptop, paint job, lawn mower, door lock, camera lens""",
        """mechanics, tailors, watchmakers, repair cafes, plumbers, painters, car owners, locksmiths""",
    ),
}

TRAIN: dict[str, Domain] = {
    "fintech": _domain(
        """invoice, card payment, savings goal, loan request, tax receipt, household budget, pension, expense claim,
        money transfer, credit limit, bank account, cash flow, share portfolio, donation""",
        """freelancers, small lenders, accountants, bank clerks, treasurers, young savers, auditors, investors""",
    ),
    "healthcare": _domain(
        """patient record, vaccine, blood sample, hospital bed, prescription, therapy session, dental visit, allergy,
        medical device, night shift, wound care, clinic queue, physiotherapy, lab result""",
        """nurses, family doctors, pharmacists, home carers, dentists, surgeons, clinic managers, midwives""",
    ),
    "ecommerce": _domain(
        """shopping cart, product return, price list, gift voucher, stock level, customer review, spare part, discount,
        order status, wholesale catalog, second hand clothes, delivery slot, seller rating, wish list""",
        """shop owners, online sellers, buyers, store clerks, importers, brand teams, market traders, resellers""",
    ),
    "education": _domain(
        """homework, exam timetable, reading list, school trip, essay feedback, language course, classroom seat,
        scholarship, attendance, science project, quiz, grade book, library loan, tutoring""",
        """teachers, pupils, school heads, tutors, parents, exam boards, lecturers, language learners""",
    ),
    "logistics": _domain(
        """parcel, cargo pallet, truck route, warehouse shelf, customs form, courier shift, fuel use, container,
        loading dock, freight quote, cold chain, fleet service, return label, driver logbook""",
        """couriers, truck drivers, dispatchers, warehouse staff, freight brokers, fleet owners, packers""",
    ),
    "hr": _domain(
        """job application, holiday leave, salary slip, interview, staff training, skill profile, shift plan, mentoring,
        office desk, sick note, team survey, onboarding, work contract, career path""",
        """recruiters, team leads, office managers, trainees, shift workers, job seekers, payroll staff, mentors""",
    ),
    "marketing": _domain(
        """newsletter, campaign, coupon, social post, brand survey, sales lead, press release, podcast, banner advert,
        customer segment, loyalty point, trade fair, video clip, landing page""",
        """copywriters, sales teams, agencies, press officers, bloggers, designers, event planners, local brands""",
    ),
}

TEST: dict[str, Domain] = {
    "apiary": _domain(
        "beehive, honey jar, queen bee, pollen, swarm",
        "beekeepers, apiarists, honey judges, hobby hives, swarm catchers",
    ),
    "stage": _domain(
        "theatre costume, opera rehearsal, puppet, stage prop, ballet audition",
        "choreographers, puppeteers, stagehands, sopranos, dramaturgs",
    ),
    "harbour": _domain(
        "lighthouse, oyster reef, mooring buoy, trawler, tide gauge",
        "harbour pilots, anglers, coastal wardens, deckhands, sailors",
    ),
    "observatory": _domain(
        "telescope, meteor, eclipse, dark sky, satellite flyby",
        "astronomers, stargazers, planetarium hosts, comet hunters, rocket hobbyists",
    ),
    "heritage": _domain(
        "museum exhibit, fossil, manuscript, pottery shard, castle ruin",
        "curators, archaeologists, antique restorers, genealogists, monks",
    ),
}

ADJECTIVES = _phrases(
    "smart, simple, modern, shared, mobile, online, secure, open, local, digital, fast, friendly, visual, small, guided"
)
ACTIVITIES = _phrases(
    "tracking, planning, booking, monitoring, scheduling, sharing, reporting, exchange, archive, forecast, matching"
)
PRODUCTS = _phrases("platform, portal, app, service, system, tool, assistant, hub, registry, dashboard")

# Too common to count as belonging to a domain.
SHELL_WORDS = frozenset(words("a an and for in of on the to with"))

_ONSETS = words("b br c cl d dr f fl g gr h j k l m n p pl qu r s sh sk st t th tr v w z")
_VOWELS = words("a e i o u ai ea ee oo ou")
_CODAS = ["", "", "", "l", "n", "r", "s", "m", "t", "x", "nd", "rk", "st", "ng", "ck"]


def words_of(domains: dict[str, Domain]) -> frozenset[str]:
    """All content words of the domains' subjects and audiences."""
    phrases = (phrase for domain in domains.values() for phrase in (*domain.subjects, *domain.audiences))
    return frozenset(word for phrase in phrases for word in phrase.split()) - SHELL_WORDS


_KNOWN = sorted(words_of(CORPUS))
_TEST_WORDS = words_of(TEST)


class Author(random.Random):
    """The choices of whoever writes a conversation. Given `fragments`, half of its invented words are made of them."""

    def __init__(self, seed: str, fragments: Sequence[str] = ()) -> None:
        super().__init__(seed)
        self.fragments = fragments


def fragments_of(pieces: Iterable[str]) -> list[str]:
    """The pieces of a vocabulary that are nothing but small letters: what any word may fall into."""
    return sorted(piece for piece in pieces if piece.isascii() and piece.isalpha() and piece.islower())


def invented_word(rng: random.Random) -> str:
    """A word that is in no lexicon: syllables, or the front of one known word grown onto the back of another."""
    fragments = rng.fragments if isinstance(rng, Author) else ()
    while True:
        if fragments and rng.random() < 0.5:
            word = "".join(rng.choice(fragments) for _ in range(rng.randint(2, 4)))
        elif rng.random() < 0.5:
            syllables = (
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randint(1, 3))
            )
            word = "".join(syllables)
        else:
            front, back = rng.choice(_KNOWN), rng.choice(_KNOWN)
            word = front[: rng.randint(2, 5)] + back[-rng.randint(2, 5) :]
        if len(word) > 3 and word not in _TEST_WORDS:
            return word


def invented_phrase(rng: random.Random, *, plural: bool = False) -> str:
    """One or two words, at least one of them invented; `plural` ends it in s."""
    words = [invented_word(rng)]
    if rng.random() < 0.5:
        words.insert(rng.randint(0, 1), rng.choice(_KNOWN) if rng.random() < 0.6 else invented_word(rng))
    phrase = " ".join(words)
    return phrase + "s" if plural and not phrase.endswith("s") else phrase
