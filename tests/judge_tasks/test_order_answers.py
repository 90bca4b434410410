"""Orders and best candidates in texts of the shapes that judges write."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl_judge.judge_tasks.order_answers import ORDER_FORMS, OrderForm, parse_order
from mtrl_judge.metrics.rankings import read_order, write_order

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text(encoding="utf-8")
ABC = ("A", "B", "C")

READ = [
    ("[[B>A>C]]", "B>A>C"),
    ("2, 1, 3", "B>A>C"),
    ("B > A = C", "B>A=C"),
    ('["B", "A", "C"]', "B>A>C"),
    ("[2, 1, 3]", "B>A>C"),
    ("[['B', 'A'], 'C']", "A=B>C"),
    ("(A, B) > C", "A=B>C"),
    ("BAC", "B>A>C"),  # how MLLM-as-a-Judge writes people's orders
    ("A>>B>C", "A>B>C"),
    ("A < B < C", "C>B>A"),
    ("B ≻ A ≻ C", "B>A>C"),
    ("B → A → C", "B>A>C"),
    ("B, then A, then C", "B>A>C"),
    ("B followed by A followed by C", "B>A>C"),
    ("B\nA\nC", "B>A>C"),
    ("**Response B** > **Response A** > **Response C**", "B>A>C"),
    ("Image-2 > Image-1 > Image-3", "B>A>C"),
    ("1. B 2. A 3. C", "B>A>C"),
    ("1. B\n2. A\n3. C", "B>A>C"),
    ("1. B\n1. A\n3. C", "A=B>C"),
    ("1. B and A\n2. C", "A=B>C"),
    ("1st: Image B, 2nd: Image A, 3rd: Image C", "B>A>C"),
    ("C is dark: [[B]], [[A]], [[C]]", "B>A>C"),
    ('{"Analysis": "A is blurry", "Judgement": "[[B]], [[C]], [[A]]"}', "B>C>A"),
    ('{"ranking": ["Image 2", "Image 1", "Image 3"], "best": "Image 2"}', "B>A>C"),
    ("\\boxed{B > A > C}", "B>A>C"),
    ("Ranking (best to worst): B, A, C", "B>A>C"),
    ("From worst to best: C, A, B.", "B>A>C"),
    ("The final ranking is B > A > C because B is sharp.", "B>A>C"),
    ("The ranking is: 1) Image B (clear), 2) Image A, 3) Image C", "B>A>C"),
    ("I rank the images as follows:\nB\nA\nC", "B>A>C"),
    ("1. A is blurry. 2. B is sharp. 3. C is dark.\nRanking: B, A, C", "B>A>C"),
    ("1. Image A: a dog\n2. Image B: a cat\n3. Image C: a hat\n\n[[B>A>C]]", "B>A>C"),
    ("<think>A>B>C</think><answer>B>A>C</answer>", "B>A>C"),
    ("<think>A>B>C</think>B>A>C", "B>A>C"),
    ("<answer>B>A>C</answer> B is the best.", "B>A>C"),
    ("I would like to rank them: B > A > C", "B>A>C"),
    ("[2] > [1] > [3]", "B>A>C"),
    ("Ranking:\n- B\n- A\n- C", "B>A>C"),
    ("**Final Ranking:**\n\n1. **Image B** – sharp\n2. **Image A**\n3. **Image C**", "B>A>C"),
    ("Ranking: C, A, B (worst to best)", "B>A>C"),
    ("Rankings: B, A, C\nA is blurry.", "B>A>C"),
    ("B > A > C\nB > A > C", "B>A>C"),
    # only the best
    ("best: B", "B>A=C"),
    ("B", "B>A=C"),
    ("Best image: **Image 2**", "B>A=C"),
    ("[[B]]", "B>A=C"),
    ('{"best_image": "Image B"}', "B>A=C"),
    ("The best response is Response B.", "B>A=C"),
    ("All show a lamp. Image B is the best.", "B>A=C"),
]

NOT_READ = [
    ("B > A", "missing candidates: C"),
    ("Ranking: B, A.", "missing candidates: C"),
    ("B > A > B > C", "repeated candidates: B"),
    ("B > A > C > D", "not candidates: D"),
    ("A > B < C", "mixed signs: < >"),
    ("A > B, C", "mixed signs: , >"),
    ("[[B>A>C]] [[A>B>C]]", "several orders: A>B>C, B>A>C"),
    ("In color A > B > C, but overall B > A > C.", "several orders: A>B>C, B>A>C"),
    ("<answer>B>A>C</answer><answer>C>A>B</answer>", "several orders: B>A>C, C>A>B"),
    ("<answer>B>A>C</answer> So: [[C>A>B]]", "several orders: B>A>C, C>A>B"),
    ("Order: B, A, C. Best: C", "self-contradiction: B>A>C, and C as the best"),
    ("Best: A. Image B is the best.", "several best candidates: A, B"),
    ("You should output like [[A]], [[B]], [[C]].", "no order found"),  # the prompt, repeated
    ("[[best]] > [[second]] > [[worst]]", "no order found"),
    ("1. Image A: a dog\n2. Image B: a cat\n3. Image C: a hat", "no order found"),
    ("Image A, Image B and Image C are all good.", "no order found"),
    ("A is the best lit.", "no order found"),
    ("From worst to best: A > B > C", "worst first, with >"),
    ("Best: B\nMiddle: A\nWorst: C", "no order found"),  # not read, so the best alone is not either
    ("A is the best, followed by C, and then B.", "no order found"),
    ("B >= A >= C", "no order found"),
    ("bad", "no order found"),
    ("<think>B>A>C", "no answer after the reasoning"),
    ("<answer></answer> B>A>C", "no order found"),
    ("[LMMS_EVAL_REQUEST_FAILED after 3 retries] B>A>C", "failed request"),
    ("  ", "empty text"),
]


@pytest.mark.parametrize(("text", "order"), READ, ids=[text for text, _ in READ])
def test_orders_are_read(text: str, order: str) -> None:
    assert parse_order(text, ABC).value == order


@pytest.mark.parametrize(("text", "reason"), NOT_READ, ids=[text for text, _ in NOT_READ])
def test_what_is_no_order_has_a_reason(text: str, reason: str) -> None:
    assert parse_order(text, ABC)[::2] == (None, reason)


@pytest.mark.parametrize("form", ORDER_FORMS, ids=lambda form: form.name)
def test_each_form_decides_its_example(form: OrderForm) -> None:
    text, order = form.example
    assert parse_order(text, ABC)[::2] == (order, form.name)
    shown = text.replace("\n", " ⏎ ")
    assert f"| {form.name} | `{shown}` | {order} |" in DOCUMENTATION


def test_form_and_confidence_are_those_of_every_answer() -> None:
    text = "<think>Sharp.</think><answer>B>A>C</answer><confidence>0.9</confidence>"
    assert parse_order(text, ABC) == ("B>A>C", True, "whole")
    assert not parse_order("B>A>C", ABC).well_formed


@given(st.permutations("ABCDEF"), st.lists(st.sampled_from(">="), min_size=5, max_size=5))
def test_every_written_order_is_read(names: list[str], signs: list[str]) -> None:
    text = "".join(map("".join, zip(names, [*signs, ""], strict=True)))
    order = write_order(read_order(text))
    assert parse_order(order, "ABCDEF").value == order
    assert parse_order(f"Sharp.\n[[{text}]]", "ABCDEF").value == order


def test_candidates_are_letters_or_numbers() -> None:
    assert parse_order("2 > 1 > 3", ("1", "2", "3")).value == "2>1>3"
    assert parse_order("B > A > C", ("1", "2", "3")).value is None
    for wrong in (("A",), ("A", "a"), ("Image A", "Image B")):
        with pytest.raises(ValueError, match="different letters or numbers"):
            parse_order("A", wrong)


HOSTILE = [
    *(
        "[[B>A>C]] ",
        "[[A]], ",
        "[[A",
        "ranking: ",
        "Ranking: A, ",
        "order is ",
        "1. A ",
        "1. A: x ",
    ),
    *("1. A and ", "A > ", "A, ", "A = B < ", "(A, ", '"ranking": [[', '"order": [1, ', '"a": "'),
    *("\\boxed{A", "from best to worst ", "rank the images ", "is the best ", "B is the best. "),
    *(
        "image 1 ",
        "the image ",
        "if [[A>B>C]] ",
        "1st ",
        "then ",
        "followed by ",
        "A\n",
        "A B ",
        " ",
    ),
]


def _seconds(text: str) -> float:
    gc.disable()
    try:
        start = time.process_time()
        parse_order(text, ABC)
        return time.process_time() - start
    finally:
        gc.enable()


@pytest.mark.parametrize("piece", HOSTILE, ids=ascii)
def test_cost_is_linear_on_hostile_text(piece: str) -> None:
    # As of verdicts, but within what is read of a part; best of five.
    def growth() -> float:
        small, large = (_seconds(piece * (size // len(piece))) for size in (3_000, 30_000))
        return large / max(small, 0.002)

    assert any(growth() < 40 for _ in range(5))


@settings(derandomize=True, deadline=None)
@given(st.text(alphabet="ABCDabc123 >=<,.:;[](){}\"'\n#", max_size=60))
def test_any_text_is_an_order_of_all_candidates_or_none(text: str) -> None:
    value = parse_order(text, ABC).value
    if value is not None:
        assert sorted(name for place in read_order(value) for name in place) == list(ABC)
