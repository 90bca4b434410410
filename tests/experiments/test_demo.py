"""The demo shows scores before and after training."""

from __future__ import annotations

from pathlib import Path

from support.results import sample, write_results

from mtrl_judge.experiments.demo import run_demo
from mtrl_judge.experiments.stages import CURVE
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, DATA_CARD
from mtrl_judge.leaderboard.tables import plain_text
from mtrl_judge.rl.run_record import RUN_FILE


def test_a_finished_demo_shows_before_and_after(tmp_path: Path) -> None:
    folder = tmp_path / "seed-5"
    for card in (folder / "data" / DATA_CARD, folder / "base" / CHECKPOINT_CARD):
        card.parent.mkdir(parents=True)
        card.write_text("{}")
    (folder / "run").mkdir()
    (folder / "run" / RUN_FILE).write_text('{"finished": {"step": 1}}')
    (folder / "run" / CURVE).touch()
    tasks = {task.task: task for task in load_shipped_tasks()}
    for when, score in (("before", 0.25), ("after", 0.75)):
        rates = {"macro_f1": score, "majority_macro_f1": 1 / 3, "null_rate": 0.25}
        write_results(
            folder / when,
            {name: [sample(number, "Yes", "Yes") for number in range(4)] for name in tasks},
            metrics=dict.fromkeys(tasks, rates),
            about={name: {"role": task.judge.role} for name, task in tasks.items()},
        )
    demo = run_demo(tmp_path, seed=5)
    lines = plain_text(demo.table).splitlines()
    assert "Macro-F1 before" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == sorted(
        tasks, key=lambda name: (tasks[name].judge.role != "train", name)
    )
    (line,) = [line for line in lines if line.startswith("mtrl_judge_seetrue")]
    assert line.split()[1:] == ["train", "0.250", "0.750", "0.333", "0.250", "–", "4"]
    assert demo.learning_curve == folder / "run" / CURVE
