"""Probes: one thing of the asked rows is changed, and verdicts come back in the task's words."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.images import image_cell, image_cells
from support.tasks import raw_dataset, write_split, write_task, write_yaml

from mtrl_judge.common.errors import JudgeError, JudgeTaskError
from mtrl_judge.experiments.robustness import SETTINGS_FILE, run_probes
from mtrl_judge.harness_plugin import perturbations
from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.harness_plugin.perturbations import (
    MID_GRAY,
    PADDING,
    PERTURBATION_VARIABLE,
    PERTURBATIONS,
)
from mtrl_judge.harness_plugin.prompt_style import set_checkpoint_style
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.prompts import gold_answer, render_messages, render_text
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, Rows, to_rows
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask
from mtrl_judge.judge_tasks.validate import validate

SHIPPED = load_shipped_tasks()
PAIR = {
    "kind": "pairwise",
    "images": "[image0, image1]",
    "question": "'{{ text }}: <image> or <image>?'",
    "label": "{column: label, first: a, second: b, tie: t}",
    "verdicts": '["1", "2", "Tie"]',
}
TEXTS = {**PAIR, "images": "[image0]", "question": "'<image> {{ one }} or {{ two }}?'"}
PARAPHRASE = '["<image> <image> Which is more {{ text }}?"]'


def pairs(n: int = 5) -> dict[str, list[Any]]:
    return {
        "image0": [image_cell(f"#{10 + i:02x}0000", (20, 10)) for i in range(n)],
        "image1": [image_cell(f"#0000{10 + i:02x}", (8, 12)) for i in range(n)],
        "text": [f"thing {i}" for i in range(n)],
        "one": [f"first {i}" for i in range(n)],
        "two": [f"second {i}" for i in range(n)],
        "label": ["a", "b", "t", None, "a"][:n],
    }


def rows_of(task: JudgeTask, columns: dict[str, list[Any]]) -> Rows:
    return to_rows(RawSplit(task, raw_dataset(columns)))


def judge_rows(rows: Rows) -> list[JudgeRow]:
    return [JudgeRow.from_doc(doc) for doc in rows.dataset]


def shown(row: JudgeRow) -> list[bytes]:
    return [picture.tobytes() for picture in row.images]


# What is changed


@pytest.mark.parametrize("keys", [PAIR, {**TEXTS, "candidates": "[one, two]"}])
def test_a_swapped_row_is_the_other_row_of_its_pair(tmp_path: Path, keys: dict[str, str]) -> None:
    """Also where a pair is judged in one order alone."""
    both = write_task(tmp_path, **keys)
    rows = rows_of(both, pairs())
    known = {(row.item_id, row.swapped): row for row in judge_rows(rows)}
    for task in (both, write_task(tmp_path, orders="hashed", **keys)):
        rows = rows_of(task, pairs())
        swap = perturbations.Swap("swap", task, rows)
        for row in judge_rows(rows):
            changed, other = swap.apply(row), known[row.item_id, not row.swapped]
            assert (changed.question, changed.label) == (other.question, other.label)
            assert (shown(changed), changed.swapped) == (shown(other), other.swapped)
            if task is both:
                twice = swap.apply(changed)
                assert shown(twice) == shown(row)
                assert replace(twice, images=()) == replace(row, images=())


def test_blank_pictures_are_grey_and_of_the_same_size(tmp_path: Path) -> None:
    rows = rows_of(write_task(tmp_path, **PAIR), pairs())
    row = judge_rows(rows)[0]
    changed = perturbations.BlankImage("blank_image", write_task(tmp_path, **PAIR), rows).apply(row)
    assert [p.size for p in changed.images] == [(20, 10), (8, 12)]
    assert all(p.mode == "RGB" and set(p.getdata()) == {MID_GRAY} for p in changed.images)
    assert replace(changed, images=()) == replace(row, images=())


@pytest.mark.parametrize("orders", ["both", "hashed"])
def test_a_shuffled_row_shows_another_item_in_its_own_order(tmp_path: Path, orders: str) -> None:
    task = write_task(tmp_path, orders=orders, **PAIR)
    rows = rows_of(task, pairs())
    shuffled = perturbations.ShuffledImage("shuffled_image", task, rows)
    own: dict[bytes, str] = {}
    other: dict[str, set[str]] = {}
    for row in judge_rows(rows):
        own |= dict.fromkeys(shown(row), row.item_id)
    for row in judge_rows(rows):
        changed = shuffled.apply(row)
        assert [p.size for p in changed.images] == [p.size for p in row.images]
        other.setdefault(row.item_id, set()).update(own[picture] for picture in shown(changed))
        assert replace(changed, images=()) == replace(row, images=())
    assert all(len(items) == 1 and item not in items for item, items in other.items())


@given(st.dictionaries(st.text(), st.integers(0, 3).map(str), max_size=12))
def test_no_item_keeps_its_pictures_and_the_order_of_items_does_not_matter(
    pictures: dict[str, str],
) -> None:
    often = max(Counter(pictures.values()).values(), default=0)
    if 2 * often > len(pictures):
        with pytest.raises(ValueError, match="the same images"):
            perturbations.derangement(pictures)
        return
    foreign = perturbations.derangement(pictures)
    assert all(pictures[item] != pictures[other] for item, other in foreign.items())
    assert foreign.keys() == set(foreign.values()) == pictures.keys()
    assert perturbations.derangement(dict(reversed(pictures.items()))) == foreign


def test_items_that_all_show_the_same_cannot_be_shuffled(tmp_path: Path) -> None:
    columns = {"image": [image_cell("red")] * 3, "text": list("abc"), "label": [1, 0, 1]}
    task = write_task(tmp_path)
    rows = rows_of(task, columns)
    with pytest.raises(JudgeError, match="my_task: 3 of 3 items have the same images; leave"):
        perturbations.ShuffledImage("shuffled_image", task, rows)


def test_a_longer_prompt_has_all_of_the_shorter_one(tmp_path: Path) -> None:
    task = write_task(tmp_path, **PAIR)
    row = judge_rows(rows_of(task, pairs()))[0]
    changed = perturbations.Length("length", task).apply(row)
    assert render_text(changed, "direct") == f"{PADDING}\n\n" + render_text(row, "direct")
    places = [part["type"] for part in render_messages(changed, "direct")[0]["content"]]
    assert places.count("image") == 2


def test_verdicts_get_letters_or_else_numbers(tmp_path: Path) -> None:
    def names(*verdicts: str) -> tuple[str, ...]:
        quoted = json.dumps(list(verdicts))
        mapped = json.dumps(dict(enumerate(verdicts)))
        task = write_task(tmp_path, verdicts=quoted, label=f"{{column: label, map: {mapped}}}")
        return perturbations.VerdictNames("verdict_names", task).verdicts

    assert names("Yes", "No", "Unsure") == ("A", "B", "C")
    assert names("1", "2") == ("A", "B")
    assert names("a", "b") == ("1", "2")
    assert names("1", "B") == ("2", "3")
    assert names(*map(str, range(30))) == tuple(map(str, range(30, 60)))


# What comes back


@pytest.mark.parametrize("task", SHIPPED, ids=lambda task: task.task)
def test_gold_answers_of_every_probe_come_back_as_gold(
    task: JudgeTask, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = load_rows(task, "test", data_root).rows
    row = JudgeRow.from_doc(rows.dataset.with_format(None)[0])
    for name in perturbations.expand_paraphrases(PERTURBATIONS, len(task.judge.paraphrases)):
        if name == "swap" and not task.paired:
            continue
        monkeypatch.setenv(PERTURBATION_VARIABLE, name)
        probe = perturbations.active_perturbation(task, rows)
        for verdict in task.judge.verdicts:
            labeled = replace(row, label=verdict)
            changed = probe.apply(labeled)
            assert probe.restore(changed.label) == verdict
            for style in STYLES:
                assert all(word in render_text(changed, style) for word in probe.verdicts)
                scored = probe.score(labeled, gold_answer(probe.renamed[verdict], style))
                assert (scored.verdict.value, scored.correct) == (verdict, 1.0)
        assert probe.score(row, "?").verdict.value is None


def test_samples_stand_in_the_tasks_own_words_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    task = write_task(tmp_path, paraphrases=PARAPHRASE, **PAIR)
    write_split(tmp_path, "my_task", "test", pairs())
    hooks = JudgeHooks(task)
    docs = hooks.prepare().rows.dataset

    def sample_rows(answer: str) -> list[dict[str, Any]]:
        return [{**hooks.process_results(doc, [answer]), "text": None} for doc in docs]

    plain = sample_rows("1")
    answers = {"swap": "2", "verdict_names": "A", "paraphrase_1": "1", "rerun": "1"}
    for name, answer in answers.items():
        monkeypatch.setenv(PERTURBATION_VARIABLE, name)
        hooks.prepare()
        assert sample_rows(answer) == plain
        assert "Tie" in hooks.doc_to_text(docs[0])
    monkeypatch.setenv(PERTURBATION_VARIABLE, "paraphrase_1")
    hooks.prepare()
    assert "Which is more thing 0?" in hooks.doc_to_text(docs[0])
    monkeypatch.setenv(PERTURBATION_VARIABLE, "blank_image")
    hooks.prepare()
    parts = hooks.doc_to_messages(docs[0])[0]["content"]
    pictures = [part["url"] for part in parts if part["type"] == "image"]
    assert [set(p.getdata()) for p in [*pictures, *hooks.doc_to_visual(docs[0])]] == [
        {MID_GRAY}
    ] * 4


# What is asked for


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blank", "MTRL_JUDGE_PROBE: unknown perturbation 'blank'; did you mean 'blank_image'?"),
        ("paraphrase", "unknown perturbation 'paraphrase'; did you mean 'paraphrase_1'?"),
        ("paraphrase_0", "unknown perturbation 'paraphrase_0'; did you mean 'paraphrase_1'?"),
        ("paraphrase_1", "my_task lists no such paraphrase; leave it out of --tasks"),
        ("swap", "my_task has no pairs; leave it out of --tasks"),
    ],
)
def test_a_probe_that_cannot_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    task = write_task(tmp_path)
    columns = {"image": [image_cell("red")], "text": ["a"], "label": [1]}
    monkeypatch.setenv(PERTURBATION_VARIABLE, name)
    with pytest.raises(JudgeError) as caught:
        perturbations.active_perturbation(task, rows_of(task, columns))
    assert message in str(caught.value)


def test_every_fault_of_paraphrases_is_told(tmp_path: Path) -> None:
    texts = ["{{ text", "<image> or <image>?", "Is it {{ text }}?", "{% include 'x' %}", "Well?"]
    with pytest.raises(JudgeTaskError) as caught:
        write_task(tmp_path, paraphrases=json.dumps([*texts, "Well?"]))
    told = {fault.field: fault.found for fault in caught.value.faults}
    assert set(told) == {f"judge.paraphrases.{n}" for n in (0, 1, 2, 3, 5)}
    assert "line 1 of the template" in told["judge.paraphrases.0"]
    assert "2 <image> for 1" in told["judge.paraphrases.1"]
    assert told["judge.paraphrases.2"] == told["judge.paraphrases.5"] == "repeats an earlier text"
    path = write_yaml(tmp_path, paraphrases="['{{ 1 / 0 }}', '{{ text.nope }}', '{{ text }}']")
    assert [fault.partition(": ")[2].partition(": ")[0] for fault in validate(path)] == [
        "judge.paraphrases.0",
        "judge.paraphrases.1",
    ]
    task = write_task(tmp_path, paraphrases="['{{ txt }}?']")
    with pytest.raises(JudgeError, match=r"judge.paraphrases.0: no column 'txt'"):
        rows_of(task, {"image": [image_cell("red")], "text": ["a"], "label": [1]})


@pytest.mark.parametrize("task", SHIPPED, ids=lambda task: task.task)
def test_shipped_paraphrases_leave_the_rows_as_they_are(task: JudgeTask, data_root: Path) -> None:
    assert len(task.judge.paraphrases) >= 2
    bare = task.model_copy(update={"judge": task.judge.model_copy(update={"paraphrases": ()})})
    with_them, without = (load_rows(each, "test", data_root) for each in (task, bare))
    assert with_them.record == without.record
    ids = (split.rows.dataset["item_id"][:] for split in (with_them, without))
    assert next(ids) == next(ids)
    places = {text.count("<image>") for text in task.questions.values()}
    assert len(places) == 1


def test_a_place_that_is_taken_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(JudgeError, match=r"--output-path: .* holds other things"):
        run_probes("mtrl_judge", "x", ["swap"], tmp_path)
    with pytest.raises(JudgeError, match="unknown perturbation 'swp'; did you mean 'swap'"):
        run_probes("mtrl_judge", "x", ["swp"], tmp_path)
    (tmp_path / SETTINGS_FILE).write_text('{"model": "dummy"}')
    (tmp_path / "unchanged").mkdir()
    (tmp_path / "unchanged" / "1_results.json").write_text("{}")
    with pytest.raises(JudgeError, match="model was 'dummy' and is 'mtrl_judge'; name another"):
        run_probes("mtrl_judge", "x", ["swap"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        SETTINGS_FILE,
        "thesis.txt",
        "unchanged",
    ]


# Through lmms-eval


def write_tasks(folder: Path) -> Path:
    """A task of pairs in one order each with a paraphrase, and a pointwise one; their data."""
    write_yaml(folder, "their_pairs", orders="hashed", paraphrases=PARAPHRASE, **PAIR)
    write_yaml(folder, "their_points")
    root = folder / "data"
    write_split(root, "their_pairs", "test", pairs())
    columns = {"image": image_cells(6), "text": list("abcdef"), "label": [1, 0, 1, 1, 0, None]}
    write_split(root, "their_points", "test", columns)
    return root


def samples(folder: Path, task: str) -> Path:
    (file,) = folder.glob(f"**/*_samples_{task}.jsonl")
    return file


@pytest.mark.slow
def test_the_command_judges_compares_and_goes_on(tmp_path: Path, random_judge: Path) -> None:
    root = write_tasks(tmp_path)
    out = tmp_path / "out"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            *(Path(sys.executable).with_name("mtrl-judge"), "probe", "--output-path", out),
            *("--tasks", "their_*", "--include_path", tmp_path, "--batch_size", "4"),
            *("--gen_kwargs", "max_new_tokens=6", "--model_args", f"pretrained={random_judge}"),
        ]
        return subprocess.run(
            [*map(str, command), *arguments],
            env={**os.environ, DATA_ROOT_VARIABLE: str(root), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    names = "paraphrase,rerun"
    done = run("--probes", names)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "paraphrase_1: does not apply to their_points" in done.stdout
    found = json.loads((out / "probes.json").read_text())
    assert found["schema_version"] == 1
    assert set(found["tasks"]) == {"their_pairs", "their_points"}
    assert found["left_out"] == {"paraphrase_1": ["their_points"]}
    lines = {(each["task"], each["probe"]): each for each in found["probes"]}
    assert len(lines) == 3
    for (task, probe), line in lines.items():
        assert (line["rows"], line["n"]) == {"their_pairs": (5, 4), "their_points": (6, 5)}[task]
        changed = line["changed"]
        assert 0 <= changed["low"] <= changed["value"] <= changed["high"] <= 1
        results = json.loads((out / found["results"][probe]).read_text())
        assert results["configs"][task]["metadata"]["judge"]["perturbation"] == probe
        assert line["p_value"] <= line["p_value_holm"] <= 1
    # Two runs at temperature 0 with the same seed.
    for task in found["tasks"]:
        first, again = (samples(out / name, task) for name in ("unchanged", "rerun"))
        assert first.read_bytes() == again.read_bytes()
        assert lines[task, "rerun"]["changed"]["value"] == 0.0
    asked = samples(out / "paraphrase_1", "their_pairs").read_text()
    assert "Which is more thing" in asked

    written = {file: file.stat().st_mtime_ns for file in out.glob("*/**/*.json*")}
    again = run("--probes", f"length,{names}", "--limit", "2")
    assert again.returncode == 2
    assert "arguments was" in again.stderr
    again = run("--probes", names)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": is there\n") == 3
    assert written == {file: file.stat().st_mtime_ns for file in out.glob("*/**/*.json*")}
    assert json.loads((out / "probes.json").read_text()) == found


@pytest.fixture(scope="module")
def their_tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The root of the tasks' data, and lmms-eval's index with them in it, which takes seconds."""
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    return write_tasks(folder), TaskManager(include_path=str(folder))


@pytest.fixture
def evaluate(
    their_tasks: tuple[Path, Any], random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """lmms-eval's Python interface under a probe, on one of the tasks."""
    from lmms_eval.evaluator import simple_evaluate

    root, manager = their_tasks
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))

    def run(probe: str, task: str, model_args: str = "", **keys: Any) -> list[dict[str, Any]]:
        monkeypatch.setenv(PERTURBATION_VARIABLE, probe)
        results = simple_evaluate(
            model="mtrl_judge",
            model_args=f"pretrained={random_judge}{model_args}",
            tasks=[task],
            task_manager=manager,
            gen_kwargs="max_new_tokens=6",
            bootstrap_iters=0,
            **keys,
        )
        rows: list[dict[str, Any]] = results["samples"][task]
        return rows

    yield run
    set_checkpoint_style(None)


@pytest.mark.slow
def test_a_changed_picture_never_gets_a_cached_answer(evaluate: Any, tmp_path: Path) -> None:
    """Of the same prompt text; the answer to the changed picture is kept as well."""
    kept = []
    for name in ("", "blank_image", "blank_image"):
        evaluate(name, "their_points", use_cache=str(tmp_path / "cache"))
        (file,) = (tmp_path / "cache").glob("**/cache.db")
        with sqlite3.connect(file) as cache:
            kept.append(cache.execute("SELECT COUNT(*) FROM responses").fetchone()[0])
    assert kept == [6, 12, 12]


@pytest.mark.slow
@pytest.mark.parametrize("probe", ["verdict_names", "swap"])
def test_probabilities_are_of_the_tasks_own_verdicts(evaluate: Any, probe: str) -> None:
    for row in evaluate(probe, "their_pairs", ",scoring=logprob"):
        assert set(row["probabilities"]) == {"1", "2", "Tie"}
        assert row["verdict"] == max(row["probabilities"], key=row["probabilities"].get)
        given = row["text"].rpartition("<answer>")[2].removesuffix("</answer>")
        meant = {"verdict_names": {"A": "1", "B": "2", "C": "Tie"}, "swap": {"1": "2", "2": "1"}}
        assert meant[probe].get(given, given) == row["verdict"]
