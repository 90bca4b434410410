"""Pairs with more than three verdicts: degrees such as A>>B, and several kinds of ties."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tasks import PAIR, pairs, raw_dataset, write_task, write_yaml

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.prompts import gold_answer, instruction
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, to_rows
from mtrl_judge.judge_tasks.scoring import score

PAIRWISE = KINDS["pairwise"]
DEGREES = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
WORDS = ("A is much better", "A is better", "tie", "both bad", "B is better", "B is much better")
YAML = {
    **PAIR,
    "verdicts": '["A>>B", "A>B", "A=B", "B>A", "B>>A"]',
    "swap": '{"A>>B": "B>>A", "A>B": "B>A"}',
    "label": '{column: label, map: {-2: "A>>B", -1: "A>B", 0: "A=B", 1: "B>A", 2: "B>>A"}}',
}
SWAPPED = {"A>>B": "B>>A", "A>B": "B>A", "A=B": "A=B", "B>A": "A>B", "B>>A": "A>>B", None: None}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        *((form, verdict) for verdict in DEGREES for form in (verdict, f"[[{verdict}]]")),
        ("My final verdict is: [[A >> B]].", "A>>B"),
        ("B<<A", "A>>B"),
        ("Final verdict: B<A", "A>B"),
        ("Assistant B >> Assistant A", "B>>A"),
        ("<think>x</think><answer>A ≫ B</answer>", "A>>B"),
        ('{"verdict": "B>>A"}', "B>>A"),
        ("Final verdict: tie", "A=B"),
        ("[[B=A]]", "A=B"),
        # Says who is better, and not by how much.
        ("A", None),
        ("Answer A is better.", None),
        ("A>>B or A>B", None),
    ],
)
def test_degrees_are_read(text: str, verdict: str | None) -> None:
    assert PAIRWISE.read(text, DEGREES).value == verdict


@pytest.mark.parametrize("verdicts", [DEGREES, WORDS, ("1", "2", "both good", "both bad")])
def test_every_verdict_is_read_as_itself(verdicts: tuple[str, ...]) -> None:
    for verdict in verdicts:
        for text in (verdict, gold_answer(verdict, "reasoned"), f"Final verdict: {verdict}."):
            assert PAIRWISE.read(text, verdicts).value == verdict, text


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A=B=Good]]", "both good"),
        ("A = B = Bad", "both bad"),
        ("Final verdict: both bad", "both bad"),
        ("[[A>B]]", "A"),
        ("Image B is better.", "B"),
        # Of two kinds of ties, it is not said which.
        ("[[A=B]]", None),
        ("Both are equally good.", None),
    ],
)
def test_several_kinds_of_ties_are_told_apart(text: str, verdict: str | None) -> None:
    assert PAIRWISE.read(text, ("A", "B", "both good", "both bad")).value == verdict


@pytest.mark.parametrize("orders", ["both", "hashed"])
def test_labels_follow_the_candidates(tmp_path: Path, orders: str) -> None:
    task = write_task(tmp_path, orders=orders, **YAML)
    data = pairs() | {"label": [-2, -1, 0, None, 2]}
    rows = [JudgeRow.from_doc(row) for row in to_rows(RawSplit(task, raw_dataset(data))).dataset]
    expected = ["A>>B", "A>B", "A=B", None, "B>>A"]
    assert len(rows) == (10 if orders == "both" else 5)
    for number, label in enumerate(expected):
        of_item = rows[2 * number : 2 * number + 2] if orders == "both" else [rows[number]]
        assert [row.label for row in of_item] == [
            SWAPPED[label] if row.swapped else label for row in of_item
        ]
        for row in of_item:
            if row.label is not None:
                answer = gold_answer(row.label, "reasoned")
                assert score(row, answer)[1:] == (1.0, 1.0)
    assert {row.swapped for row in rows} == {True, False}
    assert ", ".join(DEGREES) in instruction("pairwise", rows[0].verdicts, "reasoned")
    paired = {"accuracy_side", "accuracy_without_ties"}
    assert paired < {*task.metrics}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"swap": "{}"}, "judge.swap", "is missing for 5 verdicts"),
        ({"swap": '{"A>>B": "B>>>A", "A>B": "B>A"}'}, "judge.swap.A>>B", "none of the verdicts"),
        (
            {"swap": '{"A>>B": "B>>A", "A>B": "B>A", "B>A": "A=B"}'},
            "judge.swap",
            "'B>A' changes places with 'A>B' and with 'A=B'",
        ),
        (
            {"swap": '{"A>>B": "B>>A", "A>B": "B>>A"}'},
            "judge.swap",
            "'B>>A' changes places with 'A>>B' and with 'A>B'",
        ),
        ({"swap": '{"A>>B": "B>>A"}'}, "judge.swap", "does not name 'A>B', which would be a tie"),
        ({"swap": "[A>>B, B>>A]"}, "judge.swap", "which verdict becomes which"),
        (
            {"label": "{column: label, first: a, second: b, tie: t}"},
            "judge.verdicts",
            "or label by map",
        ),
        ({"label": "{constant: first}"}, "judge.verdicts", "5 verdicts for a constant label"),
        ({"label": "{larger_of: [one, two]}"}, "judge.verdicts", "5 verdicts for two numbers"),
        (
            {"verdicts": '["1", "tie", "2"]', "swap": '{"1": "2"}'},
            "judge.swap",
            "the first two do not change places",
        ),
        (
            {"kind": "pointwise", "images": "[image0]", "question": "'{{ text }}?'"},
            "judge.swap",
            "is for pairs",
        ),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, changes: dict[str, str], field: str, message: str
) -> None:
    with pytest.raises(JudgeError) as error:
        write_task(tmp_path, **{**YAML, **changes})
    lines = [line for line in str(error.value).splitlines() if f": {field}: " in line]
    assert any(message in line for line in lines), str(error.value)


def test_three_verdicts_need_no_swap(tmp_path: Path) -> None:
    assert write_yaml(tmp_path, **PAIR)
    plain = write_task(tmp_path, **PAIR).judge.verdicts
    named = write_task(tmp_path, swap='{"1": "2"}', **PAIR).judge.verdicts
    for verdicts in (plain, named):
        assert [PAIRWISE.swapped_label(v, verdicts) for v in verdicts] == ["2", "1", "Tie"]
