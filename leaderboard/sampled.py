"""Votes of several samples of an item, beside one sample and the best of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from mtrl_judge.common.errors import DataError
from mtrl_judge.metrics.davidson import davidson_verdicts
from mtrl_judge.metrics.slots import slots_of

from .formats import metric_name
from .runs import Run, SampledVote, TaskResult
from .tables import Cell, Row

NOTE = (
    "Several samples of each item, as one verdict. one: the mean over the samples. majority, mean "
    "and verified: the votes that the model argument vote names, of the same samples; the latter "
    "two need a run with one of them. Facts count only in a run with vote=verified; they come from "
    "the data, which tells a judge what it would not know elsewhere. Davidson: of pairs with ties, "
    "with one readiness to tie fitted to all votes of the run. oracle: the best of the samples, "
    "which a perfect verifier would choose."
)

Verdicts = Sequence[str | None]


def read_sampled(where: str, row: Mapping[str, Any], result: TaskResult) -> list[SampledVote]:
    """The votes in the field ``samples`` of a sample; none where it has none.

    Raises:
        DataError: the field is not what an evaluation writes.
    """
    given = row.get("samples")
    if given is None:
        return []
    try:
        found = [
            SampledVote(each["verdict"], float(each["weight"]), each["probabilities"])
            for each in given
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: samples: expected verdict, weight and probabilities of each ({error!r})"
        ) from None
    kind = result.kind
    verdicts = kind.verdicts_about(row["label"] or row["verdict"], result.verdicts)
    for vote in found:
        if vote.verdict is not None and not kind.has_verdict(vote.verdict, verdicts):
            raise DataError(
                f"{where}: samples: verdict is {vote.verdict!r}; expected one of {verdicts}"
            )
    return found


def sampled_rows(judged: Iterable[tuple[Run, TaskResult]]) -> Iterator[Row]:
    """The headline metric of each way to make one verdict of the samples of an item."""
    for run, result in judged:
        sizes = [len(sample.sampled) for sample in result.samples]
        if max(sizes, default=0) < 2:
            continue
        headline = result.kind.headline
        values = {
            name: _headline(result, verdicts_N)
            for name, verdicts_N in verdicts_by_vote(result).items()
        }
        singles = [
            _headline(result, [_verdict(s.sampled, k) for s in result.samples], k)
            for k in range(max(sizes))
        ]
        known = [value for value in singles if value is not None]
        cells = {
            "judge": Cell(run.name, "name"),
            "samples": Cell(max(sizes), "count"),
            "vote": Cell(str(result.metadata.get("vote") or "")),
            f"{metric_name(headline)} of one": Cell(fmean(known) if known else None, "rate"),
            **{name: Cell(value, "rate") for name, value in values.items()},
        }
        yield Row(result.task, cells)


def verdicts_by_vote(result: TaskResult) -> dict[str, Verdicts]:
    """The verdict of each row, by the name of the vote."""
    kind, rows = result.kind, [sample.sampled for sample in result.samples]
    verdicts_N = [
        kind.verdicts_about(record.label or record.verdict, result.verdicts)
        for record in result.records
    ]
    own = result.metadata.get("vote")
    ways: dict[str, Verdicts] = {
        "majority": [
            kind.voted([vote.verdict for vote in votes], [1.0] * len(votes), verdicts)
            for votes, verdicts in zip(rows, verdicts_N, strict=True)
        ]
    }
    if any(vote.probabilities for votes in rows for vote in votes):
        ways["mean"] = [
            _mean(result, votes, verdicts) for votes, verdicts in zip(rows, verdicts_N, strict=True)
        ]
        ways["verified"] = [
            kind.voted(
                [vote.verdict for vote in votes],
                [vote.weight if own == "verified" else _own(result, vote) for vote in votes],
                verdicts,
            )
            for votes, verdicts in zip(rows, verdicts_N, strict=True)
        ]
    davidson = _davidson(result, rows)
    if davidson is not None:
        ways["Davidson"] = davidson
    ways["oracle"] = [
        _best(result, [vote.verdict for vote in votes], record.label, verdicts)
        for votes, record, verdicts in zip(rows, result.records, verdicts_N, strict=True)
    ]
    return ways


def _mean(result: TaskResult, votes: Sequence[SampledVote], verdicts: Sequence[str]) -> str | None:
    known = [
        [vote.probabilities[verdict] for verdict in verdicts]
        for vote in votes
        if vote.probabilities is not None
    ]
    if not known:
        return None
    mean = [fmean(each) for each in zip(*known, strict=True)]
    return result.kind.decided(mean, int(np.argmax(mean)), verdicts)


def _own(result: TaskResult, vote: SampledVote) -> float:
    """The probability of a vote's verdict after its own reasoning."""
    if vote.probabilities is None or vote.verdict is None:
        return 0.0
    return vote.probabilities[result.kind.label_class(vote.verdict, result.verdicts)]


def _davidson(result: TaskResult, rows: Sequence[Sequence[SampledVote]]) -> Verdicts | None:
    """None where the verdicts of a task are not two candidates and a tie."""
    first, second = slots_of(result.verdicts)
    if not (result.kind.compares and len(first) == 1 and len(result.verdicts) == 3):
        return None
    (tie,) = set(range(3)) - {*first, *second}
    outcomes = [result.verdicts[n] for n in (*first, *second, tie)]
    counts_N_3 = np.array(
        [[[vote.verdict for vote in votes].count(name) for name in outcomes] for votes in rows]
    )
    voted_N = counts_N_3.sum(axis=1) > 0
    if not voted_N.any():
        return None
    decided = iter(davidson_verdicts(counts_N_3[voted_N]).tolist())
    return [outcomes[next(decided)] if voted else None for voted in voted_N]


def _best(
    result: TaskResult, votes: Verdicts, label: str | None, verdicts: Sequence[str]
) -> str | None:
    """The verdict that is closest to the label; of a row without one, any."""
    if label is None:
        return next((vote for vote in votes if vote is not None), None)
    return max(votes, key=lambda vote: result.kind.correctness(vote, label, verdicts), default=None)


def _verdict(votes: Sequence[SampledVote], k: int) -> str | None:
    return votes[k].verdict if k < len(votes) else None


def _headline(result: TaskResult, verdicts_N: Verdicts, k: int = 0) -> float | None:
    """The headline metric with these verdicts; rows with k samples or fewer are left out."""
    records = [
        record._replace(verdict=verdict, failure=None if len(sample.sampled) > k else "failed")
        for record, sample, verdict in zip(result.records, result.samples, verdicts_N, strict=True)
    ]
    summary = result.kind.summarize(records, result.verdicts, result.paired)
    return summary[result.kind.headline]
