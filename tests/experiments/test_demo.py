"""The demo shows scores before and after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.commands import call
from support.results import sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.demo.corpus import further_tasks
from mtrl_judge.experiments.demo import run_demo
from mtrl_judge.experiments.stages import CURVE
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, DATA_CARD
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.leaderboard.tables import plain_text
from mtrl_judge.rl.finished_run import RUN_FILE
from mtrl_judge.rl.recipes import resolve_tasks


def test_a_finished_demo_shows_before_and_after(tmp_path: Path) -> None:
    folder = tmp_path / "seed-5"
    checkpoints = [folder / name / CHECKPOINT_CARD for name in ("base", "base-further")]
    for card in (folder / "data" / DATA_CARD, *checkpoints):
        card.parent.mkdir(parents=True)
        card.write_text("{}")
    (folder / "run").mkdir()
    (folder / "run" / RUN_FILE).write_text('{"finished": {"step": 1}}')
    (folder / "run" / CURVE).touch()
    tasks = {task.task: task for task in resolve_tasks(["mtrl_all"])}

    def row(task: str, number: int) -> dict[str, Any]:
        determined = task != "mtrl_judge_agin_nat"
        return sample(number, "Yes", "Yes", calibrated=when == "fitted" and determined)

    trained = {name: task for name, task in tasks.items() if task.judge.role == "train"}
    for when, score, known in (
        ("before", 0.25, tasks),
        ("fitted", 0.5, trained),
        ("after", 0.75, tasks),
    ):
        rates = {"macro_f1": score, "majority_macro_f1": 1 / 3, "null_rate": 0.25}
        write_results(
            folder / when,
            {name: [row(name, number) for number in range(4)] for name in known},
            metrics=dict.fromkeys(known, rates),
            about={
                name: {"role": task.judge.role, "parser": PARSER_VERSION}
                for name, task in known.items()
            },
        )
    further = {task.task: task for task in further_tasks()}
    label = {name: task.judge.verdicts[0] for name, task in further.items()}
    label["mtrl_judge_imagereward_ranked"] = "A>B"
    write_results(
        folder / "further",
        {name: [sample(n, label[name], label[name]) for n in range(4)] for name in further},
        metrics={name: {task.kind.headline: 0.125} for name, task in further.items()},
        about={
            name: {
                "kind": task.judge.kind,
                "verdicts": list(task.judge.verdicts[:2]),
                "parser": PARSER_VERSION,
            }
            for name, task in further.items()
        },
    )
    demo = run_demo(tmp_path, seed=5)
    table, _, note = plain_text(demo.table).partition("\n\n")
    assert note.startswith("fitted: ")
    lines = table.splitlines()
    assert "Macro-F1 before" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == sorted(
        tasks, key=lambda name: (tasks[name].judge.role != "train", name)
    )
    (line,) = [line for line in lines if line.startswith("mtrl_judge_seetrue")]
    assert line.split()[1:] == ["train", "0.250", "0.500", "0.750", "0.333", "0.250", "–", "4"]
    for task in ("mjbench_safety", "agin_nat"):  # no validation split, and no threshold from it
        (line,) = [line for line in lines if line.startswith(f"mtrl_judge_{task}")]
        assert line.split()[2:5] == ["0.250", "–", "0.750"]
    table, _, note = plain_text(demo.further).partition("\n\n")
    (line,) = [line for line in table.splitlines() if line.startswith("mtrl_judge_agin_nat_graded")]
    assert line.split()[1:] == ["score", "spearman", "0.125", "–", "4"]
    kinds = {line.split()[1] for line in table.splitlines()[2:]}
    assert kinds == {"score", "ranking", "pairwise"}
    assert demo.learning_curve == folder / "run" / CURVE
    # What it advises next; all runs of the folder would not be comparable.
    done = call("leaderboard", *demo.compared, "--resamples", "100")
    assert done.exit_code == 0, done.output


def test_a_demo_that_another_parser_has_read_is_not_continued(tmp_path: Path) -> None:
    rows = {"mtrl_judge_seetrue": [sample(0, "Yes", "Yes")]}
    about = {"mtrl_judge_seetrue": {"parser": PARSER_VERSION - 1}}
    write_results(tmp_path / "seed-5" / "before", rows, about=about)
    message = rf"was read by version {PARSER_VERSION - 1} of the parser; .* Remove"
    with pytest.raises(JudgeError, match=message):
        run_demo(tmp_path, seed=5)
