"""Demonstrations in the prompts of training and validation, as an evaluation shows them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.data.demonstrations import Demonstrator, load_demonstrator
from mtrl_judge.data.encoders import ImageEncoder
from mtrl_judge.judge_tasks.demonstration_checks import JUDGE
from mtrl_judge.judge_tasks.sources import LoadedSplit
from mtrl_judge.judge_tasks.spec import JudgeTask

if TYPE_CHECKING:
    from .settings import Settings

logger = logging.getLogger(__name__)


class TrainingDemonstrations:
    """Gives the rows of a run's tasks their demonstrations, which stay the same while it trains.

    Args:
        model: as the run starts from it; ``encoder: judge`` is its vision tower.
    """

    def __init__(self, settings: Settings, model: Any, processor: Any) -> None:
        self.settings, self.model, self.processor = settings, model, processor
        self._demonstrators: dict[str, Demonstrator] = {}

    def attach(self, loaded: LoadedSplit) -> LoadedSplit:
        """A split with the demonstrations of its rows.

        Raises:
            JudgeError: as :func:`~mtrl_judge.data.demonstrations.load_demonstrator`.
        """
        name = loaded.rows.raw.task.task
        task = next(task for task in self.settings.tasks if task.task == name)
        if task.judge.demonstrations is None:
            return loaded
        if name not in self._demonstrators:
            self._demonstrators[name] = load_demonstrator(
                task,
                self.settings.style,
                root=self.settings.data_root,
                encode_image=self._vision(task),
            )
        rows, record = self._demonstrators[name].attach(loaded.rows)
        split = loaded.record["split"]
        logger.info("%s: demonstrations of the %s split: %s", name, split, record)
        return LoadedSplit(rows, loaded.record)

    def _vision(self, task: JudgeTask) -> ImageEncoder | None:
        from mtrl_judge.models.transformers_judge import TransformersJudge

        spec = task.judge.demonstrations
        if spec is None or spec.encoder != JUDGE:
            return None
        if any(hasattr(weight, "ds_id") for weight in self.model.parameters()):
            raise JudgeError(
                f"{task.task}: demonstrations: encoder: judge: DeepSpeed has sharded the model's "
                "weights; use a model of sentence-transformers, or by: [text] with tfidf"
            )
        return TransformersJudge(self.model, self.processor).encode_image


def demonstrations_record(task: JudgeTask) -> dict[str, Any]:
    """What a run records of the demonstrations of a task; the training split is recorded itself."""
    spec = task.judge.demonstrations
    return {} if spec is None else {"demonstrations": spec.model_dump(mode="json", by_alias=True)}


def report_style(settings: Settings) -> None:
    """Say that the run is direct where demonstrations have no reasoning to show."""
    if settings.style != settings.asked_style:
        logger.warning(
            "style: direct and not %s, as there is no reasoning in the data that demonstrations "
            "come from; name its column in judge.reasoning for another style",
            settings.asked_style,
        )
