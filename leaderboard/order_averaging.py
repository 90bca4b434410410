"""The order-averaged verdicts of a judge of pairs, scored like all verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.metrics.order_averaging import average_orders, most_probable
from mtrl_judge.metrics.records import Record

from .compare import score_results
from .runs import Sample, TaskResult
from .scores import Score

RATES = {"macro_f1": "macro_f1_order_averaged", "accuracy": "accuracy_order_averaged"}
"""The rates that are computed of order-averaged verdicts, and what they are called then."""


def order_averaged(result: TaskResult) -> TaskResult | None:
    """The same result with one row for each pair that was judged in both orders.

    Its label is that of the unswapped row, its verdict the most probable one of both orders; an
    exact tie is no verdict, nor has a pair of which a row was refused, so that it has no
    probabilities.

    Returns:
        None unless rows of a paired task have probabilities and a pair has both orders.

    Raises:
        JudgeError: the probabilities are invalid.
    """
    judged = [sample for sample in result.samples if not sample.record.failed]
    if not result.paired or not any(sample.probabilities for sample in judged):
        return None
    orders: dict[str, dict[bool, Sample]] = {}
    for sample in judged:
        if sample.record.pair_id is not None:
            orders.setdefault(sample.record.pair_id, {})[sample.record.swapped] = sample
    samples = []
    for pair_id, rows in orders.items():
        if len(rows) < 2:  # --limit cut one off, or its request failed
            continue
        straight, averaged = rows[False], None
        odds, swapped_odds = straight.probabilities, rows[True].probabilities
        if odds and swapped_odds:
            try:
                averaged = average_orders(odds, swapped_odds, result.verdicts)
            except ValueError as error:
                raise JudgeError(f"samples of {result.task}: pair {pair_id!r}: {error}") from None
        record = Record(straight.record.label, most_probable(averaged) if averaged else None)
        samples.append(Sample(straight.item_id, record, straight.cluster, probabilities=averaged))
    if not samples:
        return None
    n = sum(sample.record.label is not None for sample in samples)
    metadata = {**result.metadata, "paired": False}
    return replace(result, metadata=metadata, samples=samples, rates={}, n_rows=len(samples), n=n)


def score_order_averaged(
    results: Mapping[str, Mapping[str, TaskResult]], *, resamples: int, seed: int
) -> dict[str, dict[str, dict[str, Score]]]:
    """The rates of order-averaged verdicts by task, judge and name, where there are any.

    Those that a file reports are kept if it has no probabilities to compute them from.
    """
    averaged = {
        task: {name: order_averaged(result) for name, result in judges.items()}
        for task, judges in results.items()
    }
    known = {
        task: {name: result for name, result in judges.items() if result is not None}
        for task, judges in averaged.items()
    }
    scored = score_results(
        {task: judges for task, judges in known.items() if judges},
        tuple(RATES),
        resamples=resamples,
        seed=seed,
    )
    scores: dict[str, dict[str, dict[str, Score]]] = {}
    for task, judges in results.items():
        for name, result in judges.items():
            if name in known[task]:
                of_judge = scored[task].scores[name]
                rates = {title: of_judge[rate] for rate, title in RATES.items()}
            else:
                reported = result.rates
                rates = {t: Score(reported[t]) for t in RATES.values() if t in reported}
            scores.setdefault(task, {})[name] = rates
    return scores
