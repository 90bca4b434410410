"""One line that moves while training: steps, time left, reward or loss, the best Macro-F1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback

_SHOWN = {"reward": "reward", "loss": "loss", "eval_macro_f1": "Macro-F1"}


class Progress(ProgressCallback):  # type: ignore[misc]  # transformers has no types
    """Transformers' bar with the figures in it; the whole log is in ``log.jsonl``."""

    def __init__(self) -> None:
        super().__init__()
        self._figures: dict[str, str] = {}

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show the newest of the few figures that tell whether it learns."""
        for name, label in _SHOWN.items():
            if logs and isinstance(logs.get(name), int | float):
                self._figures[label] = f"{logs[name]:.3f}"
        if self.training_bar is not None:
            self.training_bar.set_postfix(self._figures)
