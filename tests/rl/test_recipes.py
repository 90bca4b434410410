"""Recipes and flags: shipped ones are valid, and every fault is named with what is expected."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import PartialState
from peft import LoraConfig, get_peft_model

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.rl import memory, rewards, speed
from mtrl_judge.rl.arguments import METHODS, Method
from mtrl_judge.rl.dataset import build_dataset
from mtrl_judge.rl.dry_run import MissingDataError, dry_run, schedule
from mtrl_judge.rl.recipes import (
    RECIPES,
    as_shell,
    find_accelerate_config,
    find_recipe,
    launch_command,
    resolve_tasks,
    shipped_recipes,
)
from mtrl_judge.rl.settings import Settings, parse_settings

CPU = {
    "use_cpu": True,
    "bf16": False,
    "model_name_or_path": "some/model",
    "output_dir": "run",
    "per_device_train_batch_size": 16,
}
SHIPPED = [
    pytest.param(method, path.stem, id=f"{method}-{path.stem}")
    for method in METHODS
    for path in shipped_recipes(method)
]


PARAMETERS = {
    "qwen3_vl_4b_lora_1gpu": 4_437_815_808,
    "qwen3_vl_8b_8gpu": 8_767_123_696,
    "qwen3_vl_30b_a3b": 31_070_754_032,
}


def settings_of(
    tmp_path: Path, fields: dict[str, Any], *flags: str, method: Method = "grpo"
) -> Settings:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump({**CPU, **fields}))
    return parse_settings(method, ["--recipe", str(recipe), *flags])


def faults_of(
    tmp_path: Path, fields: dict[str, Any], *flags: str, method: Method = "grpo"
) -> list[str]:
    with pytest.raises(JudgeError) as caught:
        settings_of(tmp_path, fields, *flags, method=method)
    return str(caught.value).splitlines()


# What is shipped


def test_every_recipe_is_there_for_both_methods() -> None:
    grpo, sft = ([path.stem for path in shipped_recipes(method)] for method in METHODS)
    assert grpo == sft
    assert "tiny_cpu" in grpo


@pytest.mark.parametrize(("method", "name"), SHIPPED)
def test_every_recipe_dry_runs(method: Method, name: str, sample_root: Path) -> None:
    flags = ["--recipe", name, "--data_root", str(sample_root), "--dry_run"]
    settings = parse_settings(method, flags)
    report = dry_run(settings)
    assert "mtrl_judge_unsafebench" in report
    assert "label: " in report
    assert "mtrl_judge.rl.train" in report or "mtrl-judge train" in report
    # Everything that vLLM, optimizer and passes take fits into the device the recipe asks for.
    peaks = [float(gib) for gib in re.findall(r"^while \w+ +([\d.]+)", report, re.MULTILINE)]
    assert all(0 < gib < memory.DEVICE_GIB for gib in peaks)
    assert bool(peaks) == (name != "tiny_cpu")
    length = re.search(r"^one validation +at most [\d,]+ batches of .*$", report, re.MULTILINE)
    assert bool(length) == (method == "sft" or name == "tiny_cpu")  # the others validate with vLLM
    assert length is None or ("roughly" in length[0]) == (name != "tiny_cpu")  # has no model
    assert (f"Time on an {speed.DEVICE}" in report) == (method == "grpo" and name != "tiny_cpu")
    if name in PARAMETERS:
        adapters = "of adapters" if settings.model.use_peft else "of them trained"
        assert f"\n{PARAMETERS[name]:,} parameters, " in report
        assert adapters in report


@pytest.mark.parametrize(("method", "name"), SHIPPED)
def test_recorded_settings_are_a_recipe(method: Method, name: str, tmp_path: Path) -> None:
    settings = parse_settings(method, ["--recipe", name, "--dry_run"])
    again = tmp_path / "recipe.yaml"
    again.write_text(yaml.safe_dump(json.loads(json.dumps(settings.given))))
    repeated = parse_settings(method, ["--recipe", str(again), "--dry_run"])
    assert repeated.given == settings.given
    assert repeated.trainer.to_dict() == settings.trainer.to_dict()


@pytest.mark.parametrize("path", sorted((RECIPES / "accelerate").glob("*.yaml")))
def test_accelerate_reads_its_configurations(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).mixed_precision == "bf16"


def test_the_papers_batches_are_counted_in_prompts() -> None:
    settings = parse_settings("grpo", ["--recipe", "qwen3_vl_30b_a3b", "--dry_run"])
    plan = schedule(settings, rows=33_553)
    assert (plan.prompts_per_step, plan.prompts_per_rollout) == (256, 512)
    assert plan.answers_per_step == 256 * 20
    sft = parse_settings("sft", ["--recipe", "qwen3_vl_30b_a3b", "--dry_run"])
    assert schedule(sft, rows=33_553).answers_per_step == 256


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("grpo", ["--gradient_accumulation_steps=3", "--steps_per_generation=2"]),
        ("grpo", ["--gradient_accumulation_steps=4", "--num_iterations=2"]),
        ("sft", ["--gradient_accumulation_steps=3", "--num_train_epochs=1.5"]),
    ],
)
def test_steps_are_those_of_the_trainer(
    method: Method, flags: list[str], sample_root: Path, random_judge: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOTrainer, SFTTrainer

    small = ["--per_device_train_batch_size=8", "--max_steps=-1", f"--output_dir={tmp_path}"]
    judge = f"--model_name_or_path={random_judge}"
    settings = parse_settings(method, ["--recipe", "tiny_cpu", judge, *small, *flags])
    dataset = build_dataset(
        resolve_tasks(["mtrl_judge_agin_nat", "mtrl_judge_seetrue"]),
        style=settings.style,
        answers=method == "sft",
        root=sample_root,
    )
    shared: dict[str, Any] = {
        "model": AutoModelForImageTextToText.from_pretrained(random_judge),
        "processing_class": AutoProcessor.from_pretrained(random_judge),
        "train_dataset": dataset,
        "eval_dataset": dataset,
        "args": settings.trainer,
    }
    if method == "grpo":
        trainer: Any = GRPOTrainer(**shared, reward_funcs=rewards.accuracy)
    else:
        trainer = SFTTrainer(**shared)
    values = trainer.set_initial_training_values(settings.trainer, trainer.get_train_dataloader())
    assert schedule(settings, len(dataset)).steps == values[-1]


# Recipe and flags together


def test_flags_override_the_recipe_in_every_spelling(tmp_path: Path) -> None:
    flags = ["--learning-rate=3e-4", "--max_steps", "7", "--no_gradient_checkpointing"]
    settings = settings_of(
        tmp_path, {"learning_rate": "1e-3", "max_steps": 5, "beta": 0.5}, *flags, "--resume"
    )
    assert settings.trainer.learning_rate == pytest.approx(3e-4)
    assert settings.trainer.max_steps == 7
    assert settings.trainer.beta == pytest.approx(0.5)
    assert not settings.trainer.gradient_checkpointing
    assert settings.judge.resume
    assert "resume" not in settings.given
    assert settings.given["metric_for_best_model"] == "eval_macro_f1"


def test_what_follows_from_the_method_and_from_what_is_given(tmp_path: Path) -> None:
    grpo = settings_of(tmp_path, {"eval_steps": 5, "max_completion_length": 99})
    assert (grpo.style, grpo.answer_tokens) == ("reasoned", 99)
    assert grpo.trainer.save_steps == grpo.trainer.eval_steps == 5
    sft = settings_of(tmp_path, {"eval_strategy": "no"}, method="sft")
    assert (sft.style, sft.answer_tokens) == ("direct", 16)
    assert not sft.trainer.load_best_model_at_end
    assert sft.trainer.completion_only_loss
    reasoned = settings_of(tmp_path, {"style": "reasoned", "answers": "rft"}, method="sft")
    assert reasoned.answer_tokens == 1024
    with pytest.raises(JudgeError, match="give answers, or use style: direct"):
        settings_of(tmp_path, {"style": "reasoned"}, method="sft")


def test_mappings_come_as_mappings_or_as_yaml_text(tmp_path: Path) -> None:
    weights = {"mtrl_judge_seetrue": 2.0}
    assert settings_of(tmp_path, {"balance": weights}).judge.balance == weights
    text = "{mtrl_judge_seetrue: 2.0}"
    assert settings_of(tmp_path, {}, "--balance", text).judge.balance == weights
    assert settings_of(tmp_path, {"balance": 2.0}).judge.balance == 2.0
    assert settings_of(tmp_path, {}, "--balance", "2").judge.balance == 2
    rewards = settings_of(tmp_path, {}, "--user_rewards", "{my.module:f: 0.5}").judge.user_rewards
    assert rewards == {"my.module:f": 0.5}


def test_tasks_are_names_groups_and_files(tmp_path: Path) -> None:
    names = [task.task for task in resolve_tasks(["mtrl_judge_seetrue", "mtrl_id"])]
    assert names[0] == "mtrl_judge_seetrue"
    assert len(names) == len(set(names)) == 6
    settings = settings_of(tmp_path, {}, "--tasks", "mtrl_judge_seetrue,mtrl_judge_agin_nat")
    assert len(settings.tasks) == 2
    with pytest.raises(JudgeError, match="did you mean 'mtrl_ood'"):
        resolve_tasks(["mtrl_odd"])


def test_the_time_of_what_was_measured_is_that_measured_and_performance_md_says_so() -> None:
    flags = ["--recipe", "qwen3_vl_4b_lora_1gpu", "--dry_run", "--no_use_vllm"]
    flags += ["--num_generations", "8", "--per_device_train_batch_size", "16"]
    flags += ["--gradient_accumulation_steps", "1", "--max_completion_length", "256"]
    settings = parse_settings("grpo", flags)
    models = ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct")
    dense, experts = (found[0] for found in map(memory.architecture, models) if found)
    found = speed.estimate(settings, dense, int(speed.ADAPTERS.parameters), 884)
    assert found.update_s == pytest.approx(16 / speed.ADAPTERS.rows_per_s)
    assert found.generation_s == pytest.approx(256 * 0.075)
    assert speed.estimate(settings, experts, 31 * 10**9, 884).update_s is None
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    for row in (
        f"{speed.FULL.what}: rows a second, each at its fastest micro-batch | "
        f"{speed.FULL.rows_per_s}",
        f"{speed.ADAPTERS.what}: rows a second | {speed.ADAPTERS.rows_per_s}",
        f"32 completions, 4B with adapters, a token | {speed.GENERATION.ms_per_token} ms",
        f"after 78 s that compile | {speed.COMPILED.ms_per_token} ms",
    ):
        assert row in page


def test_the_launch_names_processes_machines_and_configuration() -> None:
    flags = ["--recipe", "qwen3_vl_30b_a3b", "--dry_run", "--output_dir", "a folder"]
    settings = parse_settings("grpo", flags)
    command = as_shell(launch_command("grpo", settings.judge, settings.flags))
    timeout = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=3600"  # else a step of over 30 s is lost at a SIGTERM
    assert command.startswith(f"env {timeout} accelerate launch --config_file ")
    assert "--num_processes 16 --num_machines 2 --machine_rank $MACHINE_RANK" in command
    assert command.endswith("grpo --recipe qwen3_vl_30b_a3b --output_dir 'a folder'")


def test_a_dry_run_prints_the_servers_command_of_the_recipe(sample_root: Path) -> None:
    flags = ["--recipe", "qwen3_vl_30b_a3b", "--data_root", str(sample_root), "--dry_run"]
    report = dry_run(parse_settings("grpo", flags))
    command = report.partition("Command of the vLLM server")[2].splitlines()[2]
    recipe = find_recipe("qwen3_vl_30b_a3b", "grpo").read_text(encoding="utf-8")
    head = " ".join(recipe.replace("\\\n#", " ").split())
    assert command in head
    assert """'{"size": {"shortest_edge": 65536, "longest_edge": 802816}}'""" in command


def test_a_server_needs_both_limits_on_pixels(tmp_path: Path) -> None:
    fields = {"use_vllm": True, "vllm_mode": "server", "max_pixels": 4096}
    assert "min_pixels: missing; with vllm_mode: server" in faults_of(tmp_path, fields)[0]


# What is wrong


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    fields = {"learning_rat": 1, "num_generations": "eight", "dtype": "bfloat", "tasks": "mtrl_id"}
    flags = ["--num_generation", "8", "stray", "--beta", "x"]
    faults = faults_of(tmp_path, fields, *flags)
    file = tmp_path / "mine.yaml"
    for part in (
        f"{file}: learning_rat: unknown field; did you mean 'learning_rate'?",
        f"{file}: num_generations: is 'eight'; expected a valid integer",
        f"{file}: dtype: is 'bfloat'; expected 'auto', 'bfloat16'",
        f"{file}: tasks: is 'mtrl_id'; expected a valid list",
        "--num_generation: unknown field; did you mean 'num_generations'?",
        "--beta: is 'x'; expected a valid number",
    ):
        assert [fault for fault in faults if fault.startswith(part)], part
    assert len(faults) == 6


def test_a_stray_word_is_named(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, {}, "--beta", "0.1", "stray")
    assert fault == "--beta: is ['0.1', 'stray']; expected a valid number or a valid dictionary"
    with pytest.raises(JudgeError, match="stray: belongs to no flag; flags are written --field"):
        parse_settings("grpo", ["stray"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- a\n", "expected one `field: value` per line"),
        ("a: [\n", "line 2: not YAML: "),
        ("max_steps: 1\nmax_steps: 2\n", "max_steps: given twice"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(JudgeError, match=fault):
        parse_settings("grpo", ["--recipe", str(path)])


def test_missing_files_and_names_are_reported(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="did you mean 'tiny_cpu'"):
        find_recipe("tiny_cpus", "grpo")
    with pytest.raises(JudgeError, match="no file"):
        find_recipe(str(tmp_path / "none.yaml"), "grpo")
    with pytest.raises(JudgeError, match="did you mean 'zero3'"):
        find_accelerate_config("zero")
    with pytest.raises(JudgeError, match=r"model_name_or_path: missing[^$]*output_dir: missing"):
        parse_settings("grpo", [])
    assert (
        "did you mean 'mtrl_judge_seetrue'"
        in faults_of(tmp_path, {}, "--tasks", "mtrl_judge_setrue")[0]
    )
    assert "warm_up: 'tiny' is neither" in faults_of(tmp_path, {}, "--warm_up", "tiny")[0]
    assert "data_root: no folder" in faults_of(tmp_path, {}, "--data_root", "nowhere")[0]


def test_a_field_of_the_other_method_is_refused(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, {"num_generations": 8}, method="sft")
    assert "num_generations: unknown field; not a field of sft" in fault
    faults = faults_of(tmp_path, {"alpha": 0.1}, "--resample_tries", "1", method="sft")
    assert [fault.split(":", 1)[0] for fault in faults] == [
        str(tmp_path / "mine.yaml"),
        "--resample_tries",
    ]
    assert all("not a field of sft" in fault for fault in faults)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"alpha": 1.5}, "alpha: is 1.5; expected less than or equal to 1"),
        ({"style": "direkt"}, "style: is 'direkt'; expected 'reasoned', 'direct' or 'confidence'"),
        ({"confidence_weight": 1.0}, "confidence_weight: answers state no confidence"),
        ({"balance": "uniforme"}, "balance: is 'uniforme'"),
        ({"balance": {"mtrl_judge_seetrue": "two"}}, "mtrl_judge_seetrue"),
        ({"user_rewards": "my.module:f"}, "user_rewards: is 'my.module:f'"),
        ({"user_rewards": "{my.module:f"}, "user_rewards: is '{my.module:f'"),
        ({"patience": -1}, "patience: is -1; expected greater than or equal to 0"),
        ({"length_soft": 5}, "length_hard: missing"),
        ({"length_soft": 5, "length_hard": 5}, "expected length_soft < length_hard"),
        ({"length_weight": 0.1}, "length_weight: has no effect"),
        ({"length_weight": 1, "length_soft": 600, "length_hard": 700}, "max_completion_length"),
        ({"num_generations": 7}, r"mine.yaml: generation_batch_size \(16\) must be divisible"),
        ({"reward_weights": [1.0]}, "reward_weights: unknown field; use alpha"),
        ({"remove_unused_columns": True}, "remove_unused_columns: would remove"),
        ({"save_steps": 10, "eval_steps": 20}, "not a round multiple"),
        ({"eval_strategy": "step"}, "mine.yaml: step is not a valid IntervalStrategy"),
        (
            {"consistency_weight": 1, "per_device_train_batch_size": 24},
            "expected a multiple of 2 x num_generations",
        ),
        ({"patience": 2, "eval_strategy": "no"}, "patience: has no effect"),
        (
            {"use_transformers_continuous_batching": True},
            "use_transformers_continuous_batching: TRL does not support it",
        ),
        ({"fsdp": "full_shard"}, "fsdp: unknown field; use accelerate: fsdp2"),
        ({"machines": 2}, "machines: 1 processes cannot be split over 2"),
        (
            {"micro_batch_tokens": 9, "entropy_coef": 0.1, "top_entropy_quantile": 0.5},
            "(?s)does not go with top_entropy_quantile;.*does not go with entropy_coef;",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, fields: dict[str, Any], fault: str) -> None:
    assert re.search(fault, "\n".join(faults_of(tmp_path, fields)))


def test_the_check_of_a_warm_up_leaves_the_device_of_the_run(tmp_path: Path) -> None:
    """accelerate keeps one state of a process, and that of a dry run is on the CPU."""
    warm_up = tmp_path / "warm.yaml"
    warm_up.write_text(yaml.safe_dump({"bf16": False, "max_steps": 1}))
    settings_of(tmp_path, {"use_cpu": False, "warm_up": str(warm_up)})
    assert not PartialState()._cpu


def test_groups_that_two_processes_share_cannot_be_resampled(tmp_path: Path) -> None:
    fields = {"resample_tries": 1, "num_generations": 4, "per_device_train_batch_size": 6}
    report = "\n".join(faults_of(tmp_path, {**fields, "processes": 2}, "--dry_run"))
    assert "steps_per_generation is 6; expected a multiple of num_generations (4)" in report


def test_as_many_processes_as_the_batches_are_meant_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = "\n".join(faults_of(tmp_path, {"processes": 2}))
    assert "processes: is 2, but 1 started" in report
    assert "accelerate launch --num_processes 2 -m mtrl_judge.rl.train grpo" in report
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "processes: is 1, but 2 started" in faults_of(tmp_path, {})[0]


# Memory


def test_the_states_of_a_small_model_are_estimated_exactly(random_judge: Path) -> None:
    """Weights, gradients and AdamW's two moments of a model that is really there."""
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(random_judge)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.dim()
    ]
    held = [*model.parameters(), *(p.grad for p in model.parameters()), *moments]
    flags = ["--recipe", "tiny_cpu", "--model_name_or_path", str(random_judge), "--dry_run"]
    settings = parse_settings("grpo", [*flags, "--freeze_vision", "false"])
    estimate = memory.estimate(settings, model.config, prompt_tokens=100)
    states = sum(part.gib for part in estimate.parts[:3]) * memory.GIB
    assert states == sum(tensor.numel() * tensor.element_size() for tensor in held)
    (reference,) = (part.gib for part in estimate.parts if part.name == "reference model")
    assert reference == estimate.parts[0].gib
    static = parse_settings(
        "grpo", [*flags, "--freeze_vision", "false", "--cache_implementation", "static"]
    )
    (cache,) = (part.gib for part in estimate.parts if part.name == "cache of generation")
    peaks = memory.estimate(static, model.config, prompt_tokens=100).peaks
    assert peaks[0].gib == pytest.approx(estimate.peaks[0].gib + cache)
    frozen = parse_settings("grpo", [*flags, "--freeze_vision"])
    counts = memory.count_parameters(frozen, model.config)
    vision = sum(p.numel() for p in model.get_encoder(modality="image").parameters())
    assert counts.trained == counts.model - vision


@pytest.mark.parametrize(
    ("limit", "tokens"),
    [
        ("null", "8 x (1280 + 1024)"),  # as TRL computes them: not known to be shared
        ("16384", "9,472"),  # all, each prompt once
        ("4096", "one group of 1280 + 8 x 1024"),
    ],
)
def test_the_memory_of_a_pass_is_that_of_its_tokens(limit: str, tokens: str) -> None:
    flags = ["--recipe", "qwen3_vl_4b_lora_1gpu", "--dry_run", "--micro_batch_tokens", limit]
    more = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "16"]
    settings = parse_settings("grpo", [*flags, *more])
    found = memory.architecture(str(settings.model.model_name_or_path))
    assert found is not None
    estimate = memory.estimate(settings, found[0], memory.ASSUMED_PROMPT_TOKENS)
    (activations,) = (part for part in estimate.parts if part.name == "activations")
    assert f"estimate: {tokens} tokens" in activations.note
    counted = eval(tokens.replace(",", "").replace("x", "*").removeprefix("one group of "))
    text = found[0].get_text_config()
    assert activations.gib * memory.GIB > counted * text.num_hidden_layers * text.hidden_size * 2


def test_adapters_keep_their_inputs_in_their_own_precision() -> None:
    """So the estimate counts each adapted projection's input once more."""
    layers = torch.nn.ModuleDict({name: torch.nn.Linear(8, 8) for name in ("q_proj", "k_proj")})
    model = get_peft_model(layers.bfloat16(), LoraConfig(target_modules=list(layers), r=2))
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    x = torch.ones(3, 8, dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for layer in model.base_model.model.values():
            layer(x)
    copies = [tensor for tensor in kept if tensor.shape == x.shape]
    assert [tensor.dtype for tensor in copies] == [torch.float32] * 2


def test_an_unknown_model_gets_no_estimate(
    sample_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no hub")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    flags = ["--recipe", "tiny_cpu", "--data_root", str(sample_root), "--dry_run"]
    report = dry_run(parse_settings("sft", [*flags, "--model_name_or_path", "some/model"]))
    assert "unknown: some/model is not a folder" in report
    assert "GiB" not in report


def test_a_local_model_writes_the_prompt_and_its_length(
    sample_root: Path, random_judge: Path
) -> None:
    flags = ["--recipe", "tiny_cpu", "--data_root", str(sample_root), "--dry_run"]
    report = dry_run(parse_settings("grpo", [*flags, "--model_name_or_path", str(random_judge)]))
    assert "<|im_start|>assistant" in report
    assert re.search(r"a prompt of \d+ tokens\n", report)


def test_a_dry_run_without_data_says_what_is_missing(tmp_path: Path) -> None:
    flags = ["--recipe", "tiny_cpu", "--data_root", str(tmp_path), "--dry_run"]
    with pytest.raises(MissingDataError) as missing:
        dry_run(parse_settings("grpo", flags))
    report = str(missing.value)
    assert "Settings\n========\nmethod" in report
    assert "mtrl-judge train grpo --recipe tiny_cpu" in report
    assert "for want of data:\n" in report.partition("Missing\n=======\n")[2]
