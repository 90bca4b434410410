"""Processes that a command starts and that never outlive it.

A command stops what it started when it ends early by SIGTERM, Ctrl-C or an error. After an end that
it cannot act on (SIGKILL, a closed terminal), its watcher does: a small process that waits for the
end of a pipe from the command. Both it and what was started keep the command's folders locked, so a
rerun does not begin before they have ended.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtrl_judge.common.locks import inherited_locks
from mtrl_judge.common.signals import signals_wait, sigterm_as_exit

POLL_SECONDS = 0.1
LEFTOVERS_SECONDS = 5.0
# After SIGTERM a training finishes its step and writes a checkpoint. Once the command is gone, no
# user can end one that hangs.
ORPHAN_SECONDS = 600.0


def run_to_end(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path | None = None, **io: Any
) -> int:
    """Run a command and return its exit code.

    If this process is stopped, the command gets SIGTERM and the time it takes to end; a second
    signal kills it. Whatever it started itself and left behind is killed as well.

    Args:
        environment: all environment variables of the command.
        folder: its working directory; None is that of this process.
        io: its streams, as for `subprocess.Popen`.
    """
    # A signal while Popen starts a process would lose it: Popen waits for the command to begin.
    with sigterm_as_exit(), signals_wait() as deliver_signals:
        locks = inherited_locks()
        process = subprocess.Popen(command, env=environment, cwd=folder, pass_fds=locks, **io)
        try:
            watch = [sys.executable, "-m", __name__, str(process.pid)]
            watcher = subprocess.Popen(
                watch, stdin=subprocess.PIPE, start_new_session=True, pass_fds=locks
            )
            try:
                deliver_signals()
                return process.wait()
            finally:
                watcher.kill()
                watcher.communicate()
        except BaseException:
            stop_tree(process.pid, lambda: process.poll() is not None)
            raise


def stop_tree(process_id: int, ended: Callable[[], bool], patience: float | None = None) -> None:
    """Stop a process and everything that it started.

    Only the process itself gets SIGTERM: it stops its workers in the order it needs, as launchers
    of several processes and data loaders do. What is left after its end is stopped here.

    Args:
        ended: whether the process has ended.
        patience: seconds until it is killed; None is without a limit.
    """
    import psutil

    try:
        process = psutil.Process(process_id)
    except psutil.NoSuchProcess:
        return
    tree = {child.pid: child for child in _children(process)}
    deadline = None if patience is None else time.monotonic() + patience
    try:
        _send(process, signal.SIGTERM)
        while not ended() and (deadline is None or time.monotonic() < deadline):
            tree |= {child.pid: child for child in _children(process)}
            time.sleep(POLL_SECONDS)
    finally:  # also at a second signal
        if not ended():
            _send(process, signal.SIGKILL)
        for left in tree.values():
            _send(left, signal.SIGTERM)
        for left in psutil.wait_procs(tree.values(), timeout=LEFTOVERS_SECONDS)[1]:
            _send(left, signal.SIGKILL)


def _children(process: Any) -> list[Any]:
    import psutil

    try:
        found: list[Any] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def _send(process: Any, number: signal.Signals) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _watch(process_id: int) -> None:
    """Stop a process once the other end of standard input is gone."""
    import psutil

    process = psutil.Process(process_id)

    def ended() -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    sys.stdin.buffer.read()
    stop_tree(process_id, ended, patience=ORPHAN_SECONDS)


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
