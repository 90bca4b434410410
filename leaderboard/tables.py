"""Tables of values, and how they are written as Markdown, LaTeX, CSV and plain text.

A cell keeps its value (an estimate, a p-value, a count, …) and says what kind of value it is; it
becomes text only when a table is written. The HTML report has a template of its own, which formats
cells through :func:`cell_parts` too.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, TypeAlias

from tabulate import tabulate

from mtrl_judge.common.printable import printable, printable_line
from mtrl_judge.metrics.bootstrap import Estimate
from mtrl_judge.metrics.ranks import RankRange

from .formats import NONE, format_interval, format_number, format_p_value

CellKind: TypeAlias = Literal["text", "name", "rate", "difference", "share", "p_value", "count"]
RowStyle: TypeAlias = Literal["", "mean", "baseline", "significant"]
Labels: TypeAlias = Mapping[str, str]
NO_LABELS: Labels = {}


@dataclass(frozen=True)
class Cell:
    """A value of a table; None is shown as a dash."""

    value: Estimate | int | float | str | list[int] | None = None
    kind: CellKind = "text"
    """A name comes from models or data; a rate, difference or share is a number or an estimate; a
    count is a list where judges differ."""
    rank: RankRange | None = None
    bold: bool = False
    of: int | None = None
    """What a count is a part of."""

    @property
    def number(self) -> float | None:
        """To sort by."""
        value = self.value.value if isinstance(self.value, Estimate) else self.value
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Row:
    """A row; columns that it has no cell for stay empty."""

    title: str
    cells: Mapping[str, Cell]
    """By the title of the column."""
    style: RowStyle = ""
    group: str = ""
    """What it belongs to, such as a task that several rows are about."""


@dataclass(frozen=True)
class Table:
    """A table and what readers should know about it."""

    title: str
    corner: str
    """The heading of the rows' titles."""
    rows: Sequence[Row]
    note: str = ""
    group: str = ""
    """The heading of the rows' groups."""

    @property
    def is_known(self) -> bool:
        """Whether any of its values is known."""
        return any(cell.value is not None for row in self.rows for cell in row.cells.values())

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row.cells))

    @property
    def lines(self) -> list[tuple[Row, list[Cell]]]:
        """Each row with a cell for every column."""
        columns = self.columns
        return [(row, [row.cells.get(column, Cell()) for column in columns]) for row in self.rows]

    def by_group(self) -> list[Table]:
        """A table for each group of rows, with its name as title."""
        groups = dict.fromkeys(row.group for row in self.rows)
        return [
            Table(name, self.corner, [row for row in self.rows if row.group == name])
            for name in groups
        ]

    def transposed(self, corner: str, styles: Mapping[str, RowStyle]) -> Table:
        """The same table with a row for each column.

        Args:
            styles: of the new rows, by title.
        """
        rows = [
            Row(
                column,
                {row.title: row.cells[column] for row in self.rows if column in row.cells},
                styles.get(column, ""),
            )
            for column in self.columns
        ]
        return replace(self, corner=corner, rows=rows)


def cell_parts(cell: Cell, digits: int = 3) -> tuple[str, str]:
    """A cell's value as text, and beside it its interval or share.

    >>> cell_parts(Cell(Estimate(0.85, 0.8, 0.9), "rate")), cell_parts(Cell(1200, "count", of=2400))
    (('0.850', '[0.800, 0.900]'), ('1,200', '(50%)'))
    """
    value, kind = cell.value, cell.kind
    if value is None:
        return NONE, ""
    if isinstance(value, str):
        return value, ""
    if kind == "count" and not isinstance(value, Estimate):
        counts = value if isinstance(value, list) else [value]
        share = f"({counts[0] / cell.of:.0%})" if cell.of else ""
        return " / ".join(f"{count:,}" for count in counts) or NONE, share
    assert not isinstance(value, list)
    estimate = value if isinstance(value, Estimate) else Estimate(value)
    if kind == "p_value":
        return format_p_value(estimate.value), ""
    signed, percent = kind == "difference", kind == "share"
    return (
        format_number(estimate.value, digits, signed=signed, percent=percent),
        format_interval(estimate, digits, signed=signed, percent=percent),
    )


def markdown_text(text: str) -> str:
    """Text for a cell of a Markdown table in which nothing acts as markup.

    Underscores are left alone, so that names stay readable in a terminal.

    >>> markdown_text("a|b <script> `c` [d](e)")
    'a\\\\|b &lt;script> \\\\`c\\\\` [d]\\\\(e)'
    """
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", printable_line(text))
    return re.sub(r"([\\|`]|(?<=\])\()", r"\\\1", line)


def markdown(tables: Sequence[Table], digits: int = 3, labels: Labels = NO_LABELS) -> str:
    """Tables in GitHub's Markdown, each under its title.

    Args:
        labels: shorter names of tasks.
    """
    parts = []
    for table in tables:
        if table.rows:
            head, *lines = _grid(table, digits, labels, bold="**{}**")
            parts.append(f"## {markdown_text(table.title)}")
            parts.append(tabulate(lines, headers=head, tablefmt="pipe", disable_numparse=True))
            parts += [markdown_text(table.note)] if table.note else []
    return "\n\n".join(parts)


def markdown_lines(
    table: Table, *, text: Callable[[str], str], name: Callable[[str], str]
) -> list[str]:
    """The lines of one table in GitHub's Markdown, without padding.

    Args:
        text: how free text is escaped.
        name: how names (the rows' titles, and cells of that kind) are escaped.
    """
    head, *lines = _grid(table, 3, NO_LABELS, text, name, bold="**{}**")
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def latex(tables: Sequence[Table], digits: int = 3, labels: Labels = NO_LABELS) -> str:
    """Tables as LaTeX with booktabs, each after a comment with its title.

    They compile with pdfLaTeX, XeLaTeX and LuaLaTeX, whatever the names are.
    """
    parts = []
    for table in tables:
        if table.rows:
            head, *lines = _grid(
                table, digits, labels, latex_text, latex_text, bold="\\textbf{{{}}}"
            )
            columns = list(zip(*(cells for _, cells in table.lines), strict=True))
            are_texts = [any(isinstance(cell.value, str) for cell in cells) for cells in columns]
            n_titles = len(head) - len(columns)
            alignment = "l" * n_titles + "".join("l" if is_text else "r" for is_text in are_texts)
            # After a line break and a rule, "[" and "*" would be theirs.
            top, *body = (
                re.sub(r"^(?=[\[*])", "{}", " & ".join(line)) + r" \\" for line in (head, *lines)
            )
            begin = rf"\begin{{tabular}}{{{alignment}}}"
            rows = (r"\toprule", top, r"\midrule", *body, r"\bottomrule")
            title = f"% {printable_line(table.title)}"
            parts.append("\n".join([title, begin, *rows, r"\end{tabular}"]))
    if parts:
        needs = [r"% needs \usepackage{booktabs}"]
        if any(_ANY_FONT in part for part in parts):
            needs.append(rf"\providecommand{_ANY_FONT}[2]{{\ifdefined\Umathcode #1\else #2\fi}}")
        parts.insert(0, "\n".join(needs))
    return "\n\n".join(parts)


_ANY_FONT = r"\anyfont"
_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "\N{MINUS SIGN}": "$-$",
    "κ": r"$\kappa$",
    "α": r"$\alpha$",
    "τ": r"$\tau$",
}
# With these, what LaTeX's default font has without any package.
_LATEX_KNOWN = _LATEX.keys() | set(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ±×–—‘’“”…"
)


def latex_text(text: str) -> str:
    r"""Text for a LaTeX table, in which nothing acts as a command.

    Other scripts need a font of XeLaTeX or LuaLaTeX; pdfLaTeX, which would stop at them, shows
    their code points.

    >>> print(latex_text("50% of {a_b} & -0.5"), latex_text("名 1"))
    50\% of \{a\_b\} \& $-$0.5 \anyfont{名}{U+540D} 1
    """
    found = []
    for known, chars in groupby(printable_line(text), lambda c: c.isascii() or c in _LATEX_KNOWN):
        run = "".join(chars)
        if known:
            run = re.sub(r"(?<![\w.-])-(?=\d)", "\N{MINUS SIGN}", run)
            shown = "".join(_LATEX.get(char, char) for char in run)
            found.append(re.sub(r"-(?=-)", "-{}", shown))  # not one longer dash
        else:
            points = " ".join(f"U+{ord(char):04X}" for char in run)
            found.append(f"{_ANY_FONT}{{{run}}}{{{points}}}")
    return "".join(found)


def plain_text(table: Table, digits: int = 3) -> str:
    """One table with its note, for a terminal."""
    head, *lines = _grid(table, digits, NO_LABELS, printable_line, printable_line)
    grid = tabulate(lines, headers=head, disable_numparse=True)
    return f"{grid}\n\n{printable(table.note)}" if table.note else grid


def csv_text(fields: Sequence[str], records: Sequence[Mapping[str, object]]) -> str:
    """Records as CSV with a header, in which no text acts as a formula of a spreadsheet."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fields, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: _inert(v) if isinstance(v, str) else v for k, v in record.items()})
    return file.getvalue()


def _inert(text: str) -> str:
    """Text for a CSV cell: a leading apostrophe makes a spreadsheet take it for text (OWASP, "CSV
    Injection")."""
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(("=", "+", "-", "@")) else shown


def _grid(
    table: Table,
    digits: int,
    labels: Labels,
    text: Callable[[str], str] = markdown_text,
    name: Callable[[str], str] = markdown_text,
    bold: str = "{}",
) -> list[list[str]]:
    """Head and rows as text, with a column for the groups of rows if there are any."""
    columns = (labels.get(column, column) for column in table.columns)
    grid = [[*map(text, filter(None, (table.group, table.corner))), *map(text, columns)]]
    for row, cells in table.lines:
        titles = (row.group, row.title) if table.group else (row.title,)
        line = [name(labels.get(title, title)) for title in titles]
        for cell in cells:
            shown = " ".join(filter(None, cell_parts(cell, digits)))
            shown = (name if cell.kind == "name" else text)(shown)
            shown = bold.format(shown) if cell.bold else shown
            line.append(shown if cell.rank is None else f"{shown} {text(f'#{cell.rank}')}")
        grid.append(line)
    return grid
