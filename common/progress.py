"""Progress bars on standard error."""

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

from .verbosity import is_quiet

ProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Called with a label, how many units are done, and how many there are."""


class ProgressBars(Progress):
    """A progress bar per label, each with its count and an estimate of the time left."""

    def __init__(self, *, transient: bool = False) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
        )
        console = Console(stderr=True)
        # What vanishes at its end would leave an empty line where it cannot vanish.
        disable = is_quiet() or (transient and not console.is_terminal)
        super().__init__(
            *(*columns, TimeRemainingColumn()),
            console=console,
            transient=transient,
            disable=disable,
        )
        self._by_label: dict[str, TaskID] = {}

    def stop(self) -> None:
        """Overrides ``Progress.stop``, which leaves an empty line where there was no bar."""
        if self.tasks:
            super().stop()
        else:
            self.live.transient = True
            self.live.stop()

    def report(self, label: str, done: int, total: int) -> None:
        """A :data:`ProgressCallback`: move the bar of that label, adding it first if needed."""
        if label not in self._by_label:
            self._by_label[label] = self.add_task(label, total=total)
        self.update(self._by_label[label], completed=done, total=total)


class OneLine(Progress):
    """One line, for what a command is doing now: a count and an estimate of the time left."""

    def __init__(self, label: str, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
        )
        super().__init__(
            *(*columns, TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=is_quiet() or not console.is_terminal,
        )
        self._task = self.add_task(label, total=None)
        self._label = label

    def report(self, label: str, done: int, total: int) -> None:
        """A :data:`ProgressCallback`; the estimate begins again with another label."""
        if label != self._label:
            self._label = label
            self.reset(self._task, description=label)
        self.update(self._task, completed=done, total=total)
