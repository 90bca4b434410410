"""A user's mistake ends every command in one message and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from support.commands import fails

from mtrl_judge.cli.main import app

UNKNOWN_TASK = "no shipped task and no .yaml file"
NOT_YAML = "bad.yaml: line 2: not YAML"
NO_ROOT = "data root: no folder"
NO_RESULTS = "no lmms-eval results"
ON_THE_HUB = "--recipe tiny_cpu --tasks mtrl_judge_unsafebench"  # its data is not missing
# A command, and what its message says.
MISTAKES = {
    "tasks --jsn": "No such option",
    "new mine --kind pairwize": "did you mean 'pairwise'?",
    "new ../mine": "task name: found",
    "schema all": "unexpected extra argument",
    "validate none": UNKNOWN_TASK,
    "validate bad.yaml": NOT_YAML,
    "validate mtrl_judge_seetrue --rows 1 --data-root none": NO_ROOT,
    "preview none": UNKNOWN_TASK,
    "preview bad.yaml": NOT_YAML,
    "preview mtrl_judge_seetrue --data-root none": NO_ROOT,
    "preview mtrl_judge_seetrue --split tset": "--split: no split 'tset'",
    "score none.jsonl --task mtrl_judge_seetrue": "none.jsonl: cannot be read",
    "score empty --task mtrl_judge_seetrue": "empty: cannot be read",
    "score bad.json --task none": UNKNOWN_TASK,
    "score bad.json --task mtrl_judge_seetrue": "bad.json: line 1: not valid JSON",
    "eval --data-root none": NO_ROOT,
    "eval --style dirct": "did you mean 'direct'?",
    "recipes --copy grpo/tiny_cpus": "did you mean 'grpo/tiny_cpu'?",
    "eval --tasks mtrl_judge_seetru": "--tasks: no task 'mtrl_judge_seetru'; did you mean",
    "eval --tasks mtrl_nothing*": "--tasks: no task matches 'mtrl_nothing*'",
    "eval --include-path none": "--include_path: no folder none",
    "eval --retry-failed none": NO_RESULTS,
    "serve --model none --max-items 300": "--max-queue: 256 is less than --max-items, 300",
    "serve --model none --task none": UNKNOWN_TASK,
    "serve --model none --demonstrations four": "--demonstrations: found 'four'",
    "robustness --perturbations swpa": "did you mean 'swap'?",
    "robustness --perturbations swap --data-root none": NO_ROOT,
    "train grppo": "did you mean 'grpo'?",
    "train grpo --recipe none": "recipe: 'none' is neither shipped nor a .yaml file",
    "train grpo --recipe bad.yaml": NOT_YAML,
    f"train sft {ON_THE_HUB} --learning_rate x": "--learning_rate: is 'x'",
    f"train grpo {ON_THE_HUB} --nosuch 3": "--nosuch: unknown field",
    f"train grpo {ON_THE_HUB} --output_dir run": "model_name_or_path: missing",
    "train grpo --recipe tiny_cpu --data-root none": "data_root: no folder none",
    "train grpo --recipe tiny_cpu --data-root empty": "no folder empty/mtrl_judge_agin_nat",
    "experiment --recipe none": "recipe: 'none' is neither shipped nor a .yaml file",
    "experiment --recipe tiny_cpu --data-root none": "data_root: no folder none",
    "experiment --recipe tiny_cpu --eval-args 'x": "No closing quotation",
    "tiny --data-root none": "none/mtrl_judge_agin_nat: not of a sample corpus",
    "demo --seed -1": "Invalid value for '--seed'",
    "data sample --seed x": "Invalid value for '--seed'",
    "data status none": UNKNOWN_TASK,
    "data status --data-root none": NO_ROOT,
    "data prepare none": UNKNOWN_TASK,
    "data prepare bad.yaml": NOT_YAML,
    "data prepare mtrl_judge_seetrue --from none": "--from: none: found nothing",
    "data prepare mtrl_judge_seetrue --from empty": "empty: found no files",
    "data leaks none": UNKNOWN_TASK,
    "data leaks --data-root none": NO_ROOT,
    "data leaks --data-root empty": "no task has a training split in the data root",
    "data facts none --from empty": UNKNOWN_TASK,
    "leaderboard show none": "none: no such file or folder",
    "leaderboard show empty": NO_RESULTS,
    "leaderboard show bad.json": "bad.json: not valid JSON",
    "leaderboard add board.json none": "none: no such file or folder",
    "leaderboard merge none --out board.json": "none: cannot be read",
    "leaderboard schema all": "unexpected extra argument",
    "track none --to wandb": "none: no such file or folder",
    "track empty --to wandbb": "Invalid value for '--to'",
    "report none --out new": "none: no such file or folder",
    "report empty --out new": NO_RESULTS,
    "push judge none --to a/b": "none: no run.json",
    "push judge none --to a": "--to: found 'a'; expected owner/name",
    "push results none --to a/b": "none: no such file or folder",
    "push results empty --to a/b": NO_RESULTS,
    "push leaderboard bad.json --to a/b": "bad.json: not valid JSON",
    "push leaderboard empty --to a/b --repo-type model": "Invalid value for '--repo-type'",
    "push data none --to a/b": UNKNOWN_TASK,
    "push data mtrl_judge_seetrue --to a --data-root empty": "--to: found 'a'",
    "gate empty --baseline none": "--baseline: no none",
    "gate empty --baseline bad.json": "bad.json: not valid JSON",
    "baseline save none": "none: no such file or folder",
    "baseline save empty": NO_RESULTS,
    "baselin": "No such command 'baselin'",
}


def commands(group: typer.main.TyperGroup, *before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, typer.main.TyperGroup):
            yield from commands(command, *before, name)
        else:
            yield " ".join([*before, name])


def test_every_command_has_a_mistake_here() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.main.TyperGroup)
    untested = [
        name
        for name in commands(group)
        if not any(mistake.startswith(f"{name} ") for mistake in MISTAKES)
    ]
    assert not untested


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mistake: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("task: [\n", encoding="utf-8")
    (tmp_path / "bad.json").write_text("[[", encoding="utf-8")
    before = set(tmp_path.rglob("*"))
    message = fails(capsys, monkeypatch, *mistake.split())
    assert MISTAKES[mistake] in message
    assert before == set(tmp_path.rglob("*")), "nothing is written"


@pytest.mark.slow
def test_an_unknown_task_of_an_evaluation_is_one_too(tmp_path: Path) -> None:
    words = ["eval", "--tasks", "mtrl_judge_seetru", "--output-path", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "mtrl_judge", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--tasks: no task 'mtrl_judge_seetru'; did you mean 'mtrl_judge_seetrue'?" in done.stderr
    assert "Traceback" not in done.stderr
