"""The stages of the demo and of the paper's comparison, as steps of a pipeline."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json
from mtrl_judge.demo.corpus import write_sample
from mtrl_judge.demo.further import teach_further_kinds
from mtrl_judge.demo.pretrain import pretrain_tiny_model
from mtrl_judge.harness_plugin.perturbations import PERTURBATION_VARIABLE
from mtrl_judge.harness_plugin.prompt_style import DEMONSTRATIONS_VARIABLE
from mtrl_judge.judge_tasks.loading import SHIPPED
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, DATA_CARD, JudgeTask, Style
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.rl.finished_run import LOG_FILE, RUN_FILE
from mtrl_judge.rl.learning_curve import learning_curve
from mtrl_judge.rl.recipes import as_shell, launch_command
from mtrl_judge.rl.settings import Settings

from .launch import remove_results, run_command, run_lmms_eval
from .pipeline import Step

CURVE = "learning_curve.png"
STEPS_FILE = "steps.json"
TINY = "tiny_cpu"


def sample_step(root: Path, seed: int) -> Step:
    """Write the sample corpus."""
    command = ["mtrl-judge", "data", "sample", "--data-root", str(root), "--seed", str(seed)]
    return Step(
        "sample corpus",
        "sample",
        (root / DATA_CARD).is_file,
        lambda: write_sample(root, seed=seed),
        shlex.join(command),
    )


def base_step(data_root: Path, out: Path, seed: int) -> Step:
    """Pretrain the tiny base model."""
    command = ["mtrl-judge", "tiny", "--data-root", str(data_root), "--out", str(out)]
    return Step(
        "tiny base model",
        "base",
        (out / CHECKPOINT_CARD).is_file,
        lambda: pretrain_tiny_model(data_root, out, seed=seed),
        shlex.join([*command, "--seed", str(seed)]),
    )


def further_step(data_root: Path, base: Path, out: Path, seed: int) -> Step:
    """Teach the tiny base model further kinds of tasks."""
    command = ["mtrl-judge", "tiny", "--data-root", str(data_root), "--base", str(base)]
    return Step(
        "tiny base model of further kinds",
        "base further",
        (out / CHECKPOINT_CARD).is_file,
        lambda: teach_further_kinds(base, data_root, out, seed=seed),
        shlex.join([*command, "--out", str(out), "--seed", str(seed)]),
    )


def training_step(
    name: str,
    kind: str,
    settings: Settings,
    flags: Sequence[str],
    folder: Path,
    *,
    evaluation: Path,
    environment: Mapping[str, str],
    log: Path | None = None,
) -> Step:
    """Train in a process of its own, resuming an interrupted training, and plot the learning curve.

    Args:
        settings: those of the recipe, which decide how the training is launched.
        flags: of the training, except ``--output_dir``, which is ``folder``.
        evaluation: the folder of the judge's evaluation; one of an earlier judge is removed.
    """
    flags = [*flags, "--output_dir", str(folder)]
    command = as_shell(launch_command(settings.method, settings.judge, flags))

    def is_finished() -> bool:
        advice = f"restore it, or remove {folder}"
        return bool(read_json(folder / RUN_FILE, missing_ok=True, advice=advice).get("finished"))

    def run() -> None:
        if not is_finished():
            if settings.judge.machines > 1:
                raise JudgeError(
                    f"{name}: the recipe is for {settings.judge.machines} machines; start the "
                    f"training on each, and run this command again when it has finished:\n  "
                    f"{command}"
                )
            resume = ["--resume"] if (folder / RUN_FILE).is_file() else []
            remove_results(evaluation)
            words = launch_command(
                settings.method, settings.judge, [*flags, *resume], python=sys.executable
            )
            run_command(name, words, environment=environment, log=log)
        learning_curve(folder / LOG_FILE, folder / CURVE)

    return Step(name, kind, lambda: is_finished() and (folder / CURVE).is_file(), run, command)


def composing_step(
    name: str,
    runs: Sequence[Path],
    judge: Path,
    *,
    environment: Mapping[str, str],
    log: Path | None = None,
) -> Step:
    """Make one judge of the adapters of several runs, in a process of its own.

    Args:
        runs: their folders.
        judge: the folder to make.
    """
    words = ["-m", "mtrl_judge.rl.arrow", *map(str, runs), "--out", str(judge)]

    def run() -> None:
        judge.parent.mkdir(parents=True, exist_ok=True)
        run_command(name, [sys.executable, *words], environment=environment, log=log)

    def is_done() -> bool:
        return (judge / CHECKPOINT_CARD).is_file()

    return Step(name, "compose", is_done, run, as_shell(["python", *words]))


def evaluation_step(
    name: str,
    kind: str,
    settings: Settings,
    model: str,
    tasks: Sequence[JudgeTask],
    out: Path,
    *,
    style: Style | None = None,
    eval_args: Sequence[str] = (),
    environment: Mapping[str, str],
    log: Path,
) -> Step:
    """Evaluate a judge with the stock lmms-eval.

    Args:
        settings: those of the recipe, for the batch size and the device.
        style: of the prompts. Default: that of the settings.
        eval_args: further flags of lmms-eval; ``--model_args`` among them are added to ours.
    """
    # lmms-eval uses the last of several --model_args, so they are joined.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model_args", action="append", default=[])
    given, flags = parser.parse_known_args(list(eval_args))
    device = ["device=cpu"] if settings.trainer.use_cpu else []
    model_args = ",".join([f"pretrained={model}", *device, *given.model_args])
    batch_size = str(settings.trainer.per_device_eval_batch_size)
    flags = ["--model_args", model_args, "--batch_size", batch_size, *flags]
    flags += _include_path(tasks)
    names = [task.task for task in tasks]
    style = style or settings.style

    def run() -> None:
        remove_results(out)  # of an interrupted evaluation
        run_lmms_eval(
            "mtrl_judge",
            ",".join(names),
            output_path=out,
            style=style,
            flags=flags,
            environment=environment,
            log=log,
            name=name,
            resume=True,
        )

    shown = [
        f"{variable}={environment[variable]}"
        for variable in (PERTURBATION_VARIABLE, DEMONSTRATIONS_VARIABLE)
        if variable in environment
    ]
    command = [
        *(["env", *shown] if shown else []),
        "mtrl-judge",
        "eval",
        "--resume",
        "--style",
        style,
        "--tasks",
        ",".join(names),
        *flags,
    ]
    if DATA_ROOT_VARIABLE in environment:
        command += ["--data-root", environment[DATA_ROOT_VARIABLE]]
    command += ["--output_path", str(out)]
    return Step(name, kind, lambda: complete_run(out, names) is not None, run, shlex.join(command))


def variables(data_root: Path | None, settings: Settings) -> dict[str, str]:
    """The environment variables of what an experiment starts, in addition to the present ones."""
    environment = {} if data_root is None else {DATA_ROOT_VARIABLE: str(data_root.resolve())}
    if settings.trainer.use_cpu and "OMP_NUM_THREADS" not in os.environ:
        # PyTorch's threads make a model of this size several times slower on busy cores.
        environment["OMP_NUM_THREADS"] = "1"
    return environment


def _include_path(tasks: Sequence[JudgeTask]) -> list[str]:
    """The flag by which lmms-eval finds tasks that are not shipped; it accepts one folder."""
    folders = sorted({str(t.path.resolve().parent) for t in tasks if t.path.parent != SHIPPED})
    if len(folders) > 1:
        raise JudgeError(
            f"tasks: found YAMLs in {', '.join(folders)}; expected one folder, as lmms-eval "
            "accepts only one --include_path"
        )
    return [word for folder in folders for word in ("--include_path", folder)]
