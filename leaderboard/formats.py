"""Tables as Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from .runs import Estimate

NONE = "–"


_TAG = re.compile(r"<(?=[A-Za-z/!?])")


class Section(NamedTuple):
    """A table with what it says."""

    title: str
    note: str
    table: pd.DataFrame


def shown(estimate: Estimate | None, digits: int = 3, *, signed: bool = False) -> str:
    """A value with its interval.

    >>> shown(Estimate(0.85, 0.8, 0.9)), shown(Estimate(-0.5), 2, signed=True), shown(None)
    ('0.850 [0.800, 0.900]', '-0.50', '–')
    """
    if estimate is None or estimate.value is None:
        return NONE
    sign = "+" if signed else ""
    value = f"{estimate.value:{sign}.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def markdown(sections: Sequence[Section]) -> str:
    """GitHub's markdown; names are text, whatever is in them."""
    parts = []
    for section in sections:
        if section.table.empty:
            continue
        parts += [
            f"## {markdown_text(section.title)}",
            _tabulated(section.table, markdown_text, "pipe"),
        ]
        parts += [markdown_text(section.note)] if section.note else []
    return "\n\n".join(parts)


def markdown_text(text: object) -> str:
    """Text that stands in a cell of a markdown table and is no markup there.

    >>> markdown_text("a|b <script> `c` [d](e)")
    'a\\\\|b &lt;script> \\\\`c\\\\` [d]\\\\(e)'
    """
    line = _TAG.sub("&lt;", " ".join(str(text).split()))
    return line.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`").replace("](", "]\\(")


def _tabulated(table: pd.DataFrame, text: Callable[[object], str], form: str) -> str:
    from tabulate import tabulate

    head = [text(table.index.name or ""), *map(text, table.columns)]
    rows: Iterable[tuple[object, ...]] = table.itertuples(name=None)
    lines = [[text(cell) for cell in row] for row in rows]
    return tabulate(lines, headers=head, tablefmt=form, disable_numparse=True)


def latex(sections: Sequence[Section]) -> str:
    """A booktabs table a section."""
    return "\n\n".join(
        f"% {' '.join(section.title.split())}\n" + _tabulated(section.table, str, "latex_booktabs")
        for section in sections
        if not section.table.empty
    )
