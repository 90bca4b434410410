"""The scores of an experiment as the paper's tables: arms × tasks, in percent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import yaml

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import write_json, write_text
from mtrl_judge.leaderboard.formats import format_number, metric_name, task_labels
from mtrl_judge.leaderboard.tables import Cell, Row, Table, csv_text, markdown, plain_text

PAPER = Path(__file__).parent / "paper.yaml"
PAPER_METRIC = "macro_f1"
SAMPLE = (
    "sample"  # the source of rows of the sample corpus, which are not comparable to the paper's
)
BASE, SFT, OURS = "off the shelf", "SFT-Unified", "MT-RL-Judge"
MAJORITY = "majority-class baseline"


@dataclass(frozen=True)
class Score:
    """One judge on one task, and where its results are; rates in [0, 1], None where undefined."""

    arm: str
    seed: int | None
    """Of the training; None for the base model."""
    task: str
    metric: str
    """The headline metric of the task, which ``value`` is."""
    value: float | None
    majority: float | None
    """The same metric of the majority-class baseline."""
    null_rate: float | None
    flip_rate: float | None
    n: int | None
    """Evaluated rows."""
    source: str
    fingerprint: str
    results: str
    """lmms-eval's file, relative to the experiment's folder."""
    run: str | None
    """The folder of the training, relative to the experiment's; None for the base model."""


class SeedMean(NamedTuple):
    """A mean over seeds, in percent, with the standard deviation; None for one seed."""

    mean: float
    spread: float | None
    seeds: int

    @classmethod
    def of(cls, rates: Iterable[float | None]) -> SeedMean | None:
        """Of rates in [0, 1]; None if there are none."""
        percents = [100 * rate for rate in rates if rate is not None]
        if not percents:
            return None
        return cls(fmean(percents), stdev(percents) if len(percents) > 1 else None, len(percents))

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {format_number(self.spread, 2)}"
        return f"{format_number(self.mean, 2)}{spread}"


class ArmScores(NamedTuple):
    """One arm on the tasks of one role."""

    tasks: Mapping[str, SeedMean]
    mean: SeedMean | None
    """Over all tasks; None while one is missing."""
    null_rate: SeedMean | None
    paper: Mapping[str, float]
    """The paper's scores of the same arm, for tasks with real data."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of all arms, with the notes that a reader needs."""

    in_distribution: Mapping[str, ArmScores]
    out_of_distribution: Mapping[str, ArmScores]
    tables: Sequence[Table]
    """The same two, as tables."""
    conclusion: str
    notes: Sequence[str]
    scores: Sequence[Score]

    def __str__(self) -> str:
        tables = [f"{table.title}\n\n{plain_text(table)}" for table in self.tables]
        return "\n\n".join([*tables, self.conclusion, *self.notes])


def compare(
    scores: Sequence[Score],
    arms: Sequence[str],
    tasks: Sequence[str],
    ood: Sequence[str],
    notes: Sequence[str] = (),
) -> Comparison:
    """The paper's comparison of these arms, in this order.

    Args:
        tasks: in distribution, in the order of the columns; ``ood`` likewise.

    Raises:
        JudgeError: the arms were not evaluated on the same rows.
    """
    _check_same_rows(scores)
    paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    inside, outside = (
        _arm_scores(scores, arms, names, paper[PAPER_METRIC]) for names in (tasks, ood)
    )
    sources = {score.source for score in scores}
    metrics = " or ".join(sorted({metric_name(score.metric) for score in scores}))
    general = [
        f"{metrics} in percent. {MAJORITY}: always answering the most frequent label. null rate: "
        "percent of answers without a verdict, which count as wrong.",
        "±: standard deviation over training seeds (n − 1 in the denominator); scores without it "
        f"are of one seed. {BASE} has no seed: it is not trained, and decoding is greedy.",
    ]
    if sources - {SAMPLE}:
        general.append(f"Rows 'paper': {paper['citation']}, with {paper['model']}.")
    if SAMPLE in sources:
        general.append(
            "Source 'sample' is a generated corpus; its scores say nothing about real data."
        )
    return Comparison(
        inside,
        outside,
        [
            _table(f"In distribution ({metrics}, %)", inside, tasks),
            _table(f"Out of distribution ({metrics}, %)", outside, ood, null_rates=True),
        ],
        _conclusion(inside, outside, len(ood)),
        [*general, *notes],
        scores,
    )


def write_report(comparison: Comparison, folder: Path, origin: Mapping[str, Any]) -> None:
    """Write ``results.md``, ``results.json`` and ``results.csv``.

    Args:
        origin: recipe, base model and the like, for the JSON file.
    """
    parts = ["# Comparison", comparison.conclusion, markdown(comparison.tables)]
    parts += ["\n".join(f"- {note}" for note in comparison.notes)]
    parts += ["`results.json` and `results.csv` give the source of each score."]
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
    scores = [asdict(score) for score in comparison.scores]
    write_text(folder / "results.csv", csv_text(list(scores[0]), scores))
    written = {
        **origin,
        "conclusion": comparison.conclusion,
        "notes": list(comparison.notes),
        "in_distribution": _plain(comparison.in_distribution, comparison.scores),
        "out_of_distribution": _plain(comparison.out_of_distribution, comparison.scores),
        "scores": scores,
    }
    write_json(folder / "results.json", written)


def _check_same_rows(scores: Sequence[Score]) -> None:
    first: dict[str, Score] = {}
    for score in scores:
        other = first.setdefault(score.task, score)
        if (score.fingerprint, score.n) != (other.fingerprint, other.n):
            raise JudgeError(
                f"{score.task}: evaluated on different rows: {other.n} ({other.fingerprint}) in "
                f"{other.results}, {score.n} ({score.fingerprint}) in {score.results}; remove the "
                "folders of the outdated ones and run the command again"
            )


def _arm_scores(
    scores: Sequence[Score],
    arms: Sequence[str],
    tasks: Sequence[str],
    paper: Mapping[str, Mapping[str, float]],
) -> dict[str, ArmScores]:
    """The majority-class baseline and the arms that have scores on these tasks."""
    own = [score for score in scores if score.task in tasks]
    # The baseline depends on the labels only, so it is the same for all arms.
    baseline = {
        score.task: replace(score, arm=MAJORITY, seed=None, value=score.majority, null_rate=None)
        for score in own
        if score.majority is not None
    }
    comparable = {s.task for s in own if s.source != SAMPLE and s.metric == PAPER_METRIC}
    rows = {}
    for arm in (MAJORITY, *arms):
        of_arm = [score for score in (*baseline.values(), *own) if score.arm == arm]
        if of_arm:
            means = {t: SeedMean.of(s.value for s in of_arm if s.task == t) for t in tasks}
            rows[arm] = ArmScores(
                {task: mean for task, mean in means.items() if mean is not None},
                _mean_over_tasks(of_arm, tasks, "value"),
                _mean_over_tasks(of_arm, tasks, "null_rate"),
                {t: v for t, v in paper.get(arm, {}).items() if t in comparable},
            )
    return rows


def _mean_over_tasks(scores: Sequence[Score], tasks: Sequence[str], rate: str) -> SeedMean | None:
    """The mean over all tasks, for the seeds that have all of them."""
    by_seed: defaultdict[int | None, dict[str, float]] = defaultdict(dict)
    for score in scores:
        value = getattr(score, rate)
        if value is not None:
            by_seed[score.seed][score.task] = value
    return SeedMean.of(
        fmean(values.values()) for values in by_seed.values() if len(values) == len(tasks)
    )


def _conclusion(
    inside: Mapping[str, ArmScores], outside: Mapping[str, ArmScores], n_ood: int
) -> str:
    """What the scores say about the paper's claim, in one paragraph."""
    base = outside[BASE].mean if BASE in outside else None
    if base is None:
        sentences = [
            f"Out of distribution, {BASE} has to be evaluated before anything can be said."
        ]
    else:
        tasks = f"{n_ood} task{'s' if n_ood > 1 else ''}"
        sentences = [f"Out of distribution, mean over {tasks}: {BASE} {base.mean:.2f}."]
        for arm in (SFT, OURS):
            mean = outside[arm].mean if arm in outside else None
            sentences.append(f"{arm} {_against(base.mean, mean)}.")
    known = [f"{arm} {row.mean}" for arm, row in inside.items() if row.mean and arm != MAJORITY]
    if known:
        sentences.append(f"In distribution, mean: {', '.join(known)}.")
    return " ".join(sentences)


def _against(base: float, mean: SeedMean | None) -> str:
    if mean is None:
        return "has not been evaluated on all of them"
    change = mean.mean - base
    if abs(change) < 0.005:  # equal in all digits shown
        return f"matches it ({mean}, no change)"
    if mean.spread is None:
        verb, certainty = "", "one seed, spread unknown"
    elif abs(change) <= mean.spread:
        verb = "matches it"
        certainty = f"within the standard deviation over {mean.seeds} seeds, {mean.spread:.2f}"
    else:
        verb = ""
        certainty = f"more than the standard deviation over {mean.seeds} seeds, {mean.spread:.2f}"
    verb = verb or ("exceeds it" if change > 0 else "falls below it")
    return f"{verb} ({mean.mean:.2f}, {change:+.2f} points, {certainty})"


def _table(
    title: str, rows: Mapping[str, ArmScores], tasks: Sequence[str], *, null_rates: bool = False
) -> Table:
    labels = task_labels(tasks)
    lines = []
    for arm, row in rows.items():
        counts = sorted({mean.seeds for mean in row.tasks.values()})
        seeds = "" if arm in (MAJORITY, BASE) else "–".join(map(str, counts))
        means: dict[str, SeedMean | None] = {labels[task]: row.tasks.get(task) for task in tasks}
        means |= {"mean": row.mean, **({"null rate": row.null_rate} if null_rates else {})}
        cells = {name: Cell(mean and str(mean)) for name, mean in means.items()}
        lines.append(Row(arm, {"seeds": Cell(seeds), **cells}))
        if row.paper:
            known = list(row.paper.values())
            mean = fmean(known) if row.paper.keys() >= set(tasks) else None
            numbers = {labels[task]: row.paper.get(task) for task in tasks} | {"mean": mean}
            paper = {name: Cell(format_number(number, 2)) for name, number in numbers.items()}
            lines.append(Row(f"{arm}, paper", {"seeds": Cell(""), **paper}))
    return Table(title, "judge", lines)


def _plain(rows: Mapping[str, ArmScores], scores: Sequence[Score]) -> dict[str, Any]:
    """The rows as JSON, with the files that each cell comes from."""
    plain = {}
    for arm, row in rows.items():
        tasks: dict[str, Any] = {}
        for task, mean in row.tasks.items():
            files = [s.results for s in scores if s.arm == arm and s.task == task]
            tasks[task] = mean._asdict() | ({"results": files} if files else {})
            if task in row.paper:
                tasks[task]["paper"] = row.paper[task]
        plain[arm] = {
            "tasks": tasks,
            "mean": row.mean and row.mean._asdict(),
            "null_rate": row.null_rate and row.null_rate._asdict(),
        }
    return plain
