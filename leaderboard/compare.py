"""Judges compared on the same rows: paired bootstrap, Holm's correction, McNemar's test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.metrics.bootstrap import RESAMPLES, cluster_tallies, interval, resampled
from mtrl_judge.metrics.rates import RATES, Rates
from mtrl_judge.metrics.records import Record, complete_pairs, tally
from mtrl_judge.metrics.significance import McNemar, difference_p_value, holm, mcnemar
from mtrl_judge.metrics.summary import summarize

from .runs import Estimate, Judged

ALPHA = 0.05


Draws: TypeAlias = Mapping[str, Mapping[str, Rates]]
"""For each judge the resamples of its rates, each B."""


class Comparison(NamedTuple):
    """Two judges on the same rows."""

    column: str
    """The task, or the role for the mean over its tasks."""
    first: str
    second: str
    difference: Estimate
    """The first's less the second's, from the same resamples of both."""
    p_value: float
    """That there is no difference, by the bootstrap."""
    adjusted: float
    """The same after Holm over all pairs of judges of the column."""
    mcnemar: McNemar | None
    """Which is right where the other is not, by pair where both orders were judged; its p-value is
    adjusted after Holm likewise. None for means. It takes rows as independent; ranks do not."""

    @property
    def differs(self) -> bool:
        return self.adjusted < ALPHA


def rates_of(records: Sequence[Record], about: Mapping[str, object]) -> dict[str, float | None]:
    """Every rate of one judge on one task by name."""
    counts = tally(records, classes(about), paired=bool(about.get("paired")))
    found = {name: float(rate(counts)) for name, rate in RATES.items()}
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def classes(about: Mapping[str, object]) -> Sequence[str]:
    verdicts = about["verdicts"]
    assert isinstance(verdicts, Sequence)
    return verdicts


def panels_of(judged: Mapping[str, Judged]) -> list[dict[str, Judged]]:
    """The judges of the same rows together; those whose rows are not known stand nowhere."""
    groups: defaultdict[object, dict[str, Judged]] = defaultdict(dict)
    for name, each in judged.items():
        if each.records:
            groups[each.rows][name] = each
    return list(groups.values())


def panel_draws(panel: Mapping[str, Judged], resamples: int, seed: int) -> Draws:
    first = next(iter(panel.values()))
    tallies = cluster_tallies(
        [each.records for each in panel.values()],
        first.clusters,
        classes(first.about),
        paired=bool(first.about.get("paired")),
    )
    drawn = resampled(tallies, list(RATES), resamples=resamples, seed=seed)
    return {
        name: {rate: scores_B_M[:, place] for rate, scores_B_M in drawn.items()}
        for place, name in enumerate(panel)
    }


def estimate(value: float | None, scores_B: Rates) -> Estimate:
    if value is None:
        return Estimate(None)
    ends = interval(scores_B)
    return Estimate(value) if ends is None else Estimate(value, ends.low, ends.high)


def compare_judges(
    column: str,
    metric: str,
    estimates: Mapping[str, Mapping[str, Estimate]],
    draws: Draws,
    panel: Mapping[str, Judged],
) -> list[Comparison]:
    """Each pair of judges that have the metric; with no rows in the panel, of means."""
    known = [name for name in panel if estimates[name][metric].value is not None]
    right = {name: _right(panel[name]) for name in known}
    found = []
    for first, second in combinations(known, 2):
        drawn_B = draws[first][metric], draws[second][metric]
        values = [estimates[name][metric].value or 0.0 for name in (first, second)]
        difference = estimate(values[0] - values[1], drawn_B[0] - drawn_B[1])
        p_value = difference_p_value(*drawn_B)
        tested = mcnemar(right[first], right[second]) if panel[first].records else None
        found.append(Comparison(column, first, second, difference, p_value, p_value, tested))
    return _corrected(found)


def _right(judged: Judged) -> list[bool]:
    if judged.about.get("paired"):
        pairs = complete_pairs(judged.records)
        return [
            all(row.verdict == row.label for row in pair)
            for pair in pairs
            if all(row.label is not None for row in pair)
        ]
    return [row.verdict == row.label for row in judged.records if row.label is not None]


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    adjusted = holm([each.p_value for each in comparisons])
    tests = [each.mcnemar for each in comparisons if each.mcnemar is not None]
    exact = iter(holm([test.p_value for test in tests]))
    return [
        each._replace(
            adjusted=p_value,
            mcnemar=each.mcnemar and each.mcnemar._replace(p_value=next(exact)),
        )
        for each, p_value in zip(comparisons, adjusted, strict=True)
    ]


SEED = 0  # of the resamples; lmms-eval has a --seed of its own


class Compared(NamedTuple):
    """One task under one probe, beside the same task as it is."""

    task: str
    probe: str
    rows: int
    n: int
    """Labeled rows, which Macro-F1 is of."""
    macro_f1: float | None
    macro_f1_probe: float | None
    difference: Estimate
    """Of Macro-F1, probe less unchanged."""
    p_value: float | None
    """Two-sided, that both have the same Macro-F1."""
    p_value_holm: float | None
    """The same, adjusted for all tasks and probes of the command."""
    changed: Estimate
    """Share of all rows whose verdict is another one; that there is none is one too."""
    null_rate: float | None
    null_rate_probe: float | None


def compare(
    probe: str, unchanged: Judged, changed: Judged, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Compared:
    """Two runs of the same rows; the resamples are those of the rows' clusters.

    Raises:
        JudgeError: the rows are not the same.
    """
    if unchanged.rows != changed.rows:
        raise JudgeError(f"{probe}: {unchanged.task}: judged other rows than the unchanged run")
    verdicts: list[str] = list(unchanged.about["verdicts"])
    pair = [list(unchanged.records), list(changed.records)]
    rates = ("macro_f1", "null_rate")
    before, after = (summarize(records, verdicts, rates) for records in pair)
    tallies = cluster_tallies(pair, unchanged.clusters, verdicts)
    difference, p_value = Estimate(None), None
    if before["macro_f1"] is not None and after["macro_f1"] is not None:
        scores_B_M = resampled(tallies, resamples=resamples, seed=seed)["macro_f1"]
        between = interval(scores_B_M[:, 1] - scores_B_M[:, 0])
        difference = Estimate(after["macro_f1"] - before["macro_f1"], *(between or ()))
        p_value = difference_p_value(scores_B_M[:, 1], scores_B_M[:, 0])
    return Compared(
        task=unchanged.task,
        probe=probe,
        rows=len(unchanged.records),
        n=int(before["n"] or 0),
        macro_f1=before["macro_f1"],
        macro_f1_probe=after["macro_f1"],
        difference=difference,
        p_value=p_value,
        p_value_holm=None,
        changed=_share_changed(pair, unchanged.clusters, resamples, seed),
        null_rate=before["null_rate"],
        null_rate_probe=after["null_rate"],
    )


def _share_changed(
    pair: Sequence[Sequence[Record]], clusters: Sequence[str], resamples: int, seed: int
) -> Estimate:
    """A row that keeps its verdict is one judged right, so what is changed is 1 − accuracy."""
    kept = [
        Record("kept", "kept" if before.verdict == after.verdict else None)
        for before, after in zip(*pair, strict=True)
    ]
    if not kept:
        return Estimate(None)
    tallies = cluster_tallies([kept], clusters, ["kept"])
    shares_B = (
        1 - resampled(tallies, ["accuracy"], resamples=resamples, seed=seed)["accuracy"][:, 0]
    )
    share = sum(record.verdict is None for record in kept) / len(kept)
    return Estimate(share, *(interval(shares_B) or ()))


def adjust_p_values(compared: Sequence[Compared]) -> list[Compared]:
    tested = [each.p_value for each in compared if each.p_value is not None]
    adjusted = iter(holm(tested))
    return [
        each if each.p_value is None else each._replace(p_value_holm=next(adjusted))
        for each in compared
    ]
