"""The stages that the demo and the paper's comparison are put together from."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json
from mtrl_judge.judge_tasks.loading import SHIPPED
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, DATA_CARD, JudgeTask, Style
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.rl.callbacks import LOG_FILE
from mtrl_judge.rl.learning_curve import learning_curve
from mtrl_judge.rl.recipes import as_shell, launch_command
from mtrl_judge.rl.run_record import RUN_FILE
from mtrl_judge.rl.settings import Settings

from .launch import run_lmms_eval
from .pipeline import Step, failed, run_child

CURVE = "learning_curve.png"


def sample_step(root: Path, seed: int) -> Step:
    """Write the sample corpus."""

    def run() -> None:
        from mtrl_judge.demo.corpus import write_sample

        write_sample(root, seed=seed)

    return Step(
        "the sample corpus",
        "sample",
        (root / DATA_CARD).is_file,
        run,
        shlex.join(["mtrl-judge", "data", "sample", "--data-root", str(root), "--seed", str(seed)]),
    )


def base_step(data_root: Path, out: Path, seed: int) -> Step:
    """Teach the tiny base model."""

    def run() -> None:
        from mtrl_judge.demo.pretrain import teach_tiny_model

        teach_tiny_model(data_root, out, seed=seed)

    words = ["mtrl-judge", "tiny", "--data-root", data_root, "--out", out, "--seed", seed]
    return Step(
        "the tiny base model",
        "base",
        (out / CHECKPOINT_CARD).is_file,
        run,
        shlex.join(map(str, words)),
    )


def training_step(
    name: str,
    kind: str,
    settings: Settings,
    folder: Path,
    flags: Sequence[str],
    environment: Mapping[str, str],
    log: Path | None,
) -> Step:
    """Train in a process of its own, or go on with a training that was broken off.

    The step's product is a run that is finished, and its learning curve.

    Args:
        settings: the recipe's, for the launcher.
        flags: the training's, without output folder.
        log: a file for what it prints; None is this process's output.
    """
    argv = [*flags, "--output_dir", str(folder)]
    command = as_shell(launch_command(settings.method, settings.judge, argv))

    def run() -> None:
        if not is_finished(folder):
            if settings.judge.machines > 1:
                raise JudgeError(
                    f"{name}: the recipe is meant for {settings.judge.machines} machines; "
                    f"start it on each, and call again when it is finished:\n  {command}"
                )
            resume = ["--resume"] if (folder / RUN_FILE).is_file() else []
            words = launch_command(
                settings.method, settings.judge, [*argv, *resume], python=sys.executable
            )
            run_child(name, words, environment, log)
        learning_curve(folder / LOG_FILE, folder / CURVE)

    def is_done() -> bool:
        return is_finished(folder) and (folder / CURVE).is_file()

    return Step(name, kind, is_done, run, command)


def evaluation_step(
    name: str,
    kind: str,
    model: str,
    tasks: Sequence[JudgeTask],
    out: Path,
    *,
    style: Style,
    extra: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
) -> Step:
    """Judge by the stock lmms-eval; what a broken evaluation left is removed first.

    Args:
        extra: further flags of lmms-eval; ``--model_args`` among them are added to ours.
    """
    names = [task.task for task in tasks]
    flags = [*_with_model_args(f"pretrained={model}", extra), *_include_path(tasks)]

    def run() -> None:
        shutil.rmtree(out, ignore_errors=True)
        code = run_lmms_eval(
            "mtrl_judge",
            ",".join(names),
            output_path=out,
            style=style,
            extra=flags,
            environment=environment,
            log=log,
        )
        if code:
            raise failed(name, code, log)

    words = ["mtrl-judge", "eval", "--style", style, "--tasks", ",".join(names), *flags]
    if DATA_ROOT_VARIABLE in environment:
        words += ["--data-root", environment[DATA_ROOT_VARIABLE]]
    command = shlex.join([*words, "--output_path", str(out)])
    return Step(name, kind, lambda: complete_run(out, names) is not None, run, command)


def is_finished(run_folder: Path) -> bool:
    """Whether a training run has come to its end, its judge written."""
    advice = f"restore it, or remove {run_folder}"
    run = read_json(run_folder / RUN_FILE, missing_ok=True, advice=advice)
    return bool(run.get("finished"))


def environment_of(data_root: Path | None, settings: Settings) -> dict[str, str]:
    """The variables of what an experiment starts."""
    environment = dict(os.environ)
    if data_root is not None:
        environment[DATA_ROOT_VARIABLE] = str(data_root.resolve())
    if settings.trainer.use_cpu:
        # PyTorch's threads make a model this small several times slower on busy cores.
        environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def evaluation_flags(settings: Settings) -> list[str]:
    """How a judge of this recipe is evaluated unless other flags come after."""
    device = ["--model_args", "device=cpu"] if settings.trainer.use_cpu else []
    return ["--batch_size", str(settings.trainer.per_device_eval_batch_size), *device]


def _with_model_args(own: str, extra: Sequence[str]) -> list[str]:
    """The flags with all ``--model_args`` in one: lmms-eval takes the last of several."""
    rest, parts = [], [own]
    words = iter(extra)
    for word in words:
        if word == "--model_args":
            parts.append(next(words, ""))
        elif word.startswith("--model_args="):
            parts.append(word.removeprefix("--model_args="))
        else:
            rest.append(word)
    return ["--model_args", ",".join(part for part in parts if part), *rest]


def _include_path(tasks: Sequence[JudgeTask]) -> list[str]:
    """Where lmms-eval finds tasks that are not shipped; it takes one folder."""
    folders = {str(task.path.resolve().parent) for task in tasks if task.path.parent != SHIPPED}
    if len(folders) > 1:
        listed_folders = ", ".join(sorted(folders))
        raise JudgeError(f"tasks: YAMLs in {listed_folders}; lmms-eval takes one folder of them")
    return [word for folder in folders for word in ("--include_path", folder)]
