"""A guest in the stock lmms-eval: its own command, its own Python interface, no patch on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from corpus import image_cell, write_split, write_yaml

from mtrl_judge.cli.rescore import rescore
from mtrl_judge.judge_tasks.loading import find_task, load_shipped_tasks
from mtrl_judge.judge_tasks.metrics import rate_names
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows

SHIPPED = [task.task for task in load_shipped_tasks()]
pytestmark = pytest.mark.slow


def lmms_eval(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The stock command, as a user calls it."""
    return subprocess.run(
        [Path(sys.executable).with_name("lmms-eval"), *arguments],
        env={**os.environ, DATA_ROOT_VARIABLE: str(root), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


class Run:
    """The files of a finished run."""

    def __init__(self, folder: Path) -> None:
        (self.file,) = folder.glob("**/*_results.json")
        self.results = json.loads(self.file.read_text())

    def samples_file(self, task: str) -> Path:
        date = self.file.name.removesuffix("_results.json")
        return self.file.with_name(f"{date}_samples_{task}.jsonl")

    def samples(self, task: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.samples_file(task).read_text().splitlines()]


@pytest.fixture(scope="module")
def run(data_root: Path, random_judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of the stock command over all shipped tasks."""
    out = tmp_path_factory.mktemp("run")
    done = lmms_eval(
        data_root,
        *("--model", "mtrl_judge", "--model_args", f"pretrained={random_judge}"),
        *("--tasks", "mtrl_judge_*", "--batch_size", "8", "--gen_kwargs", "max_new_tokens=6"),
        *("--output_path", str(out), "--log_samples"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(out)


def test_the_pattern_runs_every_shipped_task_once(run: Run) -> None:
    assert sorted(run.results["configs"]) == SHIPPED
    assert {n["effective"] for n in run.results["n-samples"].values()} == {6}


def test_samples_hold_all_that_is_needed_to_compute_the_results_again(run: Run) -> None:
    keys = {"item_id", "pair_id", "order", "label", "verdict", "null", "well_formed", "text"}
    for name in SHIPPED:
        rows = run.samples(name)
        assert len(rows) == 6
        assert all(keys <= row.keys() and row["null"] == (row["verdict"] is None) for row in rows)
        again = rescore(name, run.samples_file(name), out=None, force=False)
        reported = run.results["results"][name]
        rates = rate_names(find_task(name).judge.verdicts, paired=find_task(name).paired)
        for metric in rates:
            assert reported[f"{metric},none"] == pytest.approx(again[metric]), (name, metric)


def test_results_say_from_what_they_came(run: Run, data_root: Path) -> None:
    for name in SHIPPED:
        judge = run.results["configs"][name]["metadata"]["judge"]
        record = load_rows(find_task(name), "test", data_root).record
        assert {key: judge[key] for key in record} == json.loads(json.dumps(record))
        assert judge["style"] == "reasoned"
        assert judge["card"]["licence"]
    assert run.results["configs"]["mtrl_judge_agin_nat"]["metadata"]["judge"]["threshold"] == 2.0
    assert run.results["configs"]["mtrl_judge_seetrue"]["metadata"]["judge"]["unlabelled"] == 1


def test_a_pair_stands_side_by_side_in_both_orders(run: Run) -> None:
    rows = run.samples("mtrl_judge_mjbench_safety")
    assert [row["order"] for row in rows] == ["AB", "BA"] * 3
    assert [row["pair_id"] for row in rows[::2]] == [row["pair_id"] for row in rows[1::2]]
    assert all(a["label"] != b["label"] for a, b in zip(rows[::2], rows[1::2], strict=True))


@pytest.fixture
def in_process(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lmms-eval's Python interface, on the shipped tasks."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(data_root))
    from lmms_eval.evaluator import simple_evaluate

    def evaluate(model: str, tasks: list[str], **keys: Any) -> dict[str, Any]:
        keys = {"gen_kwargs": "max_new_tokens=6", "bootstrap_iters": 0, **keys}
        results: dict[str, Any] = simple_evaluate(model=model, tasks=tasks, **keys)
        return results

    return evaluate


def texts(results: dict[str, Any], task: str) -> list[str]:
    return [row["text"] for row in results["samples"][task]]


def test_groups_are_the_plain_mean_of_their_tasks(in_process: Any, random_judge: Path) -> None:
    results = in_process(
        "mtrl_judge", ["mtrl_all"], model_args=f"pretrained={random_judge}", limit=2
    )
    scores = [results["results"][name]["macro_f1,none"] for name in SHIPPED]
    assert results["groups"]["mtrl_all"]["macro_f1,none"] == pytest.approx(sum(scores) / 9)


def test_a_simple_backend_gets_pictures_and_text(in_process: Any) -> None:
    """``dummy`` is lmms-eval's own simple backend; it answers the same to everything."""
    results = in_process("dummy", ["mtrl_judge_mjbench_safety"], model_args="response=1")
    assert results["config"]["model_backend"].endswith("(simple)")
    scores = results["results"]["mtrl_judge_mjbench_safety"]
    assert scores["accuracy,none"] == 0.5
    assert scores["first_slot_rate,none"] == 1.0
    assert scores["flip_rate,none"] == 1.0
    assert scores["both_orders_correct,none"] == 0.0


def test_limit_and_batch_size_do_not_change_the_answers(
    in_process: Any, random_judge: Path, run: Run
) -> None:
    tasks = ["mtrl_judge_seetrue", "mtrl_judge_mjbench_safety"]
    results = in_process(
        "mtrl_judge",
        tasks,
        model_args=f"pretrained={random_judge}",
        batch_size=1,
        limit=4,
        num_fewshot=0,
    )
    for task in tasks:
        assert texts(results, task) == [row["text"] for row in run.samples(task)][:4]


def test_the_response_cache_gives_the_same_scores(
    in_process: Any, random_judge: Path, tmp_path: Path
) -> None:
    keys = {"model_args": f"pretrained={random_judge}", "use_cache": str(tmp_path), "limit": 3}
    first = in_process("mtrl_judge", ["mtrl_judge_seetrue"], **keys)
    second = in_process("mtrl_judge", ["mtrl_judge_seetrue"], **keys)
    assert texts(first, "mtrl_judge_seetrue") == texts(second, "mtrl_judge_seetrue")
    assert list(tmp_path.rglob("*.db"))


def test_the_style_is_overridden_recorded_and_taken_from_the_checkpoint(
    in_process: Any, random_judge: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import shutil

    taught = tmp_path / "taught"
    shutil.copytree(random_judge, taught)
    (taught / "mtrl_judge.json").write_text('{"style": "direct"}')

    def style(folder: Path) -> tuple[str, bool]:
        results = in_process(
            "mtrl_judge", ["mtrl_judge_seetrue"], model_args=f"pretrained={folder}", limit=1
        )
        judge = results["configs"]["mtrl_judge_seetrue"]["metadata"]["judge"]
        prompt = results["samples"]["mtrl_judge_seetrue"][0]["arguments"][0]
        return judge["style"], "<think>" in prompt

    assert style(taught) == ("direct", False)
    assert style(random_judge) == ("reasoned", True)
    monkeypatch.setenv("MTRL_JUDGE_STYLE", "reasoned")
    assert style(taught) == ("reasoned", True)


def test_a_users_yaml_runs_and_a_faulty_one_stops_only_those_who_ask_for_it(
    tmp_path: Path, random_judge: Path, data_root: Path
) -> None:
    tasks, root = tmp_path / "tasks", tmp_path / "data"
    tasks.mkdir()
    write_yaml(tasks, "their_task")
    faulty = write_yaml(tasks, "their_fault")
    faulty.write_text(faulty.read_text().replace("kind: pointwise", "kind: pontwise"))
    (tasks / "their_wreck.yaml").write_text("task: their_wreck\njudge: {kind: [\n")
    columns = {"image": [image_cell("red")] * 3, "text": list("abc"), "label": [1, 0, 1]}
    write_split(root, "their_task", "test", columns)
    arguments = ("--include_path", str(tasks), "--gen_kwargs", "max_new_tokens=4")
    model = ("--model", "mtrl_judge", "--model_args")
    asked = lmms_eval(
        root, *arguments, *model, "pretrained=/nowhere", "--tasks", "their_fault,their_wreck"
    )
    assert asked.returncode == 1
    assert f"{faulty}: judge.kind: is 'pontwise'; did you mean 'pointwise'?" in asked.stderr
    assert "their_wreck.yaml: line 3: not YAML" in asked.stderr
    assert "Traceback" not in asked.stdout + asked.stderr
    assert "nowhere" not in asked.stdout.split("Selected Tasks")[-1]
    out = tmp_path / "out"
    ran = lmms_eval(
        root,
        *arguments,
        *model,
        f"pretrained={random_judge}",
        *("--tasks", "their_task", "--output_path", str(out), "--log_samples"),
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert [row["label"] for row in Run(out).samples("their_task")] == ["Yes", "No", "Yes"]


def test_data_that_is_not_there_is_told_before_the_model_loads(tmp_path: Path) -> None:
    done = lmms_eval(
        tmp_path,
        *("--model", "mtrl_judge", "--model_args", "pretrained=/nowhere"),
        *("--tasks", "mtrl_judge_agin_nat,mtrl_judge_unsafebench"),
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 1
    assert "mtrl_judge_agin_nat: no folder" in done.stderr
    assert "mtrl_judge_unsafebench: yiting/UnsafeBench" in done.stderr
    assert "use a local folder" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_two_processes_give_the_same_scores(
    tmp_path: Path, data_root: Path, random_judge: Path, run: Run
) -> None:
    out = tmp_path / "out"
    # `accelerate launch --cpu --num_processes 2` starts one process (accelerate 1.15's launcher).
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "lmms_eval"]
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name(launch[0]), *launch[1:]),
            *("--model", "mtrl_judge", "--model_args", f"pretrained={random_judge}"),
            *("--tasks", "mtrl_judge_seetrue,mtrl_judge_mjbench_safety", "--batch_size", "4"),
            *("--gen_kwargs", "max_new_tokens=6", "--output_path", str(out), "--log_samples"),
        ],
        env={
            **os.environ,
            DATA_ROOT_VARIABLE: str(data_root),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Running on rank 1" in done.stdout
    parallel = Run(out)
    for task in ("mtrl_judge_seetrue", "mtrl_judge_mjbench_safety"):
        by_doc = {row["doc_id"]: row["text"] for row in parallel.samples(task)}
        assert by_doc == {row["doc_id"]: row["text"] for row in run.samples(task)}
        assert parallel.results["results"][task] == run.results["results"][task]
