"""What listens to a training run: the log, progress, signals."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import SaveStrategy

from mtrl_judge.common.files import json_text, whole_file

LOG_FILE = "log.jsonl"


_SUMMARY = "train_runtime"  # transformers' last log of a call of train()


class JsonLog(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Every log of a run as one JSON line of ``log.jsonl``: step, epoch, time and the figures.

    A validation's figures reach it as a log too. NaN and infinities become null. When a run is
    resumed, the lines of the steps that were lost are dropped, so each step stands there once.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_FILE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero and self.path.is_file():
            self._keep_up_to(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any],
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        line = {
            "step": state.global_step,
            "epoch": state.epoch,
            "time": timestamp(),
            **plain_value(logs),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json_text(line, indent=None) + "\n")

    def _keep_up_to(self, step: int) -> None:
        with whole_file(self.path, force=True) as part, part.open("w", encoding="utf-8") as file:
            for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
                # Only the last line can be half-written: the run was killed while writing it.
                if line.endswith("\n") and _belongs(json.loads(line), step):
                    file.write(line)


def _belongs(line: Mapping[str, Any], step: int) -> bool:
    """Whether a line is of the run up to a step; a stopped run's summary is of no use later."""
    return bool(line["step"] <= step) and _SUMMARY not in line


def plain_value(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The numbers among the figures, as JSON knows them."""
    plain: dict[str, float | int | None] = {}
    for name, value in figures.items():
        number = value.item() if hasattr(value, "item") else value
        if number is None or (isinstance(number, float) and not math.isfinite(number)):
            plain[name] = None
        elif isinstance(number, int | float):
            plain[name] = number
    return plain


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """SIGTERM or Ctrl-C: finish the step, write a checkpoint, stop.

    A context manager and a callback; the old handlers come back when the block ends. All processes
    stop at the same step, whichever got the signal. A run that reaches its end at that very step
    is finished, not stopped. A second Ctrl-C interrupts at once, unless there are several
    processes: their launcher passes a Ctrl-C on, and each gets it twice.

    >>> stop = StopOnSignal()
    >>> with stop:
    ...     pass  # trainer.train(), with the callback in it
    >>> stop.signalled is None  # else exit with 128 + stop.signalled
    True
    """

    def __init__(self) -> None:
        self.signalled: signal.Signals | None = None
        """The signal that stopped the run before its end."""
        self._received = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignal:
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not self._agreed(args) or control.should_training_stop:
            return
        # The last step of an epoch: the checkpoint is due after the epoch's evaluation.
        at_epoch_end = float(state.epoch).is_integer()
        if not (at_epoch_end and args.save_strategy == SaveStrategy.EPOCH):
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop only now: the checkpoint has to say that training was not over."""
        agreed = self._agreed(args)
        if not agreed or control.should_training_stop:
            return
        self.signalled = signal.Signals(agreed)
        control.should_training_stop = True
        # In memory only. Else transformers spends the notice given on loading the best model, and
        # with save_total_limit=1 removes the checkpoint just written (Trainer._finalize_training).
        state.best_model_checkpoint = None

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Breaking off is no end of an epoch."""
        if self.signalled is not None:
            control.should_save = control.should_evaluate = control.should_log = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if self._received and number == signal.SIGINT and not several:
            raise KeyboardInterrupt
        if not self._received and os.environ.get("RANK", "0") == "0":
            name = signal.Signals(number).name
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"\n{name}: stopping after this step and its checkpoint\n".encode())
        self._received = number

    def _agreed(self, args: TrainingArguments) -> int:
        """The signal that any process got, 0 for none; the same in all of them."""
        if args.world_size == 1:
            return self._received
        number = torch.tensor(self._received, device=args.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number)


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
