"""Further tables: agreement with people and between judges, votes, calibration.

Each covers the judges and tasks that have what it needs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.kinds.score import Score
from mtrl_judge.metrics.agreement import (
    agreement_matrix,
    correlations,
    krippendorff_alpha,
    ratings,
)
from mtrl_judge.metrics.bootstrap import Estimate
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
from mtrl_judge.metrics.slots import slots_of
from mtrl_judge.metrics.triples import Compared, intransitive_triples
from mtrl_judge.metrics.voting import consistency, vote_curve, vote_shares

from .board import Leaderboard
from .compatibility import tasks_of
from .formats import metric_name
from .identity import settings
from .order_averaging import RATES as ORDER_AVERAGED
from .order_averaging import order_averaged
from .runs import Run, TaskResult
from .sampled import NOTE as SAMPLES_NOTE
from .sampled import sampled_rows
from .tables import Cell, Row, Table

_VOTES = (1, 3, 5, 9, 17, 33)
"""Numbers of votes for which the majority is shown; that of all votes is always shown."""
_COVERAGE = 0.8


class Votes(NamedTuple):
    """Several verdicts for each row of a task."""

    judge: str
    result: TaskResult
    votes_N: Sequence[Sequence[str | None]]


class Confidence(NamedTuple):
    """How confident a judge was of its verdicts on a task."""

    judge: str
    result: TaskResult
    predictions: Predictions
    kind: Literal["probability", "share of votes"]

    @property
    def title(self) -> str:
        return self.judge if self.kind == "probability" else f"{self.judge}, {self.kind}"


def analyses(board: Leaderboard, known: Sequence[Confidence]) -> list[Table]:
    """The tables that have rows.

    Args:
        known: the confidences of the board's runs.
    """
    kappa_note = (
        "κ treats a missing verdict as one more category; rank correlations, where verdicts are "
        "ratings, cover the rows with a verdict."
    )
    judges_note = (
        "α treats a missing verdict as a missing value, agreement as a verdict of its own."
    )
    orders_note = (
        "Of pairs judged in both orders, the verdict that is most probable in the geometric mean "
        "of both (candidates aligned), so that its flip rate is 0; an exact tie is no verdict and "
        "counts as wrong. Beside it, the verdicts of single orders."
    )
    votes_note = (
        "Mean Macro-F1 of the majority of k random votes of those there are; a tie is no verdict. "
        "Votes are repeats or samples within a run, or several runs of one model. Repeats of a run "
        "whose verdicts another version of the parser read are left out."
    )
    triples_note = (
        "Of three candidates that were compared with each other, such as images of one prompt, "
        "with a preference in all three pairs: the share that is a cycle. Answers at random make a "
        "quarter of them cycles. Where the two orders of a pair disagree, it has no preference."
    )
    ratings_note = (
        "Of the mean of all ratings of a row, and of one; repeats within a run, or several runs of "
        "one model. Answers without a rating do not count towards a mean. spread: the mean "
        "standard deviation of a row's ratings."
    )
    calibration_note = (
        f"ECE over {BINS} bins of equal width. The ECE of a sample is biased upward and its "
        "interval is not, so the value may lie above it. Brier score over all verdicts (0 to 2)."
    )
    reliability_note = "A calibrated judge is correct as often as its mean confidence says."
    tables = [
        Table("Agreement with people", "task", list(_with_people(board)), kappa_note),
        Table("Agreement between judges", "task", list(_between_judges(board)), judges_note),
        _matrix_of_judges(board),
        Table("Order-averaged verdicts", "task", list(_order_averaged(board)), orders_note),
        Table("Intransitive triples", "task", list(_intransitive(board)), triples_note),
        Table("Votes", "task", list(_by_votes(board)), votes_note),
        Table("Samples", "task", list(sampled_rows(_all_results(board.runs))), SAMPLES_NOTE),
        Table("Mean ratings", "task", list(_mean_ratings(board)), ratings_note),
        Table("Calibration", "task", list(_calibration(board, known)), calibration_note),
        Table("Reliability", "task", list(_reliability(known)), reliability_note),
    ]
    return [table for table in tables if table.rows]


def _with_people(board: Leaderboard) -> Iterator[Row]:
    """κ and accuracy of each judge on each task; rank correlations where labels are ratings."""
    columns = {column.name: column for column in board.tasks}
    for run, result in _counted_results(board.runs):
        column = columns[result.task]
        cells = {
            "judge": Cell(run.name, "name"),
            "accuracy": Cell(column.estimate(run.name, "accuracy"), "rate"),
            "Cohen's κ": Cell(column.estimate(run.name, "cohen_kappa"), "rate"),
        }
        rated = correlations(result.records, result.verdicts) if result.samples else None
        if rated is not None:
            cells |= {
                "Kendall τ-b": Cell(rated.kendall_tau_b, "rate"),
                "Spearman": Cell(rated.spearman, "rate"),
                "Pearson": Cell(rated.pearson, "rate"),
                "with verdict": Cell(rated.n, "count", of=rated.n + rated.n_without_verdict),
            }
        yield Row(result.task, cells)


def _between_judges(board: Leaderboard) -> Iterator[Row]:
    """Krippendorff's α of the judges of the same rows, and how often two of them agree."""
    for panel in _panels(board):
        verdicts_J_N = _verdicts_of_all(panel)
        numbers = ratings(panel[0].verdicts)
        matrix = agreement_matrix(verdicts_J_N, panel[0].verdicts)
        pairs = np.triu_indices(len(panel), 1)
        alpha = krippendorff_alpha(verdicts_J_N, panel[0].verdicts, numbers)
        yield Row(
            panel[0].task,
            {
                "judges": Cell(len(panel), "count"),
                "Krippendorff's α": Cell(alpha, "rate"),
                "level": Cell("nominal" if numbers is None else "interval"),
                "mean agreement of two": Cell(float(matrix.agreement_J_J[pairs].mean()), "rate"),
                "rows": Cell(len(verdicts_J_N[0]), "count"),
            },
        )


def _matrix_of_judges(board: Leaderboard) -> Table:
    """How often two judges agree, over the rows of all tasks that all of them judged."""
    panels = [panel for panel in _panels(board) if len(panel) == len(board.runs)]
    names = [run.name for run in board.runs]
    rows: list[Row] = []
    if panels:
        verdicts = [_verdicts_of_all(panel) for panel in panels]
        shares = [
            agreement_matrix(verdicts_J_N, panel[0].verdicts).agreement_J_J
            for panel, verdicts_J_N in zip(panels, verdicts, strict=True)
        ]
        n_rows = [len(verdicts_J_N[0]) for verdicts_J_N in verdicts]
        share_J_J = np.average(np.stack(shares), axis=0, weights=n_rows)
        rows = [
            Row(
                name,
                {other: Cell(share, "rate") for other, share in zip(names, share_J, strict=True)},
            )
            for name, share_J in zip(names, share_J_J.tolist(), strict=True)
        ]
    note = "Over all tasks that all judges share; a missing verdict is a verdict of its own."
    return Table("Share of rows with the same verdict", "judge", rows, note)


def _order_averaged(board: Leaderboard) -> Iterator[Row]:
    """The order-averaged verdicts of each judge beside its verdicts, where there are any."""
    columns = {column.name: column for column in board.tasks}
    for run, result in _all_results(board.runs):
        column = columns[result.task]
        if not column.scores[run.name].keys() >= set(ORDER_AVERAGED.values()):
            continue
        cells = {"judge": Cell(run.name, "name")}
        for rate, of_averaged in ORDER_AVERAGED.items():
            title = metric_name(rate)
            cells[f"{title}, order-averaged"] = Cell(column.estimate(run.name, of_averaged), "rate")
            cells[title] = Cell(column.estimate(run.name, rate), "rate")
        for rate in ("both_orders_correct", "flip_rate"):
            cells[metric_name(rate)] = Cell(column.estimate(run.name, rate), "rate")
        averaged = order_averaged(result)
        if averaged is not None:
            known = [sample for sample in averaged.samples if sample.probabilities]
            ties = sum(sample.record.verdict is None for sample in known)
            cells["ties"] = Cell(ties, "count", of=len(averaged.records))
            cells["labeled pairs"] = Cell(averaged.n, "count")
        yield Row(result.task, cells)


def _intransitive(board: Leaderboard) -> Iterator[Row]:
    """How consistent comparisons of pairs with candidates in common are."""
    for run, result in _all_results(board.runs):
        triples = intransitive_triples(_comparisons(result))
        if triples.total:
            cells = {
                "judge": Cell(run.name, "name"),
                "intransitive": Cell(triples.share, "rate"),
                "triples": Cell(triples.total, "count"),
            }
            yield Row(result.task, cells)


def _comparisons(result: TaskResult) -> Iterator[Compared]:
    first, second = (
        {result.verdicts[index] for index in side} for side in slots_of(result.verdicts)
    )
    for sample in result.samples:
        if sample.candidates is not None:
            verdict = sample.record.verdict
            side = (verdict in first) - (verdict in second)
            yield Compared(
                sample.cluster, *sample.candidates, -side if sample.record.swapped else side
            )


def _by_votes(board: Leaderboard) -> Iterator[Row]:
    """Macro-F1 of the majority of more and more votes, and how far the votes agree."""
    for votes in votes_of(_counted_results(board.runs)):
        result = votes.result
        curve = vote_curve(votes.votes_N, result.labels, result.verdicts, seed=board.seed) or ()
        agreement = consistency(votes.votes_N)
        sizes = [k for k in _VOTES if k < len(curve)] + [len(curve)] * bool(curve)
        yield Row(
            result.task,
            {
                "judge": Cell(votes.judge, "name"),
                "votes": Cell(max(map(len, votes.votes_N)), "count"),
                **{f"Macro-F1 of {k}": Cell(curve[k - 1], "rate") for k in sizes},
                "two votes agree": Cell(agreement.pairwise, "rate"),
                "all agree": Cell(agreement.unanimous, "rate"),
            },
        )


def _mean_ratings(board: Leaderboard) -> Iterator[Row]:
    """The metrics of the mean of several ratings of a row beside those of one rating."""
    rated = [(run, result) for run, result in _all_results(board.runs) if result.kind.scaled]
    for judge, result, votes_N in votes_of(rated):
        kind = result.kind
        if not isinstance(kind, Score):
            continue
        means_N = [kind.mean_rating(votes, result.verdicts) for votes in votes_N]
        first_N = [next(iter(votes), None) for votes in votes_N]
        of_mean, of_one = (
            kind.summarize(
                [
                    record._replace(verdict=verdict, failure=None if votes else "failed")
                    for record, votes, verdict in zip(
                        result.records, votes_N, verdicts_N, strict=True
                    )
                ],
                result.verdicts,
                result.paired,
            )
            for verdicts_N in (means_N, first_N)
        )
        cells = {
            "judge": Cell(judge, "name"),
            "ratings": Cell(max(map(len, votes_N)), "count"),
        }
        for metric in (kind.headline, "mae"):
            cells[f"{metric_name(metric)} of the mean"] = Cell(of_mean[metric], "rate")
            cells[f"{metric_name(metric)} of one"] = Cell(of_one[metric], "rate")
        cells["spread"] = Cell(kind.spread(votes_N, result.verdicts), "rate")
        yield Row(result.task, cells)


def _calibration(board: Leaderboard, known: Sequence[Confidence]) -> Iterator[Row]:
    """How well confidence matches accuracy, where probabilities or votes are known."""
    for confidence in known:
        predicted = confidence.predictions
        clusters = [sample.cluster for sample in confidence.result.samples]
        ends = ece_interval(predicted, clusters, resamples=board.resamples, seed=board.seed)
        ece = Estimate(expected_calibration_error(predicted), *(ends or ()))
        covered = risk_coverage(predicted)
        risk = None
        if covered is not None:
            risk = float(covered.risk_N[np.searchsorted(covered.coverage_N, _COVERAGE)])
        yield Row(
            confidence.result.task,
            {
                "judge": Cell(confidence.judge, "name"),
                "confidence": Cell(confidence.kind),
                "ECE": Cell(ece, "rate"),
                "Brier": Cell(brier(predicted), "rate"),
                f"error of the {_COVERAGE:.0%} most confident": Cell(risk, "rate"),
                "area under risk": Cell(covered and covered.area, "rate"),
                "rows": Cell(len(predicted.labels_N), "count"),
            },
        )


def _reliability(known: Sequence[Confidence]) -> Iterator[Row]:
    """The reliability curves, one row for each bin that is not empty."""
    for confidence in known:
        for bin_ in reliability_curve(confidence.predictions):
            yield Row(
                confidence.result.task,
                {
                    "judge": Cell(confidence.judge, "name"),
                    "confidence": Cell(confidence.kind),
                    "above": Cell(bin_.low, "rate"),
                    "up to": Cell(bin_.high, "rate"),
                    "mean confidence": Cell(bin_.confidence, "rate"),
                    "accuracy": Cell(bin_.accuracy, "rate"),
                    "rows": Cell(bin_.n, "count"),
                },
            )


def votes_of(judged: Iterable[tuple[Run, TaskResult]]) -> list[Votes]:
    """Repeats within runs, and runs of one model on the same rows in the same way."""
    votes = []
    alike: defaultdict[tuple[Any, ...], list[TaskResult]] = defaultdict(list)
    for run, result in judged:
        votes_N = [sample.votes for sample in result.samples]
        known = all(sample.votes or sample.record.failed for sample in result.samples)
        if known and max(map(len, votes_N), default=0) > 1:
            votes.append(Votes(run.name, result, votes_N))
        if result.samples:
            alike[run.model, result.task, settings(result), result.rows].append(result)
    for (model, *_), results in alike.items():
        if len(results) > 1:
            records_N = zip(*(result.records for result in results), strict=True)
            votes_N = [[r.verdict for r in row if not r.failed] for row in records_N]
            votes.append(Votes(f"{model} ({len(results)} runs)", results[0], votes_N))
    return votes


def confidences(runs: Sequence[Run]) -> list[Confidence]:
    """Verdicts' probabilities, and the shares of votes.

    Raises:
        JudgeError: the probabilities in a sample file are invalid.
    """
    known = []
    for run, result in _counted_results(runs):
        probabilities = [sample.probabilities for sample in result.samples]
        if any(probabilities):  # rows that failed or were refused have none
            try:
                predicted = _predictions(result, probabilities)
            except ValueError as error:
                raise JudgeError(f"{run.file}: samples of {result.task}: {error}") from None
            known.append(Confidence(run.name, result, predicted, "probability"))
    for votes in votes_of(_counted_results(runs)):
        shares = [vote_shares(row, votes.result.verdicts) for row in votes.votes_N]
        predicted = _predictions(votes.result, shares)
        known.append(Confidence(votes.judge, votes.result, predicted, "share of votes"))
    return known


def _predictions(
    result: TaskResult, probabilities: Sequence[Mapping[str, float] | None]
) -> Predictions:
    return predictions(probabilities, result.labels, result.verdicts)


def _all_results(runs: Sequence[Run]) -> Iterator[tuple[Run, TaskResult]]:
    """By task, then by judge."""
    for task in tasks_of(runs):
        yield from ((run, run.tasks[task]) for run in runs if task in run.tasks)


def _counted_results(runs: Sequence[Run]) -> Iterator[tuple[Run, TaskResult]]:
    """Those of kinds whose labels and verdicts are counted."""
    return ((run, result) for run, result in _all_results(runs) if result.kind.counted)


def _panels(board: Leaderboard) -> list[list[TaskResult]]:
    """By task, the judges of the same rows, if there are several that have answers in common."""
    panels: defaultdict[tuple[Any, ...], list[TaskResult]] = defaultdict(list)
    for _, result in _all_results(board.runs):
        if result.samples:
            panels[result.task, result.rows].append(result)
    return [panel for panel in panels.values() if len(panel) > 1 and _verdicts_of_all(panel)[0]]


def _verdicts_of_all(panel: Sequence[TaskResult]) -> list[list[str | None]]:
    """The verdicts of each judge, or their classes, on the rows on which no request failed."""
    records_N = zip(*(result.records for result in panel), strict=True)
    judged_N = [n for n, row in enumerate(records_N) if not any(record.failed for record in row)]
    return [[result.classes[n] for n in judged_N] for result in panel]
