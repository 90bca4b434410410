"""What else results tell of judges: agreement with people and with each other, votes, calibration.

Each is a table of those judges and tasks that it can be told of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.metrics.agreement import agreement_matrix, correlations, grades, krippendorff_alpha
from mtrl_judge.metrics.calibration import (
    BINS,
    Predictions,
    brier,
    ece_interval,
    expected_calibration_error,
    predictions,
    reliability_curve,
    risk_coverage,
)
from mtrl_judge.metrics.voting import consistency, vote_curve, vote_shares

from .board import Leaderboard
from .compatibility import tasks_of
from .formats import NONE, Section, shown
from .runs import Estimate, Judged, Run
from .tables import task_labels

# Numbers of votes that a vote curve shows; the last is always shown.
_VOTES = (1, 3, 5, 9, 17, 33)
_COVERED = 0.8


class Votes(NamedTuple):
    """Several verdicts on each labeled or unlabeled row of a task."""

    judge: str
    task: str
    judged: Judged
    votes_N: Sequence[Sequence[str | None]]


class Confidence(NamedTuple):
    """How sure a judge was of its verdicts on a task."""

    judge: str
    task: str
    judged: Judged
    found: Predictions
    kind: str
    """By what: probabilities or votes."""


def analyses(board: Leaderboard, digits: int = 3) -> list[Section]:
    """The tables that have a line.

    Raises:
        JudgeError: probabilities of a sample file are none.
    """
    sections = (
        with_people(board, digits),
        between_judges(board, digits),
        matrix_of_judges(board, digits),
        by_votes(board, digits),
        calibration(board, digits),
        reliability(board, digits),
    )
    return [section for section in sections if not section.table.empty]


def with_people(board: Leaderboard, digits: int = 3) -> Section:
    """κ and accuracy of each judge on each task; rank correlations where labels are graded."""
    lines = []
    for run, task, judged in _all(board.runs):
        column = next(column for column in board.tasks if column.name == task)
        estimates = column.estimates[run.name]
        line = {
            "task": task,
            "judge": run.name,
            "accuracy": shown(estimates.get("accuracy"), digits),
            "Cohen's κ": shown(estimates.get("cohen_kappa"), digits),
        }
        graded = correlations(judged.records, judged.about["verdicts"])
        if graded is not None and judged.records:
            line |= {
                "Kendall τ-b": _number(graded.kendall_tau_b, digits),
                "Spearman": _number(graded.spearman, digits),
                "Pearson": _number(graded.pearson, digits),
                "graded": f"{graded.n} of {graded.n + graded.n_without_verdict}",
            }
        lines.append(line)
    note = "κ counts a missing verdict as one more category."
    if any("graded" in line for line in lines):
        note += " Correlations are over the rows with a verdict."
    return _section("Agreement with people", note, lines)


def between_judges(board: Leaderboard, digits: int = 3) -> Section:
    """Krippendorff's α of the judges of the same rows, beside how often two of them agree."""
    lines = []
    for task, panel in _panels(board):
        classes = panel[0].about["verdicts"]
        verdicts_J_N = _verdicts(panel)
        graded = grades(classes)
        matrix = agreement_matrix(verdicts_J_N, classes)
        above = np.triu_indices(len(panel), 1)
        lines.append(
            {
                "task": task,
                "judges": len(panel),
                "Krippendorff's α": _number(
                    krippendorff_alpha(verdicts_J_N, classes, graded), digits
                ),
                "level": "nominal" if graded is None else "interval",
                "mean agreement of two": _number(float(matrix.agreement_J_J[above].mean()), digits),
                "rows": len(verdicts_J_N[0]),
            }
        )
    note = "For α a missing verdict is a missing value; for agreement it is a verdict of its own."
    return _section("Agreement between judges", note, lines)


def matrix_of_judges(board: Leaderboard, digits: int = 3) -> Section:
    """How often two judges say the same, over the rows of all tasks that all of them judged."""
    panels = [panel for _, panel in _panels(board) if len(panel) == len(board.runs)]
    names = [run.name for run in board.runs]
    if not panels:
        return _section("Share of rows with the same verdict", "", [])
    shares_X_J_J = [
        agreement_matrix(_verdicts(panel), panel[0].about["verdicts"]).agreement_J_J
        for panel in panels
    ]
    rows_X = [len(panel[0].records) for panel in panels]
    share_J_J = np.average(np.stack(shares_X_J_J), axis=0, weights=rows_X)
    table = pd.DataFrame(share_J_J, index=names, columns=names).map(_number, digits=digits)
    note = "Over all tasks that all judges share; a missing verdict is a verdict of its own."
    return Section("Share of rows with the same verdict", note, table)


def by_votes(board: Leaderboard, digits: int = 3) -> Section:
    """Macro-F1 of the majority of more and more votes, and how far the votes agree."""
    lines = []
    for each in votes_of(board.runs):
        labels = [record.label for record in each.judged.records]
        classes = each.judged.about["verdicts"]
        curve = vote_curve(each.votes_N, labels, classes, seed=board.seed) or ()
        agreed = consistency(each.votes_N)
        line = {"task": each.task, "judge": each.judge, "votes": len(each.votes_N[0])}
        for k in dict.fromkeys([*(k for k in _VOTES if k < len(curve)), len(curve)][: len(curve)]):
            line[f"Macro-F1 of {k}"] = _number(curve[k - 1], digits)
        line["two votes agree"] = _number(agreed.pairwise, digits)
        line["all agree"] = _number(agreed.unanimous, digits)
        lines.append(line)
    note = (
        "Of the majority of k votes drawn from those there are, on average; a tie is no verdict. "
        "Votes are repeats of a run, or several runs of one model."
    )
    return _section("Votes", note, lines)


def calibration(board: Leaderboard, digits: int = 3) -> Section:
    """How far confidence is accuracy, where probabilities or votes are known."""
    lines = []
    for each in confidences(board.runs):
        ends = ece_interval(
            each.found, each.judged.clusters, resamples=board.resamples, seed=board.seed
        )
        ece = expected_calibration_error(each.found)
        covered = risk_coverage(each.found)
        most = None
        if covered is not None:
            most = float(covered.risk_N[np.searchsorted(covered.coverage_N, _COVERED)])
        lines.append(
            {
                "task": each.task,
                "judge": each.judge,
                "confidence": each.kind,
                "ECE": shown(Estimate(ece, *(ends or (None, None))), digits),
                "Brier": _number(brier(each.found), digits),
                f"wrong among the surest {_COVERED:.0%}": _number(most, digits),
                "area under risk": _number(covered and covered.area, digits),
                "rows": len(each.found.labels_N),
            }
        )
    note = (
        f"ECE over {BINS} bins of equal width; a sample's is biased upward, its interval is not, "
        "so the value may lie above it. Brier is over all verdicts, from 0 to 2."
    )
    return _section("Calibration", note, lines)


def reliability(board: Leaderboard, digits: int = 3) -> Section:
    """The reliability curves, a line a bin that has rows."""
    lines = [
        {
            "task": each.task,
            "judge": each.judge,
            "confidence": each.kind,
            "above": f"{own.low:.{digits}f}",
            "to": f"{own.high:.{digits}f}",
            "mean confidence": _number(own.confidence, digits),
            "right": _number(own.accuracy, digits),
            "rows": own.n,
        }
        for each in confidences(board.runs)
        for own in reliability_curve(each.found)
    ]
    note = "A calibrated judge is right as often as its mean confidence says."
    return _section("Reliability", note, lines)


def votes_of(runs: Sequence[Run]) -> list[Votes]:
    """Repeats within runs, and runs of one model on the same rows in the same way."""
    found = [
        Votes(run.name, task, judged, judged.votes)
        for run, task, judged in _all(runs)
        if judged.votes and len({len(votes) for votes in judged.votes}) == 1
    ]
    same: defaultdict[tuple[Any, ...], list[Judged]] = defaultdict(list)
    for run, task, judged in _all(runs):
        if judged.records:
            asked = tuple(judged.about.get(name) for name in ("style", "scoring", "perturbation"))
            same[(run.model, task, *asked, judged.rows)].append(judged)
    for (model, task, *_), several in same.items():
        if len(several) > 1:
            votes_N = list(zip(*_verdicts(several), strict=True))
            found.append(Votes(f"{model} ({len(several)} runs)", task, several[0], votes_N))
    return found


def confidences(runs: Sequence[Run]) -> list[Confidence]:
    """Of verdicts by probability, and of votes by their shares.

    Raises:
        JudgeError: probabilities of a sample file are none.
    """
    found = []
    for run, task, judged in _all(runs):
        if judged.probabilities is not None:
            try:
                known = _predictions(judged, judged.probabilities)
            except ValueError as error:
                raise JudgeError(f"{run.file}: samples of {task}: {error}") from None
            found.append(Confidence(run.name, task, judged, known, "probability"))
    for each in votes_of(runs):
        shares = [vote_shares(votes, each.judged.about["verdicts"]) for votes in each.votes_N]
        known = _predictions(each.judged, shares)
        found.append(Confidence(each.judge, each.task, each.judged, known, "share of votes"))
    return found


def _predictions(judged: Judged, given: Sequence[Mapping[str, float] | None]) -> Predictions:
    labels = [record.label for record in judged.records]
    return predictions(given, labels, judged.about["verdicts"])


def _all(runs: Sequence[Run]) -> Iterator[tuple[Run, str, Judged]]:
    """By task, then by judge."""
    for task in tasks_of(runs):
        for run in runs:
            if task in run.tasks:
                yield run, task, run.tasks[task]


def _panels(board: Leaderboard) -> Iterator[tuple[str, list[Judged]]]:
    """For each task the judges of the same rows, where there are two or more."""
    for column in board.tasks:
        groups: defaultdict[object, list[Judged]] = defaultdict(list)
        for run in board.runs:
            judged = run.tasks.get(column.name)
            if judged is not None and judged.records:
                groups[judged.rows].append(judged)
        for panel in groups.values():
            if len(panel) > 1:
                yield column.name, panel


def _verdicts(panel: Sequence[Judged]) -> list[list[str | None]]:
    return [[record.verdict for record in judged.records] for judged in panel]


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _section(title: str, note: str, lines: Sequence[dict[str, Any]]) -> Section:
    if not lines:
        return Section(title, note, pd.DataFrame())
    labels = task_labels([line["task"] for line in lines if "task" in line])
    named = [{**line, "task": labels[line["task"]]} if "task" in line else line for line in lines]
    return Section(title, note, pd.DataFrame(named).fillna(NONE).set_index(next(iter(named[0]))))
