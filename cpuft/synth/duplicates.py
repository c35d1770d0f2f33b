"""Which texts say the same in nearly the same words, by MinHash (Broder 1997) of their pieces."""

import re
from collections.abc import Iterable, Iterator, Sequence

from datasketch import MinHash, MinHashLSH

NEAR = 0.7  # of the pieces of two texts together are in both: such texts count as near-duplicates
_PERMUTATIONS = 128
_PIECE = 5  # letters: short texts, such as concepts of one line, have few words


def normalized(text: str) -> str:
    """A text without what makes no other text of it: case, punctuation, white space."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def pieces_of(text: str) -> frozenset[str]:
    """The stretches of so many letters in a normalized text."""
    plain = normalized(text)
    return frozenset(plain[i : i + _PIECE] for i in range(max(1, len(plain) - _PIECE + 1)))


def likeness(one: str, two: str) -> float:
    """The share of pieces that both texts have, of those that either has (Jaccard), from 0 to 1."""
    a, b = pieces_of(one), pieces_of(two)
    return len(a & b) / len(a | b)


class NearTexts:
    """Finds texts that are near to others."""

    def __init__(self, texts: Iterable[str] = (), near: float = NEAR) -> None:
        # Candidates come from hashes, whose estimate may be off by a tenth; then the texts themselves decide.
        self._near, self._texts = near, list[str]()
        self._index = MinHashLSH(threshold=max(0.1, near - 0.15), num_perm=_PERMUTATIONS)
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Takes a text up, to be found from now on."""
        self._index.insert(len(self._texts), _hash(text))
        self._texts.append(text)

    def find(self, text: str) -> Iterator[int]:
        """The numbers of texts, in the order in which they were taken up, that are near to this one."""
        for number in sorted(self._index.query(_hash(text))):
            if likeness(text, self._texts[number]) >= self._near:
                yield number

    def has(self, text: str) -> bool:
        """Whether there is a text near to this one."""
        return next(self.find(text), None) is not None


def clusters(texts: Sequence[str], near: float = NEAR) -> list[int]:
    """For each text the number of the first of those that it hangs together with, through others perhaps."""
    index, parents = NearTexts(near=near), list(range(len(texts)))

    def first(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    for number, text in enumerate(texts):
        for other in index.find(text):
            one, two = sorted((first(number), first(other)))
            parents[two] = one
        index.add(text)
    return [first(number) for number in range(len(texts))]


def diversity(texts: Sequence[str], sample: int = 200) -> float:
    """How little texts are like one another: 1 less the mean likeness of each (of some) to its nearest."""
    chosen = texts[:sample]
    if len(chosen) < 2:
        return 1.0
    nearest = [max(likeness(text, other) for j, other in enumerate(chosen) if j != i) for i, text in enumerate(chosen)]
    return 1.0 - sum(nearest) / len(nearest)


def _hash(text: str) -> MinHash:
    minhash = MinHash(num_perm=_PERMUTATIONS)
    minhash.update_batch([piece.encode() for piece in pieces_of(text)])
    return minhash
