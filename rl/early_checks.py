"""What ends a training before torch is imported, which takes many seconds.

Other faults of flags and recipes are left to :func:`.settings.parse_settings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import expanded
from mtrl_judge.judge_tasks.sources import data_root, find_source
from mtrl_judge.judge_tasks.spec import JudgeTask

from .arguments import JudgeArguments, Method
from .fields import flag_words, read_recipe
from .finished_run import refuse_finished
from .recipes import find_recipe, resolve_tasks

# Names in ``report_to`` that are the names of packages; others are left to :mod:`.packages`.
_TRACKERS = (
    "clearml",
    "codecarbon",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "trackio",
    "wandb",
)


def refuse_early(method: Method, argv: Sequence[str]) -> None:
    """Stop before anything is loaded if a tracker is not installed, a task does not exist or has no
    training data, or ``--resume`` names a run that has ended.

    Raises:
        JudgeError: one of these.
    """
    words = flag_words(argv)
    given: dict[str, Any] = {name: " ".join(values) for name, values in words.items()}
    if recipe := given.get("recipe"):
        values, faults = read_recipe(find_recipe(recipe, method))
        if faults:
            return
        given = {**values, **given}
    for name in _names(given.get("report_to", ())):
        if name in _TRACKERS and find_spec(name) is None:
            raise JudgeError(f"report_to: needs {name}, which is not installed; pip install {name}")
    if _is_set(given, "resume"):
        _refuse_finished(given)
    # A YAML may name local files only where the settings, once read, have allowed that.
    if "allow_local_files" not in given:
        tasks = resolve_tasks(_names(given.get("tasks", JudgeArguments().tasks)))
        if not _is_set(given, "dry_run"):  # which prints what it can without data
            _refuse_missing_data(tasks, given.get("data_root"))


def _names(value: object) -> list[str]:
    """A list as a recipe or a flag has it; other values are faults, which are reported later."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _is_set(given: Mapping[str, Any], name: str) -> bool:
    return str(given.get(name, "false")).casefold() not in ("false", "0", "no")


def _refuse_finished(given: Mapping[str, Any]) -> None:
    try:
        folder, max_steps = expanded(str(given["output_dir"])), int(given.get("max_steps", -1))
    except (KeyError, ValueError):
        return
    refuse_finished(folder, max_steps)


def _refuse_missing_data(tasks: Sequence[JudgeTask], root: object) -> None:
    folder = expanded(root) if isinstance(root, str) and root else data_root()
    if folder is not None and not folder.is_dir():
        raise JudgeError(f"data_root: no folder {folder}")
    mistakes = []
    for task in tasks:
        try:
            find_source(task, folder)
        except DataError as error:
            mistakes.append(str(error))
    if mistakes:
        raise DataError("\n".join(dict.fromkeys(mistakes)))
