"""Demonstrations in the stock lmms-eval, and that `Judge` shows the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.images import encode, random_image
from support.tasks import write_split, write_yaml

from mtrl_judge import Item, Judge
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.harness_plugin.perturbations import PERTURBATION_VARIABLE, VerdictNames
from mtrl_judge.harness_plugin.prompt_style import DEMONSTRATIONS_VARIABLE, set_backend
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TASK = "shown"
TOKENS = 8
WORDS = ("apple", "pear", "plum")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task of 12 training and 4 test items, whose data is in `data`."""
    import lmms_eval.evaluator  # noqa: F401  removes all sinks of the log

    for split, start, n in (("train", 0, 12), ("test", 50, 4)):
        write_split(
            tmp_path / "data",
            TASK,
            split,
            {
                "image": [
                    {"bytes": encode(random_image(i)), "path": None}
                    for i in range(start, start + n)
                ],
                "text": [f"the {WORDS[i % 3]} number {i}" for i in range(start, start + n)],
                "label": [i % 2 for i in range(n)],
                "why": [f"Number {i}." for i in range(n)],
            },
        )
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "data"))
    return tmp_path


def written(world: Path, demonstrations: str | None, **keys: str) -> Path:
    if demonstrations is not None:
        keys["demonstrations"] = demonstrations
    return write_yaml(world, TASK, **keys)


def evaluated(world: Path, checkpoint: Path, **keys: Any) -> tuple[dict[str, Any], list[Any]]:
    """The record of the task, and its samples."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    model_args = {"pretrained": checkpoint, "max_new_tokens": TOKENS, **keys.pop("model_args", {})}
    try:
        results = simple_evaluate(
            model=keys.pop("model", "mtrl_judge"),
            model_args=",".join(f"{name}={value}" for name, value in model_args.items()),
            tasks=[TASK],
            task_manager=TaskManager(include_path=str(world), include_defaults=False),
            bootstrap_iters=0,
            batch_size=2,
            **keys,
        )
    finally:
        set_backend(None)
    judge = results["configs"][TASK]["metadata"]["judge"]
    assert results["n-shot"][TASK] == judge["demonstrations"]
    return json.loads(json.dumps(judge)), results["samples"][TASK]


def test_the_yaml_or_num_fewshot_says_how_many(
    world: Path, random_judge: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(world, None)
    record, plain = evaluated(world, random_judge)
    assert record["demonstrations"] == 0
    assert "demonstrations" not in plain[0]
    assert record["style"] == "reasoned"
    record, drawn = evaluated(world, random_judge, num_fewshot=2)
    assert (record["demonstrations"], record["demonstrated"]["by"]) == (2, [])
    assert [len(row["demonstrations"]) for row in drawn] == [2] * 4
    assert (record["style"], record["style_source"]) == ("direct", "demonstrations")
    assert any("no reasoning in the data" in line for line in logged)
    monkeypatch.setenv(DEMONSTRATIONS_VARIABLE, "{k: 2}")
    record, same = evaluated(world, random_judge)
    assert [row["text"] for row in same] == [row["text"] for row in drawn]
    monkeypatch.setenv(DEMONSTRATIONS_VARIABLE, "")
    written(world, "{k: 3, by: [text], encoder: tfidf, stratify: label}", reasoning="why")
    record, retrieved = evaluated(world, random_judge)
    assert (record["demonstrations"], record["style"]) == (3, "reasoned")
    assert record["demonstrated"]["pool"]["items"] == 12
    assert [row["text"] for row in retrieved] != [row["text"] for row in plain]
    again, same = evaluated(world, random_judge)
    assert again["demonstrated"] == record["demonstrated"]
    assert [row["text"] for row in same] == [row["text"] for row in retrieved]
    record, none = evaluated(world, random_judge, num_fewshot=0)
    assert record["demonstrations"] == 0
    assert [row["text"] for row in none] == [row["text"] for row in plain]
    record, _ = evaluated(world, random_judge, num_fewshot=1)
    assert (record["demonstrations"], record["demonstrated"]["by"]) == (1, ["text"])


@pytest.mark.parametrize("scoring", ["generation", "logprob"])
def test_judge_answers_as_the_evaluation_does(
    world: Path, random_judge: Path, scoring: str
) -> None:
    path = written(world, "{k: 2, by: [image, text], encoder: judge}", reasoning="why")
    given: dict[str, Any] = {"scoring": scoring}
    record, samples = evaluated(world, random_judge, model_args=given)
    assert record["demonstrated"]["encoder"] == "judge"
    judge = Judge.load(random_judge, max_new_tokens=TOKENS, **given)
    rows, _ = load_rows(load_judge_task(path), "test", world / "data")
    items = []
    for doc in rows.dataset:
        image = rows.raw.image_bytes(doc["source_index"])[0]
        items.append(Item(str(path), [image], [rows.raw.column("text")[doc["source_index"]]]))
    found = judge.score_batch(items)
    assert [each.verdict for each in found] == [row["verdict"] for row in samples]
    assert [judge.score_batch([item])[0] for item in items] == found
    if scoring == "generation":
        assert [each.text.strip() for each in found] == [row["text"] for row in samples]
        other = Judge.load(random_judge, max_new_tokens=TOKENS, demonstrations={"k": 0})
        assert [e.text for e in other.score_batch(items)] != [e.text for e in found]


def test_the_variable_wins_over_the_yaml_and_mistakes_stop_the_run(
    world: Path, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(world, "{k: 3}")
    monkeypatch.setenv(DEMONSTRATIONS_VARIABLE, "{k: 2, by: [text], encoder: tfidf}")
    record, _ = evaluated(world, random_judge)
    assert (record["demonstrations"], record["demonstrated"]["encoder"]) == (2, "tfidf")
    monkeypatch.setenv(DEMONSTRATIONS_VARIABLE, "{k: 2, by: [image], encoder: judge}")
    with pytest.raises(SystemExit):  # another backend has no vision tower here
        evaluated(world, random_judge, model="dummy", model_args={"response": "Yes"})
    monkeypatch.setenv(DEMONSTRATIONS_VARIABLE, "{k: 2, by: [image]}")
    with pytest.raises(JudgeError, match="encoder: is missing"):
        evaluated(world, random_judge)


def test_another_order_is_a_perturbation(
    world: Path, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(world, "{k: 2, by: [text], encoder: tfidf}")
    _, plain = evaluated(world, random_judge)
    monkeypatch.setenv(PERTURBATION_VARIABLE, "demonstration_order")
    record, turned = evaluated(world, random_judge)
    assert record["perturbation"] == "demonstration_order"
    before, after = plain[0]["arguments"][0], turned[0]["arguments"][0]
    assert before != after
    assert sorted(before.split("\n\n")) == sorted(after.split("\n\n"))
    assert before.count("Is it the") == 3
    with pytest.raises(SystemExit):
        evaluated(world, random_judge, num_fewshot=1)


def test_demonstrations_of_the_task_use_the_names_that_the_question_defines(world: Path) -> None:
    task = load_judge_task(written(world, "{k: 2}"))
    rows, _ = load_rows(task, "train", world / "data")
    first, other = (JudgeRow.from_doc(rows.dataset[n]) for n in (0, 1))
    (shown,) = VerdictNames("verdict_names", task, rows).shown((first,))
    assert (shown.verdicts, shown.label) == (("A", "B"), "B")
    assert "stands for" in shown.question
    del other
