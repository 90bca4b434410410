"""Runs that train adapters selected by the prompt: what is saved, resumed, used and refused."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_models import tiny_qwen3_5, tiny_qwen3_vl_moe
from support.training import GRPO, random_judge, run, small_world, values
from transformers import AutoModelForImageTextToText

from benchmarks.interference import measure
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.models import engines
from mtrl_judge.models.checkpoint import BASE, MIXLORA, load_model
from mtrl_judge.models.transformers_judge import TransformersJudge
from mtrl_judge.rl import memory
from mtrl_judge.rl.arrow import compose
from mtrl_judge.rl.settings import build_settings

pytestmark = pytest.mark.usefixtures("one_thread")

FIELDS: dict[str, Any] = {
    **GRPO,
    "use_peft": True,
    "adapter": "mixlora",
    "mixlora_factors": 6,
    "lora_r": 2,
    "lora_dropout": 0.0,
    "lora_target_modules": ["all-linear"],
    "learning_rate": 3e-2,
    "max_steps": 4,
    "eval_steps": 2,
    "save_steps": 2,
    "user_rewards": (
        "{'support.training:drawn_by_tokens': 1.0, 'support.training:interrupted': 0.1}"
    ),
}


def given(base: Path, out: Path, **fields: Any) -> dict[str, Any]:
    return values(small_world(base), out, random_judge(base), "red", **{**FIELDS, **fields})


def rows_of(base: Path) -> list[JudgeRow]:
    world = small_world(base)
    loaded = load_rows(load_judge_task(world / "red.yaml"), "test", world / "data")
    return [JudgeRow.from_doc(doc) for doc in loaded.rows.dataset]


@pytest.fixture(scope="module")
def judge(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("grpo", given(base, tmp_path_factory.mktemp("run")))


def test_a_judge_is_its_base_and_its_adapter(base: Path, judge: Path) -> None:
    before = load_file(random_judge(base) / "model.safetensors")
    after = load_file(judge / BASE / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    saved = load_file(judge / MIXLORA / "adapter_model.safetensors")
    of_layers = {name.rsplit(".", 3)[0] for name in saved}
    parts = {name.removesuffix(".weight").rpartition(".")[2] for name in saved}
    assert of_layers
    assert parts == {"lora_A", "lora_B", "lora_router"}
    assert any(bool(weight.any()) for name, weight in saved.items() if "lora_B" in name)
    settings = build_settings("grpo", given(base, judge.parent))
    architecture = memory.architecture(str(random_judge(base)))
    assert architecture is not None
    counts = memory.count_parameters(settings, architecture[0])
    assert counts.trained == sum(weight.numel() for weight in saved.values())


def test_evaluation_loads_it_and_other_programs_do_not(base: Path, judge: Path) -> None:
    arguments = engines.engine_arguments(str(judge), dtype="float32", batch_size=4)
    opened = engines.open_judge(arguments, torch.device("cpu"))
    assert isinstance(opened.judge, TransformersJudge)
    assert opened.revision != engines.model_revision(str(judge / BASE))
    assert opened.style == "direct"
    rows = rows_of(base)[:4]
    ours = opened.judge.verdict_probabilities(rows, [""] * 4, "direct", batch_size=4)
    plain = TransformersJudge(load_model(str(judge / BASE)), opened.judge.processor)
    theirs = plain.verdict_probabilities(rows, [""] * 4, "direct", batch_size=4)
    assert max(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)) > 1e-3
    with pytest.raises(OSError, match="no file named"):
        AutoModelForImageTextToText.from_pretrained(judge)


def test_a_stopped_run_resumes_exactly(
    base: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNAL", f"{int(signal.SIGTERM)}@1")
    with pytest.raises(SystemExit):
        run("grpo", given(base, tmp_path))
    monkeypatch.delenv("SIGNAL")
    resumed = run("grpo", given(base, tmp_path, resume=True))
    file = Path(MIXLORA) / "adapter_model.safetensors"
    expected, found = load_file(judge / file), load_file(resumed / file)
    assert expected.keys() == found.keys()
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


def test_sft_trains_it_too_and_a_frozen_router_is_a_control(base: Path, tmp_path: Path) -> None:
    fields = {n: v for n, v in FIELDS.items() if n not in (*GRPO, "user_rewards")}
    judges = {}
    for router in ("trained", "frozen"):
        own = {**fields, "mixlora_router": router, "max_steps": 2, "learning_rate": 3e-2}
        out = tmp_path / router
        world = small_world(base)
        judges[router] = run("sft", values(world, out, random_judge(base), "red", **own))
    weights = {
        name: load_file(folder / MIXLORA / "adapter_model.safetensors")
        for name, folder in judges.items()
    }
    routers = [name for name in weights["frozen"] if "lora_router" in name]
    assert routers
    assert any(not torch.equal(weights["trained"][n], weights["frozen"][n]) for n in routers)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"use_peft": False}, "adapter: has no effect without use_peft: true"),
    ({"lora_r": 1}, "lora_r: is 1; expected 2 to mixlora_factors (6)"),
    ({"lora_r": 8}, "lora_r: is 8; expected 2 to mixlora_factors (6)"),
    ({"adapter": "lora"}, "mixlora_factors: has no effect without adapter: mixlora"),
    ({"use_vllm": True}, "use_vllm: vLLM cannot run adapter: mixlora"),
    ({"cache_implementation": "static"}, "cache_implementation: not with adapter: mixlora"),
    (
        {"lora_target_parameters": ["mlp.experts.down_proj"]},
        "lora_target_parameters: not with",
    ),
    ({"use_dora": True}, "use_dora: not with adapter: mixlora"),
]


@pytest.mark.parametrize(("fields", "part"), MISTAKES, ids=[part for _, part in MISTAKES])
def test_what_does_not_go_with_it_is_refused(
    base: Path, tmp_path: Path, fields: dict[str, Any], part: str
) -> None:
    with pytest.raises(JudgeError) as error:
        build_settings("grpo", given(base, tmp_path, **fields))
    assert part in str(error.value)


def test_models_it_does_not_fit_are_refused(base: Path, tmp_path: Path, judge: Path) -> None:
    def refusal(model: Path, **fields: Any) -> str:
        out = tmp_path / f"run of {model.name}"
        with pytest.raises(JudgeError) as error:
            run("grpo", given(base, out, model_name_or_path=str(model), **fields))
        return str(error.value)

    experts, linear = tiny_qwen3_vl_moe(tmp_path / "moe"), tiny_qwen3_5(tmp_path / "linear")
    assert "layer of experts" in refusal(experts, lora_target_modules=["q_proj", "experts"])
    assert "layers of linear attention" in refusal(linear)
    assert f"expected the model that it was trained from, such as {judge / BASE}" in refusal(judge)
    with pytest.raises(JudgeError, match="vLLM cannot run"):
        engines.open_judge(
            engines.EngineArguments(str(judge), "vllm", None, "auto", 1, None, None, False, None)
        )


def test_interference_is_that_of_the_weights_a_run_kept(base: Path, tmp_path: Path) -> None:
    fields = {n: v for n, v in FIELDS.items() if n not in (*GRPO, "user_rewards")}
    fields |= {"max_steps": 2, "learning_rate": 3e-2}
    run("sft", values(small_world(base), tmp_path, random_judge(base), "red", "warm", **fields))
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    found = measure(tmp_path, items=4)
    assert found["tasks"] == ["red", "warm"]
    table = found["table"]
    assert [table[0][0], table[1][1]] == [1.0, 1.0]
    assert table[0][1] not in (0.0, 1.0)
    assert found["negative"] == sum(table[i][1 - i] < 0 for i in (0, 1)) / 2
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_arrow_composes_the_adapters_of_single_tasks(base: Path, tmp_path: Path) -> None:
    own = ("adapter", "mixlora_factors", "user_rewards", *GRPO)
    fields = {name: value for name, value in FIELDS.items() if name not in own}
    fields |= {"max_steps": 2, "learning_rate": 3e-2, "freeze_vision": True}
    runs = []
    for task in ("red", "guess"):
        world, out = small_world(base), tmp_path / task
        runs.append(run("sft", values(world, out, random_judge(base), task, **fields)).parent)
    judge = compose(runs, tmp_path / "arrow")
    rows = rows_of(base)[:4]

    def logits(folder: Path) -> list[tuple[float, ...]]:
        arguments = engines.engine_arguments(str(folder), dtype="float32", batch_size=4)
        opened = engines.open_judge(arguments, torch.device("cpu"))
        assert isinstance(opened.judge, TransformersJudge)
        return opened.judge.verdict_probabilities(rows, [""] * 4, "direct", batch_size=4)

    composed, singles = logits(judge), [logits(folder / "judge") for folder in runs]
    assert composed == logits(judge)
    assert all(composed != of_one for of_one in singles)
    alone = logits(compose(runs[:1], tmp_path / "alone"))
    for ours, theirs in zip(alone, singles[0], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    with pytest.raises(JudgeError, match="has no LoRA adapter"):
        compose([tmp_path / "red" / "judge"], tmp_path / "none")
