"""What a run leaves beside its weights: how it was made, what it logged, and a card of the model.

``run.json``    the data with its fingerprints, and each start: settings, versions, commit, device
``recipe.yaml`` the effective settings; ``--recipe recipe.yaml`` trains with them again
``log.jsonl``   one line a log: step, epoch, time, figures
``README.md``   the model card of a folder of weights
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

import torch

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import is_free, read_json, write_json, write_text
from mtrl_judge.common.markdown import as_yaml, render_card
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD

from .callbacks import plain_value, timestamp
from .checkpoints import latest_checkpoint, step_of

if TYPE_CHECKING:
    from .settings import Settings

RUN_FILE = "run.json"
RECIPE_FILE = "recipe.yaml"
MODEL_CARD = "README.md"
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
# A resumed run may have these otherwise: they say where it runs and what is shown and kept, not
# what is learnt. Everything else must be as it was.
FREE_FIELDS = frozenset(
    {
        "accelerate",
        "accept_license",
        "allow_leaks",
        "attn_implementation",
        "data_root",
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "ddp_timeout",
        "disable_tqdm",
        "eval_steps",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "hub_model_id",
        "hub_private_repo",
        "hub_revision",
        "hub_strategy",
        "hub_token",
        "log_completions",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_dir",
        "logging_first_step",
        "logging_steps",
        "logging_strategy",
        "machines",
        "num_completions_to_print",
        "output_dir",
        "project",
        "push_to_hub",
        "report_to",
        "run_name",
        "save_steps",
        "save_total_limit",
        "trackio_space_id",
        "vllm_enable_sleep_mode",
        "vllm_gpu_memory_utilization",
        "vllm_group_port",
        "vllm_mode",
        "vllm_server_base_url",
        "vllm_server_host",
        "vllm_server_port",
        "vllm_server_timeout",
        "vllm_tensor_parallel_size",
    }
)
_SECRETS = ("hub_token",)


def start_record(
    folder: Path,
    settings: Settings,
    data: Mapping[str, Mapping[str, Any]],
    checks: Mapping[str, Any] = {},
) -> None:
    """Claim a run's folder, or check that a resumed run is the one that was started there.

    For the main process, before the other ones go on.

    Args:
        data: by task, the record of the training rows that
            :func:`mtrl_judge.judge_tasks.sources.load_rows` gives.
        checks: what else the start records: accepted licenses, leaks (:mod:`.terms`).

    Raises:
        JudgeError: a new run and the folder is not empty; or ``resume`` and there is no run, one
            that is finished, or one with other data or settings.
    """
    path = folder / RUN_FILE
    if settings.judge.resume:
        run = _resumable(path, settings, data)
    else:
        _refuse_taken(folder)
        run = {"method": settings.method, "data": data, "starts": [], "finished": None}
    run["starts"].append({**_start(folder, settings), **checks})
    write_json(path, run)
    write_text(folder / RECIPE_FILE, _recipe(settings))


def finish_record(folder: Path, step: int, scores: Mapping[str, Any]) -> None:
    """Mark a run as finished: it cannot be resumed any more."""
    run = _read_run(folder / RUN_FILE)
    run["finished"] = {"time": timestamp(), "step": step, "scores": plain_value(scores)}
    write_json(folder / RUN_FILE, run)


def write_model_card(
    folder: Path,
    settings: Settings,
    data: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, float],
    accepted: Mapping[str, str] = {},
) -> None:
    """Write ``README.md`` for a folder of weights that has its judge card.

    Args:
        scores: what :meth:`.evaluate.Validation.run` returned for these weights; empty where
            nothing was validated.
        accepted: as :func:`.terms.accepted_licenses` gives.

    Raises:
        JudgeError: the folder has no judge card.
    """
    card_path = folder / CHECKPOINT_CARD
    if not card_path.is_file():
        raise JudgeError(f"{card_path}: is missing; it is written with the weights (save_model)")
    from huggingface_hub import ModelCardData

    base = base_model(settings)
    tasks = settings.tasks
    shown = {name: value for name, value in settings.given.items() if name not in FREE_FIELDS}
    shown |= {"model_name_or_path": base.name, "tasks": [task.task for task in tasks]}
    text = render_card(
        Path(__file__).with_name("model_card.md.jinja"),
        card_data=ModelCardData(**_front_matter(folder, settings, base)),
        name=folder.resolve().name,
        base=base,
        card=read_json(card_path),
        method=settings.method,
        recipe=settings.recipe.stem if settings.recipe else None,
        warm_up=settings.judge.warm_up and Path(settings.judge.warm_up).stem,
        tasks=tasks,
        data=data,
        accepted=accepted,
        scores=scores,
        settings=as_yaml(shown),
        versions=_versions(),
    )
    write_text(folder / MODEL_CARD, text)


def _refuse_taken(folder: Path) -> None:
    if is_free(folder):
        return
    other = "name another --output_dir"
    if not (folder / RUN_FILE).is_file():
        raise JudgeError(f"output_dir: {folder} is not empty and holds no run; {other}")
    run = _read_run(folder / RUN_FILE)
    if run["finished"]:
        at = f"a run that finished at step {run['finished']['step']}"
        raise JudgeError(f"output_dir: {folder} holds {at}; {other}")
    checkpoint = latest_checkpoint(folder)
    at = f"step {step_of(checkpoint)}" if checkpoint else "its start"
    raise JudgeError(
        f"output_dir: {folder} holds a run that is not finished; "
        f"go on from {at} with --resume, or {other}"
    )


def _resumable(
    path: Path, settings: Settings, data: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    if not path.is_file():
        raise JudgeError(f"resume: {path.parent} holds no run; leave --resume away to start one")
    run = _read_run(path)
    if run["finished"]:
        raise JudgeError(
            f"resume: the run in {path.parent} finished at step {run['finished']['step']}; "
            "start another one in another --output_dir"
        )
    differences = [
        *_setting_differences(run, settings),
        *_data_differences(run["data"], data),
    ]
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise JudgeError(
            f"resume: the run in {path.parent} was started otherwise:\n{listed}\n"
            "resume it as it was, or start another one in another --output_dir"
        )
    return run


def _setting_differences(run: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    if run["method"] != settings.method:
        yield f"method: {run['method']} then, {settings.method} now"
    then, now = run["starts"][0]["settings"], settings.given
    defaults = _defaults(settings)
    for name in sorted((then.keys() | now.keys()) - FREE_FIELDS):
        old, new = (given.get(name, defaults.get(name)) for given in (then, now))
        if old != new:
            yield f"{name}: {json.dumps(old)} then, {json.dumps(new)} now"


def _data_differences(
    then: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for task in sorted(then.keys() | now.keys()):
        if task not in now or task not in then:
            yield f"data: {task}: {'was there then' if task in then else 'was not there then'}"
        elif then[task]["fingerprint"] != now[task]["fingerprint"]:
            old, new = then[task], now[task]
            yield (
                f"data: {task}: other rows: {old['rows']} from {old['location']} then "
                f"({old['fingerprint']}), {new['rows']} from {new['location']} now "
                f"({new['fingerprint']})"
            )


def _defaults(settings: Settings) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for arguments in (settings.model, settings.trainer, settings.judge):
        for each in fields(arguments):
            if each.default is not MISSING:
                defaults[each.name] = each.default
            elif each.default_factory is not MISSING:
                defaults[each.name] = each.default_factory()
    plain: dict[str, Any] = json.loads(json.dumps(defaults, default=str))
    return plain


def _start(folder: Path, settings: Settings) -> dict[str, Any]:
    checkpoint = latest_checkpoint(folder) if settings.judge.resume else None
    return {
        "time": timestamp(),
        "from_step": step_of(checkpoint) if checkpoint else 0,
        "command": _command(sys.argv),
        "recipe": str(settings.recipe) if settings.recipe else None,
        "settings": _without_secrets(settings),
        "seed": settings.trainer.seed,
        "processes": settings.trainer.world_size,
        "device": _device(settings.trainer.device),
        "python": platform.python_version(),
        "versions": _versions(),
        "git": _git(Path(__file__).parent),
    }


def _recipe(settings: Settings) -> str:
    head = f"# The settings of a run: mtrl-judge train {settings.method} --recipe {RECIPE_FILE}\n"
    return head + as_yaml(_without_secrets(settings))


def _without_secrets(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in settings.given.items() if name not in _SECRETS}


def _command(argv: list[str]) -> str:
    """The command line, a token in it left out."""
    line = shlex.join(argv)
    return re.sub(r"(--hub[_-]token[= ])\S+", r"\1…", line)


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit that this code is of and whether it has changes; None outside a checkout."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Installed into an environment that lies in somebody's repository, the code is not of it.
    if ask("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    status = ask("status", "--porcelain", ":/")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


class Base:
    """The model that training started from, as a reader elsewhere can know it."""

    def __init__(self, name_or_path: str) -> None:
        self.local = Path(name_or_path).is_dir()
        self.name = Path(name_or_path).resolve().name if self.local else name_or_path


def base_model(settings: Settings) -> Base:
    """What recipe or flags named: a warm-up has the run itself start from the warm-up's result."""
    return Base(str(settings.given["model_name_or_path"]))


def _front_matter(folder: Path, settings: Settings, base: Base) -> dict[str, Any]:
    """The fields that the hub reads; a folder on a disk is no base model there."""
    adapter = (folder / "adapter_config.json").is_file()
    return {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        **({} if base.local else {"base_model": base.name}),
        "tags": ["mtrl-judge", "llm-as-a-judge", "trl", settings.method],
    }


def _read_run(path: Path) -> dict[str, Any]:
    advice = "restore it, or choose another --output_dir"
    run = read_json(path, advice=advice)
    if not run.get("starts") or "finished" not in run:
        raise JudgeError(f"{path}: starts, finished: missing from the record of a run; {advice}")
    return run
