"""How judges do across instructions: the wordings of a task's question.

The measures are those of :mod:`mtrl_judge.metrics.instructions`, over runs that asked the same rows
the question itself and its paraphrases. All runs of a task share their draws of clusters, so every
measure is computed draw by draw.

Axis suffixes: J judges, I instructions, T tasks, B draws.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.instructions import (
    TOP,
    Floats,
    adaptability,
    instruction_gains,
    instruction_stability,
    model_gains,
    model_stability,
    noise_floor,
    spread_without_noise,
)

from .compare import score_results
from .compatibility import remarks, require_comparable, select_tasks, tasks_of
from .failures import MAX_FAILURES, require_few_failures
from .reading import short_names
from .runs import Run, TaskResult
from .scores import UNKNOWN, Score, mean, minus

QUESTION, RERUN = "question", "rerun"
MEAN = "mean of tasks"
ChosenOn: TypeAlias = Literal["validation", "the scored items"]
Measure: TypeAlias = Callable[[Floats], Floats]


class JudgeMeasures(NamedTuple):
    """One judge on one task. Scores are in points: 100 × the headline metric."""

    task: str
    judge: str
    metric: str
    instructions: int
    best: str | None
    """The instruction with the highest score; None where a score is undefined."""
    chosen_on: ChosenOn
    """Where it is the best. On the scored items themselves, its score is optimistic."""
    score: Score
    """With the best instruction."""
    gain: Score
    """Mean relative gain over all judges, in percent."""
    stability: Score
    """Standard deviation over instructions, as MM-BigBench has it; without an interval."""
    true_stability: Score
    """The same without what chance adds; unknown without draws."""
    floor: Score
    """The stability that repeating the question would give; unknown without a rerun."""


class InstructionMeasures(NamedTuple):
    """One instruction on one task."""

    task: str
    instruction: str
    gain: Score
    """Mean relative gain over all instructions, in percent."""
    stability: Score
    """Standard deviation over judges, without an interval."""
    true_stability: Score
    """The same without what chance adds; unknown without draws."""


class StabilityDifference(NamedTuple):
    """Two judges on the same rows and instructions."""

    task: str
    """Or :data:`MEAN`."""
    first: str
    second: str
    difference: Score
    """True stability of the first minus that of the second; below 0, the first is more stable."""


class InstructionComparison(NamedTuple):
    """All judges with all instructions."""

    judges: Sequence[JudgeMeasures]
    instructions: Sequence[InstructionMeasures]
    top: Mapping[str, Mapping[str, Score]]
    """By instruction and judge: how often it is among the judge's best three, in percent."""
    differences: Sequence[StabilityDifference]
    notes: Sequence[str]
    resamples: int
    seed: int


class _Points(NamedTuple):
    """The scores of a task."""

    task: str
    metric: str
    judges: Sequence[str]
    instructions: Sequence[str]
    points_J_I: Floats
    draws_J_B_I: Floats | None
    """None without intervals."""
    clusters: float
    reruns: Mapping[str, Score]
    """By judge, in points."""

    def of_judges(self, measure: Measure) -> list[Score]:
        """A measure of points J × T × I that is J × T, with every draw as a task."""
        values_J = measure(self.points_J_I[:, None])[:, 0]
        if self.draws_J_B_I is None:
            return [_score(value) for value in values_J]
        return self._with_draws(values_J, measure(self.draws_J_B_I))

    def of_instructions(self, measure: Measure) -> list[Score]:
        """The same for a measure that is T × I."""
        values_I = measure(self.points_J_I[:, None])[0]
        if self.draws_J_B_I is None:
            return [_score(value) for value in values_I]
        return self._with_draws(values_I, measure(self.draws_J_B_I).T)

    def _with_draws(self, values_X: Floats, draws_X_B: Floats) -> list[Score]:
        pairs = zip(values_X, draws_X_B, strict=True)
        return [_score(value, draws_B, self.clusters) for value, draws_B in pairs]

    def spread_of_judges(self) -> list[Score]:
        """The true stability of each judge."""
        if self.draws_J_B_I is None:
            return [UNKNOWN for _ in self.judges]
        return [
            _score(*spread_without_noise(points_I, draws_B_I), self.clusters)
            for points_I, draws_B_I in zip(self.points_J_I, self.draws_J_B_I, strict=True)
        ]

    def spread_of_instructions(self) -> list[Score]:
        """The same of each instruction."""
        if self.draws_J_B_I is None:
            return [UNKNOWN for _ in self.instructions]
        return [
            _score(*spread_without_noise(points_J, draws_B_J), self.clusters)
            for points_J, draws_B_J in zip(self.points_J_I.T, self.draws_J_B_I.T, strict=True)
        ]

    def score(self, judge: int, instruction: int) -> Score:
        value = self.points_J_I[judge, instruction]
        if self.draws_J_B_I is None:
            return _score(value)
        return _score(value, self.draws_J_B_I[judge, :, instruction], self.clusters)


def compare_instructions(
    runs: Sequence[Run],
    *,
    tasks: Sequence[str] = (),
    max_failures: float = MAX_FAILURES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> InstructionComparison:
    """Compare runs that asked in different words.

    Where a task has results of its validation split beside others, they choose the best instruction
    and are used for nothing else.

    Args:
        tasks: names or patterns; all tasks if empty.
        max_failures: the share of a task's rows whose request may have failed.

    Raises:
        JudgeError: no task was judged with several instructions, a run is there twice, or the runs
            cannot be compared.
    """
    known = select_tasks(runs, tasks)
    asked = [run for run in known if _instruction(run) is not None]
    left_out = sorted({_condition(run) for run in known if _instruction(run) is None})
    require_few_failures(asked, max_failures)
    scored, choosing = _by_purpose(asked)
    notes = [f"Not instructions, and left out: {', '.join(left_out)}."] if left_out else []
    for each in (scored, choosing):
        _require_comparable(each)
    notes += remarks(scored)
    judges_of = short_names([run.model for run in asked])
    points = _all_points(scored, judges_of, notes, resamples=resamples, seed=seed)
    if not points:
        raise JudgeError(
            "--instructions: no task was judged with several instructions; expected the folders of "
            "`mtrl-judge robustness --perturbations paraphrase,rerun`"
        )
    chosen = _all_points(choosing, judges_of, [], resamples=resamples, seed=seed)
    by_task = {each.task: each for each in chosen}
    judges = [row for each in points for row in _judges(each, by_task.get(each.task))]
    instructions = [row for each in points for row in _instructions(each)]
    if any(row.chosen_on != "validation" for row in judges):
        notes.append(
            "Where the best instruction was chosen on the scored items themselves, its score is "
            "optimistic: also give the folder of a run with --split validation."
        )
    return InstructionComparison(
        judges, instructions, _top(points, notes), _differences(judges), notes, resamples, seed
    )


# Which run is what


def _condition(run: Run) -> str:
    """What was changed; all tasks of a run have it in common."""
    return next(str(r.metadata.get("perturbation") or QUESTION) for r in run.tasks.values())


def _instruction(run: Run) -> str | None:
    """The instruction of a run, or the repetition of one; None if something else was changed."""
    condition = _condition(run)
    known = condition in (QUESTION, RERUN) or re.fullmatch(r"paraphrase_[1-9]\d*", condition)
    return condition if known else None


def _on_validation(result: TaskResult) -> bool:
    return result.metadata.get("split") == "validation"


def _by_purpose(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The results that are scored, and those that only choose the best instruction.

    A task without a test split is evaluated on its validation split.
    """
    tested = {
        name for run in runs for name, result in run.tasks.items() if not _on_validation(result)
    }
    purposes: tuple[list[Run], list[Run]] = [], []
    for run in runs:
        chooses = [name for name, r in run.tasks.items() if name in tested and _on_validation(r)]
        for purpose, names in zip(purposes, (run.tasks.keys() - {*chooses}, chooses), strict=True):
            if names:
                purpose.append(run.with_tasks([name for name in run.tasks if name in names]))
    return purposes


def _require_comparable(runs: Sequence[Run]) -> None:
    """As for a leaderboard, but for the instruction; runs of one instruction asked the same."""
    advice = "leave some out (--tasks, other paths)"
    require_comparable(runs, ["perturbation"], advice)
    for instruction in {_condition(run) for run in runs}:
        require_comparable([run for run in runs if _condition(run) == instruction], (), advice)


# From runs to points


def _all_points(
    runs: Sequence[Run],
    judges_of: Mapping[str, str],
    notes: list[str],
    *,
    resamples: int,
    seed: int,
) -> list[_Points]:
    """The points of each task that was judged with several instructions; notes of what is missing
    are added.

    Args:
        judges_of: the judge's name, by model.
    """
    results = {
        task: {run.name: run.tasks[task] for run in runs if task in run.tasks}
        for task in tasks_of(runs)
    }
    metrics = {result.kind.headline for by_run in results.values() for result in by_run.values()}
    scored = score_results(results, metrics, resamples=resamples, seed=seed)
    found = []
    for task, by_run in results.items():
        metric = next(iter(by_run.values())).kind.headline
        names: dict[str, dict[str, str]] = {}  # by judge and condition
        for run in runs:
            if run.name in by_run:
                of_judge = names.setdefault(judges_of[run.model], {})
                if other := of_judge.get(_condition(run)):
                    raise JudgeError(
                        f"{run.file}: {run.model} has judged {task} with {_condition(run)} before "
                        f"({other}); give one run of each instruction"
                    )
                of_judge[_condition(run)] = run.name
        shared = set.intersection(*(of_judge.keys() - {RERUN} for of_judge in names.values()))
        every = {each for of_judge in names.values() for each in of_judge} - {RERUN}
        instructions = sorted(shared, key=_place)
        if missing := sorted(every - shared, key=_place):
            notes.append(f"{task}: not all judges have {', '.join(missing)}, which are left out.")
        if len(instructions) < 2:
            continue
        scores = {
            judge: {
                condition: _in_points(scored[task].scores[name].get(metric, UNKNOWN))
                for condition, name in of_judge.items()
            }
            for judge, of_judge in names.items()
        }
        found.append(_points(task, metric, instructions, scores))
    return found


def _place(instruction: str) -> int:
    return 0 if instruction == QUESTION else int(instruction.rpartition("_")[2])


def _points(
    task: str,
    metric: str,
    instructions: Sequence[str],
    scores: Mapping[str, Mapping[str, Score]],
) -> _Points:
    table = [[of_judge[each] for each in instructions] for of_judge in scores.values()]
    flat = [score for of_judge in table for score in of_judge]
    draws = [score.draws_B for score in flat if score.draws_B is not None]
    draws_J_B_I = None
    if len(draws) == len(flat):
        shape = len(table), len(instructions), -1
        draws_J_B_I = np.stack(draws).reshape(shape).swapaxes(1, 2)
    values = [[np.nan if s.value is None else s.value for s in of_judge] for of_judge in table]
    return _Points(
        task,
        metric,
        list(scores),
        instructions,
        np.array(values),
        draws_J_B_I,
        min(score.clusters for score in flat),
        {judge: of_judge[RERUN] for judge, of_judge in scores.items() if RERUN in of_judge},
    )


def _in_points(score: Score) -> Score:
    if score.value is None:
        return UNKNOWN
    if score.draws_B is None:
        return _score(100 * score.value)
    return _score(100 * score.value, 100 * score.draws_B, score.clusters)


def _score(value: float, draws_B: Floats | None = None, clusters: float = 0) -> Score:
    defined = None if np.isnan(value) else float(value)
    return Score.of(defined, np.empty(0) if draws_B is None else draws_B, clusters)


# From points to measures


def _judges(points: _Points, chosen: _Points | None) -> Iterator[JudgeMeasures]:
    gains, spread = points.of_judges(model_gains), points.spread_of_judges()
    stability_J = model_stability(points.points_J_I[:, None])[:, 0]
    for judge, name in enumerate(points.judges):
        chooser = chosen if chosen is not None and name in chosen.judges else points
        best = _best(chooser, name, points.instructions)
        yield JudgeMeasures(
            points.task,
            name,
            points.metric,
            len(points.instructions),
            best,
            "the scored items" if chooser is points else "validation",
            UNKNOWN if best is None else points.score(judge, points.instructions.index(best)),
            gains[judge] if len(points.judges) > 1 else UNKNOWN,
            _score(stability_J[judge]),
            spread[judge],
            _floor(points, judge),
        )


def _best(points: _Points, judge: str, among: Sequence[str]) -> str | None:
    """The instruction with the judge's highest score; of equal ones, the first."""
    of_judge_I = points.points_J_I[points.judges.index(judge)]
    known = {
        name: value
        for name, value in zip(points.instructions, of_judge_I, strict=True)
        if name in among and not np.isnan(value)
    }
    return max(known, key=lambda name: known[name], default=None)


def _floor(points: _Points, judge: int) -> Score:
    """What repeating the question says of the spread over instructions."""
    again = points.reruns.get(points.judges[judge])
    if again is None or QUESTION not in points.instructions:
        return UNKNOWN
    before = points.score(judge, points.instructions.index(QUESTION))
    if before.value is None or again.value is None:
        return UNKNOWN
    n = len(points.instructions)
    value = float(noise_floor(np.array(before.value), np.array(again.value), n))
    if before.draws_B is None or again.draws_B is None:
        return _score(value)
    draws_B = noise_floor(before.draws_B, again.draws_B, n)
    return _score(value, draws_B, min(before.clusters, again.clusters))


def _instructions(points: _Points) -> Iterator[InstructionMeasures]:
    gains, spread = points.of_instructions(instruction_gains), points.spread_of_instructions()
    stability_I = instruction_stability(points.points_J_I[:, None])[0]
    several = len(points.judges) > 1
    for place, name in enumerate(points.instructions):
        stability = _score(stability_I[place]) if several else UNKNOWN
        true_stability = spread[place] if several else UNKNOWN
        yield InstructionMeasures(points.task, name, gains[place], stability, true_stability)


def _top(points: Sequence[_Points], notes: list[str]) -> dict[str, dict[str, Score]]:
    """Over the tasks that have every instruction, of the judges that have all of these tasks."""
    every = max((each.instructions for each in points), key=len)
    complete = [each for each in points if each.instructions == every]
    if len(every) <= TOP:
        notes.append(
            f"With {len(every)} instructions, nothing says which are among the best {TOP}."
        )
        return {}
    if len(complete) < len(points):
        names = ", ".join(each.task for each in complete)
        notes.append(f"The best {TOP} instructions are counted over {names}: others have fewer.")
    judges = [
        judge for judge in complete[0].judges if all(judge in each.judges for each in complete)
    ]
    places = [[each.judges.index(judge) for judge in judges] for each in complete]
    values_J_I = adaptability(
        np.stack([e.points_J_I[of] for e, of in zip(complete, places, strict=True)], axis=1)
    )
    draws = [each.draws_J_B_I for each in complete]
    scores = [[_score(value) for value in of_judge_I] for of_judge_I in values_J_I]
    known = [of_task for of_task in draws if of_task is not None]
    if judges and len(known) == len(complete):
        least = min(of_task.shape[1] for of_task in known)  # some metrics have fewer draws
        hits_B_J_I = np.stack(
            [
                adaptability(
                    np.stack([t[of, b] for t, of in zip(known, places, strict=True)], axis=1)
                )
                for b in range(least)
            ]
        )
        clusters = min(each.clusters for each in complete)
        scores = [
            [_score(value, hits_B_J_I[:, j, i], clusters) for i, value in enumerate(values_J_I[j])]
            for j in range(len(judges))
        ]
    return {
        name: {judge: scores[j][i] for j, judge in enumerate(judges)}
        for i, name in enumerate(every)
    }


def _differences(rows: Sequence[JudgeMeasures]) -> list[StabilityDifference]:
    """Of each pair of judges on each task, and on the mean of the tasks that all judges have."""
    by_task: dict[str, dict[str, Score]] = {}
    for row in rows:
        if row.true_stability.value is not None:
            by_task.setdefault(row.task, {})[row.judge] = row.true_stability
    judges = list(dict.fromkeys(row.judge for row in rows))
    common = [of_task for of_task in by_task.values() if len(of_task) == len(judges)]
    if len(common) > 1:
        by_task[MEAN] = {
            judge: mean([of_task[judge] for of_task in common], [1.0] * len(common))
            for judge in judges
        }
    return [
        StabilityDifference(task, first, second, minus(of_task[first], of_task[second]))
        for task, of_task in by_task.items()
        for first, second in combinations(of_task, 2)
    ]
