"""`samples=K` in an evaluation, and that `Judge` gives the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from support.evaluations import evaluated_samples
from support.images import image_cells
from support.servers import Handler, serving
from support.tasks import PAIR, pairs, write_split, write_yaml

from mtrl_judge import Item, Judge
from mtrl_judge.harness_plugin.perturbations import PERTURBATION_VARIABLE
from mtrl_judge.judge_tasks.facts import FACTS_FILE
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
            if sample["label"] is not None and (task, vote) == (TASK, "majority"):
                assert sample["correct"] <= sample["samples_oracle"]


def test_one_sample_is_an_evaluation_as_before(random_judge: Path) -> None:
    given = {"pretrained": random_judge, "max_new_tokens": 8}
    assert evaluated_samples([TASK], samples=1, **given) == evaluated_samples([TASK], **given)


def test_samples_vote_with_the_names_that_a_perturbation_gives_verdicts(
    random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PERTURBATION_VARIABLE, "verdict_names")
    samples = evaluated_samples([TASK], pretrained=random_judge, vote="mean", **GIVEN)[TASK]
    for sample in samples:
        assert sample["probabilities"].keys() == {"Yes", "No"}
        assert sample["verdict"] == max(sample["probabilities"], key=sample["probabilities"].get)


class ThreeMinds(Handler):
    """A server with three answers, by the seed, to which both verdicts are equally probable."""

    answers = (
        "<think>A spoon.</think><answer>No</answer>",
        "<think>Nothing.</think><answer>No</answer>",
        "<think>A knife on a table.</think><answer>Yes</answer>",
    )

    def answer(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        named = [
            {"token": token, "logprob": math.log(0.5), "bytes": None} for token in ("Yes", "No")
        ]
        content = [{**named[0], "top_logprobs": named}]
        text = self.answers[asked.get("seed", 0) % 3]
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": content} if asked.get("logprobs") else None,
        }
        # A server that continues an answer does not close it, and so reads fewer tokens.
        read = 5 if asked.get("continue_final_message") else 7
        usage = {"prompt_tokens": read, "completion_tokens": 3, "total_tokens": read + 3}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        self.send(json.dumps({**reply, "choices": [choice], "usage": usage}).encode())


def test_facts_decide_a_verified_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    write_yaml(tmp_path, "own", id="[text]")
    columns = {"image": image_cells(2), "text": ["known", "unknown"], "label": [1, 1]}
    write_split(root, "own", "test", columns)
    facts = [{"fact": "knife", "instead": ["spoon"]}, "table"]
    (root / "own" / FACTS_FILE).write_text(json.dumps({"id": "known", "facts": facts}) + "\n")
    voted: dict[str, list[str]] = {}
    with serving(ThreeMinds) as address:
        for vote in ("majority", "verified"):
            server = {"pretrained": "m", "engine": "openai", "base_url": f"{address}/v1"}
            samples = evaluated_samples(["own"], tmp_path, samples=3, vote=vote, **server)["own"]
            voted[vote] = [sample["verdict"] for sample in samples]
    # Of the item with facts, one answer contradicts and one states them; the other has none.
    assert voted["majority"] == ["No", "No"]
    assert voted["verified"] == ["Yes", "No"]
    weights = {each["text"]: each["weight"] for each in samples[0]["samples"]}
    assert weights == pytest.approx(
        dict(zip(ThreeMinds.answers, [1 / 12, 1 / 6, 1 / 2], strict=True))
    )
    assert [each["weight"] for each in samples[1]["samples"]] == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(
    ("judge", "model_args", "message"),
    [
        ({}, {"repeats": 2}, "repeats=2 at temperature 0: the answers would be identical copies"),
        ({}, {"repeats": 2, "samples": 2}, "repeats=2 beside samples=2: the repeats would be"),
        (
            {
                "kind": "ranking",
                "candidates": "[image0, image1]",
                "label": "{column: scores, best: highest}",
                "verdicts": '["A", "B"]',
            },
            {"samples": 2, "vote": "mean"},
            "vote: mean needs the probability of each verdict, and those of own .ranking. are too",
        ),
        ({"style": "direct"}, {"samples": 2, "vote": "verified"}, "judged without reasoning"),
    ],
)
def test_what_samples_cannot_do_is_explained(
    random_judge: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    judge: dict[str, str],
    model_args: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "data"))
    path = write_yaml(tmp_path, "own", **{**PAIR, **judge})
    given = dict(model_args)
    path.write_text(f"{path.read_text()}repeats: {given.pop('repeats', 1)}\n")
    write_split(tmp_path / "data", "own", "test", {**pairs(), "scores": [[1.0, 2.0]] * 5})
    with pytest.raises(SystemExit, match=message):
        evaluated_samples(["own"], tmp_path, pretrained=random_judge, **given)
