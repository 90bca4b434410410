"""Shapes in which datasets of judgments are published, from raw rows to what a judge is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset
from support.images import image_cell
from support.tasks import write_split, write_task

from mtrl_judge.common.errors import DataError, JudgeError, JudgeTaskError
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, to_rows
from mtrl_judge.judge_tasks.sources import find_source, load_raw

RED, LIME = image_cell("red"), image_cell("lime")
PAIR = {"kind": "pairwise", "verdicts": '["A", "B"]'}


def judged(task: Any, *rows: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The question and the label of each row."""
    dataset = to_rows(RawSplit(task, Dataset.from_list(list(rows)))).dataset
    found = (JudgeRow.from_doc(dataset[index]) for index in range(len(dataset)))
    return [(row.question, row.label) for row in found]


def critique(asked: str, answer: str) -> dict[str, Any]:
    """A row of LLaVA-Critic: a judge's prompt and its answer are a conversation."""
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"image": RED, "conversations": turns}


CONVERSATION = {"label": "{answer: 'conversations[1].value'}"}


@pytest.mark.parametrize(
    ("keys", "answers", "labels"),
    [
        (
            {"verdicts": "[Response 1, Response 2]"},
            ["Response 1 is better.", "It is exact, so Response 2 is better.", "Who knows?", None],
            ["Response 1", "Response 2", None, None],
        ),
        (
            {"kind": "score", "verdicts": "", "scale": "{min: 0, max: 100}"},
            ["Score: 80\nTwo of its 3 claims are true.", "[RESULT] 35"],
            ["80", "35"],
        ),
        ({"kind": "score", "verdicts": "[bad, good]"}, ["It is good."], ["2"]),
        (
            {"kind": "ranking", "verdicts": "[A, B, C]", "candidates": "[one, two, three]"},
            ["[[B>C>A]]"],
            ["B>C>A", "A>B>C", "C>A>B"],
        ),
    ],
    ids=["verdict", "rating", "named level", "order"],
)
def test_labels_are_read_from_answers(
    tmp_path: Path, keys: dict[str, str], answers: list[str | None], labels: list[str | None]
) -> None:
    asked = "{{ conversations[0].value | interleave(image) }}"
    if "candidates" in keys:
        asked += "{{ one }}{{ two }}{{ three }}"
    task = write_task(tmp_path, **CONVERSATION | keys, question=f"'{asked}'")
    others = {"one": "x", "two": "y", "three": "z"}
    rows = judged(task, *(critique(f"<image>\n{a}?", a) | others for a in answers))
    assert [label for _, label in rows] == labels
    assert all(question.startswith("<image>\n") for question, _ in rows)


def test_an_answer_without_any_verdict_is_no_label(tmp_path: Path) -> None:
    task = write_task(tmp_path, **CONVERSATION, question="'{{ conversations[0].value }}'")
    with pytest.raises(DataError, match=r"no text in column 'conversations\[1\].value' has a"):
        judged(task, critique("Is it?", "Who knows?"))


@pytest.mark.parametrize(
    "question",
    [
        "{{ conversations[1].value }}",
        "{{ conversations[-1]['value'] }}",
        "{% for turn in conversations %}{{ turn.value }}{% endfor %}",
    ],
)
def test_the_part_of_a_column_that_has_the_label_is_not_shown(
    tmp_path: Path, question: str
) -> None:
    with pytest.raises(JudgeTaskError, match=r"reads the column 'conversations\[1\].value', the l"):
        write_task(tmp_path, **CONVERSATION, question=f'"{question}"')


EACH_ANSWER = {
    "kind": "score",
    "verdicts": "[bad, good]",
    "question": "'{{ prompt }} {{ answer }}'",
    "each": "[{answer: {each: completions.response}, of: {each: completions.ratings}}]",
    "label": "{column: of.helpfulness}",
    "id": "prompt",
}


def completions(prompt: str, *answers: str) -> dict[str, Any]:
    """A row of VLFeedback: lists of what models answered and of its ratings."""
    ratings = [{"helpfulness": str(1 + number % 2)} for number in range(len(answers))]
    return {"image": RED, "prompt": prompt} | {
        "completions": {"response": [*answers], "ratings": ratings}
    }


def test_each_value_of_a_list_is_an_item(tmp_path: Path) -> None:
    """Lists of any length; of a row without values nothing is left, and it is counted."""
    task = write_task(tmp_path, **EACH_ANSWER)
    rows = [completions("p", "a", "b", "c"), completions("q", "d"), completions("r")]
    raw = RawSplit(task, Dataset.from_list(rows))
    assert raw.left_out == {"judge.each": 1}
    assert raw.ids == ["p/0", "p/1", "p/2", "q/0"]
    assert len({*raw.clusters}) == 2
    assert judged(task, *rows) == [("p a", "1"), ("p b", "2"), ("p c", "1"), ("q d", "1")]


def test_images_in_lists_are_items(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        kind="score",
        verdicts="[bad, good]",
        each="[{image: {each: shots}, level: {each: levels}}]",
        label="{column: level}",
        question="'{{ image }}{{ text }}'",
    )
    row = {"text": "Is it?", "shots": [RED, LIME], "levels": [2, 1]}
    dataset = to_rows(RawSplit(task, Dataset.from_list([row]))).dataset
    found = [JudgeRow.from_doc(dataset[index]) for index in range(2)]
    assert [row.images[0].getpixel((0, 0)) for row in found] == [(255, 0, 0), (0, 255, 0)]
    assert [row.label for row in found] == ["2", "1"]


@pytest.mark.parametrize(
    ("each", "row", "fault"),
    [
        ("{each: prompt}", {}, "judge.each.0.answer: 'prompt' leads to no list in row 0"),
        ("{each: completions.none}", {}, "'completions.none' leads to no list in row 0"),
        (
            "{each: completions.response}",
            {"completions": {"response": ["a"] * 1001, "ratings": []}},
            "leads to a list of 1,001 values in row 0; expected a list of up to 1,000",
        ),
        (
            "{each: completions.response}",
            {"completions": {"response": ["a", "b"], "ratings": [{"helpfulness": "1"}]}},
            "judge.each.0: lists of different lengths in row 0: answer has 2, of has 1",
        ),
        (
            "{each: completions.response}",
            {"completions": {"response": [], "ratings": []}},
            "judge.each: the lists of all 1 rows are empty",
        ),
    ],
)
def test_lists_that_make_no_items(
    tmp_path: Path, each: str, row: dict[str, Any], fault: str
) -> None:
    entry = f"[{{answer: {each}, of: {{each: completions.ratings}}}}]"
    task = write_task(tmp_path, **EACH_ANSWER | {"each": entry})
    with pytest.raises(DataError, match=re.escape(fault)):
        judged(task, completions("p", "a") | row)


@pytest.mark.parametrize("name", ["Prompt Text", "instr-resp"])
def test_columns_whose_names_are_none_in_templates_get_another(tmp_path: Path, name: str) -> None:
    with pytest.raises(JudgeTaskError, match="gives a column whose name has spaces or"):
        write_task(tmp_path, question=f"'{{{{ {name} }}}}'")
    each = f"[{{asked: {{column: {name}}}}}]"
    task = write_task(tmp_path, question="'{{ asked }}'", each=each)
    assert judged(task, {"image": RED, name: "So?", "label": 1}) == [("So?", "Yes")]


JSON = {
    **PAIR,
    "json_columns": "text",
    "candidates": "[text.chosen, text.rejected]",
    "question": "'{{ text.asked }} A: {{ text.chosen }} B: {{ text.rejected }}'",
    "label": "{constant: first}",
}


def test_paths_lead_into_texts_that_are_json(tmp_path: Path) -> None:
    """As RLHF-V has questions and answers."""
    text = '{"asked": "Who?", "chosen": "he", "rejected": "she"}'
    rows = judged(write_task(tmp_path, **JSON), {"image": RED, "text": text})
    assert rows == [("Who? A: he B: she", "A"), ("Who? A: she B: he", "B")]


def test_lists_in_json_are_candidates(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        kind="ranking",
        json_columns="[answers, ranks]",
        candidates="answers",
        verdicts="[A, B]",
        question="'{% for answer in answers %}{{ answer }}{% endfor %}'",
        label="{column: ranks, best: lowest}",
    )
    row = {"image": RED, "answers": '["x", "y"]', "ranks": "[2, 1]"}
    assert judged(task, row) == [("xy", "B>A"), ("yx", "A>B")]


def test_other_texts_beside_json_stay_texts(tmp_path: Path) -> None:
    task = write_task(tmp_path, json_columns="[text]", question="'{{ text[0] }}'")
    rows = [{"image": RED, "text": text, "label": 1} for text in ('["Is it?"]', "So?")]
    assert [question for question, _ in judged(task, *rows)] == ["Is it?", "S"]


def test_texts_that_are_no_json(tmp_path: Path) -> None:
    task = write_task(tmp_path, **JSON)
    with pytest.raises(
        DataError, match=r"judge.json_columns: column 'text': row 0 has .*Expecting"
    ):
        judged(task, {"image": RED, "text": "{'asked': 1}"})
    with pytest.raises(JudgeTaskError, match=r"judge.images: 'text.image' is in a column of judge"):
        write_task(tmp_path, **JSON | {"images": "[text.image]"})


@pytest.mark.parametrize("best", [1, "B"])
def test_the_index_of_the_best_of_several(tmp_path: Path, best: object) -> None:
    task = write_task(
        tmp_path,
        kind="ranking",
        candidates="answers",
        verdicts="[A, B, C]",
        question="'{{ answers | join }}'",
        label="{column: best, best: index}",
    )
    row = {"image": RED, "answers": ["x", "y", "z"], "best": best}
    assert judged(task, row) == [("xyz", "B>A=C"), ("yzx", "A>B=C"), ("zxy", "C>A=B")]
    with pytest.raises(DataError, match=r"'3' .*covered: indices from 0 to 2, or A, B, C"):
        judged(task, row | {"best": 3})


@pytest.mark.parametrize(
    ("reduce", "labels"), [("max", ["Yes", "Yes", "No"]), ("min", ["Yes", "No", "No"])]
)
def test_any_and_all_of_several_booleans(tmp_path: Path, reduce: str, labels: list[str]) -> None:
    harms = [(True, True), (False, True), (False, False)]
    label = f"{{column: [harm.a, harm.b], reduce: {reduce}, map: {{true: Yes, false: No}}}}"
    task = write_task(tmp_path, label=label.replace(": Yes", ': "Yes"').replace(": No", ': "No"'))
    rows = [{"image": RED, "text": "so", "harm": {"a": a, "b": b}} for a, b in harms]
    assert [found for _, found in judged(task, *rows)] == labels


def test_numbers_of_class_labels_are_named(tmp_path: Path) -> None:
    task = write_task(tmp_path, label='{column: label, map: {real: "Yes", fake: "No"}}')
    data = Dataset.from_dict({"image": [RED], "text": ["so"], "label": [0]})
    data = data.cast_column("label", ClassLabel(names=["fake", "real"]))
    with pytest.raises(DataError, match=r"for names: 0 is 'fake', 1 is 'real'"):
        to_rows(RawSplit(task, data))


def test_the_winner_is_named(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        kind="pairwise",
        verdicts='["A", "B", "Tie"]',
        candidates="[text_a, text_b]",
        question="'{{ text_a }} or {{ text_b }}?'",
        label="{column: winner, equals: [model_a, model_b], tie: [tie, both bad], drop: [skipped]}",
        orders="hashed",
        id="text_a",
    )
    row = {"image": RED, "text_b": "yes", "model_a": "one", "model_b": "two"}
    winners = ["one", "two", "both bad", None, "skipped"]
    rows = [row | {"text_a": f"{n}", "winner": winner} for n, winner in enumerate(winners)]
    raw = RawSplit(task, Dataset.from_list(rows)).kept()
    assert raw.labels() == ["A", "B", "Tie", None]
    assert raw.left_out == {"judge.label.drop": 1}
    for names in ({"winner": "three"}, {"model_b": "one", "winner": "one"}):
        with pytest.raises(
            DataError, match=r"covered: the value of either model_a or model_b, tie"
        ):
            judged(task, row | {"text_a": "no"} | names)


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"question": "'{{ text.asked }}'"}, "texts are JSON belongs in judge.json_columns"),
        ({"question": "'<image> <image>'"}, r"of a list are placed as {{ image\[0\] }}"),
    ],
)
def test_messages_name_the_construct(tmp_path: Path, keys: dict[str, str], hint: str) -> None:
    with pytest.raises(JudgeError, match=hint):
        judged(write_task(tmp_path, **keys), {"image": RED, "text": "{}", "label": 1})


@pytest.mark.parametrize("keys", [{"id": "image"}, {"joint_by": "image"}, {"groups": "image"}])
def test_items_are_told_apart_by_their_images(tmp_path: Path, keys: dict[str, str]) -> None:
    task = write_task(tmp_path, **keys)
    rows = [
        {"image": image, "text": f"{n}", "label": 1} for n, image in enumerate((RED, LIME, RED))
    ]
    raw = RawSplit(task, Dataset.from_list(rows))
    names = {"id": raw.ids, "joint_by": raw.joint, "groups": raw.groups}[next(iter(keys))]
    assert names[0] != names[1]
    assert str(names[2]).removesuffix("#2") == names[0]


def test_items_with_one_image_are_in_one_split(tmp_path: Path) -> None:
    cut = "{validation: {from: train, fraction: 0.5, group_by: image}}"
    task = write_task(tmp_path, splits=cut)
    images = [image_cell(f"#0000{n // 3:02x}") for n in range(12)]
    texts = [f"thing {n}" for n in range(12)]
    columns = {"image": images, "text": texts, "label": [1] * 12}
    for split in ("train", "test"):
        write_split(tmp_path / "root", "my_task", split, columns)
    source = find_source(task, tmp_path / "root")
    held = {
        split: {*load_raw(task, split, source).keys("image")} for split in ("train", "validation")
    }
    assert (len(held["train"]), len(held["validation"])) == (2, 2)
    assert held["train"].isdisjoint(held["validation"])


def test_rows_are_dropped_for_any_of_several_values(tmp_path: Path) -> None:
    """As VLFeedback has ratings that were not given."""
    task = write_task(
        tmp_path,
        kind="score",
        verdicts="null",
        scale="{min: 1, max: 5}",
        aspects="[help, truth]",
        label="{column: [help, truth], drop: [N/A]}",
    )
    rows = [{"image": RED, "text": str(n), "help": "4", "truth": n} for n in ("5", "N/A")]
    raw = RawSplit(task, Dataset.from_list(rows)).kept()
    assert raw.labels() == ["help: 4, truth: 5"]
    assert raw.left_out == {"judge.label.drop": 1}
