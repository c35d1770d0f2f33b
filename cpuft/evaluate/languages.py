"""Which language a text is written in, told by its script or by its most frequent words.

Enough to see that an answer is in another language than expected; no more is claimed. Frequent little words (articles,
prepositions, pronouns) make up a third to a half of running text in these languages, and few are shared.
"""

import re
from collections import Counter

LANGUAGES = {
    "en": "English",
    "es": "Spanish",
    "pt": "Portuguese",
    "fr": "French",
    "de": "German",
    "it": "Italian",
    "nl": "Dutch",
    "ru": "Russian",
    "ar": "Arabic",
    "zh": "Chinese",
    "ja": "Japanese",
}
_WORDS = {
    "en": "the of and to in is that for with on as are by from be this which must can at an it not all each when or "
    "who every after before within",
    "es": "el la de que y en los las del un una se por con para es al su lo como más o debe cada todos son sus cuando "
    "sin sobre no puede pueden",
    "pt": "o a de que e em os as do da um uma se por com para é ao seu não na no dos das mais ou deve cada todos são "
    "quando sem pode podem pela pelo",
    "fr": "le la les de des et en un une du que qui dans est pour par sur au aux avec ce sont il elle ne pas ou doit "
    "chaque leur leurs être peut peuvent",
    "de": "der die das und in zu den von mit ist für auf nicht ein eine einen dem des im sich auch als werden muss bei "
    "jede jeder oder nach wird können kann",
    "it": "il lo la i gli le di che e in un una del della per con è sono si da non al alla dei delle ogni deve come "
    "più o può possono nel nella",
    "nl": "de het een en van in is dat op te voor met zijn niet aan er om ook als bij door moet elke alle of wordt "
    "worden naar kan kunnen die",
}
_FREQUENT = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_SCRIPTS = (  # a script that stands for a language, in the order in which they are asked for
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
)
MOST_CHARACTERS = 20_000  # that are looked at
SCRIPT_SHARE = 0.3  # of the letters: a name in another script is no other language
LEAST_SHARE = 0.08  # of the words must be frequent ones: lists of ids are in no language


def language_of(text: str) -> str | None:
    """The language, one of LANGUAGES; None where there is too little to tell."""
    text = text[:MOST_CHARACTERS].casefold()
    letters = sum(character.isalpha() for character in text)
    if not letters:
        return None
    for language, script in _SCRIPTS:
        if len(script.findall(text)) >= SCRIPT_SHARE * letters:
            return language
    words = re.findall(r"[^\W\d_]+", text)
    counts = Counter(
        {name: sum(word in frequent for word in words) for name, frequent in _FREQUENT.items()}
    ).most_common(2)
    (best, most), (_, second) = counts
    return best if most >= max(3, LEAST_SHARE * len(words)) and most > second else None
