"""Checkpoints that are complete or ignored, and exact resumption.

A checkpoint is written by many calls and, in a large run, by many processes. It counts from the
moment its manifest exists: the list of all its files with their sizes, written last. Only then are
older checkpoints removed, so a run that is killed at any moment leaves a complete one behind.

All of it is in one folder that every process sees; several machines need a shared file system.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from peft import PeftModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from mtrl_judge.common.errors import JudgeError, first_line
from mtrl_judge.common.files import sync_to_disk, write_json
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD
from mtrl_judge.models.checkpoint import errors_of_saving

from .weights import BaseWeights, load_weights

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

MANIFEST = "complete.json"
_STATE = "judge_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_TRAINING_ARGUMENTS = "training_args.bin"


class Stateful(Protocol):
    """What changes over a run and is the same in all processes."""

    def state(self) -> dict[str, Any]:
        """As JSON can hold it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint has a manifest and every file in it has its size."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The complete checkpoint of the highest step; None where there is none."""
    whole = [folder for folder in _checkpoints(run_folder) if is_whole(folder)]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The optimizer step in a checkpoint's name.

    >>> step_of(Path("run/checkpoint-120"))
    120
    """
    return int(checkpoint.name.removeprefix("checkpoint-"))


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
    write_json(folder / CHECKPOINT_CARD, dict(card))


def _checkpoints(run_folder: Path) -> list[Path]:
    if not run_folder.is_dir():
        return []
    return [
        path
        for path in sorted(run_folder.iterdir())
        if _CHECKPOINT.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _write_manifest(folder: Path) -> None:
    """Write it after everything else is on the disk, or it might outlive the data in a crash."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        sync_to_disk(path)
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    write_json(folder / MANIFEST, {"step": step_of(folder), "files": sizes})
    sync_to_disk(folder.parent)


class WholeCheckpoints(Trainer):  # type: ignore[misc]  # transformers has no types
    """A mixin that stands before a trainer: ``class T(WholeCheckpoints, GRPOTrainer)``.

    Set ``checkpoint_card`` before training; every folder of weights gets it (:func:`write_card`).
    Set ``base_weights`` to have the files of every complete model checked; None for no check.
    What ``stateful`` holds, by name, is saved and restored.
    A resumed run continues as the stopped one would have: beyond what transformers restores, a GRPO
    trainer gets back its position between two generations, the best checkpoint is found where the
    run is now, and a run that was over takes no further step.

    The methods override those of ``Trainer`` (transformers/trainer.py of 5.23).
    """

    checkpoint_card: Mapping[str, Any]
    base_weights: BaseWeights | None
    stateful: Mapping[str, Stateful] = {}
    control: Any  # Trainer's own, declared for subclasses that set it
    _was_over = False

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Overrides ``Trainer.save_model``: adds the judge's card and checks the weights."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            write_card(folder, self.checkpoint_card)
            if self.base_weights is not None and not isinstance(self.model, PeftModel):
                self.base_weights.check(folder)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Overrides TRL's (trl/trainer/base_trainer.py), whose README.md would replace our card."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Overrides ``Trainer._save_checkpoint``: writes the manifest, and only then rotates."""
        run_folder = Path(self._get_output_dir(trial=trial))
        folder = run_folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (folder / MANIFEST).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        limit = self.args.save_total_limit
        self.args.save_total_limit = None  # transformers would rotate before this one is complete
        try:
            with errors_of_saving(folder):
                super()._save_checkpoint(model, trial)
                self._save_generation_state(folder)
                self.accelerator.wait_for_everyone()
                self.args.save_total_limit = limit
                if self.args.should_save:
                    self._complete(folder)
        except OSError as error:
            raise JudgeError(
                f"{folder}: cannot be written: {error.strerror or first_line(error)}. Earlier "
                "checkpoints are unchanged: free some space and continue with --resume"
            ) from error
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()

    def _complete(self, folder: Path) -> None:
        torch.save(self.args, folder / _TRAINING_ARGUMENTS)  # with the limit again
        write_json(folder / _STATE, {name: part.state() for name, part in self.stateful.items()})
        _write_manifest(folder)
        rotate_checkpoints(
            output_dir=str(folder.parent),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
        )

    def save_after_failure(self) -> str:
        """Write the checkpoint of a run whose next step failed before it changed anything.

        Returns:
            What there is to resume from, for a message.
        """
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        # Between updates, what has been accumulated is lost, so an earlier checkpoint has to do.
        updated = self._step % self.args.gradient_accumulation_steps == 0
        if self.state.global_step and updated and not is_whole(folder):
            self._save_checkpoint(self.model, trial=None)
        newest = latest_checkpoint(Path(self.args.output_dir))
        return "no checkpoint yet" if newest is None else f"the newest checkpoint is {newest}"

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Overrides ``Trainer._load_from_checkpoint``, which may load nothing without an error."""
        if self._is_sharded():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Overrides ``Trainer._load_best_model``, which may load nothing without an error."""
        if self._is_sharded():
            super()._load_best_model()
        else:
            load_weights(self.model, Path(self.state.best_model_checkpoint))

    def _is_sharded(self) -> bool:
        """Whether an engine writes and loads files of its own, under the model's own names."""
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Overrides ``Trainer._load_optimizer_and_scheduler``: restores what else a run needs."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        # The run has been validated at its start; once more would count toward its patience.
        self.args.eval_on_start = False
        # False in a checkpoint that a signal caused: see StopOnSignal.on_save.
        control = self.state.stateful_callbacks.get("TrainerControl", {})
        over = bool(control.get("args", {}).get("should_training_stop"))
        state_file = Path(checkpoint) / TRAINER_STATE_NAME
        planned = json.loads(state_file.read_text(encoding="utf-8"))["max_steps"]
        self._was_over = over and self.args.max_steps <= planned  # else the run is extended
        if self.state.best_global_step:
            best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if is_whole(best) else None
        self._load_generation_state(Path(checkpoint))
        state = json.loads((Path(checkpoint) / _STATE).read_text(encoding="utf-8"))
        for name, part in self.stateful.items():
            part.restore(state[name])

    def _run_epoch(self, **kwargs: Any) -> None:
        """Overrides ``Trainer._run_epoch``, which checks for the end only after a step."""
        if kwargs["resume_from_checkpoint"] is not None and self._was_over:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    # ``GRPOTrainer._prepare_inputs`` generates whenever ``_step`` (forward passes so far) is a
    # multiple of steps_per_generation x num_iterations, and takes slices of ``_buffered_inputs`` in
    # between. TRL saves neither.

    def _save_generation_state(self, folder: Path) -> None:
        if hasattr(self, "_buffered_inputs"):
            period = self.args.steps_per_generation * self.num_iterations
            buffer = self._buffered_inputs if self._step % period else None
            torch.save({"step": self._step, "buffer": buffer}, self._generation_file(folder))

    def _load_generation_state(self, folder: Path) -> None:
        if hasattr(self, "_buffered_inputs"):
            path, device = self._generation_file(folder), self.args.device
            state = torch.load(path, map_location=device, weights_only=True)
            self._step, self._buffered_inputs = state["step"], state["buffer"]

    def _generation_file(self, folder: Path) -> Path:
        return folder / f"generation_state_{self.args.process_index}.pt"
