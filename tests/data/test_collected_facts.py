"""Facts from the reasoning of a judge that was right."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import call
from support.images import image_cells
from support.results import sample, write_results
from support.tasks import PAIR, write_example_data, write_split, write_task

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.data.collected_facts import collect_facts, sentences
from mtrl_judge.judge_tasks.facts import FACTS_FILE, Fact, read_facts
from mtrl_judge.judge_tasks.sources import load_rows


def reasoned(reasoning: str, verdict: str) -> str:
    return f"<think>{reasoning}</think><answer>{verdict}</answer>"


def test_sentences_of_correct_answers_become_facts(tmp_path: Path) -> None:
    columns = {"image": image_cells(4), "text": [*"abcd"], "label": [1, 1, 0, 1]}
    write_split(tmp_path, "my_task", "train", columns)
    task = write_task(tmp_path, id="text")
    items = load_rows(task, "train", tmp_path).rows.dataset.with_format(None)["item_id"][:]
    (tmp_path / "my_task" / FACTS_FILE).write_text(
        f'{{"id": "{items[3]}", "facts": [{{"fact": "mine", "instead": ["yours"]}}]}}\n'
    )
    said = "A red house.\n- Two pigs; is it a farm? The answer is yes."
    collected = collect_facts(
        task,
        [
            (items[0], True, reasoned(said, "Yes")),
            (items[1], False, reasoned("A car.", "No")),
            (items[2], True, "No"),
            (items[3], True, reasoned("Something else.", "Yes")),
            ("of the test split", True, reasoned("A boat.", "Yes")),
        ],
        tmp_path,
    )
    assert read_facts(collected.file) == {
        items[0]: (Fact("A red house"), Fact("Two pigs")),
        "of the test split": (Fact("A boat"),),
        items[3]: (Fact("mine", ("yours",)),),
    }
    assert (collected.written, collected.kept, collected.wrong) == (2, 1, 2)
    assert (collected.training_items, collected.of_training_items) == (2, 4)


def test_hostile_reasoning_is_split_in_linear_time() -> None:
    assert len(sentences("a b. " * 200_000, ["Yes", "No"])) == 1
    assert sentences("word " * 200_000, ["Yes", "No"]) == []


def test_pairs_in_both_orders_are_refused(tmp_path: Path) -> None:
    task = write_task(tmp_path, orders="both", **PAIR)
    write_example_data(tmp_path, task)
    with pytest.raises(JudgeError, match="not true of the other order"):
        collect_facts(task, [], tmp_path)


def test_the_command_reads_the_results_of_one_judge(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    write_example_data(tmp_path / "data", task)
    items = load_rows(task, "train", tmp_path / "data").rows.dataset["item_id"][:]
    rows = [
        sample(0, "Yes", "Yes", item_id=items[0], text=reasoned("A red house.", "Yes")),
        sample(1, "Yes", "No", item_id=items[1], text=reasoned("A blue car.", "No")),
    ]
    results = write_results(tmp_path / "results", {"my_task": rows})
    words = ("data", "facts", task.path, "--data-root", tmp_path / "data", "--from")
    done = call(*words, results)
    assert "facts of 1 items added, of 0 kept; 1 answers were wrong" in done.output
    assert "1 of 6 training items have facts" in done.output
    assert read_facts(tmp_path / "data" / "my_task" / FACTS_FILE) == {
        items[0]: (Fact("A red house"),)
    }
    write_results(tmp_path / "results", {"my_task": rows}, model="owner/other", date="20260101")
    assert "has 2 runs" in str(call(*words, tmp_path / "results").exception)
