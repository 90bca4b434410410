"""``python -m benchmarks.votes``: what the votes of several samples add to a greedy judge.

Reads finished evaluations, a greedy one and one with ``samples=K,vote=verified`` of the same judge,
one such pair for each training or corpus::

    python -m benchmarks.votes GREEDY SAMPLED [GREEDY SAMPLED …]

All votes are of the same samples. ``one`` is the first of them, and the oracle the best.
``verified, facts`` weighs by the facts of the data as well, which ``verified`` does not.
Differences from the greedy judge are paired by item, with shared draws, and their intervals are
over items and over pairs of evaluations, as in an experiment.

``carried`` is the share of right samples among those whose verdict is the most probable one after
their own reasoning, ``not carried`` among the others: how far verified can know what is right.

Prints a table for each role of tasks, and one JSON object last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from tabulate import tabulate

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.exits import exits_with_message
from mtrl_judge.experiments.effects import Unit, effect
from mtrl_judge.leaderboard.compare import score_results
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.leaderboard.runs import Run, TaskResult
from mtrl_judge.leaderboard.sampled import Verdicts, verdicts_by_vote
from mtrl_judge.leaderboard.scores import Score, mean

GREEDY = "greedy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="GREEDY SAMPLED")
    folders = parser.parse_args().folders
    with exits_with_message():
        compare(folders)


def compare(folders: Sequence[Path]) -> None:
    """Print the tables of these pairs of folders.

    Raises:
        JudgeError: they are no pairs of evaluations of the same rows.
    """
    if len(folders) % 2:
        raise JudgeError("expected pairs of folders: a greedy evaluation and a sampled one")
    runs = [read(folder) for folder in folders]
    pairs = [*zip(runs[::2], runs[1::2], strict=True)]
    units = [scores_of(greedy, sampled) for greedy, sampled in pairs]
    figures: dict[str, dict[str, Any]] = {}
    carried: dict[str, list[dict[str, float]]] = {}
    for role in dict.fromkeys(result.role for result in pairs[0][0].tasks.values()):
        names = [name for name, result in pairs[0][0].tasks.items() if result.role == role]
        figures[role] = figures_of([{task: unit[task] for task in names} for unit in units])
        keys = ("score", "difference", "low", "high")
        rows = [
            [vote, *(None if known[key] is None else 100 * known[key] for key in keys)]
            for vote, known in figures[role].items()
        ]
        print(tabulate(rows, headers=[f"{role}, %", *keys], floatfmt=".1f"), end="\n\n")
        carried[role] = [shares_of(sampled, names) for _, sampled in pairs]
        for shares in carried[role]:
            print(", ".join(f"{name}: {100 * share:.1f} %" for name, share in shares.items()))
    print(json.dumps({"pairs": len(pairs), "figures": figures, "right": carried}))


def read(folder: Path) -> Run:
    run = complete_run(folder, samples=True)
    if run is None:
        raise JudgeError(f"{folder}: no finished evaluation with samples in it")
    return run


def scores_of(greedy: Run, sampled: Run) -> dict[str, dict[str, Score]]:
    """The headline metric by task and vote, with draws that all votes share."""
    results: dict[str, dict[str, TaskResult]] = {}
    for task, result in greedy.tasks.items():
        if task not in sampled.tasks or sampled.tasks[task].rows != result.rows:
            raise JudgeError(f"{sampled.file}: {task}: other rows than {greedy.file} judged")
        results[task] = {GREEDY: result, **dict(votes_of(sampled.tasks[task]))}
    headlines = {result.kind.headline for result in greedy.tasks.values()}
    scored = score_results(results, headlines)
    return {
        task: {vote: rates[judges[GREEDY].kind.headline] for vote, rates in found.items()}
        for task, judges in results.items()
        for found in [scored[task].scores]
    }


def votes_of(result: TaskResult) -> Iterator[tuple[str, TaskResult]]:
    """The result with the verdicts of each vote in place of its own."""
    if result.metadata.get("vote") != "verified":
        raise JudgeError(f"{result.task}: expected an evaluation with vote=verified")
    without_facts = replace(result, metadata={**result.metadata, "vote": "mean"})
    ways = verdicts_by_vote(without_facts)
    oracle = ways.pop("oracle")
    yield "one", revoted(result, [sample.sampled[0].verdict for sample in result.samples])
    for vote, verdicts_N in ways.items():
        yield vote, revoted(result, verdicts_N)
    yield "verified, facts", revoted(result, verdicts_by_vote(result)["verified"])
    yield "oracle", revoted(result, oracle)


def revoted(result: TaskResult, verdicts_N: Verdicts) -> TaskResult:
    samples = [
        sample._replace(record=sample.record._replace(verdict=verdict, failure=None))
        for sample, verdict in zip(result.samples, verdicts_N, strict=True)
    ]
    return replace(result, samples=samples)


def shares_of(run: Run, tasks: Sequence[str]) -> dict[str, float]:
    """The share of right samples among those that their reasoning carries, and the others."""
    right: dict[str, list[bool]] = {"carried": [], "not carried": []}
    for result in (run.tasks[task] for task in tasks):
        for sample in result.samples:
            for one in sample.sampled:
                if one.verdict is None or one.probabilities is None:
                    continue
                own = one.probabilities[result.kind.label_class(one.verdict, result.verdicts)]
                kind = "carried" if own == max(one.probabilities.values()) else "not carried"
                judged = sample.record._replace(verdict=one.verdict)
                right[kind].append(result.is_correct(judged))
    return {kind: fmean(of_kind) for kind, of_kind in right.items() if of_kind}


def figures_of(units: list[dict[str, dict[str, Score]]]) -> dict[str, dict[str, float | None]]:
    """Of each vote, the mean over tasks and units and its difference from the greedy judge."""
    by_vote: dict[str, dict[Unit, Score]] = {}
    for number, tasks in enumerate(units):
        for vote in next(iter(tasks.values())):
            scores = [of_task[vote] for of_task in tasks.values()]
            if all(score.value is not None for score in scores):
                unit = Unit(number, None)
                by_vote.setdefault(vote, {})[unit] = mean(scores, [1.0] * len(scores))
    return {vote: figure(scores, by_vote[GREEDY]) for vote, scores in by_vote.items()}


def figure(scores: Mapping[Unit, Score], greedy: Mapping[Unit, Score]) -> dict[str, float | None]:
    values = [float(score.value or 0.0) for score in scores.values()]
    found = effect(scores, greedy)
    if found is None:
        raise JudgeError("no common unit")
    difference = found.difference
    return {
        "score": sum(values) / len(values),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_value": found.p_value,
    }


if __name__ == "__main__":
    main()
