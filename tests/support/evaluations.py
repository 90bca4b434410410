"""Evaluations by the stock lmms-eval in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrl_judge.harness_plugin.prompt_style import set_backend


def evaluated_samples(
    tasks: Sequence[str], folder: Path | None = None, batch_size: int = 4, **model_args: object
) -> dict[str, list[dict[str, Any]]]:
    """The samples of each task as our backend judges them.

    Args:
        folder: with the YAMLs of tasks that are not shipped.
    """
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    found = None if folder is None else str(folder)
    try:
        results = simple_evaluate(
            model="mtrl_judge",
            model_args=",".join(f"{name}={value}" for name, value in model_args.items()),
            tasks=[*tasks],
            task_manager=TaskManager(include_path=found, include_defaults=False),
            bootstrap_iters=0,
            batch_size=batch_size,
        )
    finally:
        set_backend(None)
    samples: dict[str, list[dict[str, Any]]] = results["samples"]
    return samples
