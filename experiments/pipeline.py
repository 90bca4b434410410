"""The steps of a long job: each is done once; a job that was broken off goes on where it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json, write_json

_LAST_LINES = 20


@dataclass(frozen=True)
class Step:
    """Something to do once, known by its name."""

    name: str
    kind: str
    """Steps of one kind take about as long; those whose kinds share their first word, somewhat."""
    is_done: Callable[[], bool]
    """Whether what the step makes is there and whole."""
    run: Callable[[], None]
    command: str
    """What it does, as a user could do it alone."""


def listed(steps: Sequence[Step]) -> str:
    """The steps and what is done, with the command of the next one, for reading."""
    lines = []
    following = None
    for number, step in enumerate(steps, 1):
        done = step.is_done()
        lines.append(f"[{number}/{len(steps)}] {step.name}: {'done' if done else 'to do'}")
        following = following or (None if done else step)
    return "\n".join([*lines, *([f"next:\n  {following.command}"] if following else [])])


def run_steps(steps: Sequence[Step], durations: Path) -> Iterator[Step]:
    """Run what is not done, in order, and give each step as it is done; a line is printed for each.

    While it runs, SIGTERM ends it as Ctrl-C does: what is done stays.

    Args:
        durations: a JSON file that keeps how long steps took, for the estimates of later ones.

    Raises:
        JudgeError: a step ran and what it makes is not whole; or what the step raises.
    """
    took = read_json(durations, missing_ok=True, advice="remove it")
    remaining = [(number, step) for number, step in enumerate(steps, 1) if not step.is_done()]
    with _ended_by_sigterm():
        for place, (number, step) in enumerate(remaining):
            kinds = [each.kind for _, each in remaining[place:]]
            left = time_left(kinds, _seconds_by_kind(took))
            print(f"[{number}/{len(steps)}] {step.name}{' … ' if left else ''}{left}", flush=True)
            try:
                with _timed(step, took, durations):
                    step.run()
            except (KeyboardInterrupt, SystemExit):
                print("stopped; the same command goes on from here", file=sys.stderr)
                raise
            yield step


def time_left(kinds: Sequence[str], seconds: Mapping[str, Sequence[float]]) -> str:
    """How long steps of these kinds will take, from how long others took; "" if nothing is known.

    >>> time_left(["train all", "judge all"], {"train one": [600.0], "judge all": [50.0, 70.0]})
    'about 11 min left'
    >>> time_left(["train all", "judge all"], {"judge all": [60.0]})
    'more than 1 min left'
    """
    estimates = [_estimate(kind, seconds) for kind in kinds]
    known = sum(estimate for estimate in estimates if estimate is not None)
    if not known:
        return ""
    minutes = max(1, round(known / 60))
    span = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
    return f"{'more than' if None in estimates else 'about'} {span} left"


def run_child(
    what: str, command: Sequence[str], environment: Mapping[str, str], log: Path | None
) -> None:
    """Run a command to its end; who stops this process stops it, and its end is waited for.

    Args:
        log: a file for all that it prints, in place of this process's output.

    Raises:
        JudgeError: it fails, with the last lines that it printed.
    """
    if log is None:
        code = _wait(subprocess.Popen(command, env=environment))
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            null = subprocess.DEVNULL
            child = subprocess.Popen(
                command, env=environment, stdin=null, stdout=file, stderr=subprocess.STDOUT
            )
            code = _wait(child)
    if code:
        raise failed(what, code, log)


def failed(what: str, code: int, log: Path | None) -> JudgeError:
    """What to raise where a command ended with this exit code, with the end of its log."""
    message = f"{what}: ended with exit code {code}"
    if log is None:
        return JudgeError(f"{message}; its messages stand above")
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    return JudgeError("\n".join([f"{message}; the end of {log}:", *lines]))


def _wait(child: subprocess.Popen[Any]) -> int:
    try:
        return child.wait()
    except BaseException:
        child.terminate()  # a training writes a checkpoint first
        child.wait()
        raise


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _timed(step: Step, took: dict[str, dict[str, Any]], durations: Path) -> Iterator[None]:
    """Add up the time of a step over all attempts at it, and note whether it is done now."""
    before = took.get(step.name, {})
    earlier = 0.0 if before.get("done") else before.get("seconds", 0.0)
    started = time.monotonic()
    done = False
    try:
        yield
        done = step.is_done()
    finally:
        seconds = round(earlier + time.monotonic() - started, 1)
        took[step.name] = {"kind": step.kind, "seconds": seconds, "done": done}
        write_json(durations, took)
    if not done:
        raise JudgeError(f"{step.name}: ran to its end, and what it should make is not whole")


def _seconds_by_kind(took: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    seconds = defaultdict(list)
    for each in took.values():
        if each["done"]:
            seconds[each["kind"]].append(each["seconds"])
    return dict(seconds)


def _estimate(kind: str, seconds: Mapping[str, Sequence[float]]) -> float | None:
    family = [those for other, those in seconds.items() if _family(other) == _family(kind)]
    alike = seconds.get(kind) or [each for those in family for each in those]
    return sum(alike) / len(alike) if alike else None


def _family(kind: str) -> str:
    return kind.split()[0]
