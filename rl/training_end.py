"""What ``mtrl-judge train`` ends with: the judge, its best scores, and how to evaluate it."""

from __future__ import annotations

import shlex
from pathlib import Path

from mtrl_judge.judge_tasks.loading import SHIPPED
from mtrl_judge.leaderboard.formats import metric_name

from .finished_run import finished_run
from .settings import Settings


def training_end(settings: Settings, judge: Path) -> str:
    """The last lines of a finished run.

    Args:
        judge: the folder of its judge, in that of the run.
    """
    finished = finished_run(judge.parent) or {}
    scores, steps = finished.get("scores", {}), finished.get("step")
    lines = [f"judge: {judge}"]
    if settings.headline in scores:
        name = metric_name(settings.headline)
        best = finished.get("best_step")
        when = f"step {best} of {steps}" if best else f"{steps} steps"
        lines.append(f"best:  {when}, mean {name} {scores[settings.headline]:.3f} in validation")
        for task in settings.tasks:
            headline = task.kind.headline
            score = scores.get(f"{task.task}/{headline}")
            shown = "–" if score is None else f"{score:.3f}"
            lines.append(f"       {task.task}: {metric_name(headline)} {shown}")
    else:
        lines.append(f"best:  the weights after {steps} steps; nothing was validated")
    lines.append(f"next:  {evaluation_command(settings, judge)}")
    return "\n".join(lines)


def evaluation_command(settings: Settings, judge: Path) -> str:
    """The command that evaluates a judge on all shipped tasks, or on its own ones."""
    device = ",device=cpu" if settings.trainer.use_cpu else ""
    command = ["mtrl-judge", "eval", "--model_args", f"pretrained={judge}{device}"]
    command += ["--batch_size", str(settings.trainer.per_device_eval_batch_size)]
    folders = {str(task.path.parent) for task in settings.tasks if task.path.parent != SHIPPED}
    if folders:
        names = ",".join(task.task for task in settings.tasks)
        command += ["--tasks", names, "--include_path", sorted(folders)[0]]
    if settings.data_root is not None:
        command += ["--data-root", str(settings.data_root)]
    return shlex.join(command)
