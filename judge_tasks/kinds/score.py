"""One thing is rated at a time: how good is this image, from 1 to 10?

The verdicts of a task are the levels of its scale, ascending: numbers, or names that stand for 1,
2, 3 and so on. A label is a number on the scale and need not be a level (a mean opinion score of
3.27), and so is a verdict on a scale of numbers. Several aspects can be rated in one answer
(:mod:`..aspects`): then everything is computed for each of them, and the mean counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import isfinite, isinf
from statistics import fmean, stdev
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from pydantic import Field

from mtrl_judge.common.errors import Problem
from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.drawn import Drawn, JudgedRows
from mtrl_judge.metrics.perception import perception
from mtrl_judge.metrics.records import Record
from mtrl_judge.metrics.score_summary import (
    SCORE_METRICS,
    Ratings,
    drawn_scores,
    median_error,
    nearest_level,
    score_metrics,
)

from ..answer_text import fold
from ..aspects import (
    ASPECT,
    aspect_verdicts,
    parse_aspects,
    read_ratings,
    scales_of,
    write_ratings,
)
from ..fields import as_number, is_null, lookup, mapping, strings
from ..rating_answers import number_text, parse_rating
from ..verdicts import Verdict, parse_verdict
from .base import AnswerLabel, Kind, LabelRule

_MAX_LEVELS = 101


class NumberLabel(LabelRule):
    """A number on the scale: ``{column: mos}``, or ``{column: mos, from: [0, 100]}``, which moves
    the column's range onto the scale."""

    keys = frozenset({"from"})

    source: tuple[float, float] | None = Field(
        None, alias="from", description="the lowest and the highest number of the column: [0, 100]"
    )

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        ends = label.get("from")
        if not isinstance(ends, list) or len(ends) != 2:
            return  # pydantic reports it
        if not all(isinstance(end, int | float) for end in ends):
            return
        if isinf(ends[1] - ends[0]):
            wrong = f"is {ends}, whose difference is no number"
            yield Problem("judge.label.from", wrong, "smaller numbers, such as [0, 100]")
        elif not ends[0] < ends[1]:
            wrong = f"is {ends}, whose first number is not below the second"
            yield Problem("judge.label.from", wrong, "the lowest, then the highest: [0, 100]")

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        if levels_are_named(verdicts) and self.source is None:
            return {name: number_text(n) for n, name in enumerate(verdicts, 1)}
        return {}

    def covered(self, verdicts: Sequence[str]) -> str:
        low, high = self.source or scale_ends(verdicts)
        numbers = f"numbers from {low:g} to {high:g}"
        return ", ".join([*self.table(verdicts), numbers])

    def verdict(self, value: object, verdicts: Sequence[str], threshold: float | None) -> str:
        named = lookup(self.table(verdicts), value, None)
        if named is not None:
            return str(named)
        low, high = scale_ends(verdicts)
        # As it is written: 0.9 in single precision is a little less.
        number = float(number_text(as_number(value)))
        first, last = self.source or (low, high)
        if isinstance(value, bool) or not first <= number <= last:
            raise LookupError("not on the scale")
        return number_text(low + (number - first) / (last - first) * (high - low))


class AspectsLabel(NumberLabel):
    """A number for each aspect: ``{column: [quality_mos, alignment_mos]}``, in their order."""

    keys = frozenset({"aspects"})
    reducible = False

    aspects: tuple[str, ...] = Field((), description="those of judge.aspects")

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        yield from super().problems(label, verdicts)
        columns, aspects = label.get("column"), strings(label.get("aspects"))
        if not isinstance(columns, list) or len(columns) != len(aspects):
            right = f"a list with a column for each of {', '.join(aspects)}"
            yield Problem("judge.label.column", "is not a column for each aspect", right)

    def gather(self, values: tuple[Any, ...]) -> Any:
        return None if any(map(is_null, values)) else values

    def verdict(self, value: Any, verdicts: Sequence[str], threshold: float | None) -> str:
        scales = scales_of(tuple(verdicts)).items()
        ratings = {}
        for (aspect, levels), number in zip(scales, value, strict=True):
            ratings[aspect] = super().verdict(number, levels, threshold)
        return write_ratings(ratings)


class Score(Kind):
    """Each item is one row, rated on a scale."""

    name = "score"
    headline = "spearman"
    named, scaled = False, True
    label_rules: ClassVar = (AspectsLabel, NumberLabel, AnswerLabel)
    drawn_metrics = SCORE_METRICS
    note = (
        "Rows without a rating count as the middle of the scale, for the mean absolute error (mae) "
        "as far off as the scale allows; spearman answered covers the rows with a rating. Pairs: "
        "of the pairs of rows (of one group, where there are groups) with different labels, the "
        "share that is ordered alike; equal ratings count half. κ has quadratic weights."
    )
    example = """\
  images: [image]                # image columns; they precede the text unless it contains <image>
  # A Jinja template over the row's columns; say what is rated, and what the ends of the scale mean.
  question: |
    Rate how well this image matches a caption.
    1: nothing of the caption can be seen. 10: everything the caption says can be seen.
    Caption: "{{ caption }}"
  scale: {min: 1, max: 10}       # step: 1; or name the levels, lowest first: verdicts: [bad, …]
  label: {column: rating}        # a number on the scale; from: [0, 100] if the column has another
  splits:
    validation: {from: train, fraction: 0.1, seed: 0, stratify: label}"""

    # The YAML

    def problems(self, judge: Mapping[str, Any]) -> Iterator[Problem]:
        yield from super().problems(judge)
        scale, verdicts = judge.get("scale"), strings(judge.get("verdicts"))
        if scale is None and not verdicts:
            right = "give scale: {min: 1, max: 10}, or name the levels: verdicts: [bad, good, …]"
            yield Problem("judge.scale", "is missing", right)
        if scale is not None and verdicts:
            yield Problem("judge.verdicts", "and scale are both given", "keep one of the two")
        if isinstance(scale, Mapping):
            yield from _scale_problems(scale)
        if verdicts and levels_are_named(verdicts) and any(map(_is_number, verdicts)):
            wrong = "some levels are numbers and some are names"
            yield Problem("judge.verdicts", wrong, "name all levels, or give scale: {min, max}")
        elif verdicts and not levels_are_named(verdicts):
            wrong = "are numbers"
            yield Problem("judge.verdicts", wrong, "give scale: {min, max, step} instead")
        yield from _aspect_problems(judge)
        for key in ("candidates", "orders"):
            if judge.get(key) is not None:
                yield Problem(f"judge.{key}", "is for pairs", "remove it or set kind: pairwise")
        if judge.get("human") is not None and scale is None:
            wrong = "compares numbers, and the levels are names"
            yield Problem("judge.human", wrong, "remove it, or give scale: {min, max, step}")
        if judge.get("human") is not None and judge.get("aspects") is not None:
            yield Problem("judge.human", "is about one rating, and there are several", "remove it")

    def completed(self, judge: Mapping[str, Any]) -> dict[str, Any]:
        """The label has the key by which its rule is recognized, and the scale its levels."""
        completed = super().completed(judge)
        label, aspects = judge.get("label"), strings(judge.get("aspects"))
        if isinstance(label, Mapping) and "answer" not in label:
            of_aspects = {"aspects": aspects} if aspects else {}
            completed["label"] = {"from": None, **label, **of_aspects}
        scale = mapping(judge.get("scale"))
        steps = _steps(scale)
        if steps is not None and not list(_scale_problems(scale)):
            levels = [number_text(level) for level in steps.levels]
            completed["verdicts"] = aspect_verdicts(aspects, levels) if aspects else levels
        return completed

    # Rows

    def has_label(self, text: str, verdicts: Sequence[str]) -> bool:
        try:
            ratings = read_ratings(text, verdicts)
        except ValueError:
            return False
        low, high = scale_ends(verdicts)
        return all(_is_number(each) and low <= float(each) <= high for each in ratings.values())

    def has_verdict(self, text: str, verdicts: Sequence[str]) -> bool:
        if levels_are_named(verdicts):
            return text in verdicts
        return self.has_label(text, verdicts)

    def label_class(self, label: str, verdicts: Sequence[str]) -> str:
        """The closest level, the lower of two; of several aspects, that of the first."""
        aspect, rating = next(iter(read_ratings(label, verdicts).items()))
        return write_ratings({aspect: _closest(rating, scales_of(tuple(verdicts))[aspect])})

    # Prompts

    def verdict_form(self, verdicts: Sequence[str]) -> str:
        if levels_are_named(verdicts):
            return f"The verdict is exactly one of, from lowest to highest: {', '.join(verdicts)}."
        scales = scales_of(tuple(verdicts))
        levels = next(iter(scales.values()))
        low, high = map(number_text, scale_ends(levels))
        step = number_text(float(levels[1]) - float(levels[0]))
        number = f"a number from {low} (lowest) to {high} (highest) in steps of {step}"
        if "" in scales:
            return f"The verdict is {number}."
        form = write_ratings(dict.fromkeys(scales, "<number>"))
        return f"The verdict is {number} for each aspect, in this form: {form}"

    def gold(self, label: str, verdicts: Sequence[str]) -> str:
        """The closest level of each aspect, since the instruction asks for levels."""
        scales = scales_of(tuple(verdicts))
        ratings = read_ratings(label, verdicts).items()
        closest = {aspect: _closest(rating, scales[aspect]) for aspect, rating in ratings}
        return write_ratings(closest)

    def gold_labels(self, verdicts: Sequence[str]) -> Sequence[str]:
        scales = scales_of(tuple(verdicts))
        values = level_values(next(iter(scales.values())))
        return [write_ratings(dict.fromkeys(scales, number_text(value))) for value in values]

    # Scoring

    def read(self, text: str, verdicts: Sequence[str]) -> Verdict:
        if levels_are_named(verdicts):
            return parse_verdict(text, verdicts)
        scales = scales_of(tuple(verdicts))
        if "" in scales:
            return parse_rating(text, level_values(tuple(verdicts)))
        return parse_aspects(text, list(scales), *scale_ends(verdicts))

    def correctness(self, verdict: str | None, label: str, verdicts: Sequence[str]) -> float:
        """1 − |rating − label| / (max − min), the proportional reward for graded labels; the mean
        over aspects."""
        if verdict is None:
            return 0.0
        low, high = scale_ends(verdicts)
        both = zip(rating_values(verdict, verdicts), rating_values(label, verdicts), strict=True)
        return fmean(1 - abs(rating - of_label) / (high - low) for rating, of_label in both)

    def label_from(self, answer: str, verdicts: Sequence[str]) -> str | None:
        """The numbers, also of named levels."""
        verdict = self.read(answer, verdicts).value
        if verdict is None:
            return None
        numbers = map(number_text, rating_values(verdict, verdicts))
        return write_ratings(dict(zip(scales_of(tuple(verdicts)), numbers, strict=True)))

    def decided(
        self, probabilities: Sequence[float], most_probable: int, verdicts: Sequence[str]
    ) -> str:
        """The expected rating; of named levels, the closest one to it."""
        expected = number_text(float(np.dot(probabilities, level_values(tuple(verdicts)))))
        return self.label_class(expected, verdicts) if levels_are_named(verdicts) else expected

    def voted(
        self, votes: Sequence[str | None], weights: Sequence[float], verdicts: Sequence[str]
    ) -> str | None:
        """The mean rating."""
        return self.mean_rating(votes, verdicts, weights)

    def mean_rating(
        self,
        ratings: Sequence[str | None],
        verdicts: Sequence[str],
        weights: Sequence[float] | None = None,
    ) -> str | None:
        """The mean of several ratings of an item, of named levels the closest one; None without
        any. Answers without a rating do not count.

        Args:
            weights: how much each rating counts; None is all alike.
        """
        given = [n for n, rating in enumerate(ratings) if rating is not None]
        if not given:
            return None
        known = [rating_values(str(ratings[n]), verdicts) for n in given]
        counts = None if weights is None else [weights[n] for n in given]
        means = {
            aspect: number_text(fmean(of_aspect, counts))
            for aspect, of_aspect in zip(
                scales_of(tuple(verdicts)), zip(*known, strict=True), strict=True
            )
        }
        if levels_are_named(verdicts):
            return _closest(means[""], tuple(verdicts))
        return write_ratings(means)

    def spread(
        self, ratings_N: Sequence[Sequence[str | None]], verdicts: Sequence[str]
    ) -> float | None:
        """The mean standard deviation of the ratings of each item that has several, and of its
        aspects; None without any."""
        known = [
            [rating_values(rating, verdicts) for rating in ratings if rating is not None]
            for ratings in ratings_N
        ]
        deviations = [
            stdev(of_one) for row in known if len(row) > 1 for of_one in zip(*row, strict=True)
        ]
        return fmean(deviations) if deviations else None

    def attainable(self, label: str, verdicts: Sequence[str]) -> float:
        return self.correctness(self.gold(label, verdicts), label, verdicts)

    # Metrics

    def summarize(
        self, records: Sequence[Record], verdicts: Sequence[str], paired: bool
    ) -> dict[str, float | int | None]:
        failures = Counter(record.failure for record in records)
        judged = [record for record in records if not record.failed]
        labeled = [record for record in judged if record.label is not None]
        n = len(labeled)
        answered = sum(record.verdict is not None for record in labeled)
        rows = JudgedRows("", judged, range(len(judged)), verdicts)
        of_aspects = {aspect: score_metrics(part) for aspect, part in _ratings(rows).items()}
        return {
            "n": n,
            "n_unlabeled": len(judged) - n,
            "n_failed": failures["failed"],
            "n_refused": failures["refused"],
            **_with_mean(of_aspects, _mean_value),
            "median_mae": self.baseline("mae", [record.label for record in labeled], verdicts),
            "null_rate": 1 - answered / n if n else None,
            "well_formed_rate": sum(r.well_formed for r in labeled) / n if n else None,
            **perception(judged, ()),
        }

    def drawn(
        self, judges: Sequence[JudgedRows], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> list[dict[str, Drawn]]:
        parts = list(map(_ratings, judges))
        flat = [part for of_judge in parts for part in of_judge.values()]
        drawn = iter(drawn_scores(flat, resamples=resamples, seed=seed))
        return [
            _with_mean({aspect: next(drawn) for aspect in of_judge}, _mean_drawn)
            for of_judge in parts
        ]

    def baseline(
        self, metric: str, labels: Sequence[str | None], verdicts: Sequence[str]
    ) -> float | None:
        if metric != "mae":
            return None
        known = [rating_values(label, verdicts) for label in labels if label is not None]
        return _mean_value([median_error(of_aspect) for of_aspect in zip(*known, strict=True)])


_Metric = TypeVar("_Metric")


def _with_mean(
    by_aspect: Mapping[str, Mapping[str, _Metric]], mean: Callable[[Sequence[_Metric]], _Metric]
) -> dict[str, _Metric]:
    """The metrics of the only scale; of several aspects, the means, and `metric_A` of aspect A."""
    if "" in by_aspect:
        return dict(by_aspect[""])
    means = {name: mean([each[name] for each in by_aspect.values()]) for name in SCORE_METRICS}
    return means | {
        f"{name}_{aspect}": value
        for aspect, of_aspect in by_aspect.items()
        for name, value in of_aspect.items()
    }


def _mean_value(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _mean_drawn(metrics: Sequence[Drawn]) -> Drawn:
    """The aspects of a row are drawn with it."""
    draws = [metric.draws_B for metric in metrics if metric.draws_B is not None]
    value = _mean_value([metric.value for metric in metrics])
    if value is None or len(draws) < len(metrics):
        return Drawn(value)
    clusters = min(metric.clusters for metric in metrics)
    return Drawn(value, np.mean(np.stack(draws), axis=0), clusters)


def _ratings(rows: JudgedRows) -> dict[str, Ratings]:
    """Those of each aspect."""
    kept = [
        (record, cluster)
        for record, cluster in zip(rows.records, rows.clusters, strict=True)
        if record.label is not None and not record.failed
    ]
    scales = scales_of(tuple(rows.verdicts))
    nothing = [float("nan")] * len(scales)
    labels_N_A, ratings_N_A = (
        np.array(
            [nothing if text is None else rating_values(text, rows.verdicts) for text in texts]
        ).reshape(-1, len(scales))
        for texts in (
            [record.label for record, _ in kept],
            [record.verdict for record, _ in kept],
        )
    )
    return {
        aspect: Ratings(
            rows.task,
            labels_N_A[:, index],
            ratings_N_A[:, index],
            [cluster for _, cluster in kept],
            [record.group for record, _ in kept],
            np.array(level_values(levels)),
        )
        for index, (aspect, levels) in enumerate(scales.items())
    }


# Scales


def levels_are_named(verdicts: Sequence[str]) -> bool:
    """Whether the levels are names, or else numbers."""
    levels = next(iter(scales_of(tuple(verdicts)).values()))
    return not all(map(_is_number, levels))


@lru_cache(maxsize=256)
def level_values(verdicts: tuple[str, ...]) -> tuple[float, ...]:
    """The number of each level, ascending."""
    if levels_are_named(verdicts):
        return tuple(float(number) for number in range(1, len(verdicts) + 1))
    return tuple(map(float, verdicts))


def scale_ends(verdicts: Sequence[str]) -> tuple[float, float]:
    """The lowest and the highest number of the scale, which is that of each aspect."""
    values = level_values(next(iter(scales_of(tuple(verdicts)).values())))
    return values[0], values[-1]


def rating_values(text: str, verdicts: Sequence[str]) -> list[float]:
    """The numbers that a label or a verdict means, one for each aspect.

    Raises:
        ValueError: one is neither a level's name nor a number.
    """
    scales = scales_of(tuple(verdicts))
    ratings = read_ratings(text, verdicts)
    return [_value(rating, scales[aspect]) for aspect, rating in ratings.items()]


def _value(text: str, levels: tuple[str, ...]) -> float:
    if text in levels and levels_are_named(levels):
        return level_values(levels)[levels.index(text)]
    return float(text)


def _closest(rating: str, levels: tuple[str, ...]) -> str:
    """The closest level, the lower of two."""
    value_1 = np.array([_value(rating, levels)])
    return levels[int(nearest_level(value_1, np.array(level_values(levels)))[0])]


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _aspect_problems(judge: Mapping[str, Any]) -> Iterator[Problem]:
    field, aspects = "judge.aspects", strings(judge.get("aspects"))
    if not aspects:
        return
    if len(aspects) < 2:
        right = "two or more; a single one needs no name: leave it out"
        yield Problem(field, "has one aspect", right)
    if len({fold(aspect) for aspect in aspects}) < len(aspects):
        yield Problem(field, "names an aspect twice", "distinct names")
    for aspect in aspects:
        if not ASPECT.fullmatch(aspect) or _is_number(aspect):
            right = "up to 40 letters, digits, spaces, '-' and '_', such as quality"
            yield Problem(field, f"is {aspect!r}", right)
    scale = judge.get("scale")
    if scale is None:
        right = "give scale: {min: 1, max: 5}; all aspects have the same"
        yield Problem("judge.scale", "is missing for aspects", right)
    steps = _steps(mapping(scale))
    if steps is not None and not list(_scale_problems(mapping(scale))):
        verdicts = len(aspects) * len(steps.levels)
        if verdicts > _MAX_LEVELS:
            wrong = f"{len(steps.levels)} levels of {len(aspects)} aspects are {verdicts} verdicts"
            right = f"a step with up to {_MAX_LEVELS}; ratings between levels are read, too"
            yield Problem("judge.scale.step", wrong, right)


class _Steps(NamedTuple):
    low: float
    high: float
    step: float

    @property
    def number(self) -> float:
        """How many steps there are, which should be a whole number."""
        steps = (self.high - self.low) / self.step
        if not isfinite(steps):
            return steps
        return float(round(steps)) if abs(steps - round(steps)) < 1e-6 else steps

    @property
    def levels(self) -> list[float]:
        return [self.low + index * self.step for index in range(int(self.number) + 1)]


def _steps(scale: Mapping[str, Any]) -> _Steps | None:
    """The scale as it is written; None if its fields are not numbers, which pydantic reports."""
    numbers = [scale.get("min"), scale.get("max"), scale.get("step", 1)]
    known = [float(n) for n in numbers if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(known) < len(numbers) or not all(map(isfinite, known)) or known[2] <= 0:
        return None
    return _Steps(*known)


def _scale_problems(scale: Mapping[str, Any]) -> Iterator[Problem]:
    steps = _steps(scale)
    if steps is None:
        return
    if not steps.low < steps.high:
        wrong = f"max is {steps.high:g} and min is {steps.low:g}"
        yield Problem("judge.scale", wrong, "a max above min")
    elif steps.number >= _MAX_LEVELS:
        wrong = f"{steps.step:g} makes {steps.number + 1:g} levels"
        right = f"a step with up to {_MAX_LEVELS} levels; ratings between levels are read, too"
        yield Problem("judge.scale.step", wrong, right)
    elif not steps.number.is_integer():
        wrong = f"steps of {steps.step:g} from {steps.low:g} do not end at {steps.high:g}"
        yield Problem("judge.scale.step", wrong, "a step that divides max − min")
    elif len(set(map(number_text, steps.levels))) < len(steps.levels):
        wrong = f"makes levels that are the same in six digits, such as {number_text(steps.low)}"
        yield Problem("judge.scale.step", wrong, "a larger step, or a scale closer to 0")


KIND = Score()
