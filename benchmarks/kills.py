"""Is anything lost when a command is killed? Kills at random moments, and reruns.

Each command is run undisturbed once. Then it is killed with SIGKILL at a random moment after it has
begun to write, and run again as its user would: by the same command, a training or an evaluation
with ``--resume``.
What the rerun leaves must be what the undisturbed run left, byte by byte; of trainings and
evaluations, weights, logs without clocks, answers and scores. Runs that end before they are killed
do not count.

By command: ``kills``; ``same``: reruns with the same result; ``lost``: reruns with another one;
``seconds``. Of trainings also ``steps_lost``, the most optimizer steps that a kill cost, which must
not exceed ``save_steps``.

The commands that write files run in forks of this process, which has imported everything, so that
kills meet the writing and not the imports; the others run in processes of their own.

Run from the repository's root: ``python -m benchmarks.kills [--only NAME …] [--kills N] [--seed
0]``. The last line of the output is a JSON object; the exit code is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file

from mtrl_judge.cli.main import main as command_line
from mtrl_judge.common.locks import FOLDER_LOCK
from mtrl_judge.demo.corpus import Sizes, write_sample
from mtrl_judge.leaderboard.reading import load_runs, results_files
from mtrl_judge.rl.callbacks import LOG_FILE
from mtrl_judge.rl.run_record import RUN_FILE

# tests/ is not a package, because other packages have one of that name.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.replicas import unsafebench
from support.results import judged_rows, write_results

TASK = "mtrl_judge_unsafebench"
SIZES = Sizes(train=8, validation=8, test=8, test_pairs=2)
SAVE_STEPS, STEPS = 2, 8


@dataclass(frozen=True)
class Command:
    """A command to be killed."""

    kills: int
    make_inputs: Callable[[Path], object]
    """Writes what all runs read into a folder."""
    start: Callable[[Path, Path, bool], int]
    """Starts it with the folders of inputs and output; whether it is a rerun; its process."""
    content: Callable[[Path], object]
    """What is compared of an output folder."""
    before: Callable[[Path, Path], object] = lambda inputs, out: out.mkdir()
    """Makes the output folder as it is before the first run."""
    is_training: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument("--kills", type=int, help="of each command (default: 50, 10 or 3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures = {}
    for name in arguments.only:
        command = COMMANDS[name]
        with tempfile.TemporaryDirectory() as folder:
            kills = arguments.kills or command.kills
            figures[name] = kill_often(command, Path(folder), kills, f"{name} {arguments.seed}")
        print(f"{name}: {figures[name]}", flush=True)
    print(json.dumps(figures))
    sys.exit(any(figure["lost"] for figure in figures.values()))


def kill_often(command: Command, folder: Path, kills: int, seed: str) -> dict[str, float]:
    """Kill a command so many times while it writes, and run it again each time."""
    moments, began = random.Random(seed), time.monotonic()
    inputs, whole, out = folder / "inputs", folder / "whole", folder / "out"
    inputs.mkdir()
    in_fork(lambda: command.make_inputs(inputs))
    command.before(inputs, whole)
    process = command.start(inputs, whole, False)
    writing = time.monotonic() if first_write(whole, process) else None
    assert writing is not None, "the undisturbed run writes nothing"
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, "the undisturbed run failed"
    duration = time.monotonic() - writing
    expected = command.content(whole)
    struck = same = steps_lost = 0
    while struck < kills:
        command.before(inputs, out)
        process = command.start(inputs, out, False)
        first_write(out, process)
        time.sleep(moments.uniform(0, duration))
        os.kill(process, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL:
            struck += 1
            reached = step_reached(out) if command.is_training else 0
            os.waitpid(command.start(inputs, out, True), 0)
            is_same = command.content(out) == expected
            same += is_same
            if not is_same:
                kept = Path(tempfile.mkdtemp(prefix="lost-"))
                shutil.copytree(out, kept, dirs_exist_ok=True)
                print(f"lost: see {kept}", flush=True)
            if command.is_training:
                steps_lost = max(steps_lost, reached - step_resumed_from(out, reached))
        shutil.rmtree(out)
    figures = {"kills": struck, "same": same, "lost": struck - same}
    if command.is_training:
        figures |= {"steps_lost": steps_lost, "save_steps": SAVE_STEPS}
    return {**figures, "seconds": round(time.monotonic() - began, 1)}


def first_write(folder: Path, process: int) -> bool:
    """Wait until something in a folder changes; False if the process ends first."""
    before = names_in(folder)
    while names_in(folder) == before:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.0005)
    return True


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder)} - {FOLDER_LOCK}


def in_fork(run: Callable[[], object]) -> None:
    """Run in a fork, so that this process stays without threads, which forks do not inherit."""
    assert os.waitstatus_to_exitcode(os.waitpid(start_fork(run), 0)[1]) == 0


def start_fork(run: Callable[[], object]) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        run()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        os._exit(code)


def call(*words: object) -> int:
    """Start ``mtrl-judge`` in a fork."""

    def run() -> None:
        sys.argv = ["mtrl-judge", *map(str, words)]
        command_line()

    return start_fork(run)


def launch(*words: object, **variables: str) -> int:
    """Start ``mtrl-judge`` in a process of its own."""
    log = Path(tempfile.gettempdir()) / "mtrl-judge-kills.log"
    with log.open("wb") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        command = [sys.executable, "-m", "mtrl_judge", *map(str, words)]
        streams: Any = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        return subprocess.Popen(command, env=environment, **streams).pid


def files(folder: Path) -> Mapping[str, bytes]:
    """Everything in a folder."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


# Commands that write files


def start_prepare(inputs: Path, out: Path, rerun: bool) -> int:
    words = ("--from", inputs / "raw", "--data-root", out, "--any-count")
    return call("data", "prepare", TASK, *words)


def start_sample(inputs: Path, out: Path, rerun: bool) -> int:
    return start_fork(lambda: write_sample(out, sizes=SIZES))


def start_add(inputs: Path, out: Path, rerun: bool) -> int:
    return call("leaderboard", "add", out / "board.json", inputs / "new", "--resamples", 100)


def start_save(inputs: Path, out: Path, rerun: bool) -> int:
    return call("baseline", "save", inputs / "new", "--out", out / "baseline.json")


def write_runs(inputs: Path) -> None:
    for name, skill in (("old", 0.7), ("new", 0.8)):
        rows = {"mtrl_judge_a": judged_rows(60, skill, 0)}
        write_results(inputs / name, rows, model=f"owner/{name}")
    os.waitpid(call("leaderboard", "add", inputs / "board.json", inputs / "old"), 0)


def copy_board(inputs: Path, out: Path) -> None:
    out.mkdir()
    shutil.copy(inputs / "board.json", out)


# Trainings, evaluations, experiments


def write_judge(inputs: Path) -> None:
    """A small corpus, a judge of random weights, and recipes for few steps."""
    from support.tiny_models import tiny_qwen3_vl

    write_sample(inputs / "data", sizes=SIZES)
    tiny_qwen3_vl(inputs / "judge")
    recipe: dict[str, Any] = {
        "tasks": [TASK],
        "use_cpu": True,
        "bf16": False,
        "dtype": "float32",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": SAVE_STEPS,
        "logging_steps": 1,
        "eval_strategy": "no",
        "per_device_train_batch_size": 4,
        "accept_license": [TASK],
    }
    grpo = {**recipe, "num_generations": 4, "max_completion_length": 8}
    for method, fields in (("grpo", grpo), ("sft", recipe)):
        (inputs / method).mkdir()
        (inputs / method / "brief.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")


def start_eval(inputs: Path, out: Path, rerun: bool) -> int:
    words = ["--tasks", TASK, "--model_args", f"pretrained={inputs / 'judge'},device=cpu"]
    words += ["--batch_size", "2", "--data-root", inputs / "data", "--output_path", out]
    return launch("eval", *words, *(["--resume"] if rerun else []))


def start_train(inputs: Path, out: Path, rerun: bool) -> int:
    words = ["--recipe", inputs / "grpo" / "brief.yaml", "--output_dir", out]
    words += ["--model_name_or_path", inputs / "judge", "--data_root", inputs / "data"]
    record = out / RUN_FILE
    # Finished, if it was killed after its end; not begun, if it was killed before its record.
    resume = record.is_file() and json.loads(record.read_text())["finished"] is None
    return launch("train", "grpo", *words, *(["--resume"] if resume else []))


def start_experiment(inputs: Path, out: Path, rerun: bool) -> int:
    words = ["--recipe", inputs / "grpo" / "brief.yaml", "--out", out]
    words += ["--model", inputs / "judge", "--data-root", inputs / "data"]
    words += ["--only", "mt-rl-judge", "--eval-args", "--limit 2 --model_args max_new_tokens=4"]
    return launch("experiment", *words)


def answers(folder: Path) -> object:
    """What the newest run judged and scored."""
    if not results_files(folder):
        return None
    run = max(load_runs([folder]), key=lambda run: run.date)
    return {
        name: ([str(sample) for sample in task.samples], dict(task.rates))
        for name, task in run.tasks.items()
    }


def trained(folder: Path) -> object:
    """The weights of judge and last checkpoint, and the log without clocks."""
    clocks = ("time", "train_runtime", "step_time")
    lines = map(json.loads, (folder / LOG_FILE).read_text(encoding="utf-8").splitlines())
    return {
        "log": [
            {name: value for name, value in line.items() if name not in clocks}
            for line in lines
            if "train_runtime" not in line
        ],
        **{name: weights(folder / name) for name in ("judge", f"checkpoint-{STEPS}")},
    }


def weights(folder: Path) -> Mapping[str, bytes]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {name: tensor.tobytes() for name, tensor in load_file(file).items()}
    return found


def step_reached(folder: Path) -> int:
    """The last step in a run's log; 0 before the first."""
    log = folder / LOG_FILE
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def step_resumed_from(folder: Path, reached: int) -> int:
    """Where the second start of a run began, or where it was, if it had ended before its kill."""
    starts = json.loads((folder / RUN_FILE).read_text())["starts"]
    return int(starts[1]["from_step"]) if len(starts) > 1 else reached


def compared(folder: Path) -> object:
    """The tables of an experiment."""
    scores = json.loads((folder / "results.json").read_text())["scores"]
    clocks = ("results", "run")
    return [{k: v for k, v in score.items() if k not in clocks} for score in scores]


COMMANDS: Mapping[str, Command] = {
    "data prepare": Command(50, lambda i: unsafebench(i / "raw", 300), start_prepare, files),
    "data sample": Command(50, lambda inputs: None, start_sample, files),
    "leaderboard add": Command(50, write_runs, start_add, files, copy_board),
    "baseline save": Command(50, write_runs, start_save, files),
    "eval": Command(10, write_judge, start_eval, answers),
    "train": Command(10, write_judge, start_train, trained, is_training=True),
    "experiment": Command(3, write_judge, start_experiment, compared),
}


if __name__ == "__main__":
    main()
