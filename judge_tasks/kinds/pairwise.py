"""Two candidates are compared: which of two images is better?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from mtrl_judge.common.errors import Problem, did_you_mean
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.metrics.slots import swapped

from ..fields import ANY_VALUES, Column, as_number, is_null, label_key, strings
from ..verdicts import Verdict, parse_verdict
from .base import AnswerLabel, Kind, LabelRule, label_rule
from .pointwise import MapLabel

if TYPE_CHECKING:
    from ..spec import JudgeSpec


def _raw_values(value: object) -> object:
    """A single value stays one, since label rules are part of rows' fingerprints."""
    if value == []:
        raise PydanticCustomError("no_values", "is an empty list")
    return tuple(map(label_key, value)) if isinstance(value, list) else label_key(value)


_PLAIN = 3
"""Verdicts of a task without degrees at most: for the first slot, for the second, and the tie."""
_SWAP_EXAMPLE = '{"A>>B": "B>>A", "A>B": "B>A"}'
_OTHERWISE = "; or label by map: {value: verdict}"
_RawValues: TypeAlias = Annotated[str | tuple[str, ...], BeforeValidator(_raw_values), ANY_VALUES]


class _Preference(LabelRule):
    """Which candidate is preferred; the verdicts name the first slot, the second, then the tie."""

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        tie = label.get("tie") is not None
        if verdicts and len(verdicts) != 2 + tie:
            wrong = f"{len(verdicts)} verdicts for a label {'with' if tie else 'without'} tie"
            right = "name the first slot, the second slot" + (", then the tie" if tie else "")
            yield Problem("judge.verdicts", wrong, right + _OTHERWISE)


class PairLabel(_Preference):
    """Which candidate is preferred, by the values of a column."""

    keys = frozenset({"first", "second", "tie"})

    first: _RawValues = Field(description="the value, or list of values, for the first candidate")
    second: _RawValues = Field(description="the value, or list of values, for the second candidate")
    tie: _RawValues | None = Field(None, description="the value, or list of values, for neither")

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        yield from super().problems(label, verdicts)
        fields: dict[str, str] = {}
        for field in ("first", "second", "tie"):
            given = label.get(field)
            for value in map(label_key, given if isinstance(given, list) else [given]):
                if given is not None and fields.setdefault(value, field) != field:
                    wrong = f"{value!r} is also a value of {fields[value]}"
                    yield Problem(f"judge.label.{field}", wrong, "name each value once")

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        values = zip((self.first, self.second, self.tie), verdicts, strict=False)
        return {
            value: verdict
            for given, verdict in values
            for value in ((given,) if isinstance(given, str) else given or ())
        }


class EqualLabel(LabelRule):
    """Which candidate is preferred, by a value that one of two columns has as well.

    Such as the name of the winner beside those of both.
    """

    keys = frozenset({"equals"})
    reducible = False

    column: Column = Field(description="the column with the value, such as winner")
    equals: tuple[Column, Column] = Field(
        description="the candidates' columns, one of which has it too, such as [model_a, model_b]"
    )
    tie: _RawValues | None = Field(None, description="the value, or list of values, for neither")

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        yield from _Preference.problems(label, verdicts)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, *self.equals)

    def gather(self, values: tuple[Any, ...]) -> Any:
        return None if is_null(values[0]) else values

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        ties = (self.tie,) if isinstance(self.tie, str) else self.tie or ()
        return dict.fromkeys(ties, verdicts[-1])

    def covered(self, verdicts: Sequence[str]) -> str:
        one_of_two = f"the value of either {self.equals[0]} or {self.equals[1]}"
        return ", ".join([one_of_two, *self.table(verdicts)])

    def verdict(self, value: Any, verdicts: Sequence[str], threshold: float | None) -> str | None:
        given, first, second = map(label_key, value)
        if (given == first) == (given == second):
            return super().verdict(value[0], verdicts, threshold)
        return verdicts[0] if given == first else verdicts[1]


class LargerLabel(_Preference):
    """Which candidate is preferred, by a number for each: the larger one's.

    Numbers that differ by no more than the margin are a tie; without a verdict for ties, such a
    pair has no label.
    """

    keys = frozenset({"larger_of"})
    reducible = False

    column: tuple[Column, Column] = Field(
        alias="larger_of", description="the columns with the candidates' numbers, such as [s0, s1]"
    )
    margin: float = Field(0.0, ge=0, description="the largest difference that is a tie")

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        if len(verdicts) not in (0, 2, 3):
            right = "name the first slot, the second slot, and if there are ties the tie"
            wrong = f"{len(verdicts)} verdicts for two numbers"
            yield Problem("judge.verdicts", wrong, right + _OTHERWISE)

    def gather(self, values: tuple[Any, ...]) -> Any:
        return None if any(map(is_null, values)) else values

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return {}

    def verdict(self, value: Any, verdicts: Sequence[str], threshold: float | None) -> str | None:
        first, second = map(as_number, value)
        if abs(first - second) <= self.margin:
            return verdicts[2] if len(verdicts) > 2 else None
        return verdicts[0] if first > second else verdicts[1]


class ConstantLabel(LabelRule):
    """The same candidate of every pair is right by the design of the dataset, or none has a label.

    Pairs are judged in both orders or in a hashed one, so that position says nothing.
    """

    keys = frozenset({"constant"})
    reducible = False

    column: tuple[Column, ...] = Field(exclude=True, default=())
    constant: Literal["first", "second", "none"] = Field(description="first, second or none")

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        if len(verdicts) > _PLAIN:
            wrong = f"{len(verdicts)} verdicts for a constant label"
            right = "name the first slot, the second slot, and if there are ties the tie"
            yield Problem("judge.verdicts", wrong, right + _OTHERWISE)

    def gather(self, values: tuple[Any, ...]) -> Any:
        return None if self.constant == "none" else self.constant

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return {"first": verdicts[0], "second": verdicts[1]}


class IndexLabel(_Preference):
    """Which candidate is preferred, by its index: 0 the first, 1 the second."""

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return {"0": verdicts[0], "1": verdicts[1]}


class Pairwise(Kind):
    """Each pair is judged in both orders, or in the one that a hash of the item picks."""

    name = "pairwise"
    label_rules: ClassVar = (
        EqualLabel,
        PairLabel,
        LargerLabel,
        ConstantLabel,
        IndexLabel,
        MapLabel,
        AnswerLabel,
    )
    example = """\
  images: [image0, image1]       # the two that are compared
  question: |
    Compare two images that were generated from the same caption.
    The better image shows more accurately what the caption says.
    Caption: "{{ caption }}"
    Image 1: <image>
    Image 2: <image>
    Which image matches the caption better, 1 or 2?
  # The index of the preferred image, or {column: …, first: …, second: …, tie: …}.
  label: {column: label}
  verdicts: ["1", "2"]           # first slot, second slot[, tie]; quoted, as verdicts are text
  orders: both                   # both: each pair is judged as AB and BA; hashed: in one of the two
  splits:
    validation: {from: train, fraction: 0.1, seed: 0}"""
    compares = True

    def problems(self, judge: Mapping[str, Any]) -> Iterator[Problem]:
        yield from super().problems(judge)
        yield from _candidate_problems(judge.get("candidates"), strings(judge.get("images")))
        verdicts = strings(judge.get("verdicts"))
        yield from _swap_problems(judge.get("swap"), verdicts)
        plain = len(verdicts) <= _PLAIN and not judge.get("swap")
        if plain and label_rule(judge.get("label")) is MapLabel:
            wrong = "is a map, which is for verdicts with judge.swap"
            yield Problem("judge.label", wrong, "write {column, first, second, tie}")
        if judge.get("orders") == "cyclic":
            yield Problem("judge.orders", "is for rankings", "write both or hashed")
        if judge.get("human") is not None:
            wrong = "rates single items, and here two are compared"
            yield Problem("judge.human", wrong, "remove it or set kind: pointwise")

    def defaults(self, judge: Mapping[str, Any]) -> dict[str, Any]:
        return {"candidates": judge.get("images"), "orders": "both"}

    def candidates(self, judge: JudgeSpec) -> tuple[tuple[str, ...], ...]:
        listed = judge.candidates or ()
        return tuple((f"{listed}[{n}]",) for n in (0, 1)) if isinstance(listed, str) else listed

    def verdicts_of(self, verdicts: Sequence[str], candidates: int) -> Sequence[str]:
        if candidates != 2:
            raise LookupError("2")
        return verdicts

    def orders(self, judge: JudgeSpec, item_id: str, candidates: int) -> tuple[int, ...]:
        """Both, or one by a hash, so that always preferring the first candidate gains nothing."""
        if judge.orders == "both":
            return (0, 1)
        return (stable_hash("order", item_id) % 2,)

    def read(self, text: str, verdicts: Sequence[str]) -> Verdict:
        """The verdict of a text.

        Of three verdicts the third is a tie, whatever it is called; of more, those are that their
        names say.
        """
        ties = verdicts[2:] if len(verdicts) <= _PLAIN else None
        return parse_verdict(text, verdicts, ratings=False, ties=ties)

    def swapped_label(self, label: str | None, verdicts: Sequence[str]) -> str | None:
        return swapped(label, verdicts)


def _candidate_problems(candidates: Any, images: Sequence[str]) -> Iterator[Problem]:
    field = "judge.candidates"
    if not candidates:
        if images and len(images) != 2:
            wrong = f"unclear which of {len(images)} image columns are compared"
            right = "name the two columns to compare, or the column with the list of both"
            yield Problem(field, wrong, right)
        elif not images:
            yield Problem(field, "is missing, and there are no images", "name what is compared")
        return
    if not isinstance(candidates, list):
        return
    if len(candidates) != 2:
        wrong = f"names {len(candidates)} candidates"
        yield Problem(field, wrong, "name the two to compare, such as [image0, image1]")
        return
    first, second = (strings(each) for each in candidates)
    if [path in images for path in first] != [path in images for path in second]:
        wrong = "only one of the two has an image in the same place"
        yield Problem(field, wrong, "name for each the same: two images, two texts, or groups")


def _swap_problems(swap: Any, verdicts: Sequence[str]) -> Iterator[Problem]:
    field = "judge.swap"
    if not swap:
        if len(verdicts) > _PLAIN:
            wrong = f"is missing for {len(verdicts)} verdicts"
            yield Problem(field, wrong, f"say which change places, such as {_SWAP_EXAMPLE}")
        return
    if not isinstance(swap, Mapping):
        return
    other_of: dict[str, str] = {}
    for verdict, other in swap.items():
        if not isinstance(verdict, str) or not isinstance(other, str):
            continue  # pydantic reports it
        for name in (verdict, other):
            if verdicts and name not in verdicts:
                wrong = f"{name!r} is none of the verdicts"
                yield Problem(f"{field}.{verdict}", wrong, did_you_mean(name, verdicts))
        for one, place in ((verdict, other), (other, verdict)):
            if other_of.setdefault(one, place) != place:
                wrong = f"{one!r} changes places with {other_of[one]!r} and with {place!r}"
                yield Problem(field, wrong, "name each verdict in one pair")
    for verdict in verdicts:
        if verdict not in other_of and ("<" in verdict or ">" in verdict):
            wrong = f"does not name {verdict!r}, which would be a tie"
            yield Problem(field, wrong, "name what it becomes when the candidates change places")
    if verdicts and len(verdicts) <= _PLAIN and other_of.get(verdicts[0]) != verdicts[1]:
        wrong = f"{len(verdicts)} verdicts, of which the first two do not change places"
        yield Problem(field, wrong, "remove it, and list the first slot, the second slot[, tie]")


KIND = Pairwise()
