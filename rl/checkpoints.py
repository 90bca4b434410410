"""Checkpoints that are whole or never picked up, runs that stop at a signal, exact resumption.

A checkpoint is written by many calls and, in a large run, by many processes. It counts from the
moment its manifest is there: the list of all its files with their sizes, written last. Only then
are older checkpoints removed, so a run that is killed at any moment leaves a whole one behind.

All of it lies in one folder that every process sees; several machines need a shared file system.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy, rotate_checkpoints

from mtrl_judge.judge_tasks.files import whole_file
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
else:
    Trainer = object

MANIFEST = "complete.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_TRAINING_ARGUMENTS = "training_args.bin"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint's manifest is there and every file it lists has its size."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The whole checkpoint of the highest step; None where there is none."""
    whole = [folder for folder in _checkpoints(run_folder) if is_whole(folder)]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The optimiser step that a checkpoint's name says.

    >>> step_of(Path("run/checkpoint-120"))
    120
    """
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint}: is no checkpoint-<step>")
    return int(match[1])


def discard_broken(run_folder: Path) -> list[Path]:
    """Remove the unfinished and half-removed ``checkpoint-<step>`` folders of a run; return them.

    For the main process, when a run is resumed.
    """
    broken = [folder for folder in _checkpoints(run_folder) if not is_whole(folder)]
    for folder in broken:
        shutil.rmtree(folder)
    return broken


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write what a judge was trained for (``style``, ``base``, ``seed``, …) beside its weights."""
    with whole_file(folder / CHECKPOINT_CARD, force=True) as part:
        part.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _checkpoints(run_folder: Path) -> list[Path]:
    if not run_folder.is_dir():
        return []
    return [
        path
        for path in sorted(run_folder.iterdir())
        if _CHECKPOINT.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _to_disk(path)  # or the manifest may outlive the data when the machine goes down
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    with whole_file(folder / MANIFEST, force=True) as part:
        manifest = {"step": step_of(folder), "files": sizes}
        part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _to_disk(part)
    _to_disk(folder)
    _to_disk(folder.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WholeCheckpoints(Trainer):  # type: ignore[misc]  # transformers has no types
    """A mixin to stand before a transformers Trainer: ``class T(WholeCheckpoints, GRPOTrainer)``.

    Set ``checkpoint_card`` before training; every folder of weights gets it (:func:`write_card`).
    A resumed run goes on as the stopped one would have: beyond what transformers restores, a GRPO
    trainer gets back its place between two generations, the best checkpoint is found where the run
    now lies, and a run that was at its end takes no further step.
    """

    checkpoint_card: Mapping[str, Any]
    control: Any  # Trainer's own, declared for subclasses that set it
    _was_over = False

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            write_card(Path(output_dir or self.args.output_dir), self.checkpoint_card)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write nothing: TRL's README.md at each checkpoint would replace the run's own card."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run_folder = Path(self._get_output_dir(trial=trial))
        folder = run_folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (folder / MANIFEST).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        limit = self.args.save_total_limit
        self.args.save_total_limit = None  # transformers would remove before this one is whole
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        _save_generation_state(self, folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            torch.save(self.args, folder / _TRAINING_ARGUMENTS)  # with the limit again
            _write_manifest(folder)
            rotate_checkpoints(
                output_dir=str(run_folder),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        # Saved before the end by a signal, a checkpoint says False here: StopOnSignal.
        control = self.state.stateful_callbacks.get("TrainerControl", {})
        self._was_over = bool(control.get("args", {}).get("should_training_stop"))
        if self.state.best_global_step:
            best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if is_whole(best) else None
        _load_generation_state(self, Path(checkpoint))

    def _run_epoch(self, **kwargs: Any) -> None:
        # transformers looks for the end only after a step, so it would take one too many.
        if kwargs["resume_from_checkpoint"] is not None and self._was_over:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)


def _generation_file(trainer: Any, folder: Path) -> Path:
    return folder / f"generation_state_{trainer.args.process_index}.pt"


def _save_generation_state(trainer: Any, folder: Path) -> None:
    """Keep GRPO's place between two generations, and the completions it is not yet done with.

    ``GRPOTrainer._prepare_inputs`` generates whenever ``_step`` (forward passes so far) is a
    multiple of steps_per_generation · num_iterations, and takes slices of ``_buffered_inputs`` in
    between; TRL stores neither.
    """
    if not hasattr(trainer, "_buffered_inputs"):
        return
    used_up = trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations) == 0
    state = {"step": trainer._step, "buffer": None if used_up else trainer._buffered_inputs}
    torch.save(state, _generation_file(trainer, folder))


def _load_generation_state(trainer: Any, folder: Path) -> None:
    if not hasattr(trainer, "_buffered_inputs"):
        return
    path = _generation_file(trainer, folder)
    state = torch.load(path, map_location=trainer.args.device, weights_only=True)
    trainer._step, trainer._buffered_inputs = state["step"], state["buffer"]


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
