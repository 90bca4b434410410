"""The steps of a long job. Finished steps are skipped, so an interrupted job can be resumed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json, write_json
from mtrl_judge.common.signals import sigterm_as_exit
from mtrl_judge.common.verbosity import report


@dataclass(frozen=True)
class Step:
    """One step of a job, identified by its name."""

    name: str
    kind: str
    """For estimates: steps of one kind take about equally long; steps whose kinds share the first
    word are used as a substitute."""
    is_done: Callable[[], bool]
    """Whether the step's output is complete."""
    run: Callable[[], object]
    command: str
    """The shell command that does the same."""


def keep_settings(file: Path, settings: Mapping[str, Any], option: str) -> None:
    """Write the settings of a job, or check that they equal those written earlier.

    Args:
        option: the command-line option that names the folder of the job, for messages.

    Raises:
        JudgeError: they differ.
    """
    earlier = read_json(file, missing_ok=True, advice=f"choose another {option}")
    differences = [
        f"  {name}: was {json.dumps(earlier.get(name))}, is {json.dumps(settings.get(name))}"
        for name in sorted(earlier.keys() | settings.keys())
        if earlier.get(name) != settings.get(name)
    ]
    if earlier and differences:
        head = f"{option}: the settings differ from those in {file}:"
        raise JudgeError("\n".join([head, *differences, f"choose another {option}"]))
    write_json(file, settings)


def list_steps(steps: Sequence[Step]) -> str:
    """The steps with their state, and the command of the next one."""
    done = [step.is_done() for step in steps]
    lines = [
        f"[{number}/{len(steps)}] {step.name}: {'done' if is_done else 'to do'}"
        for number, (step, is_done) in enumerate(zip(steps, done, strict=True), 1)
    ]
    if not all(done):
        lines.append(f"next:\n  {steps[done.index(False)].command}")
    return "\n".join(lines)


def run_steps(steps: Sequence[Step], durations_file: Path) -> Iterator[Step]:
    """Run the unfinished steps in order, printing one line for each, and yield each when finished.

    Meanwhile, SIGTERM stops the process as Ctrl-C does.

    Args:
        durations_file: JSON file with the durations of earlier steps, for estimates of the rest.

    Raises:
        JudgeError: the output of a step is incomplete after it ran; or whatever the step raises.
    """
    durations = read_json(durations_file, missing_ok=True, advice="remove it")
    with sigterm_as_exit():
        for number, step in enumerate(steps, 1):
            if step.is_done():  # asked only now: a step can undo later ones, which depend on it
                continue
            finished = [(d["kind"], d["seconds"]) for d in durations.values() if d["done"]]
            later = [other.kind for other in steps[number:] if not other.is_done()]
            left = time_left([step.kind, *later], finished)
            report(f"[{number}/{len(steps)}] {step.name}{left and f' … {left}'}")
            _run_step(step, durations, durations_file)
            yield step


def time_left(kinds: Iterable[str], finished: Sequence[tuple[str, float]]) -> str:
    """An estimate for steps of these kinds; "" if nothing is known.

    Args:
        finished: kind and seconds of each finished step.

    >>> time_left(["train all", "judge all"], [("train one", 600), ("judge all", 60)])
    'about 11 min left'
    >>> time_left(["train all", "judge all"], [("judge all", 60)])
    'more than 1 min left'
    """

    def estimate(kind: str) -> float | None:
        same = [seconds for other, seconds in finished if other == kind]
        similar = [s for other, s in finished if other.split()[0] == kind.split()[0]]
        return fmean(same or similar) if similar else None

    estimates = [estimate(kind) for kind in kinds]
    known = sum(seconds for seconds in estimates if seconds is not None)
    if not known:
        return ""
    minutes = max(1, round(known / 60))
    span = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
    return f"{'more than' if None in estimates else 'about'} {span} left"


def _run_step(step: Step, durations: dict[str, Any], durations_file: Path) -> None:
    """Run a step, and record the total time of all attempts at it."""
    earlier = durations.get(step.name, {"seconds": 0.0, "done": False})
    started = time.monotonic() - (0 if earlier["done"] else earlier["seconds"])
    done = False
    try:
        step.run()
        done = step.is_done()
    except (KeyboardInterrupt, SystemExit):
        print("stopped; run the same command again to resume", file=sys.stderr)
        raise
    finally:
        seconds = round(time.monotonic() - started, 1)
        durations[step.name] = {"kind": step.kind, "seconds": seconds, "done": done}
        write_json(durations_file, durations)
    if not done:
        raise JudgeError(f"{step.name}: finished, but its output is incomplete")
