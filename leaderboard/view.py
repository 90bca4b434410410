"""What the leaderboard, the gate and the robustness runs show: tables of values.

Each table is built once, whatever it is written as; see :mod:`.tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from math import ceil
from typing import Any, NamedTuple

from mtrl_judge.judge_tasks.kinds import KINDS, Kind
from mtrl_judge.judge_tasks.verdicts import read_reasoning
from mtrl_judge.metrics.bootstrap import MIN_ROWS_OF_CLASS, Estimate
from mtrl_judge.metrics.drawn import DRAWN_RESAMPLES
from mtrl_judge.metrics.groups import GROUP_MEANS
from mtrl_judge.metrics.joint import JOINT_ACCURACY
from mtrl_judge.metrics.perception import NGRAM, distinct_ngrams
from mtrl_judge.metrics.rates import ANSWERED_RATES

from .analyses import Confidence, analyses, confidences
from .board import OVERALL, Column, Leaderboard
from .compare import FROM_ROWS, PerturbationEffect
from .compatibility import ROLES, tasks_of
from .formats import ROLE_NAMES, format_date, metric_name, metric_names, one_line, task_labels
from .gate import Gate
from .runs import Run, TaskResult
from .tables import Cell, CellKind, Labels, Row, RowStyle, Table

MAJORITY, CONSTANT = "majority-class baseline", "best constant verdict"
# With more judges a table has one row per judge, as leaderboards do; with fewer, one per task.
SIDE_BY_SIDE = 3
TIDY_FIELDS = (
    "judge", "task", "group", "role", "rate", "value", "low", "high",
    "best_rank", "worst_rank", "n", "clusters", "n_failed", "n_refused",
)  # fmt: skip
_PLANNED = (0.1, 0.05, 0.02)  # differences for which the power table says how many rows they need


class View(NamedTuple):
    """All tables of a leaderboard."""

    labels: Labels
    """Of the tasks, for tables whose readers know what they have in common."""
    scores: Table
    unanswered: Table
    means: Table
    pairs: Table
    disagreements: Table
    analyses: Sequence[Table]
    confidences: Sequence[Confidence]

    @property
    def tables(self) -> Sequence[Table]:
        return (
            self.scores,
            self.unanswered,
            self.means,
            self.pairs,
            self.disagreements,
            *self.analyses,
        )


def build_view(board: Leaderboard, *, full: bool, power: bool = False) -> View:
    """The tables of a leaderboard.

    Args:
        full: all of them, also those that take longer.
        power: also which differences the tasks can show, and how many rows smaller ones need.

    Raises:
        JudgeError: the probabilities in a sample file are invalid.
    """
    labels = task_labels([task.name for task in board.tasks])
    scores, unanswered, means = score_table(board), unanswered_table(board), mean_table(board)
    planned = power_table(board)
    if not full:
        nothing = Table("", "", ())
        analysed = (planned,) if power else ()
        return View(labels, scores, unanswered, means, nothing, nothing, analysed, ())
    known = confidences(board.runs)
    detailed = (class_table(board), *detail_tables(board), planned, *analyses(board, known))
    return View(
        labels,
        scores,
        unanswered,
        means,
        pair_table(board),
        disagreement_table(board),
        [table for table in detailed if table.is_known],
        known,
    )


# The leaderboard


def score_table(board: Leaderboard) -> Table:
    """The metric of every judge on every task, the means, and the generalization gap."""
    columns: dict[str, Column] = {}
    styles: dict[str, RowStyle] = {}
    for role in ROLES:
        columns |= {task.name: task for task in board.tasks if task.role == role}
        for mean in board.means:
            if mean.role == role:
                title = f"mean {ROLE_NAMES[role]}"
                columns[title] = mean
                styles |= {title: "mean", "gap": "mean"}
    rows = []
    for run in board.runs:
        cells = {title: _score(column, run.name) for title, column in columns.items()}
        if board.gaps:
            cells["gap"] = Cell(board.gaps.get(run.name), "difference")
        rows.append(Row(run.name, cells))
    if any(task.majority is not None for task in board.tasks):
        baseline = {title: Cell(column.majority, "rate") for title, column in columns.items()}
        compared = {task.metric for task in board.tasks if task.majority is not None}
        title = MAJORITY if compared == {"macro_f1"} else CONSTANT
        rows.append(Row(title, baseline, "baseline"))
    counts = {
        title: Cell(sorted({n for n in column.n.values() if n is not None}), "count")
        for title, column in columns.items()
    }
    if any(cell.value for cell in counts.values()):
        rows.append(Row("n", counts, "baseline"))
    for title in ("failed", "refused"):
        by_column = {name: _unanswered(board, column, title) for name, column in columns.items()}
        if any(map(any, by_column.values())):
            cells = {name: Cell(found, "count") for name, found in by_column.items()}
            rows.append(Row(title, cells, "baseline"))
    if len(board.metrics) > 1:
        names = {name: Cell(metric_name(column.metric)) for name, column in columns.items()}
        rows.append(Row("metric", names, "baseline"))
    for title, value_of, kind in _FOOTER:
        values = {name: Cell(value_of(column), kind) for name, column in columns.items()}
        if any(cell.value is not None for cell in values.values()):
            rows.append(Row(title, values, "baseline"))
    note = (
        f"In brackets: 95 % intervals ({_draws(board)} draws of the Bayesian bootstrap over "
        f"independent clusters, seed {board.seed}). #: the ranks that a judge may have; judges "
        f"rank one above the other if their difference is significant ({_test(board)}, "
        "p < 0.05 after Holm over the pairs of a column) and so are those of all judges beyond "
        "them; bold: no judge ranks above. detectable: the difference that two judges would show "
        "significantly with a probability of 80 %. gap: generalization gap, mean in distribution "
        "minus mean out of distribution."
    )
    table = Table(metric_names(board.metrics), "judge", rows, " ".join([note, *board.notes]))
    return table.transposed("task", styles) if len(board.runs) <= SIDE_BY_SIDE else table


def _draws(board: Leaderboard) -> str:
    every, fewer = f"{board.resamples:,}", f"{min(board.resamples, DRAWN_RESAMPLES):,}"
    from_rows = [metric for metric in board.metrics if metric in FROM_ROWS]
    if not from_rows or fewer == every:
        return every
    if len(from_rows) == len(board.metrics):
        return fewer
    return f"{every} ({metric_names(from_rows)}: {fewer})"


def _test(board: Leaderboard) -> str:
    from_counts = "paired randomization test, exact for few discordant clusters"
    from_rows = [metric for metric in board.metrics if metric in FROM_ROWS]
    if not from_rows:
        return from_counts
    if len(from_rows) == len(board.metrics):
        return "bootstrap"
    return f"{from_counts} ({metric_names(from_rows)}: bootstrap)"


def _score(column: Column, judge: str) -> Cell:
    rank = column.ranks.get(judge) if len(column.ranks) > 1 else None
    bold = rank is not None and rank.best == 1
    return Cell(column.estimate(judge, column.metric), "rate", rank, bold)


def _unanswered(board: Leaderboard, column: Column, state: str) -> list[int]:
    """How many rows of a task failed or were refused, from the fewest of a judge to the most."""
    results = [run.tasks[column.name] for run in board.runs if column.name in run.tasks]
    return sorted({getattr(result, f"n_{state}") for result in results})


_FOOTER: Sequence[tuple[str, Callable[[Column], float | int | None], CellKind]] = (
    ("clusters", lambda column: column.clusters, "count"),
    ("detectable", lambda column: column.detectable, "rate"),
)


def unanswered_table(board: Leaderboard) -> Table:
    """The judges whose requests failed or were refused, with their scores without those rows."""
    rows = []
    for task in board.tasks:
        answered, name = f"{task.metric}_answered", metric_name(task.metric)
        for run in board.runs:
            result = run.tasks.get(task.name)
            if result is None or not (result.n_failed or result.n_refused):
                continue
            cells = {
                "failed": Cell(result.n_failed, "count", of=result.n_rows),
                "refused": Cell(result.n_refused, "count", of=result.n_rows),
                name: Cell(task.estimate(run.name, task.metric), "rate"),
            }
            if answered in ANSWERED_RATES:
                among = task.estimate(run.name, answered)
                cells[f"{name} of rows with a verdict"] = Cell(among, "rate")
            rows.append(Row(run.name, cells, group=task.name))
    note = (
        "failed: rows without an answer because the request failed; no rate counts them. refused: "
        "by a content filter; they count as missing verdicts."
    )
    return Table("Requests without an answer", "judge", rows, note, group="task")


def mean_table(board: Leaderboard) -> Table:
    """For each judge and role: means over tasks, and the accuracy over all rows."""
    rates = {
        f"{metric_name(board.metric)}, mean of tasks": board.metric,
        "accuracy, mean of tasks": "accuracy",
        "accuracy, all rows": OVERALL,
        "flip rate": "flip_rate",
        "null rate": "null_rate",
    }
    known = {rate for mean in board.means for rates in mean.scores.values() for rate in rates}
    rows = [
        Row(
            run.name,
            {
                "tasks": Cell(ROLE_NAMES[mean.role]),
                **{
                    title: Cell(mean.estimate(run.name, rate), "rate")
                    for title, rate in rates.items()
                    if rate in known
                },
                "n": Cell(mean.n[run.name], "count"),
            },
        )
        for run in board.runs
        for mean in board.means
        if run.name in mean.n
    ]
    note = (
        "A mean of tasks weights all tasks equally; accuracy over all rows weights each by its n. "
        "Missing verdicts count as wrong. A pair is flipped if its verdicts in the two orders "
        "do not prefer the same candidate."
    )
    return Table("Means", "judge", rows, note)


def pair_table(board: Leaderboard) -> Table:
    """Each pair of judges on each task and on the means."""
    difference = "difference"
    if len(board.metrics) == 1:
        difference = f"{metric_names(board.metrics)} difference"
    rows = []
    for column in board.columns:
        for pair in column.comparisons:
            cells = {
                "second": Cell(pair.second, "name"),
                difference: Cell(pair.difference, "difference"),
                "p": Cell(pair.p_value, "p_value"),
                "p (Holm)": Cell(pair.adjusted, "p_value"),
            }
            if pair.discordant:
                only_first, only_second = pair.discordant
                cells |= {
                    "only first correct": Cell(only_first, "count"),
                    "only second correct": Cell(only_second, "count"),
                }
            cells["significant"] = Cell("yes" if pair.significant else "no")
            style: RowStyle = "significant" if pair.significant else ""
            group = ROLE_NAMES.get(column.name, column.name)
            rows.append(Row(pair.first, cells, style, group))
    note = (
        "First minus second, with the interval from the same draws of both; p by the "
        f"{_test(board)} over clusters. Correct: of rows, or of pairs in both orders."
    )
    return Table("Pairs of judges", "first", rows, note, group="task")


def power_table(board: Leaderboard) -> Table:
    """The difference that two judges would show on each task, and the rows for smaller ones."""
    rows = []
    for column in board.columns:
        detectable = column.detectable
        if detectable is None:
            continue
        n = max((n for n in column.n.values() if n is not None), default=0)
        cells = {
            "n": Cell(n, "count"),
            "clusters": Cell(column.clusters, "count"),
            "detectable": Cell(detectable, "rate"),
        }
        for difference in _PLANNED:
            # The variance of a difference is inversely proportional to the number of rows.
            needed = ceil(n * (detectable / difference) ** 2)
            cells[f"n for {difference:.2f}"] = Cell(needed, "count")
        rows.append(Row(ROLE_NAMES.get(column.name, column.name), cells))
    note = (
        "detectable: the difference that is significant (p < 0.05 after Holm over the pairs of "
        "judges) with a probability of 80 %, for the pair whose difference varies most; with one "
        "judge, against another one whose errors are independent. n for a difference: how many "
        "such rows would show it."
    )
    return Table(f"Power ({metric_names(board.metrics)})", "task", rows, note)


def class_table(board: Leaderboard) -> Table:
    """Precision, recall and F1 of each verdict, and how often it is given."""
    rows = []
    for task in board.tasks:
        for run in board.runs:
            result = run.tasks.get(task.name)
            if result is None or not result.samples or not result.kind.counted:
                continue
            rows_C = result.confusion.sum(axis=1).tolist()
            for verdict, rows_of_verdict in zip(result.verdicts, rows_C, strict=True):
                cells = {
                    "verdict": Cell(verdict, "name"),
                    **{
                        metric: Cell(task.estimate(run.name, f"{metric}_{verdict}"), "rate")
                        for metric in ("precision", "recall", "f1", "share")
                    },
                    "n": Cell(rows_of_verdict, "count"),
                }
                rows.append(Row(run.name, cells, group=task.name))
    note = (
        f"A verdict with fewer than {MIN_ROWS_OF_CLASS} labeled rows has no interval. share: of "
        "all labeled rows, those with this verdict; n: those with this label."
    )
    return Table("Verdicts", "judge", rows, note, group="task")


def detail_tables(board: Leaderboard) -> list[Table]:
    """Metrics from rows, rates by group, how well judges see, and agreement with people; those that
    have rows."""
    of_kinds = [kind_table(board, kind) for kind in KINDS.values() if not kind.counted]
    of_rows = (group_table, joint_table, perception_table, human_table)
    tables = (*of_kinds, *(table(board) for table in of_rows))
    return [table for table in tables if table.rows]


def kind_table(board: Leaderboard, kind: Kind) -> Table:
    """The metrics of each judge on the tasks of a kind that computes them from rows."""
    metrics = [*kind.drawn_metrics, *kind.rates((), paired=False)]
    known = {rate for task in board.tasks for rates in task.scores.values() for rate in rates}
    metrics[1:1] = [  # of each aspect, where several are rated
        metric
        for task in board.tasks
        for run in board.runs
        if (result := run.tasks.get(task.name)) is not None and result.kind is kind
        for metric in kind.metrics(result.verdicts, result.paired)
        if metric.startswith(f"{kind.headline}_") and metric in known.difference(metrics)
    ]
    titles = {metric: metric_name(metric) for metric in metrics}
    rows = [row for row, result in _rows_of_rates(board, titles) if result.kind is kind]
    return Table(f"Metrics of {kind.name} tasks", "judge", rows, kind.note, group="task")


def group_table(board: Leaderboard) -> Table:
    """For each judge of each task with groups: overall, each group, and the macro mean."""
    rows = []
    without = []
    for task in board.tasks:
        for run in board.runs:
            groups = task.groups.get(run.name)
            if not groups:
                continue
            rates = [*next(iter(groups.values())).scores]
            n = task.n[run.name]
            parts = [("overall (all rows)", n, {r: task.estimate(run.name, r) for r in rates})]
            parts += [
                (one_line(name), group.n, {r: group.scores[r].estimate for r in rates})
                for name, group in groups.items()
            ]
            mean_of = {rate: mean for mean, rate in GROUP_MEANS.items()}
            means = {
                rate: task.estimate(run.name, mean_of[rate]) for rate in rates if rate in mean_of
            }
            parts.append((f"macro mean of {len(groups)} groups", None, means))
            for index, (name, rows_in_it, estimates) in enumerate(parts):
                summary = index in (0, len(parts) - 1)
                cells = {
                    "group": Cell(name, "text" if summary else "name", bold=summary),
                    "n": Cell(rows_in_it, "count"),
                    **{metric_name(r): Cell(value, "rate") for r, value in estimates.items()},
                }
                rows.append(Row(run.name, cells, "mean" if summary else "", task.name))
            left = (n or 0) - sum(group.n for group in groups.values())
            if left:
                without.append(f"{run.name}: {left} labeled rows of {task.name} have no group.")
    note = (
        "Overall weights every row equally, the macro mean every group; rows without a group count "
        "only overall. Macro-F1 needs a labeled row of every verdict in a group; the F1 of each "
        "verdict is not averaged over groups."
    )
    return Table("Groups", "judge", rows, " ".join([note, *without]), group="task")


def joint_table(board: Leaderboard) -> Table:
    """How often all rows of a group are right, for tasks whose YAML names `joint_by`."""
    names = dict.fromkeys(
        rate
        for task in board.tasks
        for scores in task.scores.values()
        for rate in scores
        if rate.startswith(JOINT_ACCURACY)
    )
    titles = {name: one_line(name.removeprefix(f"{JOINT_ACCURACY}_")) for name in names}
    titles[JOINT_ACCURACY] = "all rows"
    rows = [row for row, _ in _rows_of_rates(board, titles)]
    note = (
        "The share of groups of rows of which every row is right: over all rows, and over those of "
        "each reported group. Whole groups of rows are resampled."
    )
    return Table("Right about all rows of a group", "judge", rows, note, group="task")


def perception_table(board: Leaderboard) -> Table:
    """What a judge's reasoning says about what items show, and how its probabilities rank them."""
    rows = []
    for row, result in _rows_of_rates(board, _PERCEPTION_TITLES):
        distinct = distinct_ngrams(read_reasoning(sample.text) for sample in result.samples)
        counts = [record.facts for record in result.records if record.facts is not None]
        facts = sum(count.total for count in counts) if counts else None
        cells = {f"distinct {NGRAM}-grams": Cell(Estimate(distinct), "rate")}
        cells["facts"] = Cell(facts, "count")
        rows.append(replace(row, cells={**row.cells, **cells}))
    note = (
        "facts stated: of the facts about the items, those that the reasoning states; facts that "
        "the question mentions do not count. right on wrong facts: of the right verdicts, those "
        "whose reasoning says something untrue. AUC: how well the probabilities of verdicts, given "
        "the reasoning, separate the labels, wherever the threshold lies."
    )
    return Table("What judges see", "judge", rows, note, group="task")


_PERCEPTION_TITLES: Mapping[str, str] = {
    "facts_rate": "facts stated",
    "right_on_wrong_facts": "right on wrong facts",
    "roc_auc": "AUC",
}


def human_table(board: Leaderboard) -> Table:
    """How a judge's scores agree with people's ratings, for each task that has them."""
    rows = []
    for row, result in _rows_of_rates(board, _HUMAN_TITLES):
        cells = dict(row.cells)
        if result.samples:
            rated = [sample for sample in result.samples if sample.human is not None]
            scored = [sample for sample in rated if sample.score is not None]
            cells["rows"] = Cell(len(scored), "count", of=len(rated) or None)
        rows.append(replace(row, cells=cells))
    note = (
        "Of the probability of the first verdict, the share of its votes, or else the verdict "
        "itself, with people's ratings, over rated rows with a verdict. pairs: of the pairs of one "
        "group with different ratings, the share that is ordered alike; equal scores count half. "
        "AUC, mean of groups: over groups that have both labels."
    )
    return Table("Agreement with people's ratings", "judge", rows, note, group="task")


_HUMAN_TITLES: Mapping[str, str] = {
    "spearman_human": "Spearman",
    "pearson_human": "Pearson",
    "kendall_human": "Kendall τ-b",
    "pairwise_human": "pairs",
    "auc_human": "AUC, all rows",
    "auc_human_group_mean": "AUC, mean of groups",
}


def _rows_of_rates(
    board: Leaderboard, titles: Mapping[str, str]
) -> Iterator[tuple[Row, TaskResult]]:
    """A row for each judge of each task that has any of the rates, with the titles of these."""
    for task in board.tasks:
        for run in board.runs:
            result = run.tasks.get(task.name)
            rates = {title: task.estimate(run.name, rate) for rate, title in titles.items()}
            if result is not None and any(rate.value is not None for rate in rates.values()):
                cells = {title: Cell(rate, "rate") for title, rate in rates.items()}
                yield Row(run.name, cells, group=task.name), result


def disagreement_table(board: Leaderboard) -> Table:
    """For each task that several judges judged: rows by what all of them made of it."""
    rows = []
    for task in board.tasks:
        results = [run.tasks[task.name] for run in board.runs if task.name in run.tasks]
        results = [result for result in results if result.samples]
        if len({result.rows for result in results}) != 1 or len(results) < 2:
            continue
        records_N = [
            row
            for row in zip(*(result.records for result in results), strict=True)
            if not any(record.failed for record in row)
        ]
        same = sum(len({record.verdict for record in row}) == 1 for row in records_N)
        labeled = [row for row in records_N if row[0].label is not None]
        correct_N = [sum(map(results[0].is_correct, row)) for row in labeled]
        n, all_correct, none_correct = (
            len(records_N),
            correct_N.count(len(results)),
            correct_N.count(0),
        )
        cells = {
            "rows": Cell(n, "count"),
            "all agree": Cell(same, "count", of=n),
            "some differ": Cell(n - same, "count", of=n),
            "all are correct": Cell(all_correct, "count", of=len(labeled)),
            "none is correct": Cell(none_correct, "count", of=len(labeled)),
        }
        rows.append(Row(task.name, cells))
    note = "A missing verdict differs from every verdict. The last two columns count labeled rows."
    return Table("Where judges disagree", "task", rows, note)


def confusion_tables(board: Leaderboard, task: str) -> list[Table]:
    """Labels by verdicts, for each judge that has labeled rows of the task."""
    tables = []
    for run in board.runs:
        result = run.tasks.get(task)
        counts_C_C1 = result.confusion.tolist() if result else []
        if result and any(map(any, counts_C_C1)):
            columns = [*result.verdicts, "none"]
            rows = [
                Row(
                    label,
                    {
                        column: Cell(count, "count", of=sum(counts_C1))
                        for column, count in zip(columns, counts_C1, strict=True)
                    },
                )
                for label, counts_C1 in zip(result.verdicts, counts_C_C1, strict=True)
            ]
            tables.append(Table(run.name, "label", rows))
    return tables


def tidy_records(board: Leaderboard) -> list[dict[str, Any]]:
    """One record for each judge, task (and group of it) and rate; see :data:`TIDY_FIELDS`."""
    records = []
    for run in board.runs:
        for column in board.columns:
            about = {
                "judge": run.name,
                "task": column.name if column in board.tasks else "mean",
                "role": column.role,
            }
            for rate, score in column.scores.get(run.name, {}).items():
                ranks = _ranks(column, run.name if rate == column.metric else None)
                sizes = {"n": column.n.get(run.name), "clusters": column.clusters}
                sizes |= _counts(run, column)
                records.append({**about, "rate": rate, **asdict(score.estimate), **ranks, **sizes})
            for name, group in column.groups.get(run.name, {}).items():
                records += [
                    {**about, "group": name, "rate": rate, **asdict(score.estimate), "n": group.n}
                    for rate, score in group.scores.items()
                ]
    return records


def _counts(run: Run, column: Column) -> dict[str, int | None]:
    result = run.tasks.get(column.name)
    names = ("n_failed", "n_refused")
    return {name: None if result is None else getattr(result, name) for name in names}


def _ranks(column: Column, judge: str | None) -> dict[str, int | None]:
    rank = column.ranks.get(judge) if judge is not None else None
    return {"best_rank": rank and rank.best, "worst_rank": rank and rank.worst}


# What was evaluated


def model_table(runs: Sequence[Run]) -> Table:
    """The models, and how they were evaluated."""
    rows = []
    for run in runs:
        results = list(run.tasks.values())
        versions = {
            f"{name} {version}": None
            for result in results
            for name, version in (result.metadata.get("versions") or {}).items()
        }
        facts = {
            "model": run.model,
            "weights": _stated(results, "model_revision"),
            "backend": run.backend,
            "evaluated": format_date(run.date),
            "style": _stated(results, "style"),
            "scoring": _stated(results, "scoring"),
            "perturbation": _stated(results, "perturbation"),
            "parser": ", ".join(dict.fromkeys(str(result.parser) for result in results)),
            "file": run.file.name,
            "versions": ", ".join(versions),
        }
        rows.append(_fact_row(run.name, facts))
    return Table("Models", "judge", rows)


def data_table(runs: Sequence[Run]) -> Table:
    """The tasks and the rows that were judged; values that differ between runs are all listed."""
    rows = []
    for task in tasks_of(runs):
        results = [run.tasks[task] for run in runs if task in run.tasks]
        # The place of a folder is a path on the machine that evaluated; that of a hub is a name.
        on_hub = [result for result in results if result.metadata.get("source") == "hub"]
        counts = dict.fromkeys(f"{result.n:,}" for result in results if result.n is not None)
        facts = {
            "role": ROLE_NAMES[results[0].role],
            "dimension": _stated(results, "dimension"),
            "version": _stated(results, "version"),
            "verdicts": ", ".join(map(str, results[0].verdicts)),
            "source": " ".join(
                filter(None, (_stated(results, "source"), _stated(on_hub, "location")))
            ),
            "revision": _stated(results, "revision"),
            "split": _stated(results, "split"),
            "fingerprint": _stated(results, "fingerprint"),
            "labeled rows": ", ".join(counts),
        }
        rows.append(_fact_row(task, facts))
    return Table("Data", "task", rows)


def _fact_row(title: str, facts: Mapping[str, str]) -> Row:
    return Row(title, {key: Cell(value or None, "name") for key, value in facts.items()})


def _stated(results: Iterable[TaskResult], field: str) -> str:
    values = (result.metadata.get(field) for result in results)
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


# The gate and the robustness runs


def gate_table(gate: Gate) -> Table:
    """What the gate decided, task by task."""
    rows = []
    for task in gate.tasks:
        cells = {
            **({"metric": Cell(metric_name(task.metric))} if len(gate.metrics) > 1 else {}),
            "n": Cell(task.n, "count"),
            "clusters": Cell(task.clusters, "count"),
            **{
                state: Cell(getattr(task, f"n_{state}"), "count")
                for state in ("failed", "refused")
                if any(getattr(other, f"n_{state}") for other in gate.tasks)
            },
            "baseline": Cell(task.baseline.value, "rate"),
            "now": Cell(task.current.value, "rate"),
            "difference [95 %]": Cell(task.difference, "difference"),
            "p (Holm)": Cell(task.p_value, "p_value"),
            "detectable": Cell(task.detectable, "rate"),
            "outcome": Cell(task.outcome, bold=task.outcome != "passed"),
            "why": Cell("; ".join([*task.failures, *task.obstacles, *task.notes])),
        }
        rows.append(Row(task.task, cells))
    return Table(metric_names(gate.metrics), "task", rows)


def robustness_table(effects: Sequence[PerturbationEffect]) -> Table:
    """What each perturbation changed on each task."""
    rows = [
        Row(
            effect.task,
            {
                "perturbation": Cell(effect.perturbation),
                "n": Cell(effect.n, "count"),
                metric_name(effect.metric): Cell(effect.unchanged, "rate"),
                "perturbed": Cell(effect.perturbed, "rate"),
                "difference": Cell(effect.difference, "difference"),
                "p (Holm)": Cell(effect.p_value_holm, "p_value"),
                "changed": Cell(effect.changed, "share"),
            },
        )
        for effect in effects
    ]
    note = (
        "In brackets: 95 % intervals, by the Bayesian bootstrap over clusters. difference: "
        "perturbed minus unchanged. p (Holm): of no difference, adjusted for all lines. changed: "
        "rows with another verdict, or with a verdict in only one of the two runs."
    )
    return Table("Robustness", "task", rows, note)
