"""Which sampled answers a warm-up learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.images import image_cells, random_image
from support.judges import row, tiny_judge
from support.shared import random_judge
from support.tasks import write_split, write_task
from support.training import GRPO, small_world, values

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.facts import Fact
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.rl.dataset import build_dataset
from mtrl_judge.rl.rejection_sampling import (
    SampledText,
    kept_answers,
    read_answers,
    verified_answers,
    with_probabilities,
)
from mtrl_judge.rl.settings import build_settings


def said(reasoning: str, verdict: str = "Yes") -> str:
    return f"<think>{reasoning}</think><answer>{verdict}</answer>"


def row_with(*facts: Fact) -> JudgeRow:
    return JudgeRow("0", "t", "pointwise", "?", ("Yes", "No"), "Yes", 1, facts=facts)


def test_correct_answers_in_form_are_kept_once() -> None:
    texts = [said("A."), said("B."), said("A."), said("C.", "No"), "Yes"]
    assert kept_answers(row_with(), texts, "reasoned") == [said("A."), said("B.")]
    assert kept_answers(row_with(), ["Yes", "No", "yes"], "direct") == ["Yes", "yes"]


def test_of_items_with_facts_the_answers_that_state_the_most_are_kept() -> None:
    facts = [Fact("house", ("car",)), Fact("two pigs"), Fact("sky", in_question=True)]
    best, other = said("A house, two pigs."), said("Two pigs and a house.")
    texts = [said("A house."), best, said("A car, two pigs."), said("The sky."), other]
    assert kept_answers(row_with(*facts), texts, "reasoned") == [best, other]
    assert kept_answers(row_with(*facts), texts[2:4], "reasoned") == []
    assert kept_answers(row_with(facts[2]), texts[3:4], "reasoned") == texts[3:4]


def test_verified_answers_have_the_probabilities_after_their_reasoning(tmp_path: Path) -> None:
    judge = tiny_judge("qwen3_vl", tmp_path)
    rows = [row("Is it safe?", random_image(1)), row("Is it round?", random_image(2))]
    texts = [said(r, verdict) for r in ("A knife.", "Nothing here.") for verdict in ("Yes", "No")]
    sampled = [[SampledText(text) for text in texts] for _ in rows]
    found = with_probabilities(judge, rows, sampled, "reasoned", batch_size=4)
    probabilities = judge.verdict_probabilities(
        [each for each in rows for _ in texts], texts * 2, "reasoned", batch_size=3
    )
    assert [[one.text for one in of_row] for of_row in found] == [texts, texts]
    flat = [one.probabilities for of_row in found for one in of_row]
    assert np.array(flat) == pytest.approx(np.array(probabilities), abs=1e-5)


def test_a_verdict_is_carried_where_it_gains_by_the_reasoning() -> None:
    """This judge finds Yes more probable whatever it has written, and less so after a knife."""
    safe, knife, unread = said("Safe."), said("A knife.", "No"), said("A knife.", "perhaps")
    luck = said("A knife.")
    after_safe, after_knife = (0.95, 0.05), (0.75, 0.25)
    sampled = [
        SampledText(safe, after_safe),
        SampledText(said("Safe.", "No"), after_safe),
        SampledText(knife, after_knife),
        SampledText(unread, after_knife),
        SampledText(luck, after_knife),
    ]
    assert verified_answers([(row_with(), sampled)]) == [[safe, knife]]
    assert verified_answers([(row_with(), [SampledText(luck)])]) == [[luck]]


def test_the_dataset_has_a_row_for_each_answer(tmp_path: Path) -> None:
    columns = {"image": image_cells(4), "text": [*"abcd"], "label": [1, 1, 0, 1]}
    write_split(tmp_path, "my_task", "train", columns)
    task = write_task(tmp_path)
    items = load_rows(task, "train", tmp_path).rows.dataset["item_id"][:]
    file = tmp_path / "answers.jsonl"
    lines = [(items[0], "one"), (items[0], "two"), (items[2], "three")]
    file.write_text(
        "".join(
            f'{{"task": "my_task", "item_id": "{item}", "swapped": false, "text": "{text}"}}\n'
            for item, text in lines
        )
    )
    rows = list(build_dataset([task], answers=[file], root=tmp_path))
    assert "answer" not in rows[0]
    found = [(row["item_id"], row["completion"][0]["content"][0]["text"]) for row in rows]
    assert sorted(found) == sorted(lines)
    file.write_text('{"task": "my_task", "item_id": "another", "swapped": false, "text": "x"}\n')
    with pytest.raises(JudgeError, match="no answer to a training row"):
        build_dataset([task], answers=[file], root=tmp_path)
    file.write_text('{"task": "my_task", "item_id": 3, "swapped": false, "text": "x"}\n')
    with pytest.raises(JudgeError, match=r"answers.jsonl.*expected task, item_id, swapped"):
        read_answers([file])


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"warm_up": "rft"}, "with which SFT recipe"),
        ({"warm_up": "rft:tiny"}, "warm_up: 'tiny' is neither shipped"),
        ({"warm_up": "rft:tiny_cpu", "accelerate": "fsdp2"}, "warm_up: rft loads the whole model"),
        ({"answers": "some.jsonl"}, "answers: not a field of grpo"),
        ({"answers": "rft"}, "answers: not a field of grpo"),
        ({"rft_verified": True}, "rft_verified: nothing is sampled"),
        (
            {"warm_up": "rft:tiny_cpu", "rft_verified": True, "style": "direct"},
            "rft_verified: verifies a verdict by the reasoning before it",
        ),
    ],
)
def test_contradictions_are_refused(
    base: Path, tmp_path: Path, fields: dict[str, Any], part: str
) -> None:
    given = values(small_world(base), tmp_path, random_judge(base), **GRPO, **fields)
    with pytest.raises(JudgeError, match=part):
        build_settings("grpo", given)
