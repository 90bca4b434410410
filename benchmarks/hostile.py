"""``python -m benchmarks.hostile``: attacks by files from strangers. The last line is JSON.

Every attack of :mod:`.hostile_attacks` runs in a process of its own. It has to end with a message,
and what it takes is compared with the same command on harmless files. Then answers of judges,
YAML, templates, image cells and zip archives are damaged at random, see :mod:`.hostile_fuzz`.

- ``tried``: attacks and random tries.
- ``exceptions``: how many of them ended in another way than documented: a traceback, a success,
  code that ran, no end within :data:`TIMEOUT` seconds.
- ``worst_seconds``: the most CPU time that an attack took beyond the harmless command, or that a
  random try took. Unlike elapsed time, it hardly depends on what else the machine does; a process
  that waits is one without an end.
- ``worst_mib``: the most memory that an attack took beyond the harmless command, or by which this
  process grew in the random tries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate
from tqdm import tqdm

from .hostile_attacks import MARK, Attack, attacks, baselines
from .hostile_fuzz import Fuzzer

TIMEOUT = 20
_LONGEST_MESSAGE = 100_000


class Run(NamedTuple):
    """What one command took, and how it ended if not with a message."""

    seconds: float
    """Of CPU time."""
    mib: float
    fault: str | None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="of random tries (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of random tries (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        attacked = run_attacks(Path(folder))
        print(tabulate([(n, *r) for n, r in attacked.items()], ("attack", *Run._fields), ".2f"))
        tries, fuzzed = fuzz(Path(folder), options.seed, options.seconds)
    print("\n" + ", ".join(f"{name}: {n:,} tries" for name, n in tries.items()))
    print("\n".join(fuzzed.faults))
    faults = sum(run.fault is not None for run in attacked.values()) + len(fuzzed.faults)
    figures = {
        "tried": len(attacked) + tries.total(),
        "exceptions": faults,
        "worst_seconds": round(max(fuzzed.seconds, *(run.seconds for run in attacked.values())), 2),
        "worst_mib": round(max(fuzzed.mib, *(run.mib for run in attacked.values()))),
    }
    print(json.dumps(figures))


def run_attacks(folder: Path) -> dict[str, Run]:
    """Every attack: seconds and MiB beyond those of its harmless command."""
    harmless: dict[str, Run] = {}
    for name, command in baselines(folder).items():
        runs = [run(command, folder) for _ in range(3)]
        if runs[0].fault != "succeeded":
            sys.exit(f"the harmless command {name} failed: {runs[0].fault}")
        harmless[name] = min(runs)
    results = {}
    for number, (name, make) in enumerate(tqdm(attacks().items(), desc="Attacks")):
        own = folder / str(number)
        own.mkdir()
        attack = make(own)
        base, made = harmless[attack.baseline], run(attack, folder)
        seconds, mib = made.seconds - base.seconds, made.mib - base.mib
        results[name] = Run(max(0.0, seconds), max(0.0, mib), made.fault)
    return results


def run(attack: Attack, folder: Path) -> Run:
    """Run one command in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    peak = folder / "peak"
    peak.write_text("0")
    command = [sys.executable, "-c", _COMMAND, peak, *attack.arguments]
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output
        )
        with _alarm(process.kill):
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        fault = _fault(process.returncode, output.read(), folder)
    return Run(used.ru_utime + used.ru_stime, int(peak.read_text()) / 1024, fault)


# What `wait4` gives as a process's peak memory includes its parent's, from before `exec`.
_COMMAND = """
import re, sys
from pathlib import Path
peak = Path(sys.argv.pop(1))
try:
    from mtrl_judge.cli.main import main
    main()
finally:
    peak.write_text(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def _fault(code: int, text: str, folder: Path) -> str | None:
    if list(folder.rglob(MARK)):
        return "its code ran"
    if code == 0:
        return "succeeded"
    if code != 2 or "Traceback" in text:
        last = (text.strip() or "nothing").splitlines()[-1]
        return "no end" if code == -signal.SIGKILL else f"exit code {code}: {last[:200]}"
    return "a long message" if len(text) > _LONGEST_MESSAGE else None


class Fuzzed(NamedTuple):
    seconds: float
    mib: float
    faults: list[str]


def fuzz(folder: Path, seed: int, seconds: float) -> tuple[Counter[str], Fuzzed]:
    """Random tries for so many seconds, each reader in turn."""
    fuzzer = Fuzzer(seed, folder)
    warnings.simplefilter("ignore")  # Pillow's, of damaged images
    tries: Counter[str] = Counter()
    slowest, grown_from, faults = 0.0, 0.0, []
    end = time.perf_counter() + seconds
    while not tries or time.perf_counter() < end:
        for name, attempt in fuzzer.tries.items():
            started = time.process_time()
            try:
                with _alarm(_raise_endless):
                    attempt()
            except (Exception, _Endless) as error:  # noqa: BLE001  each one is a finding
                found = f"{type(error).__name__}: {error}"[:300]
                faults.append(f"{name}, try {tries[name]} of seed {seed}: {found}")
            tries[name] += 1
            if tries[name] > 1:  # the first ones import modules
                slowest = max(slowest, time.process_time() - started)
        grown_from = grown_from or _peak_mib()
    return tries, Fuzzed(slowest, _peak_mib() - grown_from, faults)


class _Endless(BaseException):  # what is tried may catch every Exception
    pass


def _raise_endless() -> None:
    raise _Endless(f"no end within {TIMEOUT} seconds")


@contextmanager
def _alarm(action: object) -> Iterator[None]:
    """Call ``action`` if the block takes longer than the timeout."""
    before = signal.signal(signal.SIGALRM, lambda *_: action())  # type: ignore[operator]
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
