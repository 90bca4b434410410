"""Rewards for facts and against repetition; what happens when the text judge does not answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.servers import ChatServer, serving
from support.shared import random_judge
from support.training import GRPO, TASKS, log_of, values, write_world

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.facts import Fact, to_cells
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.models import chat_client
from mtrl_judge.rl import perception as module
from mtrl_judge.rl import train
from mtrl_judge.rl.arguments import JudgeArguments
from mtrl_judge.rl.checkpoints import is_whole
from mtrl_judge.rl.perception import OUTAGE, perception, repetition
from mtrl_judge.rl.settings import as_flags, build_settings

pytestmark = pytest.mark.usefixtures("one_thread")

FACTS = [
    to_cells([Fact("house", ("car",)), Fact("two pigs"), Fact("moon", in_question=True)]),
    to_cells([Fact("moon", in_question=True)]),
    [],
]
SAID = ["a house and the moon", "a car and two pigs", "a house with two pigs"]


def reward(judge: JudgeArguments, items: list[int], said: list[str]) -> list[float | None]:
    """Of what is said of each item, and what was logged."""
    return perception(judge)(
        completions=[f"<think>{text}</think><answer>Yes</answer>" for text in said],
        facts=[FACTS[item] for item in items],
        task=["t"] * len(items),
        item_id=[str(item) for item in items],
        swapped=[False] * len(items),
        log_metric=lambda name, value: LOGGED.append((name, value)),
    )


LOGGED: list[tuple[str, float]] = []


def test_facts_that_the_reasoning_states_are_rewarded() -> None:
    judge = JudgeArguments(perception_weight=0.7)
    assert reward(judge, [0, 0, 0], SAID) == [0.5, 0.5, 1.0]
    assert reward(judge, [1, 2], SAID[:2]) == [None, None]


def test_verdicts_are_not_searched_for_facts() -> None:
    function = perception(JudgeArguments(perception_weight=0.7))
    found = function(
        completions=["<think>Hm.</think><answer>house</answer>"],
        facts=FACTS[:1],
        task=["t"],
        item_id=["0"],
        swapped=[False],
        log_metric=lambda *_: None,
    )
    assert found == [0.0]


def test_repetition_costs_up_to_one() -> None:
    costs = repetition(20)(completion_ids=[list(range(100)), [7] * 1000, [1, 2] * 15, [3] * 19])
    assert costs == pytest.approx([0, -1, 2 / 11 - 1, 0], abs=2e-3)


# The text judge


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted-secret")
    monkeypatch.setattr(chat_client, "MAX_RETRIES", 0)


def by_text_judge(address: str) -> JudgeArguments:
    return JudgeArguments(
        perception_weight=0.7,
        perception_checker="openai",
        perception_model="m",
        perception_base_url=f"{address}/v1",
    )


@pytest.mark.usefixtures("one_try")
def test_a_text_judge_says_which_facts_are_stated() -> None:
    answers = {"Reply with []": "[]", SAID[0]: "Stated: [1]", SAID[1]: "[2]", SAID[2]: "[1, 2]"}
    server = ChatServer(answers)
    with serving(server.handler()) as address:
        judge = by_text_judge(address)
        assert reward(judge, [0, 0, 0, 0], [*SAID, SAID[0]]) == [0.5, 0.5, 1.0, 0.5]
        assert server.asked.count(SAID[0]) == 1  # equal completions are asked about once
        assert reward(judge, [0, 1], ["", SAID[0]]) == [0.0, None]


@pytest.mark.usefixtures("one_try")
def test_a_text_judge_may_refuse_settings() -> None:
    """As OpenAI's reasoning models do."""
    server = ChatServer({"Reply with []": "[]", SAID[0]: "[1]"})
    refusal = "Unsupported parameter: '{}' is not supported with this model."
    server.refused = {name: refusal.format(name) for name in ("max_tokens", "temperature")}
    with serving(server.handler()) as address:
        assert reward(by_text_judge(address), [0], SAID[:1]) == [0.5]


@pytest.mark.usefixtures("one_try")
def test_an_answer_that_cannot_be_read_is_no_reward_for_its_whole_group() -> None:
    """For one completion alone, None would be worth as much as 0."""
    answers = {"Reply with []": "[]", SAID[0]: "[3]", SAID[1]: "[2]", SAID[2]: "[1, 2]"}
    server = ChatServer(answers)
    with serving(server.handler()) as address:
        LOGGED.clear()
        assert reward(by_text_judge(address), [0, 0], SAID[:2]) == [None, None]
    assert server.asked.count(SAID[0]) == 3
    assert LOGGED == [("perception_unread", 0.5)]


@pytest.mark.usefixtures("one_try")
def test_an_outage_is_never_a_reward_of_0() -> None:
    server = ChatServer({"Reply with []": "[]", "a house": 503, "a car": "[2]"})
    with serving(server.handler()) as address:
        judge = by_text_judge(address)
        assert reward(judge, [0, 0], SAID[:2]) == [OUTAGE, OUTAGE]
    with pytest.raises(JudgeError, match=r"perception_checker: .*does not answer") as raised:
        reward(judge, [0], SAID[:1])
    assert "planted-secret" not in str(raised.value)


def world_with_facts(folder: Path) -> Path:
    write_world(folder)
    for name in TASKS:
        task = load_judge_task(folder / f"{name}.yaml")
        rows = load_rows(task, "train", folder / "data").rows.dataset.with_format(None)
        lines = [json.dumps({"id": item, "facts": ["square"]}) for item in rows["item_id"][:]]
        (folder / "data" / name / "facts.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.usefixtures("one_try")
def test_an_outage_stops_the_run_with_a_checkpoint_to_resume_from(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A random judge writes no tags.
    monkeypatch.setattr(module, "read_reasoning", str)
    server = ChatServer({"Reply with []": "[]", "Facts:": "[1]"})
    stock, calls = module.TextJudge.shares, list[int]()

    def shares(self: module.TextJudge, pairs: Any) -> Any:
        calls.append(len(pairs))
        server.answers["Facts:"] = 503 if len(calls) == 3 else "[1]"
        return stock(self, pairs)

    monkeypatch.setattr(module.TextJudge, "shares", shares)
    fields = {**GRPO, "style": "reasoned", "max_steps": 4, "save_steps": 100}
    with serving(server.handler()) as address:
        judge = by_text_judge(address)
        for name in ("weight", "checker", "model", "base_url"):
            fields[f"perception_{name}"] = getattr(judge, f"perception_{name}")
        out = tmp_path / "run"
        given = values(world_with_facts(tmp_path / "world"), out, random_judge(base), **fields)
        words = ["grpo", *as_flags(given)]
        with pytest.raises(SystemExit) as ended:
            train.main(words)
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert "does not answer" in message
        assert f"the newest checkpoint is {out}/checkpoint-2; continue with --resume" in message
        assert is_whole(out / "checkpoint-2")
        train.main([*words, "--resume"])
    steps = [line["step"] for line in log_of(out) if "loss" in line]
    assert steps == [1, 2, 3, 4]
    assert all(line["rewards/perception/mean"] == 1 for line in log_of(out) if "loss" in line)


# Settings


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"perception_weight": 0.7, "style": "direct"}, "no reasoning in the direct style"),
        ({"perception_checker": "openai"}, "perception_model: missing"),
        ({"perception_model": "m"}, "perception_model: has no effect"),
    ],
)
def test_contradictions_are_refused(
    base: Path, tmp_path: Path, fields: dict[str, Any], part: str
) -> None:
    world = write_world(tmp_path / "world")
    with pytest.raises(JudgeError, match=part):
        build_settings("grpo", values(world, tmp_path / "run", random_judge(base), **fields))


def test_a_reward_for_facts_needs_facts(base: Path, tmp_path: Path) -> None:
    world = write_world(tmp_path / "world")
    fields = {**GRPO, "style": "reasoned", "perception_weight": 0.7}
    given = values(world, tmp_path / "run", random_judge(base), **fields)
    with pytest.raises(JudgeError, match=r"no training item of red, warm has a fact"):
        train.train(build_settings("grpo", given))
