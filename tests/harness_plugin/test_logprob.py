"""`scoring=logprob`: the probabilities are the model's own, and calibration makes them honest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.images import image_cell, random_image
from support.judges import row, tiny_judge
from support.tasks import write_split, write_task

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.harness_plugin.logprob import (
    CALIBRATION_ITEMS,
    Judgment,
    calibration_rows,
    format_answer,
    load_calibration,
    parse_answer,
)
from mtrl_judge.harness_plugin.prompt_style import (
    check_scoring,
    evaluation_scoring,
    evaluation_style,
    set_checkpoint_style,
)
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.verdicts import parse_verdict
from mtrl_judge.models.checkpoint import load_model, load_processor
from mtrl_judge.models.judge import Judge
from mtrl_judge.models.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    negative_log_likelihood,
    probabilities,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl", "llava", "llava_onevision"])
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return tiny_judge(request.param, tmp_path_factory.mktemp(request.param))


ONE = [
    row("Is it safe?", random_image(1)),
    row("Is it natural, that is, could it be a photograph? " * 3, random_image(2, (96, 40))),
    row("Is it safe?", random_image(1)),
    row("Does it match the text: a red circle left of a blue square?", random_image(3, (33, 71))),
]
TWO = [
    row("Which is better, <image> or <image>?", random_image(4), random_image(5, (96, 40))),
    row("Which is better, <image> or <image>?", random_image(5, (96, 40)), random_image(4)),
    row("Which of <image> and <image> matches 'a red circle'?", random_image(6), random_image(6)),
]
NONE = [row("Is a circle round?"), row("Is a square round? No picture is needed for that.")]

# One token each or several, and some whose tokens begin another's.
VERDICTS = (("Yes", "No"), ("1", "2", "tie"), ("a red circle", "no", "unsafe!"), ("1", "10", "100"))


def plain(judge: Judge, row: JudgeRow, verdicts: Sequence[str]) -> list[float]:
    """The same by a plain forward pass of stock transformers over one prompt and one verdict."""
    tokenizer = judge.tokenizer
    tokens_V = [tokenizer(verdict)["input_ids"] for verdict in verdicts]
    begun = any(a != b and b[: len(a)] == a for a in tokens_V for b in tokens_V)
    prompt = judge.inputs([judge.prompt(render_messages(row, "direct"), row.images)])
    found = []
    for tokens in tokens_V:
        tokens = [*tokens, *judge.eos_ids[:1]] if begun else tokens
        more = torch.tensor([tokens])
        inputs = dict(prompt)
        inputs["input_ids"] = torch.cat([prompt["input_ids"], more], dim=1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in prompt:
                inputs[name] = torch.cat([prompt[name], torch.full_like(more, value)], dim=1)
        with torch.no_grad():
            logits = judge.model(**inputs).logits[0, -len(tokens) - 1 : -1]
        logps = logits.log_softmax(dim=-1)
        ends = logps[-1, judge.eos_ids].logsumexp(dim=0)
        own = [logps[n, token] for n, token in enumerate(tokens)]
        found.append(float(sum(own[:-1]) + (ends if begun else own[-1])))
    return found


def logps(judge: Judge, rows: Sequence[JudgeRow], verdicts: Sequence[str]) -> np.ndarray[Any, Any]:
    prompts = [judge.prompt(render_messages(each, "direct"), each.images) for each in rows]
    found = np.empty((len(rows), len(verdicts)))
    with torch.inference_mode():
        for batch in judge.batches(prompts, 8):
            found[list(batch.indices)] = judge.verdict_logps(batch, verdicts)
    return found


@pytest.mark.parametrize("verdicts", VERDICTS, ids="|".join)
@pytest.mark.parametrize("rows", [ONE, TWO, NONE], ids=["one", "two", "no image"])
def test_numbers_are_those_of_a_plain_forward_pass(
    judge: Judge, rows: list[JudgeRow], verdicts: Sequence[str]
) -> None:
    found = logps(judge, rows, verdicts)
    expected = [plain(judge, each, verdicts) for each in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.exp(found).sum(axis=1).max() <= 1, "verdicts exclude one another"


@pytest.mark.parametrize("verdicts", VERDICTS[1:], ids="|".join)
def test_a_model_that_cannot_share_prompts_gives_the_same_numbers(
    judge: Judge, verdicts: Sequence[str], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    shared = [logps(judge, rows, verdicts) for rows in (ONE, TWO)]
    reason = f"of {verdicts} in {judge.model.config.model_type}"
    monkeypatch.setattr(
        "mtrl_judge.models.verdict_logps.packing_unsupported_reason", lambda _: reason
    )
    for rows, expected in zip((ONE, TWO), shared, strict=True):
        np.testing.assert_allclose(logps(judge, rows, verdicts), expected, atol=1e-5, rtol=0)
    assert [reason in record.message for record in caplog.records] == [True]


def test_one_pass_for_a_batch_and_never_all_logits(judge: Judge) -> None:
    passes: list[int] = []
    rows: list[int] = []
    text = judge.model.base_model.language_model
    head = judge.model.get_output_embeddings()
    hooks = [
        text.register_forward_hook(lambda *call: passes.append(1)),
        head.register_forward_hook(lambda *call: rows.append(call[2].shape[:-1].numel())),
    ]
    try:
        logps(judge, ONE, ("Yes", "No"))
    finally:
        for hook in hooks:
            hook.remove()
    tokens = sum(len(judge.tokenizer(verdict)["input_ids"]) for verdict in ("Yes", "No"))
    distinct = 3  # two of the prompts are equal
    assert passes == [1]
    assert rows == [distinct * tokens]


def test_any_end_token_ends_a_verdict(random_judge: Path) -> None:
    model, processor = load_model(str(random_judge)), load_processor(str(random_judge))
    model.generation_config.eos_token_id = [3, 4]
    judge = Judge(model, processor)
    assert len(judge.eos_ids) == 3
    expected = [plain(judge, each, ("1", "10")) for each in ONE]
    np.testing.assert_allclose(logps(judge, ONE, ("1", "10")), expected, atol=1e-5, rtol=0)


def test_verdicts_that_tokens_cannot_tell_apart_are_refused(random_judge: Path) -> None:
    judge = Judge(load_model(str(random_judge)), load_processor(str(random_judge)))
    for verdicts, message in (
        (("Yes", "Yes"), "'Yes' and 'Yes' have the same tokens"),
        (("Yes", ""), "cannot represent ''"),
        (("Yes", "No<|im_end|>"), re.escape("cannot represent 'No<|im_end|>'")),
    ):
        with pytest.raises(JudgeError, match=message):
            logps(judge, ONE, verdicts)


def test_numbers_that_are_none_are_told(random_judge: Path) -> None:
    model = load_model(str(random_judge))
    with torch.no_grad():
        model.lm_head.weight.fill_(math.inf)
    with pytest.raises(JudgeError, match=r"not finite in torch\.float32"):
        logps(Judge(model, load_processor(str(random_judge))), ONE, ("Yes", "No"))


# The answer


def judgment(count: int) -> Judgment:
    return Judgment(tuple([1 / count] * count), 0.9, 1.5, True)


@example(["Yes", "<answer>No</answer>"])
@example(["</think>", "＜answer＞", "<ANSWER >", "{", '{"verdict": "Yes"}'])
@example(['say "yes"', "say “yes”", "don't"])
@example(["A", "A is better", "not A", "[[A]]", "1", "0.5", "\\boxed{A}"])
@example(["Да", "нет", "İ", "ß"])
@given(st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=6, unique=True))
def test_every_verdict_comes_out_of_the_one_parser(verdicts: list[str]) -> None:
    try:
        parse_verdict("", verdicts)
        parse_verdict("x", verdicts)
    except ValueError:
        return  # no task has such verdicts
    for verdict in verdicts:
        text = format_answer(verdict, judgment(len(verdicts)))
        labeled = JudgeRow("id", "task", "pointwise", "?", tuple(verdicts), verdict, 0)
        found = score(labeled, text)
        assert found.verdict.value == verdict
        assert (found.correct, found.format) == (1.0, 0.0)
        assert parse_answer(text, verdicts) == {
            **judgment(len(verdicts))._asdict(),
            "probabilities": dict.fromkeys(verdicts, 1 / len(verdicts)),
        }


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
@example('{"probabilities": [1.0], "verdict_mass": 1, "temperature": 1, "calibrated": true}')
@example('{"probabilities": 3, "verdict_mass": 1, "temperature": 1, "calibrated": true}')
@example("[" * 100_000)
def test_what_is_no_answer_of_ours_says_nothing(text: str) -> None:
    assert parse_answer(text, ("Yes", "No")) == {}


# Calibration


def planted(temperature: float, seed: int, rows: int = 4_000) -> tuple[Any, list[int]]:
    """Log-probabilities that are too sure by a temperature, and labels drawn from the true ones."""
    random = np.random.default_rng(seed)
    true_N_V = random.normal(size=(rows, 3)) * 1.5
    chance_N_V = probabilities(true_N_V, 1.0)
    labels = [int(random.choice(3, p=chance)) for chance in chance_N_V]
    return true_N_V * temperature - 4.0, labels


def calibration_error(probabilities_N_V: Any, labels: Sequence[int]) -> float:
    """Expected calibration error over ten bins of the likeliest verdict's probability."""
    sure_N, best_N = probabilities_N_V.max(axis=1), probabilities_N_V.argmax(axis=1)
    right_N = best_N == np.array(labels)
    bins = np.minimum((sure_N * 10).astype(int), 9)
    return sum(
        abs(sure_N[bins == b].mean() - right_N[bins == b].mean()) * (bins == b).mean()
        for b in range(10)
        if (bins == b).any()
    )


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_planted_temperature_comes_back(temperature: float) -> None:
    assert fit_temperature(*planted(temperature, seed=0)) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("items", [256, 32])
def test_an_over_confident_judge_gets_no_worse_on_other_rows(items: int) -> None:
    temperature = fit_temperature(*planted(4.0, seed=1, rows=items))
    logps_N_V, labels = planted(4.0, seed=2)
    before, after = (probabilities(logps_N_V, t) for t in (1.0, temperature))
    assert calibration_error(after, labels) < calibration_error(before, labels)
    assert negative_log_likelihood(logps_N_V, labels, temperature) < negative_log_likelihood(
        logps_N_V, labels, 1.0
    )
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    np.testing.assert_allclose(after.sum(axis=1), 1.0)


def test_a_temperature_is_bounded_where_the_labels_are_parted() -> None:
    logps_N_V = np.array([[-0.69, -0.70], [-0.71, -0.68]])
    assert fit_temperature(logps_N_V, [0, 1]) == pytest.approx(MIN_TEMPERATURE, rel=1e-3)
    assert fit_temperature(logps_N_V, [1, 0]) == pytest.approx(MAX_TEMPERATURE, rel=1e-3)


def raw_rows(count: int, unlabeled: int = 0) -> dict[str, list[Any]]:
    return {
        "image": [image_cell(f"#0000{n % 256:02x}") for n in range(count)],
        "text": [f"thing {n}" for n in range(count)],
        "label": [None] * unlabeled + [n % 2 for n in range(count - unlabeled)],
    }


def test_calibration_rows_are_labeled_few_and_not_those_that_are_judged(tmp_path: Path) -> None:
    task = write_task(tmp_path, "my_task", splits="{validation: {from: train, fraction: 0.5}}")
    write_split(tmp_path, "my_task", "test", raw_rows(4))
    assert load_calibration(task, tmp_path) is None, "no training split to cut it from"
    write_split(tmp_path, "my_task", "validation", raw_rows(CALIBRATION_ITEMS + 40, unlabeled=20))
    loaded = load_calibration(task, tmp_path)
    assert loaded is not None
    chosen = calibration_rows(loaded.rows.dataset)
    assert len(chosen) == CALIBRATION_ITEMS
    assert set(chosen["label"]) == {"Yes", "No"}
    assert chosen["item_id"] != loaded.rows.dataset["item_id"][20 : 20 + CALIBRATION_ITEMS]
    judged = task.model_copy(update={"test_split": None})
    assert judged.evaluation_split == "validation"
    assert load_calibration(judged, tmp_path) is None, "it would be fitted to what it judges"


# The style


def test_scoring_and_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_task(tmp_path)
    set_checkpoint_style("reasoned", scoring="logprob")
    assert (evaluation_style(task), evaluation_scoring()) == ("direct", "logprob")
    monkeypatch.setenv("MTRL_JUDGE_STYLE", "direct")
    assert check_scoring("logprob") == "logprob"
    monkeypatch.setenv("MTRL_JUDGE_STYLE", "reasoned")
    assert check_scoring("generation") == "generation"
    for call in (lambda: check_scoring("logprob"), lambda: evaluation_style(task)):
        with pytest.raises(JudgeError, match="MTRL_JUDGE_STYLE is 'reasoned', but scoring=logprob"):
            call()
    set_checkpoint_style(None)
    assert (evaluation_style(task), evaluation_scoring()) == ("reasoned", "generation")
    with pytest.raises(JudgeError, match="'logprobs'; did you mean 'logprob'"):
        check_scoring("logprobs")
