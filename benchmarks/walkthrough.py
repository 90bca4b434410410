"""``python -m benchmarks.walkthrough``: the documentation, followed as a newcomer follows it.

In a fresh clone, with a home folder of its own and without the hub, it runs the commands in the
``bash`` blocks of the README and then of the pages, in the order in which the README links to them.
Each command is printed with its time, its exit code and the last line of its output. A command that
needs what this machine lacks is listed with what that is (:data:`NEEDS`).

The last line is a JSON object: ``run``, ``failed`` and ``not_run`` (numbers of commands),
``warnings`` (lines of Python's warnings, by command), ``seconds``. It exits with 1 if one failed.

Options: ``--out`` (a new folder) keeps the clone and the output of each command; ``--pages`` takes
only these; ``--without`` leaves out commands that match, such as ``make demo``; ``--install`` lets
`make` install into the clone, in place of the environment that runs this.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((docs/[\w-]+\.md)")
_WARNING = re.compile(r"\w*Warning: |warnings\.warn\(|missing keys")

# What keeps a command from running here; the first pattern found in it counts.
NEEDS: Mapping[str, str] = {
    r"OPENAI_API_KEY|--model openai|vllm serve|sglang|'try'": "a server or a provider",
    r"Qwen/|qwen3_vl_|engine=vllm|benchmarks\.(gpu|engines)": "a model of the hub, a GPU",
    r"#SBATCH": "Slurm",
    r"data prepare .*--from|theirs\.yaml|my-judge|my_arms\.yaml|outputs\.jsonl": "a reader's file",
    r"data prepare|preview my_tasks|include_path": "data of the hub",
    r"retry-failed": "a run with failed requests",
    r"logs/today|logs/tomorrow|instructions": "a command above that does not run here",
    r"judge-gate|git add": "a repository on GitHub",
    r"mtrl-judge track": "a tracker, which is not installed",
    r"mtrl-judge serve": "a client, and serves until it is stopped",
    r"mtrl-judge experiment|part-0|benchmarks\.(votes|interference)|^E=": "hours of training",
    r"python -m benchmarks": "minutes to hours, a benchmark of its own",
    r"make test": "the time of all tests, which CI runs on a fresh clone (.ci/run)",
}


class Step(NamedTuple):
    """A command of the documentation."""

    page: str
    line: int
    command: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages(root: Path) -> list[str]:
    """The README and the pages that it links to, in their order."""
    text = (root / "README.md").read_text(encoding="utf-8")
    return ["README.md", *dict.fromkeys(_LINK.findall(text))]


def commands(script: str) -> Iterator[tuple[int, str]]:
    """The commands of a block with the number of the line each begins on, from 0.

    A script (``#!``) is one command.

    >>> list(commands("cd x \\\\\\n  y  # why\\n\\nls\\n"))
    [(0, 'cd x y'), (3, 'ls')]
    """
    if script.startswith("#!"):
        yield 0, script
        return
    start, parts = 0, []
    for number, line in enumerate(script.splitlines()):
        start = start if parts else number
        parts.append(re.sub(r"(^|\s+)#\s.*$|\\$", "", line).strip())
        if not line.endswith("\\"):
            if command := " ".join(filter(None, parts)):
                yield start, command
            parts = []


def steps(text: str, page: str) -> Iterator[Step]:
    """The commands in the ``bash`` blocks of a page."""
    for block in FENCE.finditer(text):
        if block[1] == "bash":
            first = text.count("\n", 0, block.start(2)) + 1
            for number, command in commands(block[2]):
                yield Step(page, first + number, command)


def needs(command: str) -> str | None:
    """What a command needs that this machine lacks; None if it can run."""
    return next((what for pattern, what in NEEDS.items() if re.search(pattern, command)), None)


def run_step(command: str, folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a command with the variables that earlier ones have exported, as in one terminal; its
    exit code and output.
    """
    variables = folder.parent / "variables.sh"
    script = f"touch {variables}; . {variables}; trap 'export -p > {variables}' EXIT\n{command}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def walk(
    todo: Sequence[Step],
    folder: Path,
    environment: Mapping[str, str],
    without: str | None = None,
) -> dict[str, object]:
    """Run the commands one after another, print how each ends, and sum up."""
    counts = {"run": 0, "failed": 0, "not_run": 0}
    seconds, warnings = 0.0, {}
    first: dict[str, Step] = {}
    for number, step in enumerate(todo):
        print(f"{step.place}  $ {step.command.splitlines()[0]}", flush=True)
        reason = None
        if step.command in first:
            reason = f"the same command as {first[step.command].place}"
        elif without is not None and re.search(without, step.command):
            reason = "left out (--without)"
        elif lacking := needs(step.command):
            reason = f"not run here; it needs {lacking}"
        if reason is not None:
            counts["not_run"] += 1
            print(f"    {reason}")
            continue
        first[step.command] = step
        start = perf_counter()
        exit_code, output = run_step(step.command, folder, environment)
        took = perf_counter() - start
        log = folder.parent / f"{number:03}-{Path(step.page).stem}-{step.line}.txt"
        log.write_text(f"$ {step.command}\n{output}", encoding="utf-8")
        counts["run"] += 1
        counts["failed"] += exit_code != 0
        seconds += took
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        if found := sum(bool(_WARNING.search(line)) for line in lines):
            warnings[step.place] = found
        last = lines[-1] if lines else ""
        print(f"    {took:.1f} s, exit code {exit_code}: {last}", flush=True)
    return {**counts, "warnings": warnings, "seconds": round(seconds)}


def new_clone(out: Path, install: bool) -> tuple[Path, dict[str, str]]:
    """A clone of this repository in a new folder, and the environment of a newcomer's terminal."""
    out.mkdir(parents=True)  # never into an older walk, whose files would be found
    clone, home = out / "mtrl-judge", out / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MTRL_JUDGE_")
    }
    environment |= {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{clone / '.venv/bin'}:{os.environ['PATH']}",
    }
    if not install:
        (clone / ".venv").symlink_to(sys.prefix)
        environment["MAKEFLAGS"] = "-o .venv/.installed"  # installed, whatever the files' times
    return clone, environment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/walkthrough"))
    parser.add_argument("--pages", nargs="+", metavar="PAGE", help="such as docs/report.md")
    parser.add_argument("--without", metavar="REGEX")
    parser.add_argument("--install", action="store_true")
    arguments = parser.parse_args()
    clone, environment = new_clone(arguments.out.resolve(), arguments.install)
    todo = [
        step
        for page in arguments.pages or pages(clone)
        for step in steps((clone / page).read_text(encoding="utf-8"), page)
    ]
    result = walk(todo, clone, environment, arguments.without)
    print(json.dumps(result))
    return int(result["failed"] != 0)


if __name__ == "__main__":
    sys.exit(main())
