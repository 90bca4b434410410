"""A run that is killed at any file operation of a save, or stopped by a signal, resumes exactly.

Run as a program, this file is a run to be killed: it forks for each death.
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
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.limits import limited_files
from transformers import (
    EarlyStoppingCallback,
    PretrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mtrl_judge.common.errors import JudgeError
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
SCORES = {0: 0.4, 2: 0.5, 4: 0.8, 6: 0.6, 8: 0.7, 10: 0.75}
LAST_STEP = 10
FILE_OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")

# For this file as a script, which imports what tests share.
SCRIPT_ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


class Net(PreTrainedModel):
    """Two layers with dropout, so that a wrong state of the random numbers shows."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
        )
        self.post_init()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.layers(x).squeeze(-1) - y) ** 2).mean()}


class TinyTrainer(WholeCheckpoints, Trainer):
    checkpoint_card: Mapping[str, Any] = {"style": "direct", "base": "none", "seed": 0}
    base_weights = None

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
    torch.manual_seed(0)
    return TinyTrainer(
        model=Net(PretrainedConfig()),
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
    """What a finished run leaves, less the times: weights, optimizer, bests, counters, logs."""
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    kept = ("global_step", "best_metric", "best_global_step", "stateful_callbacks")
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    moments = [
        value.numpy().tobytes() for state_of in optimizer.values() for value in state_of.values()
    ]
    return {
        **{name: state[name] for name in kept},
        "best": Path(state["best_model_checkpoint"]).name,
        "logs": [log for log in state["log_history"] if "train_runtime" not in log],
        "weights": hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest(),
        "moments": hashlib.sha256(b"".join(moments)).hexdigest(),
        "checkpoints": sorted(path.name for path in folder.glob("checkpoint-*")),
    }


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# The run to be killed.


class Deaths(TrainerCallback):
    """At one save it forks a child for each file operation, which dies before that operation.

    A child saves into a copy of the run's folder, ``killed-N`` for operation N.
    """

    def __init__(self, at_step: int) -> None:
        self.at_step, self.count = at_step, 0
        self.dies_before: int | None = None
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.dies_before is None or event not in FILE_OPERATIONS:
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if self.count == self.dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step != self.at_step:
            return
        folder, status = Path(args.output_dir), signal.SIGKILL
        while status == signal.SIGKILL:
            copy = folder.with_name(f"killed-{self.count}")
            child = os.fork()
            if child == 0:
                shutil.copytree(folder, copy)
                args.output_dir = str(copy)
                best = copy / Path(state.best_model_checkpoint).name
                state.best_model_checkpoint = str(best)
                self.dies_before, self.count = self.count, 0
                return
            _, status = os.waitpid(child, 0)
            self.count += 1
        assert status == 0
        shutil.rmtree(copy)  # of the child that died before no operation, as there are no more

    def on_save(self, *_: Any, **__: Any) -> None:
        if self.dies_before is not None:
            os._exit(0)


def deaths(root: Path, step: int) -> None:
    """Kill a run before each file operation of a save, and resume each from what is left."""
    torch.set_num_threads(1)
    trainer_of(root / "unbroken", Deaths(step)).train()
    expected = outcome(root / "unbroken")
    left = []
    for operation in range(len(list(root.glob("killed-*")))):
        folder = root / f"killed-{operation}"
        checkpoint = latest_checkpoint(folder)
        assert checkpoint is not None
        resume(folder)
        assert outcome(folder) == expected, operation
        left.append(checkpoint.name)
    print(json.dumps(left))


def run_in_two(root: Path) -> None:
    """One of two processes of a run, and of the same run stopped by a signal and resumed."""
    trainer_of(root / "whole").train()
    second = At("on_step_begin", 4, lambda: None if os.environ["RANK"] == "0" else terminate())
    with StopOnSignal() as stop:
        trainer = trainer_of(root / "stopped", second, stop)
        trainer.train()
    assert stop.signalled == signal.SIGTERM
    steps = torch.tensor([0, 0])
    steps[trainer.args.process_index] = trainer.state.global_step
    torch.distributed.all_reduce(steps)
    assert steps.tolist() == [5, 5]
    torch.distributed.barrier()
    resume(root / "stopped")


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
def test_killed_at_any_file_operation_of_a_save_a_run_resumes_exactly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), "8"],
        env=SCRIPT_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout.splitlines()[-1])
    first_new = left.index("checkpoint-8")
    # The older one counts until the manifest of the new one has its name; only then are files of
    # the older one removed.
    assert first_new > 5
    assert set(left[:first_new]) == {"checkpoint-6"}
    assert set(left[first_new:]) == {"checkpoint-8"}
    assert len(left) - first_new > 5


def test_a_full_disk_at_any_file_of_a_checkpoint_is_one_message(tmp_path: Path) -> None:
    """safetensors and torch raise errors of their own."""
    trainer = trainer_of(tmp_path, max_steps=2)
    trainer.train()
    files = (tmp_path / "checkpoint-2").iterdir()
    for size in sorted({file.stat().st_size for file in files}):
        with (
            limited_files(size - 1),
            pytest.raises(JudgeError, match=r"checkpoint-2.* cannot be written"),
        ):
            trainer._save_checkpoint(trainer.model, trial=None)
        assert latest_checkpoint(tmp_path) is None


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


@pytest.mark.parametrize(("step", "limit"), [(4, 2), (5, 2), (6, 2), (5, 1)])
def test_a_terminated_run_saves_stops_and_resumes_exactly(
    step: int, limit: int, unbroken: Path, tmp_path: Path
) -> None:
    """Also where a validation is due, and where transformers would remove what was saved."""
    handler = signal.getsignal(signal.SIGTERM)
    with StopOnSignal() as stop:
        at = At("on_step_begin", step - 1, terminate)
        trainer = trainer_of(tmp_path, stop, at, save_total_limit=limit)
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert stop.signalled == signal.SIGTERM
    assert trainer.state.global_step == step
    assert latest_checkpoint(tmp_path) == tmp_path / f"checkpoint-{step}"
    resumed = resume(tmp_path, save_total_limit=limit)
    best = load_file(unbroken / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in resumed.model.state_dict().items())
    if limit == 2:  # with 1 transformers keeps the best alone
        assert outcome(tmp_path) == outcome(unbroken)


def test_a_resumed_run_is_not_validated_at_its_start_again(tmp_path: Path) -> None:
    """It would cost one of the validations without improvement after which the run stops."""
    fields: dict[str, Any] = {"eval_on_start": True, "patience": 2, "save_total_limit": 9}
    trainer_of(tmp_path / "unbroken", **fields).train()
    with StopOnSignal() as stop:
        trainer_of(tmp_path / "stopped", stop, At("on_step_begin", 3, terminate), **fields).train()
    assert latest_checkpoint(tmp_path / "stopped") == tmp_path / "stopped" / "checkpoint-4"
    resume(tmp_path / "stopped", **fields)
    expected = outcome(tmp_path / "unbroken")
    assert expected["checkpoints"][-1] == "checkpoint-8"  # 6 and 8 are no better than 4
    assert [log["step"] for log in expected["logs"] if "eval_macro_f1" in log] == [0, 2, 4, 6, 8]
    assert outcome(tmp_path / "stopped") == expected


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


def test_an_interrupt_that_was_ignored_stays_ignored() -> None:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopOnSignal():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)


def test_by_epochs_a_run_stops_within_one_and_resumes_exactly(tmp_path: Path) -> None:
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
def test_all_processes_stop_at_one_step_and_resume_exactly(tmp_path: Path) -> None:
    """The second of two processes gets the signal; the manifest has the files of both."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, __file__, "two", str(tmp_path)],
        env=SCRIPT_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = json.loads((tmp_path / "whole" / "checkpoint-10" / MANIFEST).read_text())["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth", CHECKPOINT_CARD} <= files.keys()
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")
