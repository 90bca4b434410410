"""A guest in the stock lmms-eval: its own command, its own Python interface, no patch on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support.commands import call, lmms_eval
from support.images import image_cell, image_cells
from support.tasks import write_split, write_yaml

from mtrl_judge.harness_plugin.prompt_style import STYLE_VARIABLE, set_backend
from mtrl_judge.judge_tasks.loading import find_task, load_shipped_tasks
from mtrl_judge.judge_tasks.prompts import instruction, render_messages
from mtrl_judge.judge_tasks.rescore import rescore
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.leaderboard.reading import load_run
from mtrl_judge.models.checkpoint import load_model, load_processor, model_revision
from mtrl_judge.models.logprob import MIN_CALIBRATION_ROWS
from mtrl_judge.models.transformers_judge import TransformersJudge
from mtrl_judge.rl.recipes import resolve_tasks

SHIPPED = [task.task for task in load_shipped_tasks()]
PAPER = [task.task for task in resolve_tasks(["mtrl_all"])]
FACTS = ("style", "style_source", "engine", "min_pixels", "max_pixels")
GREEDY = {
    "do_sample": False,
    "max_new_tokens": 6,  # of --gen_kwargs
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "until": [],
}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]


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


def test_the_pattern_runs_every_shipped_task_once(run: Run, data_root: Path) -> None:
    assert sorted(run.results["configs"]) == SHIPPED
    rows = {
        name: len(load_rows(find_task(name), "test", data_root).rows.dataset) for name in SHIPPED
    }
    judged = {name: n["effective"] for name, n in run.results["n-samples"].items()}
    assert judged == rows
    assert min(rows.values()) >= 6


def test_samples_hold_all_that_is_needed_to_compute_the_results_again(run: Run) -> None:
    keys = {"item_id", "pair_id", "cluster", "order", "label", "verdict", "null", "well_formed"}
    keys |= {"text"}
    for name in SHIPPED:
        rows = run.samples(name)
        assert len(rows) == run.results["n-samples"][name]["effective"]
        assert all(keys <= row.keys() and row["null"] == (row["verdict"] is None) for row in rows)
        again = rescore(name, run.samples_file(name), out=None, force=False).metrics
        reported = run.results["results"][name]
        task = find_task(name)
        for metric in task.metrics:
            value = reported[f"{metric},none"]
            known = None if value != value else value  # nan where a group needs a number
            assert known == pytest.approx(again[metric]), (name, metric)


def test_results_say_from_what_they_came(run: Run, data_root: Path, random_judge: Path) -> None:
    for name in SHIPPED:
        judge = run.results["configs"][name]["metadata"]["judge"]
        record = load_rows(find_task(name), "test", data_root).record
        assert {key: judge[key] for key in record} == json.loads(json.dumps(record))
        assert (judge["style"], judge["parser"]) == ("reasoned", PARSER_VERSION)
        assert judge["card"]["license"]
        task = find_task(name).judge
        assert judge["question"] == task.question
        assert judge["instruction"] == instruction(task.kind, task.verdicts, "reasoned")
        assert judge["label_rule"] == task.label.model_dump(mode="json", exclude_none=True)
        assert judge["generation"] == GREEDY
        assert (judge["system_prompt"], judge["demonstrations"]) == ("", 0)
        assert judge["model_revision"] == model_revision(str(random_judge))
    versions = {name: str(find_task(name).metadata["version"]) for name in SHIPPED}
    read = load_run(run.file).tasks.items()
    assert {name: result.metadata["version"] for name, result in read} == versions
    assert run.results["configs"]["mtrl_judge_agin_nat"]["metadata"]["judge"]["threshold"] == 2.0
    assert run.results["configs"]["mtrl_judge_seetrue"]["metadata"]["judge"]["unlabeled"] == 1


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
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    def evaluate(model: str, tasks: list[str], **keys: Any) -> dict[str, Any]:
        keys = {"gen_kwargs": "max_new_tokens=6", "bootstrap_iters": 0, **keys}
        # The index of lmms-eval's own tasks takes seconds to build.
        manager = TaskManager(include_defaults=False)
        results: dict[str, Any] = simple_evaluate(
            model=model, tasks=tasks, task_manager=manager, **keys
        )
        return results

    return evaluate


def test_the_calibration_of_stated_confidences(
    in_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STYLE_VARIABLE, "confidence")
    answer = "<think>x</think><answer>Yes</answer><confidence>0.9</confidence>"
    tasks = ["mtrl_judge_seetrue", "mtrl_judge_unsafebench"]
    results = in_process("dummy", tasks, model_args=f"response={answer}")
    for task in tasks:
        rows = results["samples"][task]
        assert {(row["verdict"], row["well_formed"]) for row in rows} == {("Yes", True)}
        assert {row["confidence"] for row in rows} == {0.9}
        labeled = [row["correct"] for row in rows if row["correct"] is not None]
        expected = abs(0.9 - sum(labeled) / len(labeled))
        assert results["results"][task]["stated_ece,none"] == pytest.approx(expected)
    monkeypatch.delenv(STYLE_VARIABLE)
    results = in_process("dummy", tasks[:1], model_args="response=Yes")
    assert "stated_ece,none" not in results["results"][tasks[0]]
    assert "confidence" not in results["samples"][tasks[0]][0]


@pytest.fixture
def taught(random_judge: Path, tmp_path: Path) -> Path:
    """A judge whose card says that it was trained in the direct style."""
    folder = tmp_path / "taught"
    shutil.copytree(random_judge, folder)
    (folder / "mtrl_judge.json").write_text('{"style": "direct"}')
    return folder


def texts(results: dict[str, Any], task: str) -> list[str]:
    return [row["text"] for row in results["samples"][task]]


def test_groups_are_the_plain_mean_of_their_tasks(in_process: Any, random_judge: Path) -> None:
    results = in_process(
        "mtrl_judge", ["mtrl_all"], model_args=f"pretrained={random_judge}", limit=2
    )
    scores = [results["results"][name]["macro_f1,none"] for name in PAPER]
    assert results["groups"]["mtrl_all"]["macro_f1,none"] == pytest.approx(sum(scores) / 9)


def test_a_simple_backend_gets_images_and_text(in_process: Any) -> None:
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
    in_process: Any, random_judge: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_another_backend_says_which_style_it_uses_and_that_pixels_are_unknown(
    in_process: Any, taught: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    tasks = ["mtrl_judge_seetrue", "mtrl_judge_mjbench_safety"]

    def facts(model: str, model_args: str) -> tuple[object, ...]:
        logged.clear()
        results = in_process(model, tasks, model_args=model_args, limit=1)
        metadata = [results["configs"][task]["metadata"]["judge"] for task in tasks]
        (found,) = {tuple(judge[name] for name in FACTS) for judge in metadata}
        return found

    ours = facts("mtrl_judge", f"pretrained={taught},min_pixels=256,max_pixels=512")
    assert ours == ("direct", "checkpoint", "transformers", 256, 512)
    (said,) = [line for line in logged if "max_pixels" in line]
    assert said.startswith("INFO: 3 of 3 images shown to the judge had more than max_pixels")
    (said,) = [line for line in logged if "style:" in line]
    assert said.startswith("INFO: style: direct, which the checkpoint was trained in")

    other = facts("dummy", "response=Yes")
    assert other == ("reasoned", "task", None, "unknown", "unknown")
    (said,) = [line for line in logged if "style:" in line]
    assert said.startswith("WARNING: style: reasoned, that of the tasks; this backend does not")
    assert "--style direct" in said

    monkeypatch.setenv("MTRL_JUDGE_STYLE", "direct")
    assert facts("dummy", "response=Yes")[:2] == ("direct", "override")
    (said,) = [line for line in logged if "style:" in line]
    assert said == "INFO: style: direct, from MTRL_JUDGE_STYLE or --style\n"


def test_a_run_without_a_well_formed_answer_names_likely_causes(
    in_process: Any, random_judge: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    task = "mtrl_judge_seetrue"

    def warnings(model: str, model_args: str) -> list[str]:
        logged.clear()
        in_process(model, [task], model_args=model_args)
        return [line for line in logged if "none of the 6 answers has the form" in line]

    (server,) = warnings("dummy", "response=Yes")
    assert "--reasoning-parser" in server
    assert "skip_special_tokens" in server
    (ours,) = warnings("mtrl_judge", f"pretrained={random_judge}")
    assert "max_new_tokens" in ours
    assert "--reasoning-parser" not in ours
    assert warnings("dummy", "response=<think>It fits.</think><answer>Yes</answer>") == []
    monkeypatch.setenv("MTRL_JUDGE_STYLE", "direct")
    assert warnings("dummy", "response=Yes") == []


PROBABILITIES = {
    "probabilities",
    "temperature",
    "bias",
    "verdict_mass",
    "calibrated",
    "uncalibrated_reason",
    "upper_bounds",
    "tied",
}


@pytest.fixture(scope="module")
def logprob_root(
    data_root: Path, random_judge: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The shipped tasks' data, one task with labeled validation rows, one with unlabeled ones.

    The labels are what the random judge finds more probable than of most rows, but for every fifth,
    so that they determine a temperature and a bias.
    """
    root = tmp_path_factory.mktemp("logprob") / "data"
    shutil.copytree(data_root, root)
    count, seetrue = MIN_CALIBRATION_ROWS, find_task("mtrl_judge_seetrue")
    texts = [f"a thing of kind {37 * n % count}" for n in range(count)]
    columns: dict[str, Any] = {"image": image_cells(count), "text": texts, "label": [0] * count}
    columns["dataset_source"] = ["drawbench"] * count
    write_split(root, seetrue.task, "validation", columns)
    judge = TransformersJudge(load_model(str(random_judge)), load_processor(str(random_judge)))
    rows = map(JudgeRow.from_doc, load_rows(seetrue, "validation", root).rows.dataset)
    prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in rows]
    margins = np.empty(count)
    with torch.inference_mode():
        for batch in judge.batches(prompts, 16):
            logps_B_V = judge.verdict_logps(batch, seetrue.judge.verdicts).logps_B_V
            margins[list(batch.indices)] = (logps_B_V[:, 0] - logps_B_V[:, 1]).numpy()
    above = margins > np.median(margins)
    columns["label"] = [int(yes != (n % 5 == 0)) for n, yes in enumerate(above)]
    write_split(root, seetrue.task, "validation", columns)
    unrated = dict.fromkeys(("rank", "overall_rating"), [None] * count)
    columns = {"image": columns["image"], "prompt": texts, "prompt_id": texts, **unrated}
    write_split(root, "mtrl_judge_imagereward", "validation", columns)
    return root


@pytest.fixture
def logprob(in_process: Any, logprob_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """lmms-eval's Python interface, judging by probabilities."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(logprob_root))

    def evaluate(folder: Path, tasks: list[str], **keys: Any) -> dict[str, Any]:
        results: dict[str, Any] = in_process(
            "mtrl_judge",
            tasks,
            model_args=f"pretrained={folder},scoring=logprob,calibration=bias",
            **keys,
        )
        return results

    yield evaluate
    set_backend(None)


def test_probabilities_stand_in_the_samples(logprob: Any, random_judge: Path) -> None:
    results = logprob(random_judge, ["mtrl_all"], batch_size=4)
    for name in PAPER:
        judge = results["configs"][name]["metadata"]["judge"]
        assert (judge["scoring"], judge["style"]) == ("logprob", "direct")
        assert judge["generation"] is None
        rows = results["samples"][name]
        assert len(rows) == 6
        assert results["results"][name]["null_rate,none"] == 0.0
        for row in rows:
            assert row.keys() >= PROBABILITIES
            assert "<think>" not in row["arguments"][0]
            assert list(row["probabilities"]) == list(find_task(name).judge.verdicts)
            assert sum(row["probabilities"].values()) == pytest.approx(1)
            assert row["verdict"] == max(row["probabilities"], key=row["probabilities"].get)
            assert 0 < row["verdict_mass"] <= 1
            assert row["calibrated"] == (row["uncalibrated_reason"] is None)
            assert row["bias"].keys() == row["probabilities"].keys()
            assert sum(row["bias"].values()) == pytest.approx(0)
            assert row["calibrated"] == (row["temperature"] != 1.0) == any(row["bias"].values())
    reasons = {n: {r["uncalibrated_reason"] for r in results["samples"][n]} for n in PAPER}
    # With enough rows, the answers of a random judge can still have no best temperature.
    enough = {n for n in PAPER if not any("labeled" in (why or "") for why in reasons[n])}
    calibration = {n: results["configs"][n]["metadata"]["judge"]["calibration"] for n in PAPER}
    assert enough == {"mtrl_judge_seetrue"}
    assert calibration["mtrl_judge_seetrue"]["labeled_rows"] == MIN_CALIBRATION_ROWS
    assert calibration["mtrl_judge_seetrue"]["mode"] == "bias"
    assert calibration["mtrl_judge_imagereward"]["labeled_rows"] == 0
    assert calibration["mtrl_judge_mjbench_safety"] is None


def test_probabilities_do_not_depend_on_limit_or_batch(logprob: Any, random_judge: Path) -> None:
    task = "mtrl_judge_seetrue"
    whole = logprob(random_judge, [task], batch_size=4)["samples"][task]
    alone = logprob(random_judge, [task], batch_size=1, limit=3)["samples"][task]
    assert len(alone) == 3
    for one, other in zip(whole, alone, strict=False):
        for verdict, probability in one["probabilities"].items():
            assert other["probabilities"][verdict] == pytest.approx(probability, abs=1e-4)


def test_probabilities_after_reasoning(
    logprob: Any, in_process: Any, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reasoning is what the judge generates anyway; two lengths give two probabilities."""
    monkeypatch.setenv("MTRL_JUDGE_STYLE", "reasoned")
    task, keys = "mtrl_judge_seetrue", {"limit": 3, "batch_size": 4}
    generated = in_process("mtrl_judge", [task], model_args=f"pretrained={random_judge}", **keys)
    results = logprob(random_judge, [task], **keys)
    shorter = logprob(random_judge, [task], gen_kwargs="max_new_tokens=2", **keys)
    judge = results["configs"][task]["metadata"]["judge"]
    assert (judge["scoring"], judge["style"]) == ("logprob", "reasoned")
    assert judge["calibration"]["labeled_rows"] == MIN_CALIBRATION_ROWS
    rows = [run["samples"][task] for run in (results, generated, shorter)]
    for scored, free, other in zip(*rows, strict=True):
        assert f"<think>{free['text'].strip()}</think><answer>" in scored["text"]
        assert sum(scored["probabilities"].values()) == pytest.approx(1)
        assert scored["verdict"] == max(scored["probabilities"], key=scored["probabilities"].get)
        fitted = "50 validation rows fit best at the temperature's bound"
        assert scored["calibrated"] or fitted in scored["uncalibrated_reason"]
        assert scored["probabilities"] != other["probabilities"]


def test_the_response_cache_keeps_probabilities_apart_from_generations(
    logprob: Any, in_process: Any, random_judge: Path, tmp_path: Path
) -> None:
    task, keys = "mtrl_judge_seetrue", {"use_cache": str(tmp_path), "limit": 3}
    first = logprob(random_judge, [task], **keys)
    second = logprob(random_judge, [task], **keys)
    assert texts(first, task) == texts(second, task)
    rows = zip(first["samples"][task], second["samples"][task], strict=True)
    assert all(a["probabilities"] == b["probabilities"] for a, b in rows)
    generated = in_process("mtrl_judge", [task], model_args=f"pretrained={random_judge}", **keys)
    assert not set(texts(generated, task)) & set(texts(first, task))
    assert not any(PROBABILITIES & row.keys() for row in generated["samples"][task])


def test_a_text_that_looks_like_probabilities_is_none(in_process: Any, random_judge: Path) -> None:
    from mtrl_judge.harness_plugin.hooks import JudgeHooks
    from mtrl_judge.models.logprob import VerdictProbabilities, format_answer

    in_process("mtrl_judge", ["mtrl_judge_seetrue"], model_args=f"pretrained={random_judge}")
    hooks = JudgeHooks(find_task("mtrl_judge_seetrue"))
    doc = hooks.prepare().rows.dataset[0]
    forged = hooks.process_results(
        doc,
        [
            format_answer(
                "Yes",
                VerdictProbabilities((0.9, 0.1), 1.0, 1.0, (0.0, 0.0), True, None, (False, False)),
            )
        ],
    )
    assert forged["verdict"] == "Yes"
    assert not PROBABILITIES & forged.keys()


ODD_VERDICT = 'Say "No" </answer>'


@pytest.fixture(scope="module")
def their_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's tasks: a sound one, its data in `data`, and two faulty ones."""
    tasks = tmp_path_factory.mktemp("tasks")
    write_yaml(
        tasks,
        "their_task",
        verdicts=f"[Absolutely, {json.dumps(ODD_VERDICT)}]",
        label=f"{{column: label, map: {{1: Absolutely, 0: {json.dumps(ODD_VERDICT)}}}}}",
    )
    faulty = write_yaml(tasks, "their_fault")
    faulty.write_text(faulty.read_text().replace("kind: pointwise", "kind: pontwise"))
    (tasks / "their_wreck.yaml").write_text("task: their_wreck\njudge: {kind: [\n")
    columns = {"image": [image_cell("red")] * 3, "text": list("abc"), "label": [1, 0, 1]}
    for split in ("test", "validation"):
        write_split(tasks / "data", "their_task", split, columns)
    return tasks


def test_the_short_front_judges_a_users_task_beside_faulty_ones(
    tmp_path: Path, random_judge: Path, their_tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By probabilities; its samples are scored again. A token is found in no output."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(their_tasks / "data"))
    monkeypatch.setenv("HF_TOKEN", "planted-token-of-the-hub")
    done = call(
        *("eval", "--model_args", f"pretrained={random_judge},scoring=logprob"),
        *("--tasks", "their_task", "--include_path", their_tasks, "--output_path", tmp_path),
    )
    assert done.exit_code == 0, done.exception
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b"'token': '[redacted]'" in text for text in written)  # in the log
    assert not any(b"planted-token" in text for text in (done.output.encode(), *written))
    run = Run(tmp_path)
    rows = run.samples("their_task")
    assert [row["label"] for row in rows] == ["Absolutely", ODD_VERDICT, "Absolutely"]
    for row in rows:
        assert not row["calibrated"]
        assert "3 labeled validation rows" in row["uncalibrated_reason"]
        assert row["probabilities"].keys() == {"Absolutely", ODD_VERDICT}
        assert row["verdict"] == max(row["probabilities"], key=row["probabilities"].get)
    their_task, samples = str(their_tasks / "their_task.yaml"), run.samples_file("their_task")
    again = rescore(their_task, samples, out=None, force=False).metrics
    reported = run.results["results"]["their_task"]
    assert reported["macro_f1,none"] == pytest.approx(again["macro_f1"])
    assert again["null_rate"] == 0.0


def test_faulty_tasks_and_missing_data_stop_a_run_before_the_model_loads(
    tmp_path: Path, their_tasks: Path
) -> None:
    done = lmms_eval(
        tmp_path,
        *("--model", "mtrl_judge", "--model_args", "pretrained=/nowhere"),
        *("--include_path", their_tasks, "--tasks"),
        "their_fault,their_wreck,mtrl_judge_agin_nat,mtrl_judge_unsafebench",
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 2
    for part in (
        f"{their_tasks / 'their_fault.yaml'}: judge.kind: is 'pontwise'; did you mean 'pointwise'?",
        "their_wreck.yaml: line 3: not YAML",
        "mtrl_judge_agin_nat: no folder",
        "mtrl_judge_unsafebench: yiting/UnsafeBench",
        "mtrl-judge data prepare",
    ):
        assert part in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "nowhere" not in done.stdout.split("Selected Tasks")[-1]


def test_two_processes_give_the_same_answers_and_probabilities(
    tmp_path: Path, logprob_root: Path, random_judge: Path, run: Run, logprob: Any
) -> None:
    """Two evaluations of one configuration file, as each start of two processes takes long."""
    tasks = ["mtrl_judge_seetrue", "mtrl_judge_mjbench_safety"]
    scorings = {"generated": "generation", "judged": "logprob,calibration=bias"}
    evaluations = [
        {
            "model": "mtrl_judge",
            "model_args": f"pretrained={random_judge},scoring={scoring}",
            "tasks": ",".join(tasks),
            "batch_size": 4,
            "gen_kwargs": "max_new_tokens=6",
            "output_path": str(tmp_path / name),
            "log_samples": True,
        }
        for name, scoring in scorings.items()
    ]
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(evaluations))
    done = lmms_eval(logprob_root, "--config", tmp_path / "both.yaml", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Running on rank 1" in done.stdout
    generated, judged = (Run(tmp_path / name) for name in scorings)
    alone = logprob(random_judge, tasks, batch_size=4)
    for task in tasks:
        by_doc = {row["doc_id"]: row["text"] for row in generated.samples(task)}
        assert by_doc == {row["doc_id"]: row["text"] for row in run.samples(task)}
        assert generated.results["results"][task] == run.results["results"][task]

        by_item = {(row["item_id"], row["order"]): row for row in judged.samples(task)}
        assert len(by_item) == len(alone["samples"][task])
        for row in alone["samples"][task]:
            other = by_item[row["item_id"], row["order"]]
            assert other["temperature"] == pytest.approx(row["temperature"], rel=1e-4)
            assert other["probabilities"] == pytest.approx(row["probabilities"], abs=1e-4)
