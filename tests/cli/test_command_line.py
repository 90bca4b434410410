"""How flags and lists are written, what help shows, and what an evaluation ends with."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from support.commands import call, fails
from support.results import sample, write_results
from support.tasks import write_yaml
from tqdm import tqdm

from mtrl_judge.cli import options
from mtrl_judge.cli.evaluation_end import evaluation_end
from mtrl_judge.common.progress import ProgressBars
from mtrl_judge.common.verbosity import report, verbosity
from mtrl_judge.data import prepare
from mtrl_judge.experiments import demo, experiment, launch, robustness
from mtrl_judge.experiments.demo import Demo
from mtrl_judge.experiments.evaluation_progress import EvaluationProgress
from mtrl_judge.experiments.launch import run_command
from mtrl_judge.experiments.robustness import Robustness
from mtrl_judge.harness_plugin import host_flags
from mtrl_judge.harness_plugin.evaluation_split import EVALUATED
from mtrl_judge.harness_plugin.perturbations import PERTURBATIONS
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.judge_tasks.spec import SPLITS, Style
from mtrl_judge.leaderboard.compare import METRICS
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.tables import Table
from mtrl_judge.rl import early_checks
from mtrl_judge.rl.fields import read_recipe
from mtrl_judge.rl.finished_run import RUN_FILE
from mtrl_judge.rl.recipes import find_accelerate_config, find_recipe


def test_flags_may_have_hyphens_or_underscores(data_root: Path) -> None:
    tables = [
        call("data", "status", "*_seetrue", flag, data_root).stdout
        for flag in ("--data-root", "--data_root")
    ]
    assert "Yes 3, No 2" in tables[0]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    "words", [["a,b"], ["a", "b"], ["a", "--tasks", "b"]], ids=lambda words: " ".join(words)
)
def test_lists_are_accepted_in_each_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    given: list[Any] = []

    def evaluate(model: str, tasks: str, **named: Any) -> list[Any]:
        given.append((tasks, named["flags"]))
        return []

    monkeypatch.setattr(launch, "run_lmms_eval", evaluate)
    done = call("eval", "--tasks", *words, "--limit", 2, "--output-path", tmp_path)
    assert done.exit_code == 0, done.output
    assert given == [("a,b", ["--limit", "2"])]


def test_flags_of_lmms_eval_are_checked_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def start(_: str, command: list[str], **__: Any) -> None:
        started.append(command)
        write_results(tmp_path, {"t": [sample(0, "Yes", "Yes")]})

    monkeypatch.setattr(launch, "run_command", start)
    evaluate = ("eval", "--tasks", "mtrl_judge_seetrue", "--output-path", tmp_path)
    evaluate += ("--model-args", "pretrained=a-b")
    message = fails(capsys, monkeypatch, *evaluate, "--batch", 8)
    assert "--batch: neither ours nor a flag of lmms-eval; did you mean --batch_size?" in message
    assert not started
    assert call(*evaluate, "--batch-size=8").exit_code == 0
    assert started[0][-3:] == ["--model_args", "pretrained=a-b", "--batch_size=8"]


def test_choices_are_those_of_the_classes_that_check_them() -> None:
    assert get_args(Style) == options.STYLES
    assert {*options.KINDS} == {*KINDS}
    assert options.SPLITS == SPLITS
    assert options.EVALUATED_SPLITS == EVALUATED
    assert {*options.PERTURBATIONS} == {*PERTURBATIONS}
    assert {*options.METRICS} == {*METRICS}
    assert "--sort [train|ood|gap|name|TASK]" in call("leaderboard", "show", "--help").stdout
    assert "--style [reasoned|direct|confidence]" in call("eval", "--help").stdout


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    listed = call("--help").stdout.partition("Commands:")[2]
    positions = [listed.index(f"\n  {name} ") for name in ("tasks", "eval", "leaderboard", "train")]
    assert positions == sorted(positions)


def test_an_evaluation_ends_with_scores_and_paths(tmp_path: Path) -> None:
    rows = [sample(n, "Yes" if n % 2 else "No", "Yes" if n % 3 else "No") for n in range(12)]
    runs = load_runs([write_results(tmp_path, {"t": rows})])
    text = evaluation_end(runs, tmp_path, tmp_path / "the.log")
    # Yes: 4 right of 6 labels and 8 verdicts; No: 2 right of 6 and 4. F1 is 4/7 and 2/5.
    assert f"{(4 / 7 + 2 / 5) / 2:.3f} [" in text
    assert "majority-class baseline" in text
    assert f"results: {runs[0].file}\n" in text
    (samples,) = text.partition("samples: ")[2].splitlines()[:1]
    assert list(Path(samples).parent.glob(Path(samples).name))
    assert text.endswith(f"leaderboard {tmp_path} --format html --out report.html")
    assert "N/A" not in text


def test_of_lmms_evals_output_our_warnings_are_shown_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = io.StringIO()
    for _ in tqdm(range(3), desc="Judging", file=bar, mininterval=0):
        pass
    where = "2026-01-01 00:00:00 | WARNING  | {}.hooks:warn:1 - {}\n"
    shown = EvaluationProgress()
    with shown.of(tmp_path / "log"):
        for part in (bar.getvalue(), where.format("mtrl_judge", "no form"), "noise\n"):
            shown.read(part[:7])
            shown.read(part[7:])
        shown.read(where.format("mtrl_judge", "no form") + where.format("lmms_eval", "theirs"))
    printed = capsys.readouterr().err
    assert printed.count("no form") == 1
    assert "noise" not in printed
    assert "theirs" not in printed


def test_mistakes_are_found_without_heavy_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    (tmp_path / RUN_FILE).write_text(
        '{"starts": [{"settings": {"max_steps": 60}}], "finished": {"step": 30}}'  # by patience
    )
    train = "train grpo --recipe tiny_cpu --output-dir ."
    mistakes = {
        f"{train} --resume --max-steps 60": "finished at step 30; a --max_steps above 60 extends",
        f"{train} --data-root none": "data_root: no folder none",
        f"{train} --data-root .": "mtrl_judge_agin_nat: no folder mtrl_judge_agin_nat",
        f"{train} --tasks mtrl_judge_seetru": "did you mean 'mtrl_judge_seetrue'?",
        "eval --tasks mtrl_judge_no*": "--tasks: no task matches 'mtrl_judge_no*'; `mtrl-judge",
        "eval --tasks no_such_task": "--tasks: no task 'no_such_task'; `mtrl-judge tasks`",
        "eval": "`mtrl-judge data sample` writes data to try things with",
        "eval --tasks mtrl_judge_agin_* --data-root .": "and the dataset is not on the hub",
    }
    code = (
        "import sys; from mtrl_judge.cli.main import main\n"
        "heavy = ('torch', 'lmms_eval', 'trl', 'datasets', 'transformers')\n"
        "for words in sys.argv[1:]:\n"
        "    sys.argv = ['mtrl-judge', *words.split()]\n"
        "    try: main()\n"
        "    except SystemExit as stop: print(stop.code, {*heavy} & {*sys.modules})\n"
    )
    words = [sys.executable, "-c", code, *mistakes]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines() == ["2 set()"] * len(mistakes)
    assert [part for part in mistakes.values() if part not in done.stderr] == []


def test_the_yamls_of_an_included_folder_are_checked_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "run_command", lambda *_, **__: pytest.fail("started"))
    (tmp_path / "mine").mkdir()
    write_yaml(tmp_path / "mine", "ours")
    write_yaml(tmp_path / "mine", "faulty", kind="pontwise")
    evaluate = ("eval", "--output-path", tmp_path / "logs", "--include-path", tmp_path / "mine")
    told = fails(capsys, monkeypatch, *evaluate, "--tasks", "ours,faulty")
    assert "judge.kind: is 'pontwise'" in told
    assert "--tasks: no task 'our'; did you mean 'ours'?" in fails(
        capsys, monkeypatch, *evaluate, "--tasks", "our"
    )
    told = fails(capsys, monkeypatch, *evaluate[:-1], tmp_path / "none")
    assert f"--include_path: no folder {tmp_path / 'none'}" in told


def test_missing_trackers_and_data_are_found_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "run_command", lambda *_, **__: pytest.fail("started"))

    def without_trackers(name: str) -> Any:
        return None if name in ("wandb", "trackio") else importlib.util.find_spec(name)

    for module in (host_flags, early_checks):
        monkeypatch.setattr(module, "find_spec", without_trackers)
    evaluate = ("eval", "--output-path", tmp_path / "logs", "--data-root", tmp_path)
    told = fails(capsys, monkeypatch, *evaluate, "--wandb-args", "project=p")
    assert "--wandb_args: needs wandb, which is not installed" in told
    told = fails(capsys, monkeypatch, *evaluate, "--tasks", "mtrl_judge_agin_nat")
    assert f"mtrl_judge_agin_nat: no folder {tmp_path / 'mtrl_judge_agin_nat'}" in told
    train = ("train", "grpo", "--recipe", "tiny_cpu", "--output_dir", tmp_path / "run")
    told = fails(capsys, monkeypatch, *train, "--report_to", "trackio")
    assert "report_to: needs trackio, which is not installed" in told


# Commands that have both flags, the function that does their work, and what it returns.
EMPTY = Table("t", "task", [])
WORK: Mapping[str, tuple[Any, str, Any]] = {
    "robustness": (robustness, "run_robustness", Robustness([], {}, Path("robustness.json"))),
    "experiment --recipe tiny_cpu": (experiment, "run_experiment", "the claims"),
    "demo": (demo, "run_demo", Demo(EMPTY, EMPTY, Path("curve.svg"), Path("judge"), [])),
    "data prepare mtrl_judge_seetrue --data-root .": (prepare, "prepare", []),
}


@pytest.mark.parametrize(("flag", "shows"), [("--quiet", (False, False)), ("-v", (True, True))])
@pytest.mark.parametrize("command", WORK)
def test_quiet_hides_progress_and_verbose_shows_what_is_started(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    flag: str,
    shows: tuple[bool, bool],
) -> None:
    module, function, result = WORK[command]

    def work(*_: Any, **__: Any) -> Any:
        report("how far it is")
        run_command("t", [sys.executable, "-c", "print('its output')"], log=tmp_path / "log")
        return result

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, function, work)
    shown = call(*command.split(), flag)
    assert shown.exit_code == 0, shown.output
    assert ("how far it is" in shown.stdout, "its output" in shown.stdout) == shows
    end = shown.stdout.splitlines()[-1]
    assert end.startswith(("results: ", "next: ", "to use it: ")), end
    assert (tmp_path / "log").read_text() == "its output\n"


def test_verbose_shows_what_lmms_eval_prints_and_keeps_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = EvaluationProgress()
    with verbosity(quiet=False, verbose=True), shown.of(tmp_path / "log"):
        shown.read("noise\n")
    assert capsys.readouterr().out == "noise\n"
    assert shown.log == tmp_path / "log"


def test_no_bar_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBars():
        pass
    assert capsys.readouterr().err == ""


def test_a_recipe_can_be_copied_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "grpo/tiny_cpu" in call("recipes").stdout
    copy = ("recipes", "--copy", "grpo/tiny_cpu", "--out", tmp_path / "mine.yaml")
    assert call(*copy).exit_code == 0
    assert read_recipe(tmp_path / "mine.yaml") == read_recipe(find_recipe("tiny_cpu", "grpo"))
    assert "or pass --force" in fails(capsys, monkeypatch, *copy)
    wrong = fails(capsys, monkeypatch, "recipes", "--copy", "grpo/tiny_cpus")
    assert "did you mean 'grpo/tiny_cpu'?" in wrong


def test_train_launches_what_the_recipe_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def become(_: str, command: list[str]) -> None:
        started.append(command)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execvp", become)
    out = ("--tasks", "mtrl_judge_unsafebench", "--output_dir", tmp_path / "run")
    words = ("train", "grpo", "--launch", "--recipe", "qwen3_vl_8b_8gpu", *out)
    assert call(*words).exit_code == 0
    line = " ".join(started[0])
    assert f"--config_file {find_accelerate_config('zero3')} --num_processes 8" in line
    assert line.endswith(f"-m mtrl_judge.rl.train {' '.join(map(str, words[1:2] + words[3:]))}")
    several = ("train", "grpo", "--launch", "--recipe", "qwen3_vl_30b_a3b", *out)
    assert "$MACHINE_RANK, $MAIN_PROCESS_IP is not set" in fails(capsys, monkeypatch, *several)
    monkeypatch.setenv("MACHINE_RANK", "1")
    monkeypatch.setenv("MAIN_PROCESS_IP", "10.0.0.1")
    assert call(*several).exit_code == 0
    assert "--machine_rank 1 --main_process_ip 10.0.0.1" in " ".join(started[1])
