"""What an evaluation shows in place of lmms-eval's output: one line of progress, and warnings.

With ``--verbose`` it shows the output itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from mtrl_judge.common.printable import printable_line
from mtrl_judge.common.progress import OneLine
from mtrl_judge.common.verbosity import is_verbose

# How tqdm shows a bar with a total (`tqdm.std.tqdm.format_meter`): "Judging:  17%|█▋   | 8/48 [".
_BAR = re.compile(r"(?:([^\r\n|]{1,60}?): +|(?<=\r) *)\d{1,3}%\|[^|\r\n]*\| *(\d+)/(\d+) \[")
_LONGEST_BAR = 400
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# A record of loguru as lmms-eval formats it: time | level | module:function:line - message. And
# what `harness_plugin/wrappers.py` prints of tasks that are left out.
_WARNING = re.compile(r"\| (?:WARNING|ERROR) *\| mtrl_judge\.\S+ - (.+)|^(\S+: skipped, .+)")


class EvaluationProgress:
    """Reads lmms-eval's output as it comes, and shows how far it is and our own warnings."""

    def __init__(self) -> None:
        self.log: Path | None = None
        """The file that lmms-eval's output goes to."""
        self._console = Console(stderr=True)
        self._line: OneLine | None = None
        self._bar = self._unfinished = ""
        self._shown: set[str] = set()

    @contextmanager
    def of(self, log: Path) -> Iterator[None]:
        """Show the progress of an evaluation while the block runs."""
        self.log = log
        if is_verbose():
            yield
            return
        with OneLine("starting lmms-eval", self._console) as self._line:
            yield

    def read(self, text: str) -> None:
        """The next part of its output."""
        if is_verbose():
            print(text, end="", flush=True)
            return
        self._bar = (self._bar + text)[-_LONGEST_BAR - len(text) :]
        found = list(_BAR.finditer(self._bar))
        if found and self._line is not None:
            label, done, total = found[-1].groups()
            self._line.report(printable_line(label or "preparing").strip(), int(done), int(total))
        self._bar = self._bar[-_LONGEST_BAR:]
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            match = _WARNING.search(_COLOR.sub("", line.rpartition("\r")[2]))
            message = printable_line(match[1] or match[2]) if match else ""
            if message and message not in self._shown:
                self._shown.add(message)
                # On lines as long as they are, for logs.
                self._console.print(message, markup=False, highlight=False, soft_wrap=True)
