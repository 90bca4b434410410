"""The tiny model is taught ratings, orders and answers in text; then GRPO improves its ratings."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.demo.corpus import AGIN_GRADED, IMAGEREWARD_RANKED, VLREWARDBENCH, further_tasks
from mtrl_judge.demo.further import teach_further_kinds
from mtrl_judge.demo.further_examples import load_further
from mtrl_judge.demo.pretrain import Phase, Schedule, pretrain_tiny_model
from mtrl_judge.demo.tiny_model import prompt_text
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD

FEW = Phase(2, 4, 2e-3)


@pytest.fixture(scope="module")
def base_model(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "tiny"
    pretrain_tiny_model(sample_root, out, schedule=Schedule(FEW, FEW, FEW))
    return out


def test_the_answers_to_learn_are_right_but_for_ratings(sample_root: Path) -> None:
    examples = load_further(sample_root, seed=0).examples
    by_task = Counter(example.row.task for example in examples)
    assert by_task.keys() == {AGIN_GRADED, IMAGEREWARD_RANKED, VLREWARDBENCH}
    ratings: Counter[str | None] = Counter()
    for example in examples:
        scored = score(example.row, example.answer)
        assert scored.format == float(example.style == "reasoned")
        if example.row.task == VLREWARDBENCH:
            assert scored.correct == 1.0
        elif example.row.task == AGIN_GRADED:
            ratings[scored.verdict.value] += 1
        else:
            assert len(example.images) == 4
            assert scored.verdict.value is not None
    assert 0.5 < ratings["5"] / by_task[AGIN_GRADED] < 0.8


def test_a_taught_model_reads_prompts_of_all_kinds_in_few_tokens(
    sample_root: Path, base_model: Path, tmp_path: Path
) -> None:
    before = (base_model / "model.safetensors").read_bytes()
    teach_further_kinds(base_model, sample_root, tmp_path / "taught", phase=FEW)
    assert (base_model / "model.safetensors").read_bytes() == before
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "taught").tokenizer
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "taught")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    for task in further_tasks():
        for doc in load_rows(task, "test", sample_root).rows.dataset.select(range(2)):
            row = JudgeRow.from_doc(doc)
            text = prompt_text(tokenizer, row, "reasoned")
            tokens = tokenizer(text)["input_ids"]
            assert len(tokens) < min(75 + 25 * (row.n_images - 1), len(text.split()))
            assert tokenizer.decode(tokens) == text
    card = json.loads((tmp_path / "taught" / CHECKPOINT_CARD).read_text())
    assert card["further"]["schedule"]["steps"] == FEW.steps
    with pytest.raises(JudgeError, match="--force"):
        teach_further_kinds(base_model, sample_root, tmp_path / "taught", phase=FEW)


def test_only_a_tiny_model_is_taught(sample_root: Path, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="not a tiny base model; create one with `mtrl-judge tiny"):
        teach_further_kinds(tmp_path, sample_root, tmp_path / "out", phase=FEW)


def test_a_sample_from_before_these_tasks_is_named(
    sample_root: Path, base_model: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(sample_root, older, ignore=shutil.ignore_patterns(AGIN_GRADED))
    with pytest.raises(DataError, match=rf"{AGIN_GRADED}: .*older one; write one with `mtrl-judge"):
        teach_further_kinds(base_model, older, tmp_path / "out", phase=FEW)
