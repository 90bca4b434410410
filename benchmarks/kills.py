"""Is anything lost when a command is killed? Kills at random moments, and reruns.

Each command is run undisturbed once. Then it is killed with SIGKILL at a random moment after it has
begun to write, and run again as its user would: by the same command, a training or an evaluation
with ``--resume``.
Only the command itself is killed; what it has started is left as it is. What the rerun leaves must
be what the undisturbed run left, byte by byte; of trainings and evaluations, weights, logs without
clocks, scores, and the answers that were kept, each once: an answer that was kept and asked for
again is lost, too. Runs that end before they are killed do not count.

By command: ``kills``; ``same``: reruns with the same result; ``lost``: reruns with another one;
``seconds``. Of commands that train also ``steps_lost``, the most optimizer steps that a kill cost,
which must not exceed ``save_steps``.

The commands that write files run in forks of this process, which has imported everything, so that
kills meet the writing and not the imports; the others run in processes of their own. A random
moment hardly ever meets a write that takes a thousandth of a command's time, so every other kill of
a fork is before one of its operations on files (a write, a rename, the end of a file, …), before
each of them once, in random order, if there are as many kills. ``answers`` is what an evaluation
does with its store of answers alone, for kills within it.

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
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from safetensors.numpy import load_file

from mtrl_judge.common.locks import FOLDER_LOCK
from mtrl_judge.demo.corpus import Sizes, write_sample
from mtrl_judge.experiments.launch import ANSWERS
from mtrl_judge.harness_plugin.answer_store import (
    AnswerStore,
    Question,
    StoredAnswer,
    answer_line,
    new_session,
)
from mtrl_judge.leaderboard.reading import load_runs, results_files
from mtrl_judge.rl.callbacks import LOG_FILE
from mtrl_judge.rl.finished_run import RUN_FILE

# tests/ is not a package, because other packages have one of that name.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.replicas import unsafebench
from support.results import judged_rows, write_results

from .forks import call, counted_operations, in_fork, killed_at_operation, start_fork

TASK = "mtrl_judge_unsafebench"
SIZES = Sizes(train=8, validation=8, test=8, test_pairs=2)
SAVE_STEPS, STEPS = 2, 8
QUESTIONS, BATCH = 24, 4
ARM = Path("mt-rl-judge", "seed-0")  # the one that the experiment runs


@dataclass(frozen=True)
class Command:
    """A command that writes files, to be killed in a fork."""

    kills: int
    make_inputs: Callable[[Path], object]
    """Writes what all runs read into a folder."""
    content: Callable[[Path], object]
    """What is compared of an output folder."""
    run: Callable[[Path, Path], object]
    """Runs it with the folders of inputs and output."""
    before: Callable[[Path, Path], object] = lambda inputs, out: out.mkdir()
    """Makes the output folder as it is before the first run."""

    def start(self, inputs: Path, out: Path, *, rerun: bool = False) -> int:
        """The process of a run."""
        return start_fork(lambda: self.run(inputs, out))


@dataclass(frozen=True)
class LaunchedCommand:
    """A command to be killed that runs in a process of its own and starts others."""

    kills: int
    make_inputs: Callable[[Path], object]
    content: Callable[[Path], object]
    """As of a :class:`Command`; None if something is missing."""
    launch: Callable[[Path, Path, bool], int]
    """Starts it with the folders of inputs and output; whether it is a rerun; its process."""
    training: Path | None = None
    """The folder of its training in that of its output."""

    def before(self, inputs: Path, out: Path) -> None:
        out.mkdir()

    def start(self, inputs: Path, out: Path, *, rerun: bool = False) -> int:
        return self.launch(inputs, out, rerun)


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
    sys.exit(any(map(is_loss, figures.values())))


def is_loss(figures: Mapping[str, float]) -> bool:
    return figures["lost"] > 0 or figures.get("steps_lost", 0) > SAVE_STEPS


def kill_often(
    command: Command | LaunchedCommand, folder: Path, kills: int, seed: str
) -> dict[str, float]:
    """Kill a command so many times while it writes, and run it again each time."""
    moments, began = random.Random(seed), time.monotonic()
    inputs, whole, out = folder / "inputs", folder / "whole", folder / "out"
    inputs.mkdir()
    in_fork(lambda: command.make_inputs(inputs))
    command.before(inputs, whole)
    before = names_in(whole)
    process = command.start(inputs, whole)
    writing = time.monotonic() if first_write(whole, process, before) else None
    assert writing is not None, "the undisturbed run writes nothing"
    assert exit_code(process) == 0, "the undisturbed run failed"
    duration = time.monotonic() - writing
    expected = command.content(whole)
    assert expected is not None, "the undisturbed run's result is incomplete"
    operations = count_operations(command, folder) if isinstance(command, Command) else 0
    places = cycle(moments.sample(range(operations), operations))
    training = getattr(command, "training", None)
    struck = same = steps_lost = 0
    while struck < kills:
        command.before(inputs, out)
        if isinstance(command, Command) and struck % 2:
            process = start_mortal(command, inputs, out, next(places))
        else:
            process = command.start(inputs, out)
            first_write(out, process, before)
            time.sleep(moments.uniform(0, duration))
            os.kill(process, signal.SIGKILL)
        if exit_code(process) == -signal.SIGKILL:
            struck += 1
            reached = None if training is None else Reached.by(out / training)
            exit_code(command.start(inputs, out, rerun=True))
            is_same = command.content(out) == expected
            same += is_same
            if not is_same:
                kept = Path(tempfile.mkdtemp(prefix="lost-"))
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                print(f"lost: see {kept}", flush=True)
            if reached is not None:
                steps_lost = max(steps_lost, reached.lost_in(out / training))
        shutil.rmtree(out)
    figures = {"kills": struck, "same": same, "lost": struck - same}
    if training is not None:
        figures |= {"steps_lost": steps_lost, "save_steps": SAVE_STEPS}
    return {**figures, "seconds": round(time.monotonic() - began, 1)}


def exit_code(process: int) -> int:
    """Wait for the end of a process."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def count_operations(command: Command, folder: Path) -> int:
    """How many operations on files an undisturbed run takes."""
    inputs, out, count = folder / "inputs", folder / "counted", folder / "operations"
    command.before(inputs, out)
    in_fork(lambda: counted_operations(lambda: command.run(inputs, out), count))
    return int(count.read_text(encoding="utf-8"))


def start_mortal(command: Command, inputs: Path, out: Path, place: int) -> int:
    """Start a run that dies before its operation on files of this number."""
    return start_fork(lambda: killed_at_operation(lambda: command.run(inputs, out), place))


def first_write(folder: Path, process: int, before: set[str]) -> bool:
    """Wait until the names in a folder change; False if the process ends first."""
    while names_in(folder) == before:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.0005)
    return True


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder)} - {FOLDER_LOCK}


def launch(inputs: Path, *words: object, **variables: str) -> int:
    """Start ``mtrl-judge`` in a process of its own, which adds to ``log`` in the folder."""
    with (inputs / "log").open("ab") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        command = [sys.executable, "-m", "mtrl_judge", *map(str, words)]
        streams: Any = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        return subprocess.Popen(command, env=environment, **streams).pid


def files(folder: Path) -> Mapping[str, bytes]:
    """Everything in a folder."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


# Commands that write files


def prepare(inputs: Path, out: Path) -> None:
    call("data", "prepare", TASK, "--from", inputs / "raw", "--data-root", out, "--any-count")


def sample(inputs: Path, out: Path) -> None:
    write_sample(out, sizes=SIZES)


def add(inputs: Path, out: Path) -> None:
    call("leaderboard", "add", out / "board.json", inputs / "new", "--resamples", 100)


def save(inputs: Path, out: Path) -> None:
    call("baseline", "save", inputs / "new", "--out", out / "baseline.json")


def write_runs(inputs: Path) -> None:
    for name, skill in (("old", 0.7), ("new", 0.8)):
        rows = {"mtrl_judge_a": judged_rows(60, skill, 0)}
        write_results(inputs / name, rows, model=f"owner/{name}")
    call("leaderboard", "add", inputs / "board.json", inputs / "old")


def copy_board(inputs: Path, out: Path) -> None:
    out.mkdir()
    shutil.copy(inputs / "board.json", out)


def keep_answers(inputs: Path, out: Path) -> None:
    """Keep answers batch by batch, as an evaluation does, and ask for those that are missing.

    ``kept`` records the answers whose keeping was confirmed.
    """
    store = AnswerStore(out / ANSWERS, new_session())
    questions = [Question(f"key {n}", TASK, f"item {n}", None, 0) for n in range(QUESTIONS)]
    known = store.read([question.key for question in questions]).answers
    missing = [question for question in questions if question.key not in known]
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        store.append(answer_line(q, StoredAnswer(f"{q.key}: Yes", {})) for q in batch)
        with (out / "kept").open("a", encoding="utf-8") as kept:
            kept.write("".join(f"{question.key}\n" for question in batch))


def answers_and_losses(out: Path) -> object:
    """All answers of the store, and those that were kept, lost and kept again."""
    confirmed = Counter((out / "kept").read_text(encoding="utf-8").splitlines())
    keys = {f"key {n}" for n in range(QUESTIONS)}
    answers = AnswerStore(out / ANSWERS, new_session()).read(keys).answers
    return answers, [key for key, times in confirmed.items() if times > 1]


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
    return launch(inputs, "eval", *words, *(["--resume"] if rerun else []))


def start_train(inputs: Path, out: Path, rerun: bool) -> int:
    words = ["--recipe", inputs / "grpo" / "brief.yaml", "--output_dir", out]
    words += ["--model_name_or_path", inputs / "judge", "--data_root", inputs / "data"]
    record = out / RUN_FILE
    # Finished, if it was killed after its end; not begun, if it was killed before its record.
    resume = record.is_file() and json.loads(record.read_text())["finished"] is None
    return launch(inputs, "train", "grpo", *words, *(["--resume"] if resume else []))


def start_experiment(inputs: Path, out: Path, rerun: bool) -> int:
    words = ["--recipe", inputs / "grpo" / "brief.yaml", "--out", out]
    words += ["--model", inputs / "judge", "--data-root", inputs / "data"]
    words += ["--only", ARM.parts[0], "--eval-args", "--limit 2 --model_args max_new_tokens=4"]
    return launch(inputs, "experiment", *words)


def evaluated(folder: Path) -> object:
    """What the newest run judged and scored, and the answers that were kept."""
    if not results_files(folder):
        return None
    run = max(load_runs([folder]), key=lambda run: run.date)
    judged = {(name, s.text.strip()) for name, task in run.tasks.items() for s in task.samples}
    kept = kept_answers(folder)
    if {(name, text.strip()) for name, *_, text in kept} != judged:
        return None
    return {
        "kept": kept,
        **{
            name: ([str(sample) for sample in task.samples], dict(task.rates))
            for name, task in run.tasks.items()
        },
    }


def kept_answers(folder: Path) -> list[tuple[str, ...]]:
    """Every answer in the store of an evaluation, as often as it was received."""
    files = (folder / ANSWERS).glob("*.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    names = ("task", "item_id", "order", "repeat", "text")
    return sorted(tuple(str(line[name]) for name in names) for line in lines if "text" in line)


def trained(folder: Path) -> object:
    """The weights of judge and last checkpoint, and the log without clocks."""
    if not (folder / LOG_FILE).is_file():
        return None
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


class Reached(NamedTuple):
    """How far a training was when it was killed."""

    step: int
    """The last step in its log; 0 before the first, or if nothing can be lost any more."""
    starts: list[Any]
    """When and where it was started."""

    @classmethod
    def by(cls, folder: Path) -> Reached:
        record = training_record(folder)
        log = folder / LOG_FILE
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
        steps = [json.loads(line)["step"] for line in lines if line.endswith("\n")]
        return cls(0 if record["finished"] else max(steps, default=0), record["starts"])

    def lost_in(self, folder: Path) -> int:
        """How many steps were trained again."""
        starts = training_record(folder)["starts"]
        if starts == self.starts:  # it reached its end after the command around it was killed
            return 0
        return max(0, self.step - int(starts[-1]["from_step"]))


def training_record(folder: Path) -> Mapping[str, Any]:
    if not (folder / RUN_FILE).is_file():
        return {"starts": [], "finished": None}
    record: Mapping[str, Any] = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    return record


def compared(folder: Path) -> object:
    """The tables of an experiment, its training and its evaluation."""
    if not (folder / "results.json").is_file():
        return None
    scores = json.loads((folder / "results.json").read_text(encoding="utf-8"))["scores"]
    clocks = ("results", "run")
    return {
        "scores": [{k: v for k, v in score.items() if k not in clocks} for score in scores],
        "training": trained(folder / "runs" / ARM),
        "evaluation": evaluated(folder / "evaluations" / ARM),
    }


COMMANDS: Mapping[str, Command | LaunchedCommand] = {
    "data prepare": Command(50, lambda inputs: unsafebench(inputs / "raw", 300), files, prepare),
    "data sample": Command(50, lambda inputs: None, files, sample),
    "leaderboard add": Command(50, write_runs, files, add, copy_board),
    "baseline save": Command(50, write_runs, files, save),
    "answers": Command(50, lambda inputs: None, answers_and_losses, keep_answers),
    "eval": LaunchedCommand(10, write_judge, evaluated, start_eval),
    "train": LaunchedCommand(10, write_judge, trained, start_train, Path()),
    "experiment": LaunchedCommand(3, write_judge, compared, start_experiment, Path("runs") / ARM),
}


if __name__ == "__main__":
    main()
