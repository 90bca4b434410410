"""The figures of an experiment as the paper's tables: arms × tasks, Macro-F1 in percent."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import yaml
from tabulate import tabulate

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import whole_file, write_json, write_text
from mtrl_judge.leaderboard.formats import NONE, format_number

PAPER = Path(__file__).parent / "paper.yaml"
TEACHING = "sample"  # rows that are no real data: the paper's numbers say nothing of them
BASE, SFT, OURS = "off the shelf", "SFT-Unified", "MT-RL-Judge"
CONSTANT = "constant judge"


@dataclass(frozen=True)
class Figure:
    """One judge on one task, and where its figures stand; rates in [0, 1], None where undefined."""

    arm: str
    seed: int | None
    task: str
    macro_f1: float | None
    majority_macro_f1: float | None
    null_rate: float | None
    flip_rate: float | None
    n: int
    source: str
    fingerprint: str
    results: str
    """lmms-eval's file, from the experiment's folder."""
    run: str | None
    """The folder of the training run, from the experiment's folder; None for the base model."""


class Cell(NamedTuple):
    """Percent over seeds; the spread is the standard deviation, None for one seed."""

    mean: float
    spread: float | None
    seeds: int

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {format_number(self.spread, 2)}"
        return f"{format_number(self.mean, 2)}{spread}"


class Row(NamedTuple):
    """A line of a table: what each task gave, their mean, the mean null rate."""

    name: str
    cells: Mapping[str, Cell]
    mean: Cell | None
    null_rate: Cell | None
    paper: Mapping[str, float]
    """The paper's numbers for the same arm, where they can be compared."""


class Table(NamedTuple):
    title: str
    tasks: Sequence[str]
    rows: Sequence[Row]
    null_rates: bool
    """Whether the null rates are shown."""


@dataclass(frozen=True)
class Comparison:
    """Both tables, what came out, and the notes that a reader needs."""

    in_distribution: Table
    out_of_distribution: Table
    conclusion: str
    notes: Sequence[str]
    figures: Sequence[Figure]


def compare(
    figures: Sequence[Figure],
    arms: Sequence[str],
    tasks: Sequence[str],
    ood: Sequence[str],
    notes: Sequence[str] = (),
) -> Comparison:
    """The paper's comparison of these arms, in this order.

    Args:
        tasks: in distribution, in the order of the columns; ``ood`` likewise.

    Raises:
        JudgeError: the arms were not judged on the same rows.
    """
    _check_same_rows(figures)
    inside = Table("In distribution", tasks, _rows(figures, arms, tasks), null_rates=False)
    outside = Table("Out of distribution", ood, _rows(figures, arms, ood), null_rates=True)
    return Comparison(
        inside, outside, conclusion(inside, outside), [*_notes(figures), *notes], figures
    )


def conclusion(inside: Table, outside: Table) -> str:
    """What the tables say of the paper's claim, in one paragraph."""
    means = {row.name: row.mean for row in outside.rows if row.mean is not None}
    sentences = []
    base = means.get(BASE)
    if base is None:
        sentences.append(f"Out of distribution nothing can be said before {BASE} is evaluated.")
    else:
        n = len(outside.tasks)
        sentences.append(
            f"Out of distribution, mean Macro-F1 over {n} task{'s' if n > 1 else ''}: "
            f"{BASE} {base.mean:.2f}."
        )
        sentences += [_against(base, name, means.get(name)) for name in (SFT, OURS)]
    known = [f"{row.name} {row.mean}" for row in inside.rows if row.mean and row.name != CONSTANT]
    if known:
        sentences.append(f"In distribution, mean Macro-F1: {', '.join(known)}.")
    return " ".join(sentences)


def _against(base: Cell, name: str, cell: Cell | None) -> str:
    if cell is None:
        return f"{name} has not been evaluated on all of them."
    change = cell.mean - base.mean
    if abs(change) < 0.005:  # the same in all digits shown
        return f"{name} kept it ({cell}, no change)."
    if cell.spread is None:
        certainty = "one seed, so its spread is unknown"
    else:
        relation = "more than" if abs(change) > cell.spread else "within"
        certainty = f"{relation} its spread over {cell.seeds} seeds, {cell.spread:.2f}"
        if abs(change) <= cell.spread:
            return f"{name} kept it ({cell.mean:.2f}, {change:+.2f} points, {certainty})."
    verb = "raised it" if change > 0 else "fell below it"
    return f"{name} {verb} ({cell.mean:.2f}, {change:+.2f} points, {certainty})."


def printed(comparison: Comparison) -> str:
    """The tables for a terminal."""
    tables = (comparison.in_distribution, comparison.out_of_distribution)
    parts = [f"{_titled(table)}\n\n{_grid(table, 'simple')}" for table in tables]
    return "\n\n".join([*parts, comparison.conclusion, *comparison.notes])


def write_report(comparison: Comparison, folder: Path, made_from: Mapping[str, Any]) -> None:
    """Write ``results.md``, ``results.json`` and ``results.csv``.

    Args:
        made_from: recipe, base model and the like, for the JSON file.
    """
    write_text(folder / "results.md", _markdown(comparison))
    write_json(folder / "results.json", _plain(comparison, made_from))
    with (
        whole_file(folder / "results.csv") as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Figure)])
        writer.writeheader()
        writer.writerows(asdict(figure) for figure in comparison.figures)


def short(task: str) -> str:
    """A task's name as a column shows it.

    >>> short("mtrl_judge_agin_nat")
    'agin_nat'
    """
    return task.removeprefix("mtrl_judge_")


def _rows(figures: Sequence[Figure], arms: Sequence[str], tasks: Sequence[str]) -> list[Row]:
    paper = _paper()
    own = [figure for figure in figures if figure.task in tasks]
    real = {figure.task for figure in own if figure.source != TEACHING}
    rows = []
    for arm in arms:
        of_arm = [figure for figure in own if figure.arm == arm]
        if of_arm:
            beside = {t: v for t, v in paper["macro_f1"].get(arm, {}).items() if t in real}
            rows.append(_row(arm, of_arm, tasks, beside))
    return [*_constant(own, tasks), *rows]


def _row(
    arm: str, figures: Sequence[Figure], tasks: Sequence[str], paper: Mapping[str, float]
) -> Row:
    cells = {}
    for task in tasks:
        cell = _cell(f.macro_f1 for f in figures if f.task == task)
        if cell is not None:
            cells[task] = cell
    mean, null = (_mean_cell(figures, tasks, name) for name in ("macro_f1", "null_rate"))
    return Row(arm, cells, mean, null, paper)


def _constant(figures: Sequence[Figure], tasks: Sequence[str]) -> list[Row]:
    """What always answering the commoner verdict gives; the same for all arms."""
    values = {f.task: f.majority_macro_f1 for f in figures if f.majority_macro_f1 is not None}
    cells = {t: Cell(100 * values[t], None, 1) for t in tasks if t in values}
    if not cells:
        return []
    whole = len(cells) == len(tasks)
    mean = Cell(fmean(cell.mean for cell in cells.values()), None, 1) if whole else None
    return [Row(CONSTANT, cells, mean, None, {})]


def _mean_cell(figures: Sequence[Figure], tasks: Sequence[str], name: str) -> Cell | None:
    """The mean over all tasks, over the seeds that have all of them."""
    by_seed: defaultdict[int | None, dict[str, float]] = defaultdict(dict)
    for figure in figures:
        value = getattr(figure, name)
        if value is not None:
            by_seed[figure.seed][figure.task] = value
    whole = [fmean(values.values()) for values in by_seed.values() if len(values) == len(tasks)]
    return _cell(whole)


def _cell(rates: Iterable[float | None]) -> Cell | None:
    percents = [100 * rate for rate in rates if rate is not None and not math.isnan(rate)]
    if not percents:
        return None
    spread = stdev(percents) if len(percents) > 1 else None
    return Cell(fmean(percents), spread, len(percents))


def _check_same_rows(figures: Sequence[Figure]) -> None:
    first: dict[str, Figure] = {}
    for figure in figures:
        other = first.setdefault(figure.task, figure)
        if (figure.fingerprint, figure.n) != (other.fingerprint, other.n):
            raise JudgeError(
                f"{figure.task}: judged on other rows: {other.n} ({other.fingerprint}) in "
                f"{other.results}, {figure.n} ({figure.fingerprint}) in {figure.results}; "
                "remove the folders of the ones that are out of date, and call again"
            )


def _notes(figures: Sequence[Figure]) -> list[str]:
    notes = [
        f"Macro-F1 in percent. {CONSTANT}: always answering the commoner verdict. null rate: "
        "percent of answers without a verdict, which count as wrong.",
        "± is the standard deviation over seeds of training (n − 1 in the denominator); a figure "
        f"without it is of one seed. {BASE} has no seed: nothing is trained, answers are greedy.",
    ]
    sources = {figure.source for figure in figures}
    if sources - {TEACHING}:
        paper = _paper()
        notes.append(f"Rows 'paper': {paper['citation']}, with {paper['model']}.")
    if TEACHING in sources:
        notes.append("Source 'sample' is a teaching corpus; its figures say nothing of real data.")
    return notes


def _paper() -> dict[str, Any]:
    paper: dict[str, Any] = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    return paper


def _titled(table: Table) -> str:
    return f"{table.title} (Macro-F1, %)"


def _grid(table: Table, style: str) -> str:
    last = ["null rate"] if table.null_rates else []
    lines = []
    for row in table.rows:
        cells = [*map(row.cells.get, table.tasks), row.mean, *[row.null_rate for _ in last]]
        shown = [NONE if cell is None else str(cell) for cell in cells]
        lines.append([row.name, _seeds(row), *shown])
        if row.paper:
            values = [row.paper.get(task) for task in table.tasks]
            known = [value for value in values if value is not None]
            mean = fmean(known) if len(known) == len(values) else None
            numbers = [format_number(value, 2) for value in [*values, mean]]
            lines.append([f"{row.name}, paper", "", *numbers, *[NONE for _ in last]])
    head = ["judge", "seeds", *map(short, table.tasks), "mean", *last]
    return tabulate(lines, headers=head, tablefmt=style, disable_numparse=True)


def _seeds(row: Row) -> str:
    if row.name in (CONSTANT, BASE) or not row.cells:
        return ""
    numbers = {cell.seeds for cell in row.cells.values()}
    return "–".join(str(number) for number in sorted({min(numbers), max(numbers)}))


def _markdown(comparison: Comparison) -> str:
    parts = ["# Comparison", comparison.conclusion]
    for table in (comparison.in_distribution, comparison.out_of_distribution):
        parts += [f"## {_titled(table)}", _grid(table, "pipe")]
    parts += ["\n".join(f"- {note}" for note in comparison.notes)]
    parts += ["Where each figure comes from stands in `results.json` and `results.csv`."]
    return "\n\n".join(parts) + "\n"


def _plain(comparison: Comparison, made_from: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **made_from,
        "conclusion": comparison.conclusion,
        "notes": list(comparison.notes),
        "in_distribution": _plain_table(comparison.in_distribution, comparison.figures),
        "out_of_distribution": _plain_table(comparison.out_of_distribution, comparison.figures),
        "figures": [asdict(figure) for figure in comparison.figures],
    }


def _plain_table(table: Table, figures: Sequence[Figure]) -> dict[str, Any]:
    rows = {}
    for row in table.rows:
        cells: dict[str, Any] = {}
        for task, cell in row.cells.items():
            cells[task] = cell._asdict()
            if row.name != CONSTANT:
                cells[task]["results"] = [
                    f.results for f in figures if f.arm == row.name and f.task == task
                ]
            if task in row.paper:
                cells[task]["paper"] = row.paper[task]
        rows[row.name] = {
            "tasks": cells,
            "mean": row.mean and row.mean._asdict(),
            "null_rate": row.null_rate and row.null_rate._asdict(),
        }
    return rows
