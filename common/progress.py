"""Progress of long work on standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

Tell: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""


class Bars(Progress):
    """A bar for each kind of work, with its count and an estimate of the time left."""

    def __init__(self, *, transient: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        console = Console(stderr=True)
        super().__init__(*columns, TimeRemainingColumn(), console=console, transient=transient)
        self._by_label: dict[str, TaskID] = {}

    def tell(self, label: str, done: int, total: int) -> None:
        """Move the bar of that label, which is made where there is none."""
        if label not in self._by_label:
            self._by_label[label] = self.add_task(label, total=total)
        self.update(self._by_label[label], completed=done, total=total)
