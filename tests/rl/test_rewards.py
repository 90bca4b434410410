"""Training and evaluation share one scorer; reward hacks earn nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import instruction, render_text
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.rl import rewards
from mtrl_judge.rl.dataset import build_dataset

GOOD = "<think>I see a knife.</think><answer>Yes</answer>"
TEXTS = [GOOD, "Final verdict: no", "hm", "<answer>Yes</answer><answer>No</answer>", ""]


def test_the_reward_is_the_evaluation_on_the_same_completions(data_root: Path) -> None:
    for name in ("mtrl_judge_seetrue", "mtrl_judge_unsafebench", "mtrl_judge_mjbench_safety"):
        task = find_task(name)
        docs = load_rows(task, "test", data_root).rows.dataset.with_format(None)
        hooks = JudgeHooks(task)
        for text in TEXTS:
            judged = [hooks.process_results(doc, [text]) for doc in docs]
            turns = [[{"role": "assistant", "content": text}]] * len(docs)
            columns = {name: docs[name] for name in ("kind", "label", "verdicts")}
            assert rewards.accuracy(turns, **columns) == [row["correct"] for row in judged]
            assert rewards.format(turns, **columns) == [row["well_formed"] for row in judged]


@pytest.mark.parametrize(
    "hack",
    [
        "<think>x</think><answer>Yes</answer><answer>No</answer>",
        "<think>x</think><answer>Yes or No</answer>",
        "<think>The answer is Yes. <answer>Yes</answer></think>",
        "<think> </think><answer>Yes</answer>",
        "<think></think><answer>Yes</answer>",
        "<think>" * 1000 + "x" + "</think>" * 1000 + "<answer>Yes</answer>",
        "<answer>Yes</answer>" + "<think>x</think>" * 500 + "<answer>No</answer>",
        instruction("pointwise", ("Yes", "No"), "reasoned"),
        "<think>x</think><answer>Yes</answer> The verdict is No.",
    ],
)
def test_a_hack_never_earns_the_full_reward(hack: str) -> None:
    for label in ("Yes", "No"):
        columns: Any = {"kind": ["pointwise"], "label": [label], "verdicts": [("Yes", "No")]}
        assert (rewards.accuracy([hack], **columns) + rewards.format([hack], **columns)) != [1, 1]


def test_a_copied_prompt_earns_nothing(data_root: Path) -> None:
    for name in ("mtrl_judge_seetrue", "mtrl_judge_mjbench_alignment"):
        task = find_task(name)
        doc = load_rows(task, "test", data_root).rows.dataset.with_format(None)[0]
        text = render_text(JudgeRow.from_doc(doc), "reasoned")
        for verdict in task.judge.verdicts:
            columns: Any = {"kind": [task.judge.kind], "label": [verdict]}
            columns["verdicts"] = [task.judge.verdicts]
            assert rewards.accuracy([text], **columns) == [0.0]
            assert rewards.format([text], **columns) == [0.0]


def test_an_honest_confidence_earns_the_most() -> None:
    """Of a judge that is right seven times in ten, RLCR's reward is largest at 0.7."""
    columns = {"kind": ["pointwise"] * 10, "verdicts": [("Yes", "No")] * 10}
    columns["label"] = ["Yes"] * 7 + ["No"] * 3

    def earned(said: str) -> float:
        return sum(map(float, rewards.confidence([f"{GOOD}{said}"] * 10, **columns))) / 10

    by_confidence = {q: earned(f"<confidence>{q}</confidence>") for q in (0, 0.5, 0.7, 0.9, 1)}
    assert max(by_confidence, key=lambda q: by_confidence[q]) == 0.7
    assert by_confidence[0.7] == pytest.approx(-0.21)
    assert earned("") == earned("<confidence>high</confidence>") == -1
    assert earned("<confidence>0.7</confidence><confidence>0.7</confidence>") == -1


# Both orders of two pairs, two completions each; the correct verdict is "1", and "2" if swapped.
PAIRS: dict[str, list[Any]] = {
    "pair_id": ["a"] * 4 + ["b"] * 4,
    "swapped": [False, False, True, True] * 2,
    "label": ["1", "1", "2", "2"] * 2,
    "kind": ["pairwise"] * 8,
    "verdicts": [("1", "2")] * 8,
}
ANSWERS = ["1", "2", "2", "2", "1", "1", "1", "2"]


def test_consistency_rewards_correct_verdicts_in_both_orders() -> None:
    assert rewards.consistency(ANSWERS, **PAIRS) == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    alone = {**PAIRS, "pair_id": [None] * 4 + ["b"] * 4}
    assert rewards.consistency(ANSWERS, **alone) == [None] * 4 + [0.0, 1.0, 0.0, 1.0]


@given(order=st.permutations(range(8)), chosen=st.lists(st.sampled_from(("1", "2", "?"))))
def test_consistency_does_not_depend_on_the_position_of_the_orders(
    order: list[int], chosen: list[str]
) -> None:
    """Completions of one order keep their own order among themselves; the rest may move."""
    answers = (chosen + ANSWERS)[:8]
    groups = [(PAIRS["pair_id"][i], PAIRS["swapped"][i]) for i in order]
    moved = [
        [i for i in range(8) if (PAIRS["pair_id"][i], PAIRS["swapped"][i]) == group][
            groups[:index].count(group)
        ]
        for index, group in enumerate(groups)
    ]
    columns = {name: [values[i] for i in moved] for name, values in PAIRS.items()}
    straight = rewards.consistency(answers, **PAIRS)
    assert rewards.consistency([answers[i] for i in moved], **columns) == [
        straight[i] for i in moved
    ]


def test_a_pair_without_its_other_order_is_an_error() -> None:
    columns = {name: values[:3] for name, values in PAIRS.items()}
    with pytest.raises(ValueError, match="pair a: 2 completions of one order and 1 of the other"):
        rewards.consistency(ANSWERS[:3], **columns)


def test_a_users_own_reward_is_found_by_its_path() -> None:
    found = rewards.user_reward("mtrl_judge.rl.rewards:accuracy")
    assert found.__name__ == "accuracy"
    columns = {name: PAIRS[name] for name in ("kind", "label", "verdicts")}
    assert found(completions=ANSWERS, **columns) == rewards.accuracy(ANSWERS, **columns)
    for path, part in (
        ("accuracy", "expected package.module:function"),
        ("no_such_module:f", "is it on the Python path"),
        ("mtrl_judge.rl.rewards:accurcy", "did you mean 'accuracy'"),
    ):
        with pytest.raises(JudgeError, match=part):
            rewards.user_reward(path)


def test_stock_grpo_trains_on_it(data_root: Path, random_judge: Path, tmp_path: Path) -> None:
    """TRL as it is installed: two steps over two tasks, rewards logged by name, weights moved."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    def distinct_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [len(set(ids)) / 8 for ids in completion_ids]  # a random judge earns nothing else

    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(random_judge),
        processing_class=AutoProcessor.from_pretrained(random_judge),
        reward_funcs=[rewards.accuracy, rewards.format, distinct_tokens],
        train_dataset=build_dataset(
            [find_task("mtrl_judge_agin_nat"), find_task("mtrl_judge_agin_tech")], root=data_root
        ),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=8,
            max_steps=2,
            learning_rate=1e-3,
            reward_weights=[0.9, 0.1, 1.0],
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
        ),
    )
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {"rewards/accuracy/mean", "rewards/format/mean", "rewards/distinct_tokens/mean"} <= {
        *logged
    }
    after = trainer.model.named_parameters()
    assert any(not value.equal(before[name]) for name, value in after)
