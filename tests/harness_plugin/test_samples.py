"""`samples=K` in an evaluation, and that `Judge` gives the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from support.evaluations import evaluated_samples

from mtrl_judge import Item, Judge
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE

pytestmark = pytest.mark.usefixtures("one_thread")

TASK, RATED = "mtrl_judge_seetrue", "mtrl_judge_agin_nat_graded"
GIVEN: dict[str, Any] = {"max_new_tokens": 8, "samples": 3}


@pytest.fixture(autouse=True)
def _data(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(data_root))


def items(root: Path, task: str) -> list[Item]:
    data = load_dataset("parquet", data_files=str(root / task / "test.parquet"), split="train")
    for name, kind in data.features.items():
        if isinstance(kind, ImageFeature):
            data = data.cast_column(name, ImageFeature(decode=False))
    return [Item(task, context=row) for row in data]


@pytest.mark.slow
@pytest.mark.parametrize("vote", ["majority", "mean", "verified"])
def test_votes_of_an_evaluation_are_those_of_the_judge(
    random_judge: Path, data_root: Path, vote: str
) -> None:
    found = evaluated_samples([TASK, RATED], pretrained=random_judge, vote=vote, **GIVEN)
    judge = Judge.load(random_judge, vote=vote, **GIVEN)
    for task in (TASK, RATED):
        judged = judge.score_batch(items(data_root, task))
        assert len(judged) == len(found[task]) > 3
        for judgment, sample in zip(judged, found[task], strict=True):
            assert sample["vote"] == vote
            texts = [each["text"] for each in sample["samples"]]
            assert len(texts) == 3
            assert len(set(texts)) > 1
            (answer,) = judgment.answers
            assert [each.text for each in answer.samples] == texts
            assert (judgment.verdict, judgment.state) == (sample["verdict"], sample["state"])
            assert (sample.get("probabilities") is None) == (vote == "majority")
            assert judgment.probabilities == pytest.approx(sample.get("probabilities"), abs=1e-5)
