"""Which demonstrations a task has: what its YAML says, or what a run says instead."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from mtrl_judge.common.errors import JudgeError, did_you_mean, shortened
from mtrl_judge.common.plain_yaml import parse_yaml

from .demonstration_checks import SELF, demonstration_problems, own_problems
from .loading import find_task
from .spec import Demonstrations, JudgeTask, Style


def parse_demonstrations(value: object, source: str) -> Demonstrations | None:
    """Demonstrations as a run names them, instead of those of its tasks.

    Args:
        value: a mapping as in ``judge.demonstrations``, or YAML text of one; None or an empty text
            leaves the tasks theirs.
        source: what names them, for a message.

    Raises:
        JudgeError: it is no such mapping.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        parsed = parse_yaml(value)
        value = value if parsed.problems else parsed.value
    if isinstance(value, Demonstrations):
        return value
    fields = {info.alias or name: info for name, info in Demonstrations.model_fields.items()}
    if not isinstance(value, Mapping):
        raise JudgeError(
            f"{source}: found {shortened(repr(value), 60)}; expected a mapping such as "
            "{k: 4, by: [text], encoder: tfidf}"
        )
    try:
        found = Demonstrations.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if name not in fields:
            raise JudgeError(
                f"{source}: unknown key {name!r}; {did_you_mean(name, fields)}"
            ) from None
        raise JudgeError(
            f"{source}: {name}: {first['msg']}; expected {fields[name].description}"
        ) from None
    if problems := [*own_problems(found.model_dump(mode="json", by_alias=True))]:
        raise JudgeError("\n".join(f"{source}: {problem}" for problem in problems))
    return found


def with_demonstrations(task: JudgeTask, override: Demonstrations | None) -> JudgeTask:
    """The task with the demonstrations that a run says; its own where that says nothing.

    Raises:
        JudgeError: the task cannot have what the run says.
    """
    spec = override or task.judge.demonstrations
    if spec is not None and spec.k == 0:
        spec = None
    if spec is not None and override is not None:
        judge: dict[str, Any] = {"role": task.judge.role, "images": [*task.judge.images]}
        judge["demonstrations"] = spec.model_dump(mode="json", by_alias=True)
        raw = {"task": task.task, "training_split": "train" in task.splits}
        for problem in demonstration_problems(raw, judge):
            raise JudgeError(f"{task.task}: {problem}")
    judge_spec = task.judge.model_copy(update={"demonstrations": spec})
    return task.model_copy(update={"judge": judge_spec})


def with_k(task: JudgeTask, k: int) -> JudgeTask:
    """The task with another number of demonstrations, by default chosen at random.

    Raises:
        JudgeError: as :func:`with_demonstrations`, or there are too many.
    """
    own = task.judge.demonstrations
    given = {} if own is None else own.model_dump(mode="json", by_alias=True)
    return with_demonstrations(task, parse_demonstrations({**given, "k": k}, task.task))


@lru_cache(maxsize=64)
def _found(name_or_path: str) -> JudgeTask:
    return find_task(name_or_path)


def source_task(task: JudgeTask) -> JudgeTask:
    """The task that the demonstrations come from: itself, one beside its YAML, or a shipped one.

    Raises:
        JudgeError: there is no such task, or its data is never trained on.
    """
    spec = task.judge.demonstrations
    if spec is None or spec.source in (SELF, task.task):
        return task
    beside = task.path.parent / f"{spec.source}.yaml"
    found = _found(str(beside) if beside.is_file() else spec.source)
    if found.judge.role != "train" or "train" not in found.splits:
        raise JudgeError(
            f"{task.task}: demonstrations: from: {found.task} has no data to learn from, as its "
            "role is not train or it has no training split; name another task"
        )
    return found


def demonstrated_style(task: JudgeTask, style: Style) -> Style:
    """The style of a task's prompts: direct where its demonstrations have no reasoning to show.

    Raises:
        JudgeError: as :func:`source_task`.
    """
    if task.judge.demonstrations is None or style == "direct":
        return style
    return style if source_task(task).judge.reasoning is not None else "direct"
