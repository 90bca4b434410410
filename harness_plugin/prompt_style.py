"""How an evaluation prompts and reads its judge: the prompt style and the scoring."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrl_judge.judge_tasks.prompts import instruction
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, JudgeTask, Style
from mtrl_judge.models.calibration import Method
from mtrl_judge.models.logprob import Scoring
from mtrl_judge.models.style import StyleSource, check_style, chosen_style
from mtrl_judge.models.votes import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

STYLE_VARIABLE = "MTRL_JUDGE_STYLE"
DEMONSTRATIONS_VARIABLE = "MTRL_JUDGE_DEMONSTRATIONS"


class Backend(NamedTuple):
    """What our backend knows of the model that it has loaded."""

    engine: str
    scoring: Scoring
    style: str | None
    """The prompt style that the checkpoint was trained with, if its card names one."""
    pixels: tuple[int | str | None, int | None]
    """The bounds on width × height of each image as the model sees it."""
    system_prompt: str
    """Empty if there is none."""
    revision: str | None
    """What identifies the weights; None behind a server."""
    generation_settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    """What a task's ``generation_kwargs`` become."""
    calibration: Method = "temperature"
    """What is fitted to calibrate verdicts by probability."""
    encode_image: Callable[[Image.Image], NDArray[Any]] | None = None
    """The judge's vision tower: an image to a vector. None where it is not in this process."""
    sampling: Sampling | None = None
    """How several answers to an item vote; None where it is answered once."""


# lmms-eval builds the prompts apart from the model, so what our backend knows is passed on here.
# None is another backend, of which nothing is known.
_backend: Backend | None = None
_reported: set[tuple[Style, StyleSource]] = set()


def set_backend(backend: Backend | None) -> None:
    """Called by our backend when it has loaded a model, and with None before a run.

    Raises:
        JudgeError: the checkpoint's style is unknown.
    """
    global _backend
    if backend is not None and backend.style is not None:
        check_style(backend.style, "the checkpoint's card")
    _backend = backend
    _reported.clear()


def evaluation_scoring() -> Scoring:
    """How the loaded backend obtains its verdicts."""
    return "generation" if _backend is None else _backend.scoring


def evaluation_engine() -> str | None:
    """The engine of our backend; None if another backend runs the model."""
    return None if _backend is None else _backend.engine


def evaluation_calibration() -> Method:
    """What our backend fits to calibrate verdicts by probability."""
    return "temperature" if _backend is None else _backend.calibration


def evaluation_encoder() -> Callable[[Image.Image], NDArray[Any]] | None:
    """The vision tower of the judge that our backend has loaded."""
    return None if _backend is None else _backend.encode_image


def evaluation_sampling() -> Sampling | None:
    """How several answers to an item vote; None where our backend answers it once."""
    return None if _backend is None else _backend.sampling


def evaluation_style(task: JudgeTask) -> Style:
    """``MTRL_JUDGE_STYLE`` if set, else the checkpoint's style, else the YAML's.

    With ``scoring=logprob`` it is "direct" unless the variable says otherwise.

    Raises:
        JudgeError: the variable names an unknown style.
    """
    return _style_and_source(task)[0]


def evaluation_record(task: JudgeTask) -> dict[str, Any]:
    """What results say about how a task was asked and answered."""
    demonstrations = task.judge.demonstrations
    style, source = _style_and_source(task)
    low, high = ("unknown", "unknown") if _backend is None else _backend.pixels
    record = {
        # Templates and verdicts of the YAML, also where a perturbation shows others.
        "question": task.judge.question,
        "instruction": instruction(task.judge.kind, task.judge.verdicts, style),
        "label_rule": task.judge.label.model_dump(mode="json", exclude_none=True),
        "style": style,
        "style_source": source,
        "scoring": evaluation_scoring(),
        "engine": evaluation_engine(),
        "min_pixels": low,
        "max_pixels": high,
        "demonstrations": demonstrations.k if demonstrations else 0,
    }
    if _backend is not None:
        record |= {"system_prompt": _backend.system_prompt, "model_revision": _backend.revision}
        if _backend.sampling is not None:
            record |= _backend.sampling.record
    return record


def effective_generation(task: JudgeTask, requested: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that answers are generated with; None where nothing is generated.

    Args:
        requested: the task's ``generation_kwargs`` after ``--gen_kwargs``, which another backend
            may complete or change.

    Raises:
        JudgeError: our backend does not know a setting.
    """
    if _backend is None:
        return dict(requested)
    if _backend.scoring == "logprob" and evaluation_style(task) == "direct":
        return None
    return _backend.generation_settings(requested)


def report_style(task: JudgeTask) -> None:
    """Log which style is used and why, once for each answer to that in a run."""
    from loguru import logger

    style, source = found = _style_and_source(task)
    if found in _reported:
        return
    _reported.add(found)
    if source == "scoring":
        logger.info(f"style: {style}, that of scoring=logprob unless {STYLE_VARIABLE} is set")
    elif source == "demonstrations":
        logger.warning(
            "style: direct, as there is no reasoning in the data that demonstrations come from; "
            "name its column in judge.reasoning for another style"
        )
    elif source == "override":
        logger.info(f"style: {style}, from {STYLE_VARIABLE} or --style")
    elif source == "checkpoint":
        logger.info(f"style: {style}, which the checkpoint was trained in ({CHECKPOINT_CARD})")
    elif _backend is not None:
        logger.info(f"style: {style}, that of the tasks; the checkpoint has no {CHECKPOINT_CARD}")
    else:
        other = "reasoned" if style == "direct" else "direct"
        logger.warning(
            f"style: {style}, that of the tasks; this backend does not read the style that a "
            f"checkpoint was trained in ({CHECKPOINT_CARD}). For a judge that was trained in the "
            f"other one, give --style {other} or set {STYLE_VARIABLE}={other}"
        )


def _style_and_source(task: JudgeTask) -> tuple[Style, StyleSource]:
    override = os.environ.get(STYLE_VARIABLE) or None
    if override is not None:
        check_style(override, STYLE_VARIABLE)
    trained = None if _backend is None else _backend.style
    return chosen_style(task, override, evaluation_scoring(), trained)
