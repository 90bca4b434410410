"""A run that is killed at any file operation of a save, or stopped by a signal, goes on exactly.

Run as a program, this file is a run to be killed: it forks itself before each, so that transformers
is imported once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD
from mtrl_judge.rl.callbacks import StopOnSignal
from mtrl_judge.rl.checkpoints import (
    MANIFEST,
    WholeCheckpoints,
    discard_broken,
    is_whole,
    latest_checkpoint,
)

# Validation by step: the best is neither the first nor the last.
SCORES = {2: 0.5, 4: 0.8, 6: 0.6, 8: 0.7, 10: 0.75}
LAST_STEP = 10
FILE_OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")


class Net(torch.nn.Module):
    """Two layers with dropout, so that a wrong state of the random numbers shows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
        )

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.layers(x).squeeze(-1) - y) ** 2).mean()}


class TinyTrainer(WholeCheckpoints, Trainer):
    checkpoint_card: Mapping[str, Any] = {"style": "direct", "base": "none", "seed": 0}

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {"eval_macro_f1": SCORES[self.state.global_step]}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class At(TrainerCallback):
    """Does something when a step begins or a save ends."""

    def __init__(self, event: str, step: int, act: Callable[[], object]) -> None:
        def respond(_: Any, state: Any, __: Any, **___: Any) -> None:
            if state.global_step == step:
                act()

        setattr(self, event, respond)


def trainer_of(
    folder: Path,
    *callbacks: TrainerCallback,
    patience: int = 9,
    **changes: Any,
) -> Trainer:
    generator = torch.Generator().manual_seed(1)
    rows = [
        {"x": torch.randn(4, generator=generator), "y": torch.tensor(float(n % 2))}
        for n in range(14)  # 7 batches, 4 steps an epoch: the run ends within one
    ]
    arguments = {
        "max_steps": LAST_STEP,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.05,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "save_total_limit": 2,
        "logging_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_macro_f1",
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TinyTrainer(
        model=Net(),
        args=TrainingArguments(output_dir=str(folder), **{**arguments, **changes}),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[EarlyStoppingCallback(patience), *callbacks],
    )


def resume(folder: Path, *callbacks: TrainerCallback, **changes: Any) -> Trainer:
    discard_broken(folder)
    trainer = trainer_of(folder, *callbacks, **changes)
    checkpoint = latest_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


def outcome(folder: Path) -> dict[str, Any]:
    """What a finished run leaves, less the times: weights, optimiser, bests, counters, logs."""
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    kept = ("global_step", "best_metric", "best_global_step", "stateful_callbacks")
    optimiser = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    moments = [value.numpy().tobytes() for each in optimiser.values() for value in each.values()]
    return {
        **{name: state[name] for name in kept},
        "best": Path(state["best_model_checkpoint"]).name,
        "logs": [log for log in state["log_history"] if "train_runtime" not in log],
        "weights": hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest(),
        "moments": hashlib.sha256(b"".join(moments)).hexdigest(),
        "checkpoints": sorted(path.name for path in folder.glob("checkpoint-*")),
    }


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# The run to be killed.


class Death(TrainerCallback):
    """Counts the file operations of the save at one step, and dies before one of them."""

    def __init__(self, at_step: int, dies_before: int) -> None:
        self.at_step, self.dies_before = at_step, dies_before
        self.count, self.saving = 0, False
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.saving or event not in FILE_OPERATIONS:
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if self.count == self.dies_before:
            die()
        self.count += 1

    def on_step_end(self, _: Any, state: Any, __: Any, **___: Any) -> None:
        self.saving = state.global_step == self.at_step

    def on_save(self, *_: Any, **__: Any) -> None:
        self.saving = False


def forked(act: Callable[[], object]) -> int:
    """Run it in a child; the signal that killed the child, 0 for none."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def run_and_die(folder: Path, step: int, operation: int) -> None:
    death = Death(step, operation)
    trainer_of(folder, death).train()
    (folder / "operations").write_text(str(death.count))


def deaths(root: Path, step: int) -> None:
    """Kill a run before each file operation of a save, and let each go on from what is left."""
    torch.set_num_threads(1)
    unbroken = root / "unbroken"
    assert forked(partial(run_and_die, unbroken, step, -1)) == 0
    expected = outcome(unbroken)
    operations = int((unbroken / "operations").read_text())
    found = []
    for operation in range(operations):
        folder = root / f"killed-{operation}"
        assert forked(partial(run_and_die, folder, step, operation)) == signal.SIGKILL
        left = latest_checkpoint(folder)
        assert left is not None
        assert forked(partial(resume, folder)) == 0
        assert outcome(folder) == expected, operation
        found.append(left.name)
        shutil.rmtree(folder)
    print(json.dumps(found))


def run_in_two(folder: Path) -> None:
    """One of two processes of a run that, in a folder named stopped, is stopped and resumed."""
    if folder.name == "stopped":
        second = At("on_step_begin", 4, lambda: None if os.environ["RANK"] == "0" else terminate())
        with StopOnSignal() as stop:
            trainer = trainer_of(folder, second, stop)
            trainer.train()
        assert stop.signalled == signal.SIGTERM
        steps = torch.tensor([0, 0])
        steps[trainer.args.process_index] = trainer.state.global_step
        torch.distributed.all_reduce(steps)
        if trainer.is_world_process_zero():
            (folder / "stopped.json").write_text(json.dumps(steps.tolist()))
    resume(folder)


if __name__ == "__main__":
    if sys.argv[1] == "two":
        run_in_two(Path(sys.argv[2]))
    else:
        deaths(Path(sys.argv[1]), int(sys.argv[2]))


# Tests.


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    trainer_of(folder).train()
    return folder


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unbroken, tmp_path / "copy"))


@pytest.mark.slow
def test_killed_at_any_file_operation_of_a_save_a_run_goes_on_exactly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), "8"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    first_new = found.index("checkpoint-8")
    # The older one is the one to go on from until the manifest has its name, the new one after;
    # only then are files of the older one removed.
    assert first_new > 5
    assert set(found[:first_new]) == {"checkpoint-6"}
    assert set(found[first_new:]) == {"checkpoint-8"}
    assert len(found) - first_new > 5


def test_a_checkpoint_is_whole_while_all_its_files_have_their_size(copy: Path) -> None:
    newest = copy / "checkpoint-10"
    assert latest_checkpoint(copy) == newest
    weights = newest / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert not is_whole(newest)
    weights.write_bytes(whole)
    assert is_whole(newest)
    (newest / MANIFEST).write_text('{"files": ')
    assert not is_whole(newest)
    assert latest_checkpoint(copy) == copy / "checkpoint-4"


def test_only_broken_checkpoints_of_the_run_are_discarded(copy: Path) -> None:
    half_removed = copy / "checkpoint-6"
    shutil.copytree(copy / "checkpoint-10", half_removed)
    (half_removed / "optimizer.pt").unlink()
    for name in ("checkpoint-best", "checkpoint-7.old", "notes"):
        (copy / name).mkdir()
    (copy / "checkpoint-9").symlink_to(copy / "notes")
    (copy / "checkpoint-12").write_text("a file")
    before = {path.name for path in copy.iterdir()}
    assert discard_broken(copy) == [half_removed]
    assert {path.name for path in copy.iterdir()} == before - {"checkpoint-6"}
    assert latest_checkpoint(copy / "nowhere") is None


def test_the_best_and_the_newest_are_kept_with_cards_and_arguments(unbroken: Path) -> None:
    checkpoints = sorted(path.name for path in unbroken.glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-10", "checkpoint-4"]
    card = json.loads((unbroken / "checkpoint-10" / CHECKPOINT_CARD).read_text())
    assert card == TinyTrainer.checkpoint_card
    arguments = torch.load(unbroken / "checkpoint-10" / "training_args.bin", weights_only=False)
    assert arguments.save_total_limit == 2


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("step", [4, 5, 6])
def test_a_terminated_run_saves_stops_and_goes_on_exactly(
    step: int, limit: int, tmp_path: Path
) -> None:
    """Also where a validation is due, and where transformers would remove what was saved."""
    whole = trainer_of(tmp_path / "whole", save_total_limit=limit)
    whole.train()
    folder = tmp_path / "stopped"
    handler = signal.getsignal(signal.SIGTERM)
    with StopOnSignal() as stop:
        at = At("on_step_begin", step - 1, terminate)
        trainer = trainer_of(folder, stop, at, save_total_limit=limit)
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert stop.signalled == signal.SIGTERM
    assert trainer.state.global_step == step
    assert latest_checkpoint(folder) == folder / f"checkpoint-{step}"
    resumed = resume(folder, save_total_limit=limit)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    if limit == 2:  # with 1 transformers leaves the best alone
        expected = outcome(tmp_path / "whole")
        assert outcome(folder) == expected


def test_a_signal_while_saving_stops_without_another_step(tmp_path: Path) -> None:
    with StopOnSignal() as stop:
        trainer = trainer_of(tmp_path, At("on_save", 4, terminate), stop)
        trainer.train()
    assert trainer.state.global_step == 4
    assert stop.signalled == signal.SIGTERM


def test_at_its_last_step_a_run_is_finished_and_not_stopped(tmp_path: Path) -> None:
    with StopOnSignal() as stop:
        trainer_of(tmp_path, stop, At("on_step_begin", LAST_STEP - 1, terminate)).train()
    assert stop.signalled is None


def test_a_second_interrupt_does_not_wait() -> None:
    with StopOnSignal():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_by_epochs_a_run_breaks_off_within_one_and_goes_on_exactly(tmp_path: Path) -> None:
    by_epoch = {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": -1}
    changes: dict[str, Any] = {**by_epoch, "num_train_epochs": 2, "save_total_limit": None}
    trainer_of(tmp_path / "whole", **changes).train()
    expected = outcome(tmp_path / "whole")
    for step, left in ((6, "checkpoint-6"), (4, "checkpoint-4")):
        folder = tmp_path / f"stopped-{step}"
        with StopOnSignal() as stop:
            trainer_of(folder, stop, At("on_step_begin", step - 1, terminate), **changes).train()
        assert stop.signalled == signal.SIGTERM
        checkpoint = latest_checkpoint(folder)
        assert checkpoint is not None
        assert checkpoint.name == left
        resume(folder, **changes)
        shutil.rmtree(folder / "checkpoint-6", ignore_errors=True)
        assert outcome(folder) == expected


def test_early_stopping_counts_on_and_a_run_that_was_over_takes_no_step(tmp_path: Path) -> None:
    trainer_of(tmp_path / "whole", patience=2).train()
    expected = outcome(tmp_path / "whole")
    assert expected["global_step"] == 8
    folder = tmp_path / "stopped"
    with StopOnSignal() as stop:
        trainer_of(folder, stop, At("on_step_begin", 6, terminate), patience=2).train()
    assert stop.signalled == signal.SIGTERM
    resume(folder, patience=2)
    assert outcome(folder) == expected
    again = resume(folder, patience=2)  # as after a kill between last checkpoint and final model
    assert again.state.global_step == 8
    assert outcome(folder) == expected


def test_a_finished_run_elsewhere_takes_no_step_and_finds_its_best(
    copy: Path, unbroken: Path
) -> None:
    before = outcome(copy)
    trainer = resume(copy)
    assert trainer.state.global_step == LAST_STEP
    assert trainer.state.best_model_checkpoint == str(copy / "checkpoint-4")
    assert outcome(copy) == before


@pytest.mark.slow
def test_grpo_goes_on_between_two_generations(
    random_judge: Path, data_root: Path, tmp_path: Path
) -> None:
    """A generation serves four steps; the run is stopped after the third and the sixth."""
    whole = grpo_trainer(tmp_path / "whole", random_judge, data_root)
    whole.train()
    folder = tmp_path / "stopped"
    for _ in range(2):
        trainer = grpo_trainer(folder, random_judge, data_root)
        with StopOnSignal() as stop:
            for step in (2, 5):
                trainer.add_callback(At("on_step_begin", step, terminate))
            trainer.add_callback(stop)
            newest = latest_checkpoint(folder)
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        assert stop.signalled == signal.SIGTERM
    resumed = grpo_trainer(folder, random_judge, data_root)
    resumed.train(resume_from_checkpoint=str(latest_checkpoint(folder)))
    assert resumed.state.global_step == whole.state.global_step == 8
    before = dict(grpo_trainer(tmp_path, random_judge, data_root).model.named_parameters())
    learnt = False
    for name, value in whole.model.named_parameters():
        assert torch.equal(value, resumed.model.get_parameter(name)), name
        learnt = learnt or not torch.equal(value, before[name])
    assert learnt


def grpo_trainer(folder: Path, model: Path, data_root: Path) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    from mtrl_judge.judge_tasks.loading import find_task
    from mtrl_judge.rl.dataset import build_dataset

    class Grpo(WholeCheckpoints, GRPOTrainer):
        checkpoint_card: Mapping[str, Any] = TinyTrainer.checkpoint_card

    def low_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [-float(sum(ids)) for ids in completion_ids]

    return Grpo(
        model=str(model),
        reward_funcs=low_tokens,
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=8,
            per_device_train_batch_size=2,
            num_generations=2,
            steps_per_generation=4,
            max_completion_length=8,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=build_dataset([find_task("mtrl_judge_agin_nat")], root=data_root),
    )


@pytest.mark.slow
def test_all_processes_stop_at_one_step_and_go_on_exactly(tmp_path: Path) -> None:
    """The second of two processes gets the signal; the manifest has the files of both."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for folder in ("whole", "stopped"):
        done = subprocess.run(
            [*launch, __file__, "two", str(tmp_path / folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "stopped" / "stopped.json").read_text()) == [5, 5]
    files = json.loads((tmp_path / "whole" / "checkpoint-10" / MANIFEST).read_text())["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth", CHECKPOINT_CARD} <= files.keys()
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")
