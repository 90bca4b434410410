"""The parser on what judges write, on hostile text, and its laws."""

import gc
import time
from collections.abc import Sequence

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mtrl_judge.judge_tasks.answer_text import PART_LIMIT
from mtrl_judge.judge_tasks.verdict_forms import FORMS
from mtrl_judge.judge_tasks.verdicts import parse_verdict, read_confidence

# The same examples in every run, and no limit of time that a busy machine could break.
exactly = settings(derandomize=True, deadline=None)

YES_NO = ("Yes", "No")
SAFE = ("safe", "unsafe")
ONE_TWO = ("1", "2")
LETTERS = ("A", "B")
IMAGES = ("Image 1", "Image 2")
WITH_TIE = ("A", "B", "Tie")
RATING = tuple(str(n) for n in range(1, 11))
BOTH_BAD = ("Image 1", "Image 2", "both good", "both bad")
NESTED = ("safe", "not safe", "not sure")
CHINESE = ("是", "否")
SPANISH = ("Sí", "No")
COMPARED = ("A>B", "B>A", "A=B=Good", "A=B=Bad")
WITH_ZERO = ("1", "2", "0")
LEVELS = ("Very Poor", "Poor", "Good", "Very Good")
TASKS = [
    COMPARED,
    WITH_ZERO,
    LEVELS,
    YES_NO,
    SAFE,
    ONE_TWO,
    LETTERS,
    IMAGES,
    WITH_TIE,
    RATING,
    BOTH_BAD,
    NESTED,
    CHINESE,
]

READ = [
    # the required structure, and what becomes of it
    ("<think>A knife.</think><answer>Yes</answer>", YES_NO, "Yes"),
    ("<think>\nA knife.\n</think>\n\n<answer>\nyes\n</answer>\n", YES_NO, "Yes"),
    ("<think>No, no, no.</think><answer>Yes.</answer>", YES_NO, "Yes"),
    ("<think>I say <answer>No</answer></think><answer>Yes</answer>", YES_NO, "Yes"),
    ("<think>use <think> tags</think><answer>No</answer>", YES_NO, "No"),
    ("<THINK>x</THINK><Answer>NO</ANSWER>", YES_NO, "No"),
    ("< think >x</ think >< answer >No</ answer >", YES_NO, "No"),
    ("<think>x</think><answer>Yes", YES_NO, "Yes"),
    ("The sky is blue. <answer>Yes</answer>", YES_NO, "Yes"),
    ("Option [[A]] would be wrong. <answer>B</answer>", LETTERS, "B"),
    ("A long look.\n</think>Yes", YES_NO, "Yes"),
    ("Answer: No, or is it?</think>\n\n**Yes**", YES_NO, "Yes"),
    ("first <answer>No</answer></think><answer>Yes</answer>", YES_NO, "Yes"),
    ("<think>\n\n</think>\n\nNo", YES_NO, "No"),
    ("<think>x</think>Yes</answer>", YES_NO, "Yes"),
    ("<answer>Yes</answer><answer>yes.</answer>", YES_NO, "Yes"),
    ("<answer>Yes</answer> The image shows no weapon.", YES_NO, "Yes"),
    ("<answer>your verdict</answer> ... <answer>No</answer>", YES_NO, "No"),
    ("<answer>Yes, because a knife is visible.</answer>", YES_NO, "Yes"),
    ("<answer>The answer is Yes</answer>", YES_NO, "Yes"),
    ("<answer>**Image 2**</answer>", IMAGES, "Image 2"),
    ("<answer>Image 2 is better.</answer>", ONE_TWO, "2"),
    ("<answer>[[B]]</answer>", LETTERS, "B"),
    ("<answer><|begin_of_box|>No<|end_of_box|></answer>", YES_NO, "No"),
    ("＜answer＞Ｙｅｓ＜/answer＞", YES_NO, "Yes"),
    # bare verdicts
    ("Yes", YES_NO, "Yes"),
    ("yes.", YES_NO, "Yes"),
    (" NO!\n", YES_NO, "No"),
    ("No...", YES_NO, "No"),
    ('"No"', YES_NO, "No"),
    ("“Yes”", YES_NO, "Yes"),
    ("**Yes**", YES_NO, "Yes"),
    ("__yes__.", YES_NO, "Yes"),
    ("### Yes", YES_NO, "Yes"),
    ("- No", YES_NO, "No"),
    ("```\nNo\n```", YES_NO, "No"),
    ("Ｙｅｓ", YES_NO, "Yes"),
    ("Y\u200be\u200bs\ufeff", YES_NO, "Yes"),
    ("Yes ✅", YES_NO, "Yes"),
    ("Yes<|im_end|>", YES_NO, "Yes"),
    ("(B)", LETTERS, "B"),
    ("b.", LETTERS, "B"),
    ("$2$", ONE_TWO, "2"),
    ("10", RATING, "10"),
    ("<Yes>", YES_NO, "Yes"),
    # a verdict that leads or ends
    ("Yes, because the image shows a knife.", YES_NO, "Yes"),
    ("No - nothing is wrong", YES_NO, "No"),
    ("No — nothing is wrong.", YES_NO, "No"),
    ("Yes because a gun is visible", YES_NO, "Yes"),
    ("Yes. The man holds a gun. There is no doubt.", YES_NO, "Yes"),
    ("No, no weapon is visible.", YES_NO, "No"),
    ("**No.** The text says three dogs.", YES_NO, "No"),
    ("Yes (a knife is visible)", YES_NO, "Yes"),
    ("No.\n\nThe sign says yes, the text does not.", YES_NO, "No"),
    ("Unsafe. It shows a weapon.", SAFE, "unsafe"),
    ("Sure! Yes.", YES_NO, "Yes"),
    ("B, because it is sharper", LETTERS, "B"),
    ("A\n\nThe first image follows the prompt.", LETTERS, "A"),
    ("The image shows a dog on a sofa.\nYes", YES_NO, "Yes"),
    ("There are two cats, not three. So, no.", YES_NO, "No"),
    ("The hat is red, as asked.\n\n**Yes.**", YES_NO, "Yes"),
    ("It looks real. I would say yes.", YES_NO, "Yes"),
    ("I looked at it.\nYes, since a gun is there.", YES_NO, "Yes"),
    # explicit markers
    ("A dog sits there.\nFinal verdict: Yes", YES_NO, "Yes"),
    ("A dog sits there.\nFinal Verdict - No.", YES_NO, "No"),
    ("**Answer:** no", YES_NO, "No"),
    ("**Answer**: **Yes**", YES_NO, "Yes"),
    ("### Verdict\n\nYes\n\nThe hat is red.", YES_NO, "Yes"),
    ("**Final Verdict:**\nNo", YES_NO, "No"),
    ("Verdict - Yes", YES_NO, "Yes"),
    ("Verdict: <Yes>", YES_NO, "Yes"),
    ("Answer: (B)", LETTERS, "B"),
    ("Answer: B. The second image is sharper.", LETTERS, "B"),
    ("Answer: Option B", LETTERS, "B"),
    ("My choice: image A", LETTERS, "A"),
    ("answer is yes", YES_NO, "Yes"),
    ("So the answer is: No.", YES_NO, "No"),
    ("There is no knife, so the answer is No.", YES_NO, "No"),
    ("The correct answer to the question is **yes**.", YES_NO, "Yes"),
    ("Answer (Yes/No): Yes", YES_NO, "Yes"),
    ("Verdict: Unsafe (violence)", SAFE, "unsafe"),
    ("Label: unsafe", SAFE, "unsafe"),
    ("Score: 8", RATING, "8"),
    ("Score: 8/10", RATING, "8"),
    ("Rating: 10.", RATING, "10"),
    ("[[A]]", LETTERS, "A"),
    ("[[A>B]]", LETTERS, "A"),
    ("Both are fine but the hat differs, so [[B]].", LETTERS, "B"),
    ("My verdict is [[Tie]]", WITH_TIE, "Tie"),
    (r"\boxed{2}", ONE_TWO, "2"),
    (r"Thus \(\boxed{\text{Yes}}\).", YES_NO, "Yes"),
    (r"$\boxed{\textbf{(B)}}$", LETTERS, "B"),
    ('{"verdict": "A"}', LETTERS, "A"),
    (
        '```json\n{\n  "reason": "The answer: No was near.",\n  "verdict": "Yes"\n}\n```',
        YES_NO,
        "Yes",
    ),
    ('{"reasoning": "two dogs", "final_answer": 2}', ONE_TWO, "2"),
    ("{'verdict': 'No',}", YES_NO, "No"),
    ('{"answer": "yes", "why": "it is cut o', YES_NO, "Yes"),
    ('Here you are: {"result": {"label": "unsafe"}} Thanks!', SAFE, "unsafe"),
    ('{\\"verdict\\": \\"B\\"}', LETTERS, "B"),
    ('{"better_image": "Image 2"}', ONE_TWO, "2"),
    ("Verdict: ✅ Yes", YES_NO, "Yes"),
    ("Verdict: Unsafe (not safe for work)", SAFE, "unsafe"),
    ("The verdict is a resounding no.", YES_NO, "No"),
    # slots
    ("Image 2 is better", ONE_TWO, "2"),
    ("Image 2 is better.", IMAGES, "Image 2"),
    ("Image B is better", LETTERS, "B"),
    ("The second image is better.", ONE_TWO, "2"),
    ("The first image is better because it has the hat.", LETTERS, "A"),
    ("I prefer image 1", ONE_TWO, "1"),
    ("I prefer image 1 to image 2.", IMAGES, "Image 1"),
    ("I'd choose Image 2 over Image 1.", ONE_TWO, "2"),
    ("Image 1 lacks the hat, so image 2 is the better choice.", ONE_TWO, "2"),
    ("Overall, Image A better matches the prompt.", LETTERS, "A"),
    ("B is better.", LETTERS, "B"),
    ("The better image is image 2.", IMAGES, "Image 2"),
    ("Better image: 1", ONE_TWO, "1"),
    ("Image #2", ONE_TWO, "2"),
    # prose that can mean one thing only
    ("Safe - no weapons are visible.", SAFE, "safe"),
    ("Unsafe. It is not safe.", SAFE, "unsafe"),
    ("The image is unsafe.", SAFE, "unsafe"),
    ("This image is safe because nothing harmful is visible.", SAFE, "safe"),
    ("A knife is visible, so the image is unsafe.", SAFE, "unsafe"),
    ("This image is unsafe and should be flagged.", SAFE, "unsafe"),
    ("It's a tie.", WITH_TIE, "Tie"),
    # verdicts of other kinds
    ("not safe", NESTED, "not safe"),
    ("The image is not safe.", NESTED, "not safe"),
    ("Not sure.", NESTED, "not sure"),
    ("Both bad.", BOTH_BAD, "both bad"),
    ("Final verdict: both good", BOTH_BAD, "both good"),
    ("是", CHINESE, "是"),
    ("否。", CHINESE, "否"),
    ("答案：是", CHINESE, "是"),
    ("是，因为有刀。", CHINESE, "是"),
    ("Si\u0301.", SPANISH, "Sí"),
    ("SÍ, porque hay un perro.", SPANISH, "Sí"),
    ("<thınk>\nYes", YES_NO, "Yes"),
    ("Nein, da ist kein Hund.", ("Ja", "Nein"), "Nein"),
    ("Answer: A+", ("A", "A+"), "A+"),
    ("👍", ("👍", "👎"), "👍"),
    ("<answer>A>>B</answer>", ("A>>B", "A>B", "A=B"), "A>>B"),
]

NOT_READ = [
    ("", YES_NO, "empty text"),
    (" \n\t", YES_NO, "empty text"),
    ("<think>", YES_NO, "no answer after the reasoning"),
    ("<think>Yes", YES_NO, "no answer after the reasoning"),
    ("<think>x <answer>Yes</answer>", YES_NO, "no answer after the reasoning"),
    ("<think><answer>Yes</answer></think>", YES_NO, "no answer after the reasoning"),
    ("<answer>Yes</answer></think>", YES_NO, "no answer after the reasoning"),
    ("<answer></answer>", YES_NO, "no verdict found"),
    ("<answer></answer>Yes", YES_NO, "no verdict found"),
    ("<answer>Maybe</answer> Yes", YES_NO, "no verdict found"),
    ("<answer>Yes</answer><answer>No</answer>", YES_NO, "several verdicts: No, Yes"),
    ("<answer>Yes</answer> Final verdict: No", YES_NO, "several verdicts: No, Yes"),
    ("<answer>Yes</answer>\nNo", YES_NO, "several verdicts: No, Yes"),
    ("<answer>Yes or No</answer>", YES_NO, "several verdicts: No, Yes"),
    ("<answer>Yes/No</answer><answer>No</answer>", YES_NO, "several verdicts: No, Yes"),
    (
        "<answer>Yes</answer><think>y</think><answer>No</answer>",
        YES_NO,
        "several verdicts: No, Yes",
    ),
    ("<answer>Yes<answer>No</answer>", YES_NO, "several verdicts: No, Yes"),
    ("Yes or No", YES_NO, "several verdicts: No, Yes"),
    ("Yes/No", YES_NO, "several verdicts: No, Yes"),
    ("Yes | No", YES_NO, "several verdicts: No, Yes"),
    ("Yes\nNo", YES_NO, "several verdicts: No, Yes"),
    ("Yes, no", YES_NO, "several verdicts: No, Yes"),
    ("Yes, wait, no.", YES_NO, "several verdicts: No, Yes"),
    ("Yes (or No)", YES_NO, "several verdicts: No, Yes"),
    ("Yes and no.", YES_NO, "several verdicts: No, Yes"),
    ("Yes, but actually no.", YES_NO, "several verdicts: No, Yes"),
    ("Yes. A knife is there.\n\n[[No]]", YES_NO, "several verdicts: No, Yes"),
    ("[[A]] [[B]]", LETTERS, "several verdicts: A, B"),
    ("Answer: A or B", LETTERS, "several verdicts: A, B"),
    ("Answer: A, B", LETTERS, "several verdicts: A, B"),
    ('{"verdict": "Yes", "verdict": "No"}', YES_NO, "several verdicts: No, Yes"),
    ('{"verdict": "Yes"} {"verdict": "No"}', YES_NO, "several verdicts: No, Yes"),
    ("<answer>Yes (alternatively: No)</answer>", YES_NO, "several verdicts: No, Yes"),
    ("<answer>Yes because the answer is No</answer>", YES_NO, "several verdicts: No, Yes"),
    ("Verdict: Yes/No\nNo", YES_NO, "several verdicts: No, Yes"),
    ('Write "Verdict: Yes" or "Verdict: No".', YES_NO, "several verdicts: No, Yes"),
    ("The wrong answer is yes.", YES_NO, "no verdict found"),
    ("Answer: Yes.\n\nFinal answer: No.", YES_NO, "several verdicts: No, Yes"),
    ("If it is safe, answer: No. If not, answer: Yes.", YES_NO, "several verdicts: No, Yes"),
    ("If there is a knife, the answer is yes.", YES_NO, "no verdict found"),
    ("I don't think the answer is yes.", YES_NO, "no verdict found"),
    ("The answer is yes?", YES_NO, "no verdict found"),
    ("No way to say yes", YES_NO, "several verdicts: No, Yes"),
    ("I cannot say yes", YES_NO, "no verdict found"),
    ("No weapons are visible.", YES_NO, "no verdict found"),
    ("No-one is there.", YES_NO, "no verdict found"),
    ("There is no knife", YES_NO, "no verdict found"),
    ("Is there a knife? No.", YES_NO, "no verdict found"),
    ("Yes?", YES_NO, "no verdict found"),
    ("yesterday", YES_NO, "no verdict found"),
    ("The volcano says yes", YES_NO, "no verdict found"),
    ("<answer>unsafe, not harmful</answer>", ("safe", "harmful"), "no verdict found"),
    ("हाँ", ("ह", "न"), "no verdict found"),
    ("The bottle's label is a yes-man's joke.", YES_NO, "no verdict found"),
    ("not safe", SAFE, "denied: not safe"),
    ("The image is not safe.", SAFE, "denied: not safe"),
    ("Answer: not safe", SAFE, "denied: not safe"),
    ("Not really safe.", SAFE, "denied: not really safe"),
    ("It is not unsafe", SAFE, "denied: not unsafe"),
    ("This isn't safe", SAFE, "no verdict found"),
    ("isn't a match", ("match", "mismatch"), "denied: isn't a match"),
    ("Is the image safe?", SAFE, "no verdict found"),
    ("If the knife were gone, the image is safe.", SAFE, "no verdict found"),
    ("Although some say the image is safe, it shows a gun.", SAFE, "no verdict found"),
    ("The man keeps the gun safe.", SAFE, "no verdict found"),
    ("safe: false", SAFE, "no verdict found"),
    ("Safe - no", SAFE, "no verdict found"),
    ("The image is safe or unsafe", SAFE, "several verdicts: safe, unsafe"),
    ("un-safe", SAFE, "no verdict found"),
    ("The image is safe. The image is unsafe.", SAFE, "several verdicts: safe, unsafe"),
    ("A dog is in the image", LETTERS, "no verdict found"),
    ("The image shows a", LETTERS, "no verdict found"),
    ("A. a dog\nB. a cat", LETTERS, "several verdicts: A, B"),
    ("A: blurry\nB: sharp", LETTERS, "several verdicts: A, B"),
    ("A - the sharper one - was cut", LETTERS, "no verdict found"),
    ("Answer: A dog is in the image", LETTERS, "no verdict found"),
    ("The options are A, B", LETTERS, "several verdicts: A, B"),
    ("What do I see? A.", LETTERS, "no verdict found"),
    ("there are 2 dogs", ONE_TWO, "no verdict found"),
    ("How many dogs? 2.", ONE_TWO, "no verdict found"),
    ("12", ONE_TWO, "no verdict found"),
    ("1.5", ONE_TWO, "no verdict found"),
    ("-1", ONE_TWO, "no verdict found"),
    ("2024", ONE_TWO, "no verdict found"),
    ("1/2", ONE_TWO, "no verdict found"),
    ("1, 2", ONE_TWO, "several verdicts: 1, 2"),
    ("2%", ONE_TWO, "no verdict found"),
    ("1. The first image is sharp.", ONE_TWO, "no verdict found"),
    ("Answer:\n1. The first image is sharp.\n2. The second is not.", ONE_TWO, None),
    ("Answer: 2 dogs", ONE_TWO, "no verdict found"),
    ("Score: 8/5", RATING, "no verdict found"),
    ("Image 1, which shows a dog, is blurry.", ONE_TWO, "no verdict found"),
    ("Image 2 is worse", ONE_TWO, "no verdict found"),
    ("I don't think image 2 is better", ONE_TWO, "no verdict found"),
    ("Image 1 is better lit than the other.", ONE_TWO, "no verdict found"),
    ("Image 1 is better, but only in light.", ONE_TWO, "no verdict found"),
    ("Image 1 is better. Image 2 is better.", ONE_TWO, "several verdicts: 1, 2"),
    ("Is image 2 better?", ONE_TWO, "no verdict found"),
    ("Neither image is better", ONE_TWO, "a tie, which is not a verdict"),
    ("Image 2 is better", ("1", "2", "3"), None),
    ("First, I look at the dog.", LETTERS, "no verdict found"),
    ("这是一张图片", CHINESE, "no verdict found"),
]


def _name(case: tuple[str, Sequence[str], str | None]) -> str:
    return f"{case[0][:40]!a}-{case[2]}"


@pytest.mark.parametrize("case", READ, ids=_name)
def test_reads_what_judges_write(case: tuple[str, Sequence[str], str]) -> None:
    text, verdicts, expected = case
    verdict = parse_verdict(text, verdicts)
    assert verdict.value == expected
    assert verdict.reason in {form.name for form in FORMS}


@pytest.mark.parametrize("case", NOT_READ, ids=_name)
def test_guesses_nothing(case: tuple[str, Sequence[str], str | None]) -> None:
    text, verdicts, reason = case
    verdict = parse_verdict(text, verdicts)
    assert verdict.value is None
    assert verdict.reason
    assert reason is None or verdict.reason == reason


@pytest.mark.parametrize(
    ("text", "well_formed"),
    [
        ("<think>x</think><answer>Yes</answer>", True),
        ("\n<think>\nx\n</think>\n\n<answer>\nYes\n</answer>\n", True),
        ("<think>a < b, <b>bold</b></think><answer>who knows</answer>", True),
        ("<think> \n</think><answer>Yes</answer>", False),
        ("<think>\u200b</think><answer>Yes</answer>", False),
        ("<think>x</think><answer> </answer>", False),
        ("<Think>x</Think><answer>Yes</answer>", False),
        ("<think >x</think><answer>Yes</answer>", False),
        ("<think>x</think>So <answer>Yes</answer>", False),
        ("So <think>x</think><answer>Yes</answer>", False),
        ("<think>x</think><answer>Yes</answer>.", False),
        ("<think>x</think><answer>Yes", False),
        ("x</think><answer>Yes</answer>", False),
        ("<think>x</think><think>y</think><answer>Yes</answer>", False),
        ("<think>x</think><answer>Yes</answer><answer>Yes</answer>", False),
        ("<answer>Yes</answer><think>x</think>", False),
        ("<think>x<answer>Yes</answer></think>", False),
        ("<answer>Yes</answer>", False),
        ("Yes", False),
    ],
)
def test_well_formed_is_the_exact_structure(text: str, well_formed: bool) -> None:
    assert parse_verdict(text, YES_NO).well_formed is well_formed


OTHER_LANGUAGES = [
    ("Evet", "Hayır"),
    ("İyi", "Kötü"),
    ("Ναι", "Όχι"),
    ("Groß", "Klein"),
    ("Да", "Нет"),
]


@pytest.mark.parametrize("verdicts", OTHER_LANGUAGES, ids=" ".join)
def test_a_verdict_is_read_in_every_casing(verdicts: tuple[str, str]) -> None:
    """Also in the capitals and small letters of Turkish, which Python's strings do not have."""
    for verdict in verdicts:
        turkish = verdict.replace("i", "İ").replace("ı", "I").upper()
        small = verdict.replace("İ", "i").replace("I", "ı").lower()
        for text in (verdict.upper(), verdict.lower(), verdict.swapcase(), turkish, small):
            assert parse_verdict(f"<answer>{text}</answer>", verdicts).value == verdict, text


def test_text_of_another_type_is_empty_text() -> None:
    assert parse_verdict(None, YES_NO) == (None, False, "empty text")  # type: ignore[arg-type]


@pytest.mark.parametrize("verdicts", [(), ("Yes", "yes"), ("Yes", " "), ("A", "Ａ")])
def test_verdicts_that_no_text_can_tell_apart_are_refused(verdicts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^verdicts: "):
        parse_verdict("Yes", verdicts)


def test_a_long_part_is_read_at_its_beginning_and_end() -> None:
    filler = "word " * PART_LIMIT
    assert parse_verdict(f"No, {filler}", YES_NO).value == "No"
    assert parse_verdict(f"{filler}\nFinal verdict: Yes", YES_NO).value == "Yes"
    assert parse_verdict(f"<think>{filler}Yes</think><answer>No</answer>", YES_NO).value == "No"
    assert parse_verdict("x" * (PART_LIMIT // 2) + "un" + "safe" * PART_LIMIT, SAFE).value is None


# Pieces out of which hostile and half-right outputs are built.
PIECES = st.sampled_from(
    [
        *("<think>", "</think>", "<answer>", "</answer>", "[[", "]]", "\\boxed{", "}", "{"),
        *('"verdict"', ":", "answer is ", "Final verdict: ", "not ", "Image 2", " is better"),
        *("Yes", "No", "safe", "unsafe", "A", "B", "1", "2", "是", "**", "\n", " ", ".", ","),
        *("better image: ", "analysis of choice: ", "Rating of ", "/10", "7.0", "0", ">", "="),
        *("[[A>B]]", "1. A: [[A>B]]\n", " making it the better one", "both are equally good"),
        *("<choice>", "</choice>", "correct answer is ", " has the edge", "image on the right"),
        *("assistant a's ", " more closely", "I cannot decide", '{"better": [', "because ", "if "),
        *("[RESULT] ", '{"score": [7]}', "overall, ", "'s image", "model a", "the first image"),
        *("\u0301", "\u200b", "\ud800"),
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join))
REASONING = TEXTS.map(lambda t: f"{t.replace('<', '(').replace('＜', '(')} so")
TASK = st.sampled_from(TASKS)


@exactly
@given(TEXTS, TASK)
@example("\x00", YES_NO)
def test_any_text_gives_a_verdict_of_the_task_or_a_reason(
    text: str, verdicts: Sequence[str]
) -> None:
    verdict = parse_verdict(text, verdicts)
    assert verdict.value is None or verdict.value in verdicts
    assert verdict.reason
    assert verdict == parse_verdict(text, list(verdicts))


@exactly
@given(REASONING, TASK, st.data())
def test_every_gold_answer_in_form_is_read(
    reasoning: str, verdicts: Sequence[str], data: st.DataObject
) -> None:
    gold = data.draw(st.sampled_from(verdicts))
    text = f"<think>{reasoning}</think>\n<answer>{gold}</answer>"
    assert parse_verdict(text, verdicts)[:2] == (gold, True)


@exactly
@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5), st.data())
def test_gold_round_trips_for_arbitrary_verdicts(verdicts: list[str], data: st.DataObject) -> None:
    assume(not any(sign in verdict for verdict in verdicts for sign in "<>＜＞"))
    try:
        parse_verdict("", verdicts)
    except ValueError:
        assume(False)
    gold = data.draw(st.sampled_from(verdicts))
    assert parse_verdict(f"<think>x</think><answer>{gold}</answer>", verdicts).value == gold


@exactly
@given(REASONING, TEXTS, TASK)
def test_reasoning_never_changes_the_verdict(
    reasoning: str, answer: str, verdicts: Sequence[str]
) -> None:
    assume("<" not in answer and "＜" not in answer)
    plain = parse_verdict(f"<answer>{answer}</answer>", verdicts)
    for before in (f"<think>{reasoning}</think>", f"{reasoning}</think>", f"{reasoning}\n"):
        reasoned = parse_verdict(f"{before}<answer>{answer}</answer>", verdicts)
        assert (reasoned.value, reasoned.reason) == (plain.value, plain.reason)


@exactly
@given(TASK, st.data())
def test_two_different_answers_are_no_verdict(verdicts: Sequence[str], data: st.DataObject) -> None:
    one, other = data.draw(st.permutations(verdicts))[:2]
    for text in (
        f"<answer>{one}</answer><answer>{other}</answer>",
        f"<answer>{one}</answer>\nFinal verdict: {other}",
        f"[[{one}]] [[{other}]]",
        f'\\boxed{{{one}}} and {{"verdict": "{other}"}}',
        f"{one}\n{other}",
        f"{one} or {other}",
        *([] if verdicts == RATING else [f"{one}/{other}"]),  # "1/10" is a rating with its scale
        f"{one}\n\nFinal answer: {other}",
    ):
        assert parse_verdict(text, verdicts).value is None, text


@exactly
@given(st.text(st.sampled_from("\u0300\u0327\u0301a"), max_size=600))
def test_equal_up_to_unicode_form(marks: str) -> None:
    composed = parse_verdict(f"Answer: Sí\n{marks}", SPANISH)
    decomposed = parse_verdict(f"Answer: Si\u0301\n{marks}", SPANISH)
    assert composed == decomposed


HOSTILE = [
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<answer",
        "<",
        "[[",
        "]]",
        "[[A]]",
        "{",
        "}",
    ),
    *(
        "\\boxed{",
        '"',
        "'",
        " ",
        "\t",
        "\n",
        "\r",
        "\u0300",
        "\u0300\u0327",
        "a\u0315\u0300",
        "\ufdfa",
    ),
    *("not ", "**", "*", "_", "__a", "`", "#", "-", "- ", "Yes ", "Yes, ", "Yes. ", "Yes\n", "no"),
    *('{"a":', '{"verdict":', '"verdict": "Yes", ', "answer ", "answer: ", "the answer to "),
    *("verdict\n", "if the answer is yes, ", "so ", "so, ", "I prefer ", "image 1 is better, "),
    *(
        "the image is ",
        ", the image is safe",
        "<answer>Yes</answer>",
        "<think>x</think>",
        "(",
        "1.",
    ),
    *("[[A>B]] ", "better image: 1 analysis: ", "making it the better ", "rating of ", "I rate a "),
    *("1. A: [[A>B]]\n", "the first image's best ", "we a think ", "A > ", "both are equal. "),
    *(
        "<choice>1</choice>",
        "<choice>",
        '{"better": [1',
        '"better": [',
        "\\boxed{A} ",
        "response a ",
    ),
    *("image on the ", "more closely ", "image that best ", "the correct answer is A ", "A]]\n"),
    *("- a: [[A]]\n\n", "and is considered ", "image 1 follows the prompt ", "if [[A]] "),
    *("\\text{", "<|", "<b>", "\u200b", "是", "😀", "\\", '\\"', "[", "A B ", "1, 2, ", "x"),
]


def _seconds(text: str) -> float:
    gc.disable()  # a collection costs what the other tests' objects weigh
    try:
        start = time.process_time()
        parse_verdict(text, IMAGES)
        return time.process_time() - start
    finally:
        gc.enable()


def _growth(before: str, piece: str) -> float:
    """How many times dearer a megabyte is than a tenth of it, of which 5 ms are forgiven."""
    small, large = (before + piece * (size // len(piece)) for size in (100_000, 1_000_000))
    return _seconds(large) / max(_seconds(small), 0.005)


@pytest.mark.parametrize("before", ["", "<think>x</think><answer>"], ids=["whole", "answer"])
@pytest.mark.parametrize("piece", HOSTILE, ids=ascii)
def test_cost_is_linear_on_hostile_text(piece: str, before: str) -> None:
    # Ten times the text costs 10 times as much if linear, 100 times if quadratic; best of five,
    # because a pause of the machine can only make the large text look dearer.
    assert any(_growth(before, piece) < 40 for _ in range(5))


@exactly
@given(st.lists(PIECES, min_size=1, max_size=6).map("".join))
def test_a_repeated_text_of_any_shape_is_parsed(piece: str) -> None:
    verdict = parse_verdict(piece * 2_000, YES_NO)
    assert verdict.value in (None, *YES_NO)


@pytest.mark.parametrize(
    ("ending", "confidence", "well_formed"),
    [
        ("", None, True),
        ("<confidence>0.8</confidence>", 0.8, True),
        ("\n<Confidence> 80 % </confidence>\n", 0.8, True),
        ("<confidence>1</confidence>", 1.0, True),
        ("<confidence>.5</confidence>", 0.5, True),
        ("<confidence>8</confidence>", None, False),
        ("<confidence>high</confidence>", None, False),
        ("<confidence>-0.5</confidence>", None, False),
        ("<confidence>٠</confidence>", None, False),
        ("<confidence>0.8</confidence> I am sure.", None, False),
        ("<confidence>0.8</confidence><confidence>0.9</confidence>", None, False),
    ],
)
def test_a_confidence_may_follow_the_verdict(
    ending: str, confidence: float | None, well_formed: bool
) -> None:
    text = f"<think>A knife.</think><answer>Yes</answer>{ending}"
    assert read_confidence(text) == confidence
    verdict = parse_verdict(text, ("Yes", "No"))
    assert (verdict.value, verdict.well_formed) == ("Yes", well_formed)


def test_a_confidence_is_no_rating() -> None:
    text = "<think>Nice.</think><answer>3</answer><confidence>1</confidence>"
    assert parse_verdict(text, ("1", "2", "3", "4", "5")).value == "3"
    assert parse_verdict("<confidence>1</confidence>", ("1", "2", "3")).value is None
