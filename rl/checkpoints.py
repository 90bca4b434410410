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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_utils import rotate_checkpoints

from mtrl_judge.common.files import whole_file, write_json
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

MANIFEST = "complete.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_TRAINING_ARGUMENTS = "training_args.bin"


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
    write_json(folder / CHECKPOINT_CARD, card)


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
