"""The fields that a recipe may set beside TRL's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from mtrl_judge.judge_tasks.spec import Style

from .dataset import Balance

Method: TypeAlias = Literal["grpo", "sft"]
METHODS: tuple[Method, ...] = ("grpo", "sft")


def _split_at_commas(names: Sequence[str]) -> list[str]:
    return [name for words in names for name in words.split(",") if name]


def _parse_yaml(value: Any) -> Any:
    """A flag's text, such as ``{a: 2.0}``, as the YAML value that a recipe would hold."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


Names: TypeAlias = Annotated[list[str], AfterValidator(_split_at_commas)]
Weight: TypeAlias = Annotated[float, Field(ge=0)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]


def _help(text: str) -> dict[str, str]:
    """A field's text in ``--help``, where TRL's dataclasses have it too."""
    return {"help": text}


@dataclass
class CommonArguments:
    """What training a judge takes beside TRL's fields, with either method.

    Plain dataclasses: :mod:`.settings` validates values against these types, all fields at once.
    """

    tasks: Annotated[Names, Field(min_length=1)] = field(
        default_factory=lambda: ["mtrl_id"],
        metadata=_help("Tasks, groups (mtrl_id, mtrl_ood, mtrl_all) or paths of judge YAMLs."),
    )
    data_root: str | None = field(
        default=None,
        metadata=_help("Folder with <task>/train.parquet. Default: MTRL_JUDGE_DATA, then the hub."),
    )
    style: Style | None = field(
        default=None,
        metadata=_help("How the judge answers. Default: reasoned for grpo, direct for sft."),
    )
    balance: Annotated[Balance, BeforeValidator(_parse_yaml)] = field(
        default="proportional",
        metadata=_help(
            "How often each task occurs: proportional, uniform, a temperature, or {task: weight}."
        ),
    )
    min_pixels: Positive | None = field(
        default=None,
        metadata=_help("Smallest width x height of an image; the checkpoint keeps the limit."),
    )
    max_pixels: Positive | None = field(
        default=None,
        metadata=_help("Largest width x height of an image; the checkpoint keeps the limit."),
    )
    freeze_vision: bool = field(default=False, metadata=_help("Do not train the vision tower."))
    validation_items: Positive = field(
        default=64, metadata=_help("Validation items per task, chosen by the seed.")
    )
    validation_max_new_tokens: Positive | None = field(
        default=None,
        metadata=_help(
            "Longest answer in validation. Default: max_completion_length for grpo; for sft 16 "
            "(direct) or 1024 (reasoned)."
        ),
    )
    patience: Count = field(
        default=0,
        metadata=_help("Stop after this many validations without improvement; 0 never stops."),
    )
    processes: Positive = field(
        default=1, metadata=_help("Total number of processes that the batch sizes are meant for.")
    )
    machines: Positive = field(
        default=1, metadata=_help("Number of machines that run these processes.")
    )
    accelerate: str | None = field(
        default=None, metadata=_help("A shipped accelerate configuration, or the path of one.")
    )
    accept_license: Names = field(
        default_factory=list,
        metadata=_help("Tasks, such as seetrue, to train on although their card forbids it."),
    )
    allow_leaks: bool = field(
        default=False,
        metadata=_help("Train although test or out-of-distribution data shares items with it."),
    )
    resume: bool = field(
        default=False, metadata=_help("Resume from the newest complete checkpoint in output_dir.")
    )
    dry_run: bool = field(
        default=False,
        metadata=_help("Print what would be trained and stop; no weights are loaded."),
    )


@dataclass
class JudgeArguments(CommonArguments):
    """Also what GRPO alone takes; with SFT these fields keep their defaults."""

    alpha: Annotated[float, Field(ge=0, le=1)] = field(
        default=0.1,
        metadata=_help("Share of the format reward: R = (1 - alpha) accuracy + alpha format."),
    )
    consistency_weight: Weight = field(
        default=0.0,
        metadata=_help("Weight of the reward for both orders of a pair being correct; 0 is off."),
    )
    length_soft: Positive | None = field(
        default=None,
        metadata=_help("Completion length, in tokens, at which the length penalty starts."),
    )
    length_hard: Positive | None = field(
        default=None,
        metadata=_help("Completion length, in tokens, at which the penalty reaches -1."),
    )
    length_weight: Weight = field(
        default=0.0, metadata=_help("Weight of the length penalty; 0 is off.")
    )
    user_rewards: Annotated[dict[str, float] | None, BeforeValidator(_parse_yaml)] = field(
        default=None,
        metadata=_help("Your own reward functions: {package.module:function: weight}."),
    )
    resample_tries: Count = field(
        default=0,
        metadata=_help("How many times, at most, to replace zero-variance groups; 0 is off."),
    )
    share_prompt: bool = field(
        default=True,
        metadata=_help("Process the images and the prompt of a group once, not per completion."),
    )
    share_prompt_check: bool = field(
        default=True,
        metadata=_help("Compare the first micro-batch with TRL's own result; stop if they differ."),
    )
    warm_up: str | None = field(
        default=None,
        metadata=_help("SFT recipe to run first; GRPO starts from its checkpoint."),
    )
