"""Which verdicts of a comparison speak for which candidate, and how they change when the candidates
change places.

By default the first verdict is for the first candidate, the second for the second, and all others
are ties. A task with degrees ("A>>B", "A>B") says which verdicts correspond: :class:`PairVerdicts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class PairVerdicts(tuple[str, ...]):
    """The verdicts of a comparison whose task says which of them change places.

    Of two that do, the one that comes first is for the first candidate; a verdict that stays is a
    tie.
    """

    swap: Mapping[str, str]
    """In both directions."""

    def __new__(cls, verdicts: Iterable[str], swap: Mapping[str, str]) -> PairVerdicts:
        made = super().__new__(cls, verdicts)
        both = {**swap, **{other: verdict for verdict, other in swap.items()}}
        made.swap = {verdict: other for verdict, other in both.items() if verdict != other}
        return made

    def __getnewargs__(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        return tuple(self), self.swap


class Slots(NamedTuple):
    """Verdicts by number; the nth of the two is the same verdict about the other candidate."""

    first: tuple[int, ...]
    second: tuple[int, ...]


FIRST_TWO = Slots((0,), (1,))
"""Of verdicts without degrees."""


def swapped(verdict: str | None, verdicts: Sequence[str]) -> str | None:
    """What a verdict becomes when the candidates change places.

    >>> swapped("1", ["1", "2", "tie"]), swapped("tie", ["1", "2", "tie"])
    ('2', 'tie')
    >>> swapped("A>>B", PairVerdicts(["A>>B", "A>B", "B>A", "B>>A"], {"A>>B": "B>>A"}))
    'B>>A'
    """
    return None if verdict is None else _swap(verdicts).get(verdict, verdict)


def slots_of(verdicts: Sequence[str]) -> Slots:
    """The verdicts for the first and for the second candidate."""
    swap = _swap(verdicts)
    place = {verdict: number for number, verdict in enumerate(verdicts)}
    pairs = [(number, place[swap.get(verdict, verdict)]) for verdict, number in place.items()]
    first = [(number, other) for number, other in pairs if number < other]
    return Slots(tuple(number for number, _ in first), tuple(other for _, other in first))


def _swap(verdicts: Sequence[str]) -> Mapping[str, str]:
    if isinstance(verdicts, PairVerdicts):
        return verdicts.swap
    return dict(zip(verdicts[:2], verdicts[1::-1], strict=True)) if len(verdicts) > 1 else {}
