"""Training across instructions: ``prompts: mixed``.

Each row is asked in one of the wordings of its task, the question or one of its paraphrases, so
that a judge learns what is asked and not how. Validation asks the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mtrl_judge.common.hashing import digest, stable_hash
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.row_renderer import RowRenderer
from mtrl_judge.judge_tasks.rows import JudgeRow, render_row
from mtrl_judge.judge_tasks.spec import JudgeTask

if TYPE_CHECKING:
    from .settings import Settings

Prompts: TypeAlias = Literal["question", "mixed"]
QUESTION = "judge.question"


class MixedPrompts:
    """Chooses the wording of each row.

    The choice depends on nothing but seed, epoch and item. All completions of a group have one
    prompt, both orders of a pair have one wording, and a resumed run asks as an uninterrupted one
    would have.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.epoch = seed, 0
        self._renderers: dict[tuple[str, str], RowRenderer] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> MixedPrompts:
        """`datasets` copies a transform with its dataset; the epoch is that of all copies."""
        return self

    def apply(self, row: JudgeRow, doc: Mapping[str, Any], raw: RawSplit) -> JudgeRow:
        """The row in its wording.

        Args:
            doc: the row as :func:`~mtrl_judge.judge_tasks.rows.to_rows` made it.
            raw: the split that it is from.
        """
        fields = [*raw.task.questions]
        choice = stable_hash("prompts", self.seed, self.epoch, row.task, row.item_id)
        field = fields[choice % len(fields)]
        if field == QUESTION:
            return row
        renderer = self._renderers.get((row.task, field))
        if renderer is None:
            renderer = self._renderers[row.task, field] = RowRenderer(raw, field)
        rendered = render_row(raw, renderer, doc["source_index"], doc["order"])
        places = map(doc["image_order"].index, rendered.images)
        return replace(row, question=rendered.text, images=tuple(row.images[n] for n in places))


def mixed_prompts(settings: Settings) -> MixedPrompts | None:
    """What chooses the wordings of a run; None where every row is asked its task's question."""
    if settings.judge.prompts == "question":
        return None
    return MixedPrompts(settings.trainer.seed)


def prompt_record(task: JudgeTask, prompts: Prompts) -> dict[str, str]:
    """What a run records of a task's wordings: a hash of those beside the question, which the rows'
    fingerprint covers."""
    if prompts == "question":
        return {}
    return {"paraphrases": digest(text.encode() for text in task.judge.paraphrases)[:16]}


def without_paraphrases(tasks: Sequence[JudgeTask]) -> list[str]:
    """The names of the tasks that have one wording."""
    return [task.task for task in tasks if not task.judge.paraphrases]
