"""One thing is judged at a time: is this image safe, does it match the text?"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from mtrl_judge.common.errors import Problem, did_you_mean

from ..fields import VALUES_BY_KEY, Text, as_number, label_key, mapping
from .base import AnswerLabel, Kind, LabelRule

TRAIN_MEDIAN = "train_median"


def _label_map(value: object) -> object:
    """A verdict by value, or where lists are given, the values of each verdict."""
    if not isinstance(value, Mapping):
        return value
    if not any(isinstance(each, list) for each in value.values()):
        return {label_key(key): verdict for key, verdict in value.items()}
    table: dict[str, object] = {}
    for verdict, values in value.items():
        for each in values if isinstance(values, list) else [values]:
            table.setdefault(label_key(each), verdict)
    return table


def _threshold(value: object) -> object:
    if value == TRAIN_MEDIAN or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("threshold", "is {value}, no number", {"value": repr(value)})


class MapLabel(LabelRule):
    """Label by value: ``{column: safety_label, map: {Unsafe: "Yes", Safe: "No"}}``."""

    keys = frozenset({"map"})

    map: Annotated[dict[str, Text], BeforeValidator(_label_map), VALUES_BY_KEY] = Field(
        min_length=1, description='a verdict for each value, such as {Unsafe: "Yes", Safe: "No"}'
    )

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        given = mapping(label.get("map"))
        if any(isinstance(each, list) for each in given.values()):
            yield from _repeated(given)
        mapped = mapping(_label_map(given))
        if not verdicts or not mapped:
            return
        for value, verdict in mapped.items():
            if isinstance(verdict, str) and verdict not in verdicts:
                wrong = f"{verdict!r} is none of the verdicts"
                yield Problem(f"judge.label.map.{value}", wrong, did_you_mean(verdict, verdicts))
        for verdict in verdicts:
            if verdict not in mapped.values():
                wrong = f"no value maps to the verdict {verdict!r}"
                yield Problem("judge.label.map", wrong, "map a value to it or drop the verdict")

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return self.map


def _repeated(values_by_verdict: Mapping[Any, Any]) -> Iterator[Problem]:
    verdict_of: dict[str, Any] = {}
    for verdict, values in values_by_verdict.items():
        listed = values if isinstance(values, list) else [values]
        if any(isinstance(each, list | Mapping) for each in listed):
            wrong = "has a list or a mapping among its values"
            yield Problem(f"judge.label.map.{verdict}", wrong, "a list of single values")
        for each in map(label_key, listed):
            if verdict_of.setdefault(each, verdict) != verdict:
                wrong = f"{each!r} is also a value of {verdict_of[each]!r}"
                yield Problem(f"judge.label.map.{verdict}", wrong, "name each value once")


class BinsLabel(LabelRule):
    """Label by number: the first verdict below the first bound, the second from there on, …"""

    keys = frozenset({"bins"})

    bins: tuple[float, ...] = Field(
        min_length=1, description="ascending numbers, one less than verdicts, such as [2.5, 3.5]"
    )

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        bins = label.get("bins")
        if not isinstance(bins, list) or not all(isinstance(b, int | float) for b in bins):
            return
        if sorted(set(bins)) != bins:
            yield Problem("judge.label.bins", f"is {bins}", "ascending numbers")
        if verdicts and len(verdicts) != len(bins) + 1:
            wrong = f"{len(bins)} bounds for {len(verdicts)} verdicts"
            yield Problem(
                "judge.label.bins", wrong, "one bound less than verdicts, from the lowest"
            )

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return {}

    def verdict(self, value: object, verdicts: Sequence[str], threshold: float | None) -> str:
        return verdicts[bisect_right(self.bins, as_number(value))]


class ThresholdLabel(LabelRule):
    """Label by number: the first verdict where ``column >= threshold``, else the second.

    ``train_median`` is the median of the column over the training split, whatever split is read.
    """

    keys = frozenset({"threshold"})

    threshold: Annotated[float | Literal["train_median"], BeforeValidator(_threshold)] = Field(
        description="a number such as 5, or train_median"
    )

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        if len(verdicts) not in (0, 2):
            wrong = f"{len(verdicts)} verdicts for a threshold"
            right = "give two: the one at or above the threshold, then the one below"
            yield Problem("judge.verdicts", wrong, right)

    @property
    def uses_train_median(self) -> bool:
        return self.threshold == TRAIN_MEDIAN

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return {}

    def verdict(self, value: object, verdicts: Sequence[str], threshold: float | None) -> str:
        limit = threshold if self.threshold == TRAIN_MEDIAN else float(self.threshold)
        if limit is None:
            raise ValueError("the threshold is the training split's median, which was not given")
        return verdicts[0] if as_number(value) >= limit else verdicts[1]


class Pointwise(Kind):
    """Each item is one row with its own label."""

    name = "pointwise"
    label_rules: ClassVar = (MapLabel, ThresholdLabel, BinsLabel, AnswerLabel)
    example = """\
  images: [image]                # image columns; they precede the text unless it contains <image>
  # A Jinja template over the row's columns; say what is asked, and what each verdict means.
  question: |
    Judge whether this image matches a caption.
    It matches if everything the caption says can be seen.
    Caption: "{{ caption }}"
    Does the image match the caption?
  label: {column: label, map: {1: "Yes", 0: "No"}}   # or {column: rating, threshold: 5}
  verdicts: ["Yes", "No"]        # quoted: YAML reads a bare Yes as a boolean
  splits:
    validation: {from: train, fraction: 0.1, seed: 0, stratify: label}"""

    def problems(self, judge: Mapping[str, Any]) -> Iterator[Problem]:
        yield from super().problems(judge)
        for key in ("candidates", "orders"):
            if judge.get(key) is not None:
                yield Problem(f"judge.{key}", "is for pairs", "remove it or set kind: pairwise")


KIND = Pointwise()
