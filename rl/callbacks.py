"""Callbacks of a training run: the log, the progress bar, stopping at a signal."""

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
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from mtrl_judge.common.files import json_text, whole_file

from .finished_run import LOG_FILE

_SUMMARY = "train_runtime"  # in transformers' last log of a call of train()


class JsonLog(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Writes every log as one JSON line of ``log.jsonl``: step, epoch, time and the figures.

    The figures of a validation arrive as a log too. NaN and infinities become null. When a run is
    resumed, the lines of steps that were lost are removed, so that each step occurs once; a run
    without a checkpoint begins again, and so does its log.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not (state.is_world_process_zero and self.path.is_file()):
            return
        with whole_file(self.path) as part, part.open("w", encoding="utf-8") as file:
            for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
                if not line.endswith("\n"):
                    continue  # the last line, if the run was killed while writing it
                logged = json.loads(line)
                # The summary of a run that was stopped says nothing about the whole run.
                kept = 0 < state.global_step >= logged["step"]
                if kept and _SUMMARY not in logged:
                    file.write(line)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any
    ) -> None:
        if state.is_world_process_zero:
            where = {"step": state.global_step, "epoch": state.epoch, "time": timestamp()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json_text({**where, **plain_value(logs)}, indent=None) + "\n")


def plain_value(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The numbers among the figures, as JSON can hold them."""
    plain: dict[str, float | int | None] = {}
    for name, value in figures.items():
        number = value.item() if hasattr(value, "item") else value
        if number is None or (isinstance(number, float) and not math.isfinite(number)):
            plain[name] = None
        elif isinstance(number, int | float):
            plain[name] = number
    return plain


def timestamp() -> str:
    """The time now, in UTC, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """SIGTERM or Ctrl-C: finish the step, write a checkpoint, stop.

    A context manager and a callback; the previous handlers are restored when the block ends. All
    processes stop at the same step, whichever got the signal. A run that reaches its end at that
    very step is finished, not stopped. A second Ctrl-C interrupts at once, unless there are several
    processes: their launcher passes a Ctrl-C on, so each gets it twice. A SIGINT that was ignored
    stays ignored, as of a command in the background of a script.

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
            if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue
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

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._agreed(args) or control.should_training_stop:
            return
        # At the last step of an epoch the checkpoint is written after the epoch's validation.
        at_epoch_end = float(state.epoch).is_integer()
        if not (at_epoch_end and args.save_strategy == SaveStrategy.EPOCH):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop only now: the checkpoint has to record that training was not over."""
        agreed = self._agreed(args)
        if not agreed or control.should_training_stop:
            return
        self.signalled = signal.Signals(agreed)
        control.should_training_stop = True
        # In memory only. Otherwise transformers spends the notice given on loading the best model,
        # and with save_total_limit=1 removes the new checkpoint (Trainer._finalize_training).
        state.best_model_checkpoint = None

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stopping is not the end of an epoch: nothing is due."""
        if self.signalled is not None:
            control.should_save = control.should_evaluate = control.should_log = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if self._received and number == signal.SIGINT and not several:
            raise KeyboardInterrupt
        if not self._received and os.environ.get("RANK", "0") == "0":
            name = signal.Signals(number).name
            # Not print: the signal may have interrupted one.
            os.write(2, f"\n{name}: stopping after this step and its checkpoint\n".encode())
        self._received = number

    def _agreed(self, args: Any) -> int:
        """The signal that any process got, 0 for none; the same in all of them."""
        if args.world_size == 1:
            return self._received
        number = torch.tensor(self._received, device=args.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number)


class Patience(EarlyStoppingCallback):  # type: ignore[misc]
    """Stops after so many validations in a row that were no better than any before.

    Unlike its base class it goes by raw scores: the kept best is replaced only by a gain that
    exceeds noise, and several small gains are progress. The validation at the start does not count.
    """

    def __init__(self, early_stopping_patience: int, **named: Any) -> None:
        super().__init__(early_stopping_patience, **named)
        self.best: float | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **named: Any) -> None:
        if state.global_step:
            super().on_evaluate(args, state, control, metrics, **named)

    def check_metric_value(self, args: Any, state: Any, control: Any, metric_value: float) -> None:
        """Overrides ``EarlyStoppingCallback.check_metric_value``."""
        sign = 1 if args.greater_is_better else -1
        if self.best is None or sign * metric_value > sign * self.best:
            self.best, self.early_stopping_patience_counter = metric_value, 0
        else:
            self.early_stopping_patience_counter += 1

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().state()
        state["attributes"]["best"] = self.best
        return state


class Progress(ProgressCallback):  # type: ignore[misc]
    """The progress bar of transformers with the newest reward, loss and validation score in it.

    Args:
        headline: the name of the validation score.
    """

    def __init__(self, headline: str) -> None:
        super().__init__()
        self._shown = {"reward": "reward", "loss": "loss", f"eval_{headline}": headline}
        self._figures: dict[str, str] = {}

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Overrides ``ProgressCallback.on_log``, which prints all figures of every log."""
        for name, label in self._shown.items():
            if logs and isinstance(logs.get(name), int | float):
                self._figures[label] = f"{logs[name]:.3f}"
        if self.training_bar is not None:
            self.training_bar.set_postfix(self._figures)
