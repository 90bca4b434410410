"""What ``mtrl-judge leaderboard --instructions`` shows: tables, and records for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtrl_judge.metrics.instructions import LEAST_MEAN, TOP

from .formats import metric_name
from .instructions import InstructionComparison
from .scores import Score
from .tables import Cell, Row, Table

SCHEMA_VERSION = 1
RECORD_FIELDS = (
    *("measure", "task", "judge", "second_judge", "instruction", "chosen_on"),
    *("value", "low", "high"),
)


def instruction_tables(compared: InstructionComparison) -> list[Table]:
    """Judges, instructions, the best instructions, and differences in stability."""
    judges = [
        Row(
            row.task,
            {
                "judge": Cell(row.judge, "name"),
                "metric": Cell(metric_name(row.metric)),
                "instructions": Cell(row.instructions, "count"),
                "best": Cell(row.best),
                "chosen on": Cell(row.chosen_on),
                "its score": Cell(row.score.estimate, "rate"),
                "mean relative gain": Cell(row.gain.estimate, "difference"),
                "stability": Cell(row.stability.estimate, "rate"),
                "without chance": Cell(row.true_stability.estimate, "rate"),
                "noise floor": Cell(row.floor.estimate, "rate"),
            },
        )
        for row in compared.judges
    ]
    instructions = [
        Row(
            each.task,
            {
                "instruction": Cell(each.instruction),
                "mean relative gain": Cell(each.gain.estimate, "difference"),
                "stability": Cell(each.stability.estimate, "rate"),
                "without chance": Cell(each.true_stability.estimate, "rate"),
            },
        )
        for each in compared.instructions
    ]
    top = [
        Row(instruction, {judge: Cell(hits.estimate, "rate") for judge, hits in by_judge.items()})
        for instruction, by_judge in compared.top.items()
    ]
    differences = [
        Row(
            each.task,
            {
                "first": Cell(each.first, "name"),
                "second": Cell(each.second, "name"),
                "difference": Cell(each.difference.estimate, "difference"),
            },
        )
        for each in compared.differences
    ]
    return [
        Table("Judges across instructions", "task", judges, _judges_note(compared)),
        Table("Instructions across judges", "task", instructions, _INSTRUCTIONS_NOTE),
        Table(f"Among the best {TOP} instructions", "instruction", top, _TOP_NOTE),
        Table("Differences in stability", "task", differences, _DIFFERENCES_NOTE),
    ]


def _judges_note(compared: InstructionComparison) -> str:
    return " ".join(
        [
            "Scores are in points, 100 × the metric. In brackets: 95 % intervals "
            f"({compared.resamples:,} draws of the Bayesian bootstrap over clusters, or as many as "
            f"the metric allows, the same for all judges and instructions; seed {compared.seed}). "
            "mean relative gain: in percent of the mean of all judges, as a mean over "
            f"instructions; – where the mean of the judges is below {LEAST_MEAN:g} point for an "
            "instruction. stability: the standard deviation over instructions; 0 is stable. "
            "without chance: the same without what the choice of the items adds to it. noise "
            "floor: the stability that repeating the question would give.",
            *compared.notes,
        ]
    )


_INSTRUCTIONS_NOTE = (
    "mean relative gain: in percent of the judge's mean over instructions, as a mean over judges; "
    f"– where the mean of a judge is below {LEAST_MEAN:g} point. stability: the standard deviation "
    "over judges."
)
_TOP_NOTE = (
    f"In percent: of {TOP} places on each task, how many the instruction takes. A judge's shares "
    "add up to 100; of equal scores, the later instruction is better."
)
_DIFFERENCES_NOTE = (
    "Stability of the first judge minus that of the second, both without chance and from the same "
    "draws; below 0, the first is more stable."
)


def instruction_records(compared: InstructionComparison) -> Iterator[dict[str, Any]]:
    """One record for each figure, with the fields :data:`RECORD_FIELDS`."""
    for row in compared.judges:
        about = {"task": row.task, "judge": row.judge}
        best = {"instruction": row.best, "chosen_on": row.chosen_on}
        yield _record("best_score", row.score, **about, **best)
        yield _record("model_gain", row.gain, **about)
        yield _record("model_stability", row.stability, **about)
        yield _record("model_stability_without_chance", row.true_stability, **about)
        yield _record("noise_floor", row.floor, **about)
    for each in compared.instructions:
        about = {"task": each.task, "instruction": each.instruction}
        yield _record("instruction_gain", each.gain, **about)
        yield _record("instruction_stability", each.stability, **about)
        yield _record("instruction_stability_without_chance", each.true_stability, **about)
    for instruction, by_judge in compared.top.items():
        for judge, hits in by_judge.items():
            yield _record("adaptability", hits, judge=judge, instruction=instruction)
    for pair in compared.differences:
        about = {"task": pair.task, "judge": pair.first, "second_judge": pair.second}
        yield _record("stability_difference", pair.difference, **about)


def _record(measure: str, score: Score, **about: str | None) -> dict[str, Any]:
    known = score.estimate
    values = {"value": known.value, "low": known.low, "high": known.high}
    return {**dict.fromkeys(RECORD_FIELDS), "measure": measure, **about, **values}
