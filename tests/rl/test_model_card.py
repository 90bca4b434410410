"""The card of a judge: text from the records of its run, front matter that the hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from support.results import judged_rows, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.metrics.records import Record
from mtrl_judge.models.checkpoint import model_revision
from mtrl_judge.rl.base_card import base_card
from mtrl_judge.rl.checkpoints import write_card
from mtrl_judge.rl.log_summary import summarize_log
from mtrl_judge.rl.model_card import write_model_card
from mtrl_judge.rl.publish import judge_upload
from mtrl_judge.rl.run_record import (
    finish_record,
    finished_now,
    record_warning,
    start_record,
    task_record,
)
from mtrl_judge.rl.settings import parse_settings
from mtrl_judge.rl.validation_intervals import validation_intervals

OTHER = "mtrl_judge_agin_rat"
HOSTILE = """{{ 7 * 7 }} {% raw %} <script>x</script> | **bold**
# heading
--- `code` [link](https://example.org)"""
BASE = {"local": False, "license": "apache-2.0", "language": ["en"]}


@pytest.fixture(scope="module")
def data(data_root: Path) -> dict[str, dict[str, Any]]:
    names = ("mtrl_judge_agin_nat", OTHER)
    return {name: load_rows(find_task(name), "train", data_root).record for name in names}


def hostile_task(folder: Path) -> Path:
    task = find_task("mtrl_judge_agin_nat")
    raw = yaml.safe_load(task.path.with_name("_agin.yaml").read_text())
    raw |= {"task": "mine", "metadata": {"version": 1.0}}
    raw["judge"] |= {"kind": "pointwise", "verdicts": ["Yes", "No"]}
    raw["judge"] |= yaml.safe_load(task.path.read_text())["judge"]
    raw["judge"]["card"] |= {"license": HOSTILE, "known_problems": [HOSTILE], "gated": True}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def write_run(
    folder: Path,
    data: Mapping[str, Any],
    *flags: str,
    scores: Mapping[str, float] = {},
    base: Mapping[str, Any] = BASE,
) -> Path:
    """A run on a hostile task and on a shipped one that has ended, with its judge and card."""
    cpu = ("--use_cpu", "true", "--bf16", "false", "--gradient_checkpointing", "false")
    batch = ("--per_device_train_batch_size", "8", "--max_steps", "6", "--hub_token", "secret")
    where = ("--output_dir", str(folder), "--model_name_or_path", "Qwen/Qwen3-VL-4B-Instruct")
    tasks = ("--tasks", str(hostile_task(folder.parent)), OTHER)
    settings = parse_settings("grpo", [*where, *cpu, *batch, *tasks, *flags])
    records = {"mine": data["mtrl_judge_agin_nat"], OTHER: {**data[OTHER], "source": "prepared"}}
    records = {task.task: {**records[task.task], **task_record(task)} for task in settings.tasks}
    records[OTHER]["about"]["dataset"] = "owner/agin"
    start_record(folder, settings, records, {"base": dict(base), "accepted_licenses": {}})
    record_warning(folder, 4, "validation shows a collapse: | a")
    lines = [
        {"step": step, "time": f"2026-01-01T00:0{step}:00+00:00", "reward": step / 10,
         "mine/format": 0.5, "num_tokens": 1000 * step, "eval_macro_f1": 0.5 + step / 100}
        for step in range(1, 7)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judge = folder / "judge"
    judge.mkdir()
    write_card(judge, {"style": "reasoned", "base": "Qwen/Qwen3-VL-4B-Instruct", "seed": 42})
    (judge / "model.safetensors").write_bytes(b"weights")
    (judge / "training_args.bin").write_bytes(b"a pickle")
    validation = {"mine": {"rows": 32, "low": 0.5, "high": 0.75}} if scores else {}
    finished = finished_now(6, scores, best_step=5, validation=validation)
    write_model_card(folder, finished)
    finish_record(folder, finished)
    return folder


def all_scores() -> dict[str, float]:
    scores = {"macro_f1": 0.625}
    for name in ("mine", OTHER):
        scores |= {f"{name}/macro_f1": 0.625, f"{name}/null_rate": 0.25}
    return scores


def test_the_card_has_scores_data_and_training_and_shows_texts_as_text(
    data: Any, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", data, scores=all_scores())
    text = (folder / "judge" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["base_model"] == "Qwen/Qwen3-VL-4B-Instruct"
    assert matter["base_model_relation"] == "finetune"
    assert matter["license"] == "apache-2.0"
    assert (matter["language"], matter["datasets"]) == (["en"], ["owner/agin"])
    assert {"grpo", "mtrl-judge"} <= set(matter["tags"])
    results = ModelCard(text).data.eval_results
    assert results is not None
    found = [(r.dataset_name, r.dataset_type, r.metric_name, r.metric_value) for r in results]
    types = {"mine": "mine", OTHER: "owner/agin"}
    assert found == [(name, types[name], "Macro-F1", 0.625) for name in ("mine", OTHER)]
    assert results[0].metric_args["interval"] == {"level": 0.95, "low": 0.5, "high": 0.75}
    assert results[0].metric_args["style"] == "reasoned"
    assert r"\{\{ 7 \* 7 \}\} \{% raw %\} &lt;script&gt;x&lt;/script&gt; \| \*\*bold\*\*" in body
    assert "<script>" not in body
    assert "terms to accept on the hub" in body
    assert r"macro\_f1 | 0.625 [0.500, 0.750] | 32 | 25.0% |" in body
    assert data[OTHER]["fingerprint"] in body
    assert "on cpu, 6,000 tokens; the weights are those of step 5." in body
    assert "| all | 0.100 → 0.600 |" in body
    assert r"Warning at step 4: validation shows a collapse: \| a" in body
    assert "secret" not in text
    assert str(tmp_path) not in text
    headings = [line.removeprefix("## ") for line in body.splitlines() if line.startswith("#")]
    names = ["Use", "Validation", "Training data", "License", "Training", "Settings", "Versions"]
    assert headings == ["# judge", *names]


def test_a_card_of_a_run_without_validation_says_so(data: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    folder = write_run(
        tmp_path / "run", data, "--model_name_or_path", str(base), base={"local": True}
    )
    text = (folder / "judge" / "README.md").read_text()
    assert "was not validated during training" in text
    assert "(a local folder)" in text
    assert "base_model" not in text
    assert "license: other\nlicense_name: not-stated" in text
    assert "states none, or was not available" in text
    assert str(tmp_path) not in text


def test_a_judge_is_published_with_results_of_its_own_weights(data: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", data)
    rows, ours = judged_rows(60, 0.8, 0), model_revision(str(folder / "judge"))
    about = {"a": {"model_revision": ours, "split": "test", "location": "me/a", "source": "hub"}}
    results = write_results(tmp_path / "logs", {"a": rows}, about=about)
    upload = judge_upload(folder, "me/judge", results=[results], license_id="mit")
    names = ["README.md", "model.safetensors", "mtrl_judge.json", "training/log.jsonl"]
    assert sorted(upload.files) == names
    card = upload.files["README.md"]
    assert isinstance(card, bytes)
    data_of_card = ModelCard(card.decode()).data
    assert data_of_card.license == "mit"
    assert data_of_card.eval_results is not None
    (result,) = data_of_card.eval_results
    assert (result.dataset_type, result.dataset_split) == ("me/a", "test")
    interval = result.metric_args["interval"]
    assert interval["low"] < result.metric_value < interval["high"]
    assert result.metric_args["rows"] == 60
    assert "pretrained=me/judge" in card.decode()
    about["a"]["model_revision"] = "files 0123"
    others = write_results(tmp_path / "others", {"a": rows}, about=about)
    with pytest.raises(JudgeError, match=r"evaluates other weights \(files 0123\)"):
        judge_upload(folder, "me/judge", results=[others])
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "finished": None}))
    with pytest.raises(JudgeError, match="has not finished"):
        judge_upload(folder, "me/judge")


def test_the_license_of_the_base_model_is_what_its_card_states(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert base_card(str(tmp_path)) == {"local": True}
    for front, found in (
        ("license: mit\nlanguage: en", {"license": "mit", "language": ["en"]}),
        ("license: {a: b}\nlicense_link: x", {}),
        ("[", {}),
    ):
        card.write_text(f"---\n{front}\n---\n")
        assert base_card(str(tmp_path)) == {"local": True, **found}


def test_a_log_in_short() -> None:
    lines = [
        {"step": step, "time": f"2026-01-01T0{step // 10}:00:00", "loss": step / 10}
        for step in range(10, 50, 10)
    ]
    summary = summarize_log(lines, [], None, ["2026-01-01T00:30:00", "2026-01-01T03:30:00"])
    assert summary.hours == 3.0  # without the half hour before it was resumed
    assert summary.changes == {"": {"loss": (1.0, 4.0)}}
    assert summary.tokens is None
    assert summarize_log([], [], None).hours is None


def test_validation_has_the_intervals_of_the_leaderboard() -> None:
    counted, pairs = find_task("mtrl_judge_agin_nat"), find_task("mtrl_judge_mjbench_safety")
    records = [
        [Record("Yes", ("Yes", "No")[n % 4 == 0], True) for n in range(40)]
        + [Record("No", "No", True) for _ in range(40)],
        [
            Record(str(1 + swapped), str(1 + swapped), True, f"pair {n}", swapped)
            for n in range(20)
            for swapped in (False, True)
        ],
    ]
    clusters = [
        [record.pair_id or str(n) for n, record in enumerate(of_task)] for of_task in records
    ]
    of_counted, of_pairs = validation_intervals([counted, pairs], records, clusters).values()
    assert (of_counted["rows"], of_pairs["rows"]) == (80, 40)
    assert 0.75 < of_counted["low"] < 0.87 < of_counted["high"] < 0.95
    assert 0.75 < of_pairs["low"] < of_pairs["high"] == 1.0
