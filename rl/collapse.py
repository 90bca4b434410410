"""Warn where a judge loses what it sees while its score may still rise.

Rewarding verdicts alone can shift a decision threshold and wear away the reasoning that verdicts
should rest on. The first validation of a run is what later ones are compared with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers import TrainerCallback

logger = logging.getLogger(__name__)

ONE_VERDICT = 0.95
"""A larger share of one verdict is a collapse, where the labels have a smaller one."""
FACTS_KEPT = 2 / 3
"""Of the first validation's facts stated; a smaller part is a collapse."""
AUC_LOST = 0.15
"""A larger fall of the AUC is a collapse. With 32 rows of each of two labels, its standard error
is up to 0.07 (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747)."""
ADVICE = (
    "Its reasoning may no longer follow the images, whatever the score says. What helps: a higher "
    "beta, a lower temperature or learning_rate, freeze_vision, and perception_weight where there "
    "are facts; see docs/training.md"
)


class CollapseWarning(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Logs one warning in a run, at the first validation that shows a collapse.

    Args:
        label_shares: for each task, the share of its most frequent label in validation.
        record: keeps a warning with its step.
    """

    def __init__(
        self,
        label_shares: Mapping[str, float],
        record: Callable[[int, str], None] = lambda step, text: None,
    ) -> None:
        self._label_shares = label_shares
        self._record = record
        self._warned = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **_: Any
    ) -> None:
        validations = [line for line in state.log_history if _is_validation(line)]
        if self._warned or not validations or not state.is_world_process_zero:
            return
        found = [
            f"{task}: {sign}"
            for task, share in self._label_shares.items()
            for sign in signs(task, validations[0], metrics, share)
        ]
        if found:
            self._warned = True
            self._record(state.global_step, f"validation shows a collapse: {'; '.join(found)}")
            listed = "\n".join(f"  {line}" for line in found)
            logger.warning(
                "step %d: validation shows a collapse:\n%s\n%s", state.global_step, listed, ADVICE
            )


def _is_validation(line: Mapping[str, Any]) -> bool:
    return any(name.startswith("eval_") and "/share_" in name for name in line)


def signs(
    task: str, first: Mapping[str, Any], now: Mapping[str, Any], label_share: float
) -> Iterator[str]:
    """The signs of a collapse of a task, from the figures of two validations.

    Args:
        first: of the run's first validation, which may be this one.
        label_share: of the most frequent label.
    """
    prefix = f"eval_{task}/share_"
    for name in (name for name in now if name.startswith(prefix)):
        before, share = first.get(name, 0.0), now[name]
        if share > ONE_VERDICT >= max(before, label_share):
            yield f"{share:.0%} of the verdicts are {name.removeprefix(prefix)!r}"
    facts, auc = (f"eval_{task}/{rate}" for rate in ("facts_rate", "roc_auc"))
    if facts in first and facts in now and now[facts] < FACTS_KEPT * first[facts]:
        yield f"its reasoning states {now[facts]:.0%} of the facts, at first {first[facts]:.0%}"
    if auc in first and auc in now and now[auc] < first[auc] - AUC_LOST:
        yield f"the AUC of its probabilities is {now[auc]:.2f}, at first {first[auc]:.2f}"
