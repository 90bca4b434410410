"""What a run leaves beside its weights, so that it can be understood, repeated and resumed.

``run.json``    the data with its fingerprints, and each start: settings, versions, commit, engine
``recipe.yaml`` the effective settings; ``--recipe recipe.yaml`` trains with them again
``log.jsonl``   one line per log: step, epoch, time, figures (:class:`.callbacks.JsonLog`)
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import is_free, read_json, write_json, write_text
from mtrl_judge.common.markdown import as_yaml
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION

from .callbacks import plain_value, timestamp
from .checkpoints import latest_checkpoint, step_of
from .engine import started_engine
from .finished_run import RUN_FILE, refuse_finished
from .free_fields import FREE_FIELDS

if TYPE_CHECKING:
    from .settings import Settings

RECIPE_FILE = "recipe.yaml"
PACKAGES = (
    "mtrl-judge",
    "torch",
    "transformers",
    "trl",
    "datasets",
    "accelerate",
    "peft",
    "lmms-eval",
)
_SECRETS = ("hub_token",)


def start_record(
    folder: Path,
    settings: Settings,
    data: Mapping[str, Mapping[str, Any]],
    checks: Mapping[str, Any] = {},
) -> None:
    """Claim a run's folder, or check that a resumed run is the one that was started there.

    For the main process, before the others continue.

    Args:
        data: by task, the record of its training rows (``LoadedSplit.record``), and what the task
            is (:func:`task_record`).
        checks: what else to record: accepted licenses and leaks (:mod:`.preflight`), and what the
            base model's card states (:mod:`.base_card`).

    Raises:
        JudgeError: a new run and the folder is not empty; or ``resume`` and there is no run, one
            that is finished, or one with other data or settings.
    """
    if settings.judge.resume:
        run = _resumable(folder, settings, data)
    else:
        _refuse_taken(folder)
        run = {"method": settings.method, "parser": PARSER_VERSION, "data": data}
        run |= {"starts": [], "finished": None}
    run["starts"].append({**_start(folder, settings), **checks})
    write_json(folder / RUN_FILE, run)
    head = f"# The settings of a run: mtrl-judge train {settings.method} --recipe {RECIPE_FILE}\n"
    write_text(folder / RECIPE_FILE, head + as_yaml(_without_secrets(settings)))


def task_record(task: JudgeTask) -> dict[str, Any]:
    """What a run records of a task for the judge's card."""
    about = {
        "kind": task.judge.kind,
        "headline": task.kind.headline,
        "dimension": task.judge.dimension,
        "dataset": task.dataset_path,
        "card": task.judge.card.model_dump(mode="json"),
    }
    return {"about": about}


def record_sampler(folder: Path, sampler: Mapping[str, Any]) -> None:
    """Add what samples completions (engine, version, data type) to the newest start of a run."""
    run = _read_run(folder)
    run["starts"][-1]["sampler"] = dict(sampler)
    write_json(folder / RUN_FILE, run)


def record_warning(folder: Path, step: int, text: str) -> None:
    """Add what a run warned of to its newest start, for the judge's card."""
    run = _read_run(folder)
    run["starts"][-1].setdefault("warnings", []).append({"step": step, "text": text})
    write_json(folder / RUN_FILE, run)


def finished_now(
    step: int,
    scores: Mapping[str, Any],
    *,
    best_step: int | None = None,
    validation: Mapping[str, Mapping[str, Any]] = {},
) -> dict[str, Any]:
    """How a run ended.

    Args:
        scores: the validation of the weights that became the judge.
        best_step: when that was.
        validation: by task, the rows of that validation, and the ends of the interval of the score.
    """
    return {
        "time": timestamp(),
        "step": step,
        "best_step": best_step,
        "scores": plain_value(scores),
        "validation": {task: plain_value(known) for task, known in validation.items()},
    }


def finish_record(folder: Path, finished: Mapping[str, Any]) -> None:
    """Mark a run as finished (:func:`finished_now`): it can be resumed only with more steps."""
    run = _read_run(folder)
    run["finished"] = dict(finished)
    write_json(folder / RUN_FILE, run)


def package_versions() -> dict[str, str | None]:
    """The installed version of each package that a run depends on; None is not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _read_run(folder: Path) -> dict[str, Any]:
    path, advice = folder / RUN_FILE, "restore it, or choose another --output_dir"
    run = read_json(path, advice=advice)
    if not run.get("starts") or "finished" not in run:
        raise JudgeError(f"{path}: starts, finished: missing from the record of a run; {advice}")
    return run


def _refuse_taken(folder: Path) -> None:
    if is_free(folder):
        return
    advice = "choose another --output_dir"
    if not (folder / RUN_FILE).is_file():
        raise JudgeError(f"output_dir: {folder} is not empty and holds no run; {advice}")
    if finished := _read_run(folder)["finished"]:
        step = finished["step"]
        raise JudgeError(f"output_dir: {folder} holds a run that finished at step {step}; {advice}")
    checkpoint = latest_checkpoint(folder)
    start = f"step {step_of(checkpoint)}" if checkpoint else "its start"
    raise JudgeError(
        f"output_dir: {folder} holds an unfinished run; continue from {start} with --resume, or "
        f"{advice}"
    )


def _resumable(
    folder: Path, settings: Settings, data: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    if not (folder / RUN_FILE).is_file():
        raise JudgeError(f"resume: {folder} holds no run; leave --resume out to start one")
    run = _read_run(folder)
    refuse_finished(folder, settings.trainer.max_steps)
    differences = [*_setting_differences(run, settings), *_data_differences(run["data"], data)]
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise JudgeError(
            f"resume: the run in {folder} was started with other settings or data:\n{listed}\n"
            "resume it as it was started, or start a new one in another --output_dir"
        )
    return {**run, "finished": None}


def _setting_differences(run: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    if run["method"] != settings.method:
        yield f"method: was {run['method']}, now {settings.method}"
    if (parser := run.get("parser", 1)) != PARSER_VERSION:  # it reads what is rewarded
        yield f"parser: was version {parser}, now version {PARSER_VERSION}"
    defaults: dict[str, Any] = {}
    for arguments in (settings.model, settings.trainer, settings.judge):
        for field in fields(arguments):
            if field.default is not MISSING:
                defaults[field.name] = field.default
            elif field.default_factory is not MISSING:
                defaults[field.name] = field.default_factory()
    defaults = json.loads(json.dumps(defaults, default=str))
    then, now = dict(run["starts"][0]["settings"]), settings.given
    if run["finished"]:  # is extended
        free = FREE_FIELDS | {"max_steps"}
    else:
        free = FREE_FIELDS
        then["max_steps"] = run["starts"][-1]["settings"].get("max_steps", -1)
    for name in sorted((then.keys() | now.keys()) - free):
        old, new = (given.get(name, defaults.get(name)) for given in (then, now))
        if old != new:
            yield f"{name}: was {json.dumps(old)}, now {json.dumps(new)}"
    # Each engine writes checkpoints of its own form, for its number of processes.
    started, starting = run["starts"][0].get("engine"), _engine(settings)
    if started != starting:
        yield f"engine: was {json.dumps(started)}, now {json.dumps(starting)}"


def _data_differences(
    then: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for task in sorted(then.keys() | now.keys()):
        if task not in now or task not in then:
            yield f"data: {task}: {'no longer' if task in then else 'not yet'} among the tasks"
        elif then[task]["fingerprint"] != now[task]["fingerprint"]:
            old, new = (
                f"{data[task]['rows']} rows from {data[task]['location']} "
                f"(fingerprint {data[task]['fingerprint']})"
                for data in (then, now)
            )
            yield f"data: {task}: was {old}, now {new}"
        elif then[task].get("paraphrases") != now[task].get("paraphrases"):
            yield f"data: {task}: its paraphrases were others"


def _start(folder: Path, settings: Settings) -> dict[str, Any]:
    import torch

    checkpoint = latest_checkpoint(folder) if settings.judge.resume else None
    device = settings.trainer.device
    return {
        "time": timestamp(),
        "from_step": step_of(checkpoint) if checkpoint else 0,
        "command": re.sub(r"(--hub[_-]token[= ])\S+", r"\1…", shlex.join(sys.argv)),
        "recipe": str(settings.recipe) if settings.recipe else None,
        "settings": _without_secrets(settings),
        "seed": settings.trainer.seed,
        "engine": _engine(settings),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "versions": package_versions(),
        "git": _git(Path(__file__).parent),
    }


def _engine(settings: Settings) -> dict[str, Any]:
    trainer = settings.trainer
    return {
        **started_engine(trainer)._asdict(),
        "processes": trainer.world_size,
        "mixed_precision": trainer.mixed_precision,
    }


def _without_secrets(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in settings.given.items() if name not in _SECRETS}


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of this code and whether it has changes; None outside a checkout of it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Fails for an installed copy whose environment lies in somebody else's repository.
        git("ls-files", "--error-unmatch", "__init__.py")
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", ":/"))}
    except (OSError, subprocess.CalledProcessError):
        return None
