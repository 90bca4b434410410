"""Facts: how they are read, which of them count, and what a reasoning says about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.images import image_cells
from support.tasks import write_split, write_task

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.facts import (
    FACTS_FILE,
    MAX_FACTS,
    MAX_INSTEAD,
    MAX_PHRASE,
    Fact,
    as_facts,
    check_facts,
    mentioned,
)
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import find_source, load_rows
from mtrl_judge.judge_tasks.spec import STYLES
from mtrl_judge.judge_tasks.validate import validate
from mtrl_judge.judge_tasks.verdicts import read_reasoning

WORDS = st.lists(st.sampled_from(["red", "car", "cars", "Straße", "3", "é"]), max_size=12)
BETWEEN = st.sampled_from([" ", "\n", "\t ", "\u00a0", " **", "** ", "\u200b ", "-"])


@given(WORDS, st.data())
def test_a_phrase_is_mentioned_where_its_words_follow_one_another(
    words: list[str], data: st.DataObject
) -> None:
    spelled = [data.draw(st.sampled_from([w, w.upper(), w.title()])) for w in words]
    text = "".join(part for word in spelled for part in (word, data.draw(BETWEEN)))
    for phrase in ("car", "red car", "cars 3", "strasse", "É red car"):
        sought = phrase.casefold().split()
        plain = [word.casefold() for word in words]
        expected = any(plain[i : i + len(sought)] == sought for i in range(len(plain)))
        assert (mentioned(text, [phrase]) == {phrase}) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The car's door.", True),
        ("a carpet, 2 cars, carcar", False),
        ("Blue. Car", True),
        ("no car", False),
        ("It isn't a car.", False),
        ("without any car; not the car", False),
        ("No car at first, then a car", True),
        ("no blue car", True),  # as documented: only right before the mention
    ],
)
def test_whole_words_that_are_not_denied(text: str, found: bool) -> None:
    assert bool(mentioned(text, ["car"])) == found


def test_a_sentence_ends_a_phrase_and_a_decimal_is_one_number() -> None:
    assert mentioned("A house. Left of it", ["house left"]) == set()
    assert mentioned("rated 3.5", ["3", "5"]) == set()
    assert mentioned("rated 3.5", ["3.5"]) == {"3.5"}
    assert mentioned("it is upside-down", ["upside down"]) == {"upside down"}


def test_naming_everything_states_nothing() -> None:
    facts = [Fact("house", ("car",)), Fact("sky"), Fact("tree", ("car",), in_question=True)]
    assert check_facts("A house, a tree and the sky.", facts) == (("house", "sky"), (), 2, 2)
    assert check_facts("A house, a car, the sky.", facts) == (("sky",), ("house", "tree"), 2, 2)
    assert check_facts("", facts).rate == 0.0
    assert check_facts("A house.", []).rate is None
    copied = check_facts("A tree.", facts[2:])
    assert (copied.stated, copied.total, copied.rate) == ((), 0, None)


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<think>A</think><answer>Yes</answer>", "A"),
        ("A</think><answer>Yes</answer>", "A"),  # the chat template opened it
        ("<think>A, cut off", "A, cut off"),
        ("<think>A</think> so <think>B</think><answer>Yes</answer>", "A\nB"),
        ("A</think>B</think><answer>Yes</answer>", "A\nB"),
        ("<answer>Yes</answer>A", ""),
        ("A house. Yes", ""),
        ("[LMMS_EVAL_REQUEST_FAILED after 3 retries] <think>A</think>", ""),
    ],
)
def test_reasoning_is_what_the_parser_leaves_aside(text: str, reasoning: str) -> None:
    assert read_reasoning(text) == reasoning


def test_repeated_facts_count_once() -> None:
    cell = [
        "Two cars",
        {"fact": "sky", "instead": "sea"},
        "two  CARS",
        {"fact": "x", "instead": None},
    ]
    assert as_facts(cell, "f") == (Fact("Two cars"), Fact("sky", ("sea",)), Fact("x"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a house", "found 'a house'; expected a list"),
        ([1], "found 1; expected a phrase"),
        ([" . "], "expected a phrase of 1 to"),
        ([{"fact": "a", "insted": ["b"]}], "'insted'"),
        ([{"instead": ["b"]}], "expected a phrase, or"),
        ([{"fact": "a", "instead": 3}], "found 3; expected a list of phrases for instead"),
        (["x" * (MAX_PHRASE + 1)], f"a phrase of {MAX_PHRASE + 1} characters"),
        ([" a" * 21], "expected a phrase of 1 to 20 words"),
        (["a"] * (MAX_FACTS + 1), f"{MAX_FACTS + 1} facts; expected at most"),
        ([{"fact": "a", "instead": ["b"] * (MAX_INSTEAD + 1)}], "phrases in instead"),
        ([{"fact": "a", "instead": ["b"]}, "A b c"], "'b' is listed as the contrary"),
    ],
)
def test_malformed_facts_are_refused(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=r"^here: ") as caught:
        as_facts(value, "here")
    assert message in str(caught.value)


def columns(n: int = 3, **more: list[Any]) -> dict[str, list[Any]]:
    texts = ["a red car", "a house", "a sky"][:n]
    return {"image": image_cells(n), "text": texts, "label": [1, 0, 1][:n], **more}


def write_facts(root: Path, task: str, facts: dict[str, Any]) -> Path:
    lines = (json.dumps({"id": item, "facts": listed}) + "\n" for item, listed in facts.items())
    file = root / task / FACTS_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(lines), encoding="utf-8")
    return file


FACTS = [
    [{"fact": "red car", "instead": ["bus"]}, {"fact": "street", "instead": ["house", "river"]}],
    [{"fact": "garden", "instead": ["house", "sea"]}],
    None,
]


def test_a_column_and_a_file_give_the_same_rows(tmp_path: Path) -> None:
    in_file = write_task(tmp_path, "in_file", id="[text]")
    in_column = write_task(tmp_path, "in_column", id="[text]", facts="{column: shows}")
    write_split(tmp_path, "in_file", "test", columns())
    write_split(tmp_path, "in_column", "test", columns(shows=FACTS))
    write_facts(tmp_path, "in_file", dict(zip(columns()["text"], FACTS, strict=True)))
    plain = write_task(tmp_path, "plain", id="[text]")
    write_split(tmp_path, "plain", "test", columns())
    loaded = [load_rows(task, "test", tmp_path) for task in (in_file, in_column, plain)]
    first, second, third = (
        [JudgeRow.from_doc(doc) for doc in split.rows.dataset] for split in loaded
    )
    # What the question says can be copied, and a judge that quotes it says nothing untrue.
    assert [row.facts for row in first] == [
        (Fact("red car", ("bus",), in_question=True), Fact("street", ("house", "river"))),
        (Fact("garden", ("sea",)),),
        (),
    ]
    assert [row.facts for row in second] == [row.facts for row in first]
    assert [row.facts for row in third] == [()] * 3
    records = [split.record for split in loaded]
    assert records[0]["facts"] == records[1]["facts"]
    assert {k: v for k, v in records[0]["facts"].items() if k != "fingerprint"} == {
        "rows": 2,
        "facts": 2,
        "in_question": 1,
    }
    assert "facts" not in records[2]
    # Facts change what is measured, not what is answered.
    assert len({record["fingerprint"] for record in records}) == 1
    for style in STYLES:
        for row, bare in zip(first, third, strict=True):
            assert render_messages(row, style) == render_messages(bare, style)


def test_two_sources_of_facts_are_refused(tmp_path: Path) -> None:
    task = write_task(tmp_path, id="[text]", facts="{column: shows}")
    write_split(tmp_path, "my_task", "test", columns(shows=FACTS))
    write_facts(tmp_path, "my_task", {"a house": ["garden"]})
    with pytest.raises(DataError, match="expected one source of facts"):
        load_rows(task, "test", tmp_path)


def test_a_malformed_fact_is_named_with_its_place(tmp_path: Path) -> None:
    task = write_task(tmp_path, id="[text]")
    write_split(tmp_path, "my_task", "test", columns())
    file = write_facts(tmp_path, "my_task", {"a house": ["garden"], "a sky": [""]})
    with pytest.raises(DataError, match=r"facts.jsonl: line 2: found ''"):
        load_rows(task, "test", tmp_path)
    file.write_text('{"id": "a", "facts": ["x"]}\n{"id": "a", "facts": ["y"]}\n')
    with pytest.raises(DataError, match=r"line 2: a second line for item 'a'"):
        load_rows(task, "test", tmp_path)
    file.write_text('{"item": "a", "facts": ["x"]}\n')
    with pytest.raises(DataError, match=r"line 1: found .*; expected \{\"id\""):
        load_rows(task, "test", tmp_path)


def test_validate_finds_facts_of_unknown_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTRL_JUDGE_DATA", str(tmp_path))
    task = write_task(tmp_path, id="[text]")
    for split in ("train", "test"):
        write_split(tmp_path, "my_task", split, columns())
    write_facts(tmp_path, "my_task", {"a house": ["garden"], "a horse": ["garden"]})
    (fault,) = validate(task.path, rows=2)
    assert "facts of items that no split has: a horse" in fault


def test_facts_beside_no_data_are_of_the_dataset_on_the_hub(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    file = write_facts(tmp_path, "my_task", {"x": ["garden"]})
    source = find_source(task, tmp_path)
    assert (source.kind, source.facts_file) == ("hub", file)
