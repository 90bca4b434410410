"""Perturbations change one thing of the rows, and verdicts are mapped back to the task's own."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.images import image_cell, image_cells
from support.tasks import (
    PAIR,
    PARAPHRASE,
    pairs,
    raw_dataset,
    write_split,
    write_task,
    write_two_tasks,
)

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.harness_plugin import perturbations
from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.harness_plugin.perturbations import (
    MID_GRAY,
    PADDING,
    PERTURBATION_VARIABLE,
    PERTURBATIONS,
)
from mtrl_judge.harness_plugin.prompt_style import set_backend
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.prompts import gold_answer, render_messages, render_text
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, Rows, to_rows
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask

NAMED = [task for task in load_shipped_tasks() if task.kind.named]
TEXTS = {**PAIR, "images": "[image0]", "question": "'<image> {{ one }} or {{ two }}?'"}


def rows_of(task: JudgeTask, columns: dict[str, list[Any]]) -> Rows:
    return to_rows(RawSplit(task, raw_dataset(columns)))


def judge_rows(rows: Rows) -> list[JudgeRow]:
    return [JudgeRow.from_doc(doc) for doc in rows.dataset]


def shown(row: JudgeRow) -> list[bytes]:
    return [image.tobytes() for image in row.images]


# Changing rows


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


def test_blank_images_are_gray_and_of_the_same_size(tmp_path: Path) -> None:
    rows = rows_of(write_task(tmp_path, **PAIR), pairs())
    row = judge_rows(rows)[0]
    changed = perturbations.BlankImage("blank_image", write_task(tmp_path, **PAIR), rows).apply(row)
    assert [p.size for p in changed.images] == [p.size for p in row.images] == [(56, 28), (28, 42)]
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
        other.setdefault(row.item_id, set()).update(own[image] for image in shown(changed))
        assert replace(changed, images=()) == replace(row, images=())
    assert all(len(items) == 1 and item not in items for item, items in other.items())


@given(st.dictionaries(st.text(), st.integers(0, 3).map(str), max_size=12))
def test_no_item_keeps_its_images_and_the_order_of_items_does_not_matter(
    images: dict[str, str],
) -> None:
    often = max(Counter(images.values()).values(), default=0)
    if 2 * often > len(images):
        with pytest.raises(ValueError, match="the same images"):
            perturbations.derangement(images)
        return
    foreign = perturbations.derangement(images)
    assert all(images[item] != images[other] for item, other in foreign.items())
    assert foreign.keys() == set(foreign.values()) == images.keys()
    assert perturbations.derangement(dict(reversed(images.items()))) == foreign


def test_ratings_are_asked_under_other_conditions_but_have_no_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = {"scale": "{min: 1, max: 5}", "verdicts": "null"}
    task = write_task(tmp_path, kind="score", label="{column: mos}", **scale)
    columns = {"image": image_cells(2), "text": ["a", "b"], "mos": [3.27, None]}
    rows = rows_of(task, columns)
    monkeypatch.setenv(PERTURBATION_VARIABLE, "length")
    perturbation = perturbations.active_perturbation(task, rows)
    row = judge_rows(rows)[0]
    assert perturbation.apply(row).label == "3.27"
    scored = perturbation.score(row, "4.27")
    assert scored.verdict.value == "4.27"
    assert scored.correct == pytest.approx(0.75)
    monkeypatch.setenv(PERTURBATION_VARIABLE, "verdict_names")
    with pytest.raises(JudgeError, match="has no names of verdicts"):
        perturbations.active_perturbation(task, rows)


def test_a_ranking_keeps_the_number_of_its_candidates(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        kind="ranking",
        gather="{by: text, columns: [image, rank]}",
        images="[image]",
        candidates="image",
        question="'{{ text }}: put the images in order.'",
        label="{column: rank, best: lowest}",
        verdicts="[A, B, C]",
        orders="hashed",
    )
    columns = {"image": image_cells(5), "text": [*"ababa"], "rank": [1, 1, 2, 2, 3]}
    rows = rows_of(task, columns)
    blank = perturbations.BlankImage("blank_image", task, rows)
    for row in judge_rows(rows):
        changed = blank.apply(row)
        assert (changed.verdicts, changed.label) == (row.verdicts, row.label)
        gold = gold_answer(task.kind.gold(str(row.label), row.verdicts), "reasoned")
        assert blank.score(row, gold).correct == 1
    assert {len(row.verdicts) for row in judge_rows(rows)} == {2, 3}


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


# Mapping back


@pytest.mark.parametrize("task", NAMED, ids=lambda task: task.task)
def test_gold_answers_are_mapped_back_to_gold(
    task: JudgeTask, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = load_rows(task, "test", data_root).rows
    row = JudgeRow.from_doc(rows.dataset.with_format(None)[0])
    for name in perturbations.expand_paraphrases(PERTURBATIONS, len(task.judge.paraphrases)):
        if name == "swap" and not task.paired:
            continue
        if name == "shuffled_image" and len(set(rows.dataset.with_format(None)["n_images"])) > 1:
            continue  # refused, as items cannot have each other's images
        monkeypatch.setenv(PERTURBATION_VARIABLE, name)
        perturbation = perturbations.active_perturbation(task, rows)
        for verdict in task.judge.verdicts:
            labeled = replace(row, label=verdict)
            changed = perturbation.apply(labeled)
            assert perturbation.restore(changed.label) == verdict
            for style in STYLES:
                assert all(word in render_text(changed, style) for word in perturbation.verdicts)
                scored = perturbation.score(
                    labeled, gold_answer(perturbation.renamed[verdict], style)
                )
                assert (scored.verdict.value, scored.correct) == (verdict, 1.0)
        assert perturbation.score(row, "?").verdict.value is None


def test_samples_have_the_tasks_own_verdicts_and_order(
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
    images = [part["url"] for part in parts if part["type"] == "image"]
    assert [set(p.getdata()) for p in [*images, *hooks.doc_to_visual(docs[0])]] == [{MID_GRAY}] * 4


# Selecting one


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
def test_a_perturbation_that_cannot_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    task = write_task(tmp_path)
    columns = {"image": [image_cell("red")], "text": ["a"], "label": [1]}
    monkeypatch.setenv(PERTURBATION_VARIABLE, name)
    with pytest.raises(JudgeError) as caught:
        perturbations.active_perturbation(task, rows_of(task, columns))
    assert message in str(caught.value)


# Through lmms-eval


@pytest.fixture(scope="module")
def their_tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The root of the tasks' data, and lmms-eval's index of them."""
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    return write_two_tasks(folder), TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture
def evaluate(
    their_tasks: tuple[Path, Any], random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """lmms-eval's Python interface under a perturbation, on one of the tasks."""
    from lmms_eval.evaluator import simple_evaluate

    root, manager = their_tasks
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))

    def run(
        perturbation: str, task: str, model_args: str = "", **keys: Any
    ) -> list[dict[str, Any]]:
        monkeypatch.setenv(PERTURBATION_VARIABLE, perturbation)
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
    set_backend(None)


def test_a_changed_image_never_gets_a_cached_answer(evaluate: Any, tmp_path: Path) -> None:
    """Of the same prompt text; the answer to the changed image is kept as well."""
    kept = []
    for name in ("", "blank_image", "blank_image"):
        evaluate(name, "their_points", use_cache=str(tmp_path / "cache"))
        (file,) = (tmp_path / "cache").glob("**/cache.db")
        with sqlite3.connect(file) as cache:
            kept.append(cache.execute("SELECT COUNT(*) FROM responses").fetchone()[0])
    assert kept == [6, 12, 12]


@pytest.mark.parametrize("perturbation", ["verdict_names", "swap"])
def test_probabilities_are_of_the_tasks_own_verdicts(evaluate: Any, perturbation: str) -> None:
    for row in evaluate(perturbation, "their_pairs", ",scoring=logprob"):
        assert set(row["probabilities"]) == {"1", "2", "Tie"}
        assert row["verdict"] == max(row["probabilities"], key=row["probabilities"].get)
        given = row["text"].rpartition("<answer>")[2].removesuffix("</answer>")
        meant = {"verdict_names": {"A": "1", "B": "2", "C": "Tie"}, "swap": {"1": "2", "2": "1"}}
        assert meant[perturbation].get(given, given) == row["verdict"]
