"""``balance: worst_task``: which tasks prompts come from, in simulations and in training."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import python_module
from support.training import (
    GRPO,
    environment,
    guessing_judge,
    log_of,
    run,
    small_world,
    values,
)

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.rl import train
from mtrl_judge.rl.balance import WorstTask
from mtrl_judge.rl.checkpoints import latest_checkpoint
from mtrl_judge.rl.dry_run import dry_run
from mtrl_judge.rl.settings import as_flags, build_settings

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 100


class Simulation:
    """Tasks of fixed difficulty: ``informative`` of their groups are, ``accuracy`` is correct."""

    def __init__(
        self, informative: tuple[float, ...], accuracy: tuple[float, ...], *, seed: int
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.informative_K, self.accuracy_K = np.array(informative), np.array(accuracy)
        self.names = [f"task{k}" for k in range(len(informative))]
        self.tasks = [name for name in self.names for _ in range(ROWS)]
        self.balance = WorstTask(self.tasks, unit=1, seed=seed)
        self.drawn: list[list[int]] = []

    def batch(self, prompts: int) -> np.ndarray:
        """The informative groups of each task in one generation batch."""
        rows = self.balance.draw(prompts)
        self.drawn.append(rows)
        task_M = np.array(rows) // ROWS
        informative_M = self.rng.random(prompts) < self.informative_K[task_M]
        names = [self.names[k] for k in task_M]
        self.balance.observe_accuracy(names, self.accuracy_K[task_M].tolist())
        self.balance.observe_groups(names, informative_M.tolist())
        return np.bincount(task_M[informative_M], minlength=len(self.names))


@pytest.mark.parametrize("prompts", [8, 24, 128])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("informative", "accuracy"),
    [
        ((0.1, 0.73), (0.5, 0.5)),  # equally good tasks: both should supply half
        ((0.1, 0.73), (0.2, 0.6)),
        ((0.1, 0.5, 0.8, 0.9, 0.3, 0.6), (0.5, 0.6, 0.7, 0.8, 0.3, 0.9)),
        ((0.1, 0.5, 0.8), (0.95, 0.6, 0.3)),
    ],
)
def test_each_task_supplies_its_weight_of_the_informative_groups(
    informative: tuple[float, ...], accuracy: tuple[float, ...], prompts: int, seed: int
) -> None:
    """Over 2,400 groups. By its weight alone, the first task would supply .12 instead of .50."""
    simulation = Simulation(informative, accuracy, seed=seed)
    supplied_K, due_K = np.zeros(len(informative)), np.zeros(len(informative))
    for _ in range(2400 // prompts):
        weights_K = simulation.balance.weights()
        groups_K = simulation.batch(prompts)
        supplied_K += groups_K
        due_K += weights_K * groups_K.sum()
    gap_K = (supplied_K - due_K) / supplied_K.sum()
    assert np.abs(gap_K).max() < 0.05


def test_the_weight_moves_to_the_worst_task_and_away_when_it_improves() -> None:
    simulation = Simulation((0.5, 0.5, 0.5), (0.9, 0.4, 0.7), seed=0)
    for _ in range(100):
        simulation.batch(24)
    weights_K = simulation.balance.weights()
    assert weights_K.argmax() == 1
    assert weights_K[1] > 0.8
    assert weights_K.min() > 0.1 / 3  # what every task keeps
    simulation.accuracy_K[1] = 0.95
    for _ in range(300):
        simulation.batch(24)
    assert simulation.balance.weights().argmax() == 2


def test_one_step_of_the_weights_is_adams() -> None:
    """Against torch's, on the gradient of softmax(w) · δ."""
    import torch

    accuracy = np.array([0.2, 0.5, 0.9])
    balance = WorstTask(["a", "b", "c"], unit=1, seed=0)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.025)
    running = accuracy.copy()
    for step in range(5):
        now = accuracy + 0.05 * step * np.array([1, -1, 0])
        balance.observe_accuracy(["a", "b", "c"], now.tolist())
        improvement = 0.5 * (now - running) if step else np.zeros(3)
        running += improvement
        delta = torch.tensor(improvement + 0.2 * (running - 1))
        adam.zero_grad()
        (torch.softmax(logits, 0) * delta).sum().backward()
        adam.step()
        expected = 0.9 * torch.softmax(logits.detach(), 0).numpy() + 0.1 / 3
        assert balance.weights() == pytest.approx(expected, abs=1e-12)


def test_a_task_gives_all_its_rows_before_it_repeats_one() -> None:
    simulation = Simulation((0.5, 0.5), (0.5, 0.5), seed=3)
    for _ in range(30):
        simulation.batch(20)
    rows = [row for batch in simulation.drawn for row in batch]
    for task in range(2):
        times = Counter(row for row in rows if row // ROWS == task)
        assert len(times) == ROWS
        assert max(times.values()) == min(times.values()) + 1 > 2


def test_both_orders_of_a_pair_are_drawn_together() -> None:
    balance = WorstTask(["a"] * 10 + ["b"] * 6, unit=2, seed=0)
    for _ in range(5):
        rows = balance.draw(8)
        assert len(rows) == 8
        assert all(second == first + 1 for first, second in zip(rows[::2], rows[1::2], strict=True))
        assert all(first % 2 == 0 for first in rows[::2])


def test_a_restored_state_draws_what_would_have_been_drawn() -> None:
    first = Simulation((0.2, 0.7, 0.5), (0.3, 0.6, 0.8), seed=5)
    for _ in range(9):
        first.batch(16)
    again = Simulation((0.2, 0.7, 0.5), (0.3, 0.6, 0.8), seed=5)
    again.balance.restore(json.loads(json.dumps(first.balance.state())))
    first.rng, again.rng = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(9):
        assert (first.batch(16) == again.batch(16)).all()
    assert first.drawn[9:] == again.drawn
    assert first.balance.state() == again.balance.state()
    unseen = WorstTask(["a", "b"], unit=1, seed=0)
    assert json.loads(json.dumps(unseen.state())) == unseen.state()
    unseen.restore(unseen.state())


# Training


def grpo(base: Path, out: Path, **fields: Any) -> dict[str, Any]:
    given = {
        "balance": "worst_task",
        "user_rewards": {"support.training:drawn_by_tokens": 1.0},
        "temperature": 1.5,
        "per_device_train_batch_size": 16,
        "max_steps": 5,
        "save_steps": 5,
        **fields,
    }
    return values(small_world(base), out, guessing_judge(base), "red", "guess", **{**GRPO, **given})


def logged(base: Path, out: Path, **fields: Any) -> list[dict[str, Any]]:
    lines = log_of(run("grpo", grpo(base, out, **fields)).parent)
    clocks = ("time", "step_time")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines if "loss" in line]


def test_a_run_is_balanced_logged_and_resumed_exactly(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the two steps of a generation."""
    both = {"support.training:drawn_by_tokens": 1.0, "support.training:interrupted": 0.0}
    fields = {"steps_per_generation": 2, "user_rewards": both}
    unbroken = logged(base, tmp_path / "unbroken", **fields)
    for line in unbroken[::2]:
        for figure in ("weight", "share"):
            assert line[f"red/{figure}"] + line[f"guess/{figure}"] == pytest.approx(1)
    assert unbroken[0]["red/weight"] == 0.5
    assert unbroken[4]["red/weight"] < 0.5  # the judge guesses on the other task
    monkeypatch.setenv("SIGNAL", f"{int(signal.SIGTERM)}@2")
    with pytest.raises(SystemExit):
        logged(base, tmp_path / "run", **fields)
    stopped = latest_checkpoint(tmp_path / "run")
    assert stopped is not None
    assert stopped.name == "checkpoint-3"
    monkeypatch.delenv("SIGNAL")
    assert logged(base, tmp_path / "run", **fields, resume=True) == unbroken


def test_a_dry_run_does_not_say_how_often_tasks_will_occur(base: Path, tmp_path: Path) -> None:
    report = dry_run(build_settings("grpo", grpo(base, tmp_path, dry_run=True)))
    assert re.search(r"^red +18 +varies +varies +6 +1$", report, re.MULTILINE)
    assert re.search(r"^all +90 +90 +100.0%", report, re.MULTILINE)


def test_sft_has_no_worst_task(base: Path, tmp_path: Path) -> None:
    given = values(small_world(base), tmp_path, guessing_judge(base), "red", balance="worst_task")
    with pytest.raises(JudgeError, match="balance: worst_task goes by rewards"):
        build_settings("sft", given)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_two_processes_draw_what_one_draws(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling is greedy and the learning rate 0: a completion depends on its prompt alone."""
    fields: dict[str, Any] = {
        "user_rewards": {"support.training:by_position": 1.0},
        "learning_rate": 0.0,
        "temperature": 0.001,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    items: dict[int, list[list[str]]] = {}
    for processes in (1, 2):
        witness, out = tmp_path / f"witness{processes}", tmp_path / str(processes)
        witness.mkdir()
        batch = {"per_device_train_batch_size": 32 // processes, "processes": processes}
        words = ["grpo", *as_flags(grpo(base, out, **fields, **batch))]
        if processes == 1:
            with monkeypatch.context() as own:
                own.setenv("WITNESS", str(witness))
                own.setenv("RANK", "0")
                train.main(words)
        else:
            done = subprocess.run(
                [*python_module("mtrl_judge.rl.train", 2), *words],
                env=environment(WITNESS=str(witness), ACCELERATE_USE_CPU="true"),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]
        calls = [
            [json.loads(line)["items"] for line in path.read_text().splitlines()]
            for path in sorted(witness.iterdir())
        ]
        items[processes] = [[*chain(*parts)] for parts in zip(*calls, strict=True)]
    assert items[1] == items[2]
    assert len(items[1]) == 5
    shares = [[line["red/weight"] for line in log_of(tmp_path / str(n))[:5]] for n in (1, 2)]
    assert shares[0] == pytest.approx(shares[1], abs=1e-9)
    assert shares[0][-1] != 0.5
