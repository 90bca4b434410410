"""The card (``README.md``) of a judge: what it is, its scores, and the data it learned from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.files import read_json, write_text
from mtrl_judge.common.markdown import as_yaml, render_card
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD
from mtrl_judge.leaderboard.formats import metric_name

from .model import base_name
from .run_record import FREE_FIELDS, package_versions
from .settings import Settings

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

MODEL_CARD = "README.md"


def write_model_card(
    folder: Path,
    settings: Settings,
    data: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, float],
    accepted: Mapping[str, str] = {},
) -> None:
    """Write the card of a folder of weights.

    Args:
        data: by task, the record of its training rows.
        scores: what :meth:`.validation.Validation.run` returned for these weights; empty where
            nothing was validated.
        accepted: as :func:`.preflight.accepted_licenses` gives.

    Raises:
        DataError: the folder has no checkpoint card.
    """
    shown = {name: value for name, value in settings.given.items() if name not in FREE_FIELDS}
    shown |= {
        "model_name_or_path": base_name(settings),
        "tasks": [task.task for task in settings.tasks],
    }
    text = render_card(
        Path(__file__).with_name("model_card.md.jinja"),
        card_data=_card_data(folder, settings, data, scores),
        name=folder.resolve().name,
        base=base_name(settings),
        base_is_local=_base_is_local(settings),
        card=read_json(folder / CHECKPOINT_CARD),
        method=settings.method,
        recipe=settings.recipe and settings.recipe.stem,
        warm_up=settings.judge.warm_up and Path(settings.judge.warm_up).stem,
        tasks=settings.tasks,
        data=data,
        accepted=accepted,
        scores=scores,
        headline=settings.headline,
        settings=as_yaml(shown),
        versions=package_versions(),
    )
    write_text(folder / MODEL_CARD, text)


def _card_data(
    folder: Path,
    settings: Settings,
    data: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, float],
) -> ModelCardData:
    """The front matter, which the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-text-to-text",
            task_name=task.judge.dimension,
            # Only data from the hub is the dataset of that name there.
            dataset_type=record["location"] if record["source"] == "hub" else task.task,
            dataset_name=task.task,
            dataset_split="validation",
            dataset_revision=record.get("revision"),
            metric_type=task.kind.headline,
            metric_name=metric_name(task.kind.headline),
            metric_value=scores[f"{task.task}/{task.kind.headline}"],
        )
        for task, record in ((task, data[task.task]) for task in settings.tasks)
        if scores
    ]
    return ModelCardData(
        model_name=folder.resolve().name,
        eval_results=results,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=None if _base_is_local(settings) else base_name(settings),
        tags=["mtrl-judge", "llm-as-a-judge", "trl", settings.method],
    )


def _base_is_local(settings: Settings) -> bool:
    return Path(str(settings.given["model_name_or_path"])).is_dir()
