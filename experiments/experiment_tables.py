"""The scores of an experiment as tables: arms × tasks, effects with intervals, and claims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeAlias

from mtrl_judge.common.files import write_json, write_text
from mtrl_judge.common.plain_yaml import yaml_mapping
from mtrl_judge.judge_tasks.spec import Role
from mtrl_judge.leaderboard.compare import score_results
from mtrl_judge.leaderboard.formats import ROLE_NAMES, format_number, metric_name, task_labels
from mtrl_judge.leaderboard.runs import Run, TaskResult
from mtrl_judge.leaderboard.scores import UNKNOWN, Score, mean
from mtrl_judge.leaderboard.stability import KEPT_RATE, agreeing_votes, kept_verdicts
from mtrl_judge.leaderboard.tables import Cell, Row, Table, csv_text, markdown, plain_text
from mtrl_judge.metrics.bootstrap import RESAMPLES, Estimate
from mtrl_judge.metrics.significance import holm

from .arms_file import HEADLINE, REPEATS, ArmsFile
from .effects import DecidedClaim, Effect, Unit, decide, effect

PAPER = Path(__file__).parent / "paper_results.yaml"
PAPER_METRIC = "macro_f1"
SAMPLE = (
    "sample"  # the source of rows of the sample corpus, which are not comparable to the paper's
)
MAJORITY = "majority-class baseline"
# Beside the headline metric and what an arms file names: judgments that repeat themselves, and that
# order items as people did.
_RATES = ("null_rate", "flip_rate", "spearman_human")
_PARAPHRASE = "paraphrase"


class Judged(NamedTuple):
    """The evaluation of one judge."""

    arm: str
    unit: Unit
    run: Run
    """With samples; its name is unique."""
    again: Mapping[str, Run]
    """Its evaluations under each condition of the arms file."""
    trained_in: str | None
    """The folder of its training; None for the base model."""


@dataclass(frozen=True)
class Record:
    """One judge on one task, and where its results are; rates in [0, 1], None where undefined."""

    arm: str
    corpus: int | None
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
class UnitMean:
    """A mean over corpora and seeds, in percent, with the standard deviation; None for one."""

    mean: float
    spread: float | None
    units: int

    @classmethod
    def of(cls, rates: Iterable[float | None]) -> UnitMean | None:
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

    tasks: Mapping[str, UnitMean]
    mean: UnitMean | None
    """Over all tasks; None while one is missing."""
    rates: Mapping[str, UnitMean]
    """The means of other rates over the tasks that have them."""
    paper: Mapping[str, float]
    """The paper's scores of the same arm, for tasks with real data."""


class ArmEffect(NamedTuple):
    """How an arm differs from the reference on the tasks of one role."""

    arm: str
    effect: Effect
    p_value: float | None
    """After Holm's correction over all arms."""


@dataclass(frozen=True)
class Comparison:
    """All arms on all tasks, with the notes that a reader needs; written as JSON as it is."""

    metric: str
    reference: str
    tasks: Mapping[Role, Sequence[str]]
    """In the order of the columns."""
    arms: Mapping[Role, Mapping[str, ArmScores]]
    """By arm, in the order of the rows."""
    effects: Mapping[Role, Sequence[ArmEffect]]
    claims: Sequence[DecidedClaim]
    notes: Sequence[str]
    records: Sequence[Record]

    @property
    def tables(self) -> list[Table]:
        made = [
            _table(f"{ROLE_NAMES[role].capitalize()} ({self.metric}, %)", self.arms[role], names)
            for role, names in self.tasks.items()
            if self.arms[role]
        ]
        made += [
            _effect_table(self.effects, self.reference, self.metric),
            _claim_table(self.claims),
        ]
        return [table for table in made if table.rows]

    def __str__(self) -> str:
        tables = [f"{table.title}\n\n{plain_text(table)}" for table in self.tables]
        return "\n\n".join([*tables, *self.notes])


UnitScores: TypeAlias = Mapping[str, Mapping[str, Score]]
"""Of one unit of an arm, by task and rate."""


def compare(
    judged: Sequence[Judged],
    file: ArmsFile,
    tasks: Mapping[Role, Sequence[str]],
    notes: Iterable[str] = (),
    *,
    folder: Path,
    resamples: int = RESAMPLES,
) -> Comparison:
    """The tables of evaluated arms.

    Args:
        judged: of each corpus, all judges of the same rows.
        tasks: by role, in the order of the columns.
        folder: of the experiment, to which the paths of files are relative.
    """
    scores = _scores(judged, file, resamples)
    records = [
        record for each in judged for record in _records(each, scores[each.arm][each.unit], folder)
    ]
    arms = {role: _arm_scores(scores, records, file, names) for role, names in tasks.items()}
    sources = {record.source for record in records}
    metric = " or ".join(sorted({metric_name(record.metric) for record in records}))
    return Comparison(
        metric,
        file.reference,
        tasks,
        arms,
        {role: _effects(scores, file, names) for role, names in tasks.items()},
        _claims(scores, file, tasks),
        [*_general_notes(sources, metric, file), *notes],
        records,
    )


def _scores(
    judged: Sequence[Judged], file: ArmsFile, resamples: int
) -> dict[str, dict[Unit, dict[str, dict[str, Score]]]]:
    """By arm, unit, task and rate; judges of one corpus share their draws."""
    rates = {*_RATES, *(claim.rate for claim in file.claims)} - {HEADLINE, *file.consistency}
    scores: dict[str, dict[Unit, dict[str, dict[str, Score]]]] = {}
    for corpus in dict.fromkeys(each.unit.corpus for each in judged):
        of_corpus = [each for each in judged if each.unit.corpus == corpus]
        results: dict[str, dict[str, TaskResult]] = {}
        repeated: dict[tuple[str, str], dict[str, TaskResult]] = {}
        for each in of_corpus:
            for task, result in each.run.tasks.items():
                results.setdefault(task, {})[each.run.name] = result
            for condition, run in each.again.items():
                for task, result in run.tasks.items():
                    same = (
                        agreeing_votes(result)
                        if condition == REPEATS
                        else kept_verdicts(each.run.tasks[task], result)
                    )
                    repeated.setdefault((task, condition), {})[each.run.name] = same
        headlines = {r.kind.headline for judges in results.values() for r in judges.values()}
        options: dict[str, Any] = {"resamples": resamples, "seed": corpus or 0}
        found = score_results(results, rates | headlines, **options)
        kept = score_results(
            {f"{task}, {condition}": judges for (task, condition), judges in repeated.items()},
            (KEPT_RATE,),
            **options,
        )
        for each in of_corpus:
            of_unit = scores.setdefault(each.arm, {}).setdefault(each.unit, {})
            for task, result in each.run.tasks.items():
                known = dict(found[task].scores[each.run.name])
                known[HEADLINE] = known.get(result.kind.headline, UNKNOWN)
                again: defaultdict[str, list[Score]] = defaultdict(list)
                for condition in each.again:
                    if each.run.name in repeated.get((task, condition), {}):
                        share = kept[f"{task}, {condition}"].scores[each.run.name][KEPT_RATE]
                        again[_family(condition)].append(share)
                of_unit[task] = {**known, **{name: _mean(s) for name, s in again.items()}}
    return scores


def _family(condition: str) -> str:
    """
    >>> _family("paraphrase_2"), _family("rerun")
    ('paraphrase', 'rerun')
    """
    return _PARAPHRASE if condition.startswith(f"{_PARAPHRASE}_") else condition


def _mean(scores: Sequence[Score]) -> Score:
    if not scores or any(score.value is None for score in scores):
        return UNKNOWN
    return mean(scores, [1.0] * len(scores))


def _role_means(
    scores: Mapping[str, Mapping[Unit, UnitScores]], tasks: Sequence[str], rate: str
) -> dict[str, dict[Unit, Score]]:
    """By arm and unit, the mean over the tasks for which any judge has the rate; without units that
    lack it for one of these."""
    every = [of_unit for units in scores.values() for of_unit in units.values()]
    having = [
        task
        for task in tasks
        if any(of_unit.get(task, {}).get(rate, UNKNOWN).value is not None for of_unit in every)
    ]
    means = {
        arm: {
            unit: _mean([of_unit.get(task, {}).get(rate, UNKNOWN) for task in having])
            for unit, of_unit in units.items()
        }
        for arm, units in scores.items()
    }
    return {
        arm: {unit: score for unit, score in units.items() if score.value is not None}
        for arm, units in means.items()
    }


def _effects(
    scores: Mapping[str, Mapping[Unit, UnitScores]], file: ArmsFile, tasks: Sequence[str]
) -> list[ArmEffect]:
    """Of each arm beside the reference."""
    means = _role_means(scores, tasks, HEADLINE)
    base = means.get(file.reference, {})
    found = {
        arm.name: difference
        for arm in file.arms
        if arm.name != file.reference
        for difference in [effect(means.get(arm.name, {}), base)]
        if difference is not None
    }
    adjusted = holm([each.p_value for each in found.values()])
    return list(map(ArmEffect, found, found.values(), adjusted))


def _claims(
    scores: Mapping[str, Mapping[Unit, UnitScores]],
    file: ArmsFile,
    tasks: Mapping[Role, Sequence[str]],
) -> list[DecidedClaim]:
    effects = []
    for claim in file.claims:
        means = _role_means(scores, tasks[claim.tasks], claim.rate)
        first, second = (means.get(name, {}) for name in claim.arms)
        effects.append(effect(first, second))
    return decide(file.claims, effects)


def _records(judged: Judged, scores: UnitScores, folder: Path) -> list[Record]:
    records = []
    for result in judged.run.tasks.values():
        metric = result.kind.headline
        value, null_rate, flip_rate = (
            scores[result.task].get(name, UNKNOWN).value
            for name in (HEADLINE, "null_rate", "flip_rate")
        )
        majority = result.rates.get(f"majority_{metric}", Estimate(None)).value
        records.append(
            Record(
                arm=judged.arm,
                corpus=judged.unit.corpus,
                seed=judged.unit.seed,
                task=result.task,
                metric=metric,
                value=value,
                majority=majority,
                null_rate=null_rate,
                flip_rate=flip_rate,
                n=result.n_rows,
                source=result.metadata["source"],
                fingerprint=result.metadata["fingerprint"],
                parser=result.parser,
                results=str(judged.run.file.relative_to(folder)),
                run=judged.trained_in,
            )
        )
    return records


def _general_notes(sources: Iterable[str], metric: str, file: ArmsFile) -> list[str]:
    notes = [
        f"{metric} in percent. {MAJORITY}: always answering the most frequent label. null rate: "
        "percent of answers without a verdict, which count as wrong. flip rate: pairs whose "
        "verdict changes when the two images trade places.",
        "±: standard deviation over corpora and training seeds (n − 1 in the denominator); scores "
        "without it are of one judge. The base model is not trained, and decoding is greedy "
        "where an arm does not sample.",
        "Differences are paired by item. Their 95 % intervals cover other items and other "
        "trainings; with one training, only other items. p-values are adjusted (Holm) over all "
        "arms, or over all claims.",
    ]
    if file.claims:
        notes.append(
            "A claim holds, or does not hold, if a one-sided test at 2.5 % says so after the "
            "adjustment; otherwise it cannot be decided. Two arms are the same only within the "
            "stated margin."
        )
    shown = {
        REPEATS: f"{REPEATS}: rows with the same verdict in two answers sampled at temperature 1.",
        **{
            name: f"{name}: rows that keep their verdict under this perturbation."
            for name in file.consistency
            if name != REPEATS
        },
    }
    notes += [shown[name] for name in file.consistency]
    notes.append(
        "spearman_human: Spearman correlation of the judge's verdict or probability with the "
        "ratings of the items."
    )
    paper = yaml_mapping(PAPER)
    if set(sources) - {SAMPLE}:
        notes.append(f"Rows 'paper': {paper['citation']}, with {paper['model']}.")
    if SAMPLE in sources:
        notes.append(
            "Source 'sample' is a generated corpus; its scores say nothing about real data. The "
            "tiny base model was taught to compare two images, so that on it the scores out of "
            "distribution measure what training on other tasks makes it forget."
        )
    return [*notes, *([file.note] if file.note else [])]


def write_report(comparison: Comparison, folder: Path, origin: Mapping[str, Any]) -> None:
    """Write ``results.md``, ``results.json`` and ``results.csv``.

    Args:
        origin: recipe, base model and the like, for the JSON file.
    """
    parts = ["# Comparison", markdown(comparison.tables)]
    parts += ["\n".join(f"- {note}" for note in comparison.notes)]
    parts += ["`results.json` and `results.csv` give the source of each score."]
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
    write_json(folder / "results.json", {**origin, **_content(comparison)})
    records = [asdict(record) for record in comparison.records]
    write_text(folder / "results.csv", csv_text(list(records[0]), records))


def _content(comparison: Comparison) -> dict[str, Any]:
    def of_effect(found: Effect | None) -> dict[str, Any] | None:
        return found and {"difference": asdict(found.difference), "units": found.units}

    return {
        **asdict(comparison),
        "effects": {
            role: [
                {"arm": each.arm, **(of_effect(each.effect) or {}), "p_value": each.p_value}
                for each in of_role
            ]
            for role, of_role in comparison.effects.items()
        },
        "claims": [
            {
                **each.claim.model_dump(),
                "effect": of_effect(each.effect),
                "p_for": each.p_for,
                "p_against": each.p_against,
                "outcome": each.outcome,
            }
            for each in comparison.claims
        ],
    }


def _arm_scores(
    scores: Mapping[str, Mapping[Unit, UnitScores]],
    records: Sequence[Record],
    file: ArmsFile,
    tasks: Sequence[str],
) -> dict[str, ArmScores]:
    """The majority-class baseline and the arms that have scores on these tasks."""
    here = [record for record in records if record.task in tasks]
    # The baseline depends on the labels only, so it is the same for all arms of a corpus.
    baseline = {
        (record.corpus, record.task): replace(
            record, arm=MAJORITY, seed=None, value=record.majority
        )
        for record in here
        if record.majority is not None
    }
    paper = yaml_mapping(PAPER)[PAPER_METRIC]
    comparable = {r.task for r in here if r.source != SAMPLE and r.metric == PAPER_METRIC}
    others = [*_RATES, *file.consistency]
    means = {rate: _role_means(scores, tasks, rate) for rate in (HEADLINE, *others)}
    rows = {}
    for arm in (MAJORITY, *(arm.name for arm in file.arms)):
        of_arm = [record for record in (*baseline.values(), *here) if record.arm == arm]
        if not of_arm:
            continue
        by_task = {t: UnitMean.of(r.value for r in of_arm if r.task == t) for t in tasks}
        of_units = [score.value for score in means[HEADLINE].get(arm, {}).values()]
        if arm == MAJORITY:
            of_units = _baseline_means(of_arm, tasks)
        known = {
            rate: UnitMean.of(score.value for score in means[rate].get(arm, {}).values())
            for rate in others
        }
        rows[arm] = ArmScores(
            {task: mean for task, mean in by_task.items() if mean is not None},
            UnitMean.of(of_units),
            {rate: mean for rate, mean in known.items() if mean is not None},
            {t: v for t, v in paper.get(arm, {}).items() if t in comparable},
        )
    return rows


def _baseline_means(records: Sequence[Record], tasks: Sequence[str]) -> list[float | None]:
    """Over all tasks, for each corpus that has all of them."""
    by_corpus: defaultdict[int | None, list[float]] = defaultdict(list)
    for record in records:
        if record.value is not None:
            by_corpus[record.corpus].append(record.value)
    return [fmean(values) for values in by_corpus.values() if len(values) == len(tasks)]


def _table(title: str, rows: Mapping[str, ArmScores], tasks: Sequence[str]) -> Table:
    labels = task_labels(tasks)
    rates = list(dict.fromkeys(rate for row in rows.values() for rate in row.rates))
    lines = []
    for arm, row in rows.items():
        counts = sorted({mean.units for mean in row.tasks.values()})
        judges = "" if arm == MAJORITY else "–".join(map(str, counts))
        means: dict[str, UnitMean | None] = {labels[task]: row.tasks.get(task) for task in tasks}
        means |= {
            "mean": row.mean,
            **{rate.replace("_", " "): row.rates.get(rate) for rate in rates},
        }
        cells = {name: Cell(str(mean) if mean else None) for name, mean in means.items()}
        lines.append(Row(arm, {"n": Cell(judges), **cells}))
        if row.paper:
            known = list(row.paper.values())
            whole = fmean(known) if row.paper.keys() >= set(tasks) else None
            numbers = {labels[task]: row.paper.get(task) for task in tasks} | {"mean": whole}
            paper = {name: Cell(format_number(number, 2)) for name, number in numbers.items()}
            lines.append(Row(f"{arm}, paper", {"n": Cell(""), **paper}))
    return Table(title, "arm", lines)


def _effect_table(
    effects: Mapping[Role, Sequence[ArmEffect]], reference: str, metric: str
) -> Table:
    names = dict.fromkeys(each.arm for of_role in effects.values() for each in of_role)
    rows = []
    for name in names:
        cells: dict[str, Cell] = {}
        for role, of_role in effects.items():
            for each in [each for each in of_role if each.arm == name]:
                cells[ROLE_NAMES[role]] = Cell(each.effect.difference, "difference")
                cells[f"p, {ROLE_NAMES[role]}"] = Cell(each.p_value, "p_value")
        rows.append(Row(name, cells))
    return Table(f"Difference from {reference} (mean {metric})", "arm", rows)


def _claim_table(claims: Sequence[DecidedClaim]) -> Table:
    rows = []
    for each in claims:
        claim, found = each.claim, each.effect
        p_value = min((p for p in (each.p_for, each.p_against) if p is not None), default=None)
        margin = "" if claim.margin is None else f" within {claim.margin:g}"
        cells = {
            "outcome": Cell(each.outcome),
            "first": Cell(claim.arms[0], "name"),
            "expected": Cell(f"{claim.expect}{margin}"),
            "second": Cell(claim.arms[1], "name"),
            "tasks": Cell(ROLE_NAMES[claim.tasks]),
            "rate": Cell(claim.rate),
            "difference": Cell(found.difference if found else None, "difference"),
            "n": Cell(found.units if found else None, "count"),
            "p": Cell(p_value, "p_value"),
        }
        rows.append(Row(claim.text, cells))
    return Table("Claims", "claim", rows)
