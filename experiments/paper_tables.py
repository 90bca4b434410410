"""The scores of an experiment as the paper's tables: arms × tasks, in percent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mtrl_judge.common.files import write_json, write_text
from mtrl_judge.common.plain_yaml import yaml_mapping
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
    parser: int
    """The version of the parser that read the verdicts."""
    results: str
    """lmms-eval's file, relative to the experiment's folder."""
    run: str | None
    """The folder of the training, relative to the experiment's; None for the base model."""


@dataclass(frozen=True)
class SeedMean:
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


@dataclass(frozen=True)
class ArmScores:
    """One arm on the tasks of one role."""

    tasks: Mapping[str, SeedMean]
    mean: SeedMean | None
    """Over all tasks; None while one is missing."""
    null_rate: SeedMean | None
    paper: Mapping[str, float]
    """The paper's scores of the same arm, for tasks with real data."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of all arms, with the notes that a reader needs; written as JSON as it is."""

    metric: str
    tasks: Sequence[str]
    """In distribution, in the order of the columns; ``ood`` likewise."""
    ood: Sequence[str]
    in_distribution: Mapping[str, ArmScores]
    """By arm, in the order of the rows."""
    out_of_distribution: Mapping[str, ArmScores]
    conclusion: str
    notes: Sequence[str]
    scores: Sequence[Score]

    @property
    def tables(self) -> list[Table]:
        inside, outside = self.in_distribution, self.out_of_distribution
        return [
            _table(f"In distribution ({self.metric}, %)", inside, self.tasks),
            _table(f"Out of distribution ({self.metric}, %)", outside, self.ood, null_rates=True),
        ]

    def __str__(self) -> str:
        tables = [f"{table.title}\n\n{plain_text(table)}" for table in self.tables]
        return "\n\n".join([*tables, self.conclusion, *self.notes])


def compare(
    scores: Sequence[Score],
    arms: Sequence[str],
    tasks: Sequence[str],
    ood: Sequence[str],
    notes: Iterable[str] = (),
) -> Comparison:
    """The paper's comparison of these arms, in this order."""
    paper = yaml_mapping(PAPER)
    inside, outside = (_arm_scores(scores, arms, names, paper) for names in (tasks, ood))
    sources = {score.source for score in scores}
    metric = " or ".join(sorted({metric_name(score.metric) for score in scores}))
    general = [
        f"{metric} in percent. {MAJORITY}: always answering the most frequent label. null rate: "
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
    conclusion = _conclusion(inside, outside, len(ood))
    return Comparison(metric, tasks, ood, inside, outside, conclusion, [*general, *notes], scores)


def write_report(comparison: Comparison, folder: Path, origin: Mapping[str, Any]) -> None:
    """Write ``results.md``, ``results.json`` and ``results.csv``.

    Args:
        origin: recipe, base model and the like, for the JSON file.
    """
    parts = ["# Comparison", comparison.conclusion, markdown(comparison.tables)]
    parts += ["\n".join(f"- {note}" for note in comparison.notes)]
    parts += ["`results.json` and `results.csv` give the source of each score."]
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
    content = asdict(comparison)
    write_json(folder / "results.json", {**origin, **content})
    records = content["scores"]
    write_text(folder / "results.csv", csv_text(list(records[0]), records))


def _arm_scores(
    scores: Sequence[Score],
    arms: Sequence[str],
    tasks: Sequence[str],
    paper: Mapping[str, Any],
) -> dict[str, ArmScores]:
    """The majority-class baseline and the arms that have scores on these tasks."""
    here = [score for score in scores if score.task in tasks]
    # The baseline depends on the labels only, so it is the same for all arms.
    baseline = {
        score.task: replace(score, arm=MAJORITY, seed=None, value=score.majority, null_rate=None)
        for score in here
        if score.majority is not None
    }
    comparable = {s.task for s in here if s.source != SAMPLE and s.metric == PAPER_METRIC}
    rows = {}
    for arm in (MAJORITY, *arms):
        of_arm = [score for score in (*baseline.values(), *here) if score.arm == arm]
        if of_arm:
            means = {t: SeedMean.of(s.value for s in of_arm if s.task == t) for t in tasks}
            rows[arm] = ArmScores(
                {task: mean for task, mean in means.items() if mean is not None},
                _mean_over_tasks(of_arm, tasks, "value"),
                _mean_over_tasks(of_arm, tasks, "null_rate"),
                {t: v for t, v in paper[PAPER_METRIC].get(arm, {}).items() if t in comparable},
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
        sentences = [f"Out of distribution, {BASE} has to be evaluated first."]
    else:
        parts = [f"{BASE} {base.mean:.2f}"]
        for arm in (SFT, OURS):
            mean = outside[arm].mean if arm in outside else None
            if mean is None:
                parts.append(f"{arm} not evaluated on all of them")
                continue
            change = mean.mean - base.mean
            within = mean.spread is not None and abs(change) <= mean.spread
            certainty = ", within one standard deviation" if within else ""
            parts.append(f"{arm} {mean} ({change:+.2f} points{certainty})")
        tasks = f"{n_ood} task{'s' if n_ood > 1 else ''}"
        sentences = [f"Out of distribution, mean over {tasks}: {', '.join(parts)}."]
    known = [f"{arm} {row.mean}" for arm, row in inside.items() if row.mean and arm != MAJORITY]
    if known:
        sentences.append(f"In distribution, mean: {', '.join(known)}.")
    return " ".join(sentences)


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
        cells = {name: Cell(str(mean) if mean else None) for name, mean in means.items()}
        lines.append(Row(arm, {"seeds": Cell(seeds), **cells}))
        if row.paper:
            known = list(row.paper.values())
            mean = fmean(known) if row.paper.keys() >= set(tasks) else None
            numbers = {labels[task]: row.paper.get(task) for task in tasks} | {"mean": mean}
            paper = {name: Cell(format_number(number, 2)) for name, number in numbers.items()}
            lines.append(Row(f"{arm}, paper", {"seeds": Cell(""), **paper}))
    return Table(title, "judge", lines)
