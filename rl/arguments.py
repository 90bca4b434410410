"""The fields of a recipe: TRL's and those that judging adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import yaml

from mtrl_judge.common.errors import did_you_mean
from mtrl_judge.judge_tasks.spec import STYLES

from .dataset import Balance

Method: TypeAlias = Literal["grpo", "sft"]


METHODS: tuple[Method, ...] = ("grpo", "sft")


GRPO_ONLY = (
    "alpha",
    "consistency_weight",
    "length_soft",
    "length_hard",
    "length_weight",
    "user_rewards",
    "resample_tries",
    "share_prompt",
    "share_prompt_check",
    "warm_up",
)


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class JudgeArguments:
    """What training a judge takes beside TRL's fields.

    Raises:
        ValueError: a field is out of its range.
    """

    tasks: list[str] = field(
        default_factory=lambda: ["mtrl_id"],
        metadata=_help("Tasks, groups (mtrl_id, mtrl_ood, mtrl_all) or paths of judge YAMLs."),
    )
    data_root: str | None = field(
        default=None,
        metadata=_help("Folder with <task>/train.parquet; else MTRL_JUDGE_DATA, else the hub."),
    )
    style: str | None = field(
        default=None,
        metadata=_help("reasoned or direct; by default reasoned for grpo and direct for sft."),
    )
    # A union with str and two others beside it, which TrlParser takes for text.
    balance: dict[str, float] | str | float | None = field(
        default="proportional",
        metadata=_help(
            "How often each task occurs: proportional, uniform, a temperature, or a weight a task."
        ),
    )
    alpha: float = field(
        default=0.1,
        metadata=_help("Share of the format reward: R = (1 - alpha) accuracy + alpha format."),
    )
    consistency_weight: float = field(
        default=0.0, metadata=_help("Weight of the reward for both orders of a pair; 0 is off.")
    )
    length_soft: int | None = field(
        default=None, metadata=_help("Tokens of a completion from which length is penalised.")
    )
    length_hard: int | None = field(
        default=None, metadata=_help("Tokens of a completion at which the penalty is whole.")
    )
    length_weight: float = field(
        default=0.0, metadata=_help("Weight of the length penalty; 0 is off.")
    )
    user_rewards: dict[str, float] | str | None = field(
        default=None,
        metadata=_help("Rewards of your own, {package.module:function: weight}."),
    )
    resample_tries: int = field(
        default=0,
        metadata=_help("How often groups whose rewards are all alike are drawn again, at most."),
    )
    share_prompt: bool = field(
        default=True,
        metadata=_help("Do a group's shared work once: images, vision tower, prompt."),
    )
    share_prompt_check: bool = field(
        default=True,
        metadata=_help("Compare the first micro-batch with TRL's own way; stop if they differ."),
    )
    min_pixels: int | None = field(
        default=None,
        metadata=_help("Least width x height of each picture; the checkpoint keeps it."),
    )
    max_pixels: int | None = field(
        default=None,
        metadata=_help("Most width x height of each picture; the checkpoint keeps it."),
    )
    freeze_vision: bool = field(default=False, metadata=_help("Leave the vision tower as it is."))
    validation_items: int = field(
        default=64, metadata=_help("Validation items a task, chosen by the seed.")
    )
    validation_max_new_tokens: int | None = field(
        default=None,
        metadata=_help(
            "Longest answer in validation; by default max_completion_length for grpo, "
            "16 tokens for sft in direct style, 1024 in reasoned."
        ),
    )
    patience: int = field(
        default=0,
        metadata=_help("Stop after so many validations without a better one; 0 is never."),
    )
    warm_up: str | None = field(
        default=None, metadata=_help("SFT recipe to run first; GRPO starts from its checkpoint.")
    )
    processes: int = field(
        default=1, metadata=_help("How many processes the batch sizes are meant for, in all.")
    )
    machines: int = field(
        default=1, metadata=_help("How many machines these processes are spread over.")
    )
    accelerate: str | None = field(
        default=None, metadata=_help("A shipped accelerate configuration, or the path of one.")
    )
    accept_license: list[str] = field(
        default_factory=list,
        metadata=_help("Tasks, such as seetrue, to train on although their card forbids it."),
    )
    allow_leaks: bool = field(
        default=False,
        metadata=_help(
            "Train although test or out-of-distribution items are among the training's."
        ),
    )
    resume: bool = field(
        default=False, metadata=_help("Go on from the newest whole checkpoint in output_dir.")
    )
    dry_run: bool = field(
        default=False, metadata=_help("Show what would be trained, load no weights, and stop.")
    )

    def __post_init__(self) -> None:
        self.tasks = _separate(self.tasks)
        self.accept_license = _separate(self.accept_license)
        self.balance = _from_text(self.balance)
        self.user_rewards = _from_text(self.user_rewards)
        faults = list(self._faults())
        if faults:
            raise ValueError("\n".join(faults))

    def task_balance(self) -> Balance | float | Mapping[str, float]:
        """The balance as :func:`.dataset.build_dataset` takes it."""
        return cast(Balance | float | Mapping[str, float], self.balance)

    def own_rewards(self) -> dict[str, float]:
        """Weight of each reward function of the user's, by its dotted path."""
        return cast(dict[str, float], self.user_rewards or {})

    def _faults(self) -> Iterator[str]:
        if not self.tasks:
            yield "tasks: is empty; name tasks, or the group mtrl_id"
        if self.style is not None and self.style not in STYLES:
            yield f"style: is {self.style!r}; {did_you_mean(self.style, STYLES)}"
        if not 0 <= self.alpha <= 1:
            yield f"alpha: is {self.alpha}; it is the share of the format reward, from 0 to 1"
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                yield f"{name}: is {value}; would be right: {least} or more"
        yield from self._length_faults()
        yield from _weight_faults("balance", self.balance, "a task's name")
        yield from _weight_faults("user_rewards", self.user_rewards, "package.module:function")
        if not isinstance(self.balance, Mapping | int | float) and self.balance not in (
            "proportional",
            "uniform",
        ):
            known = "proportional, uniform, a temperature, or a mapping from task to weight"
            yield f"balance: is {self.balance!r}; would be right: {known}"
        if not isinstance(self.user_rewards, Mapping | None):
            known = "{package.module:function: weight}"
            yield f"user_rewards: is {self.user_rewards!r}; would be right: {known}"

    def _length_faults(self) -> Iterator[str]:
        soft, hard = self.length_soft, self.length_hard
        if (soft is None) != (hard is None):
            missing = "length_soft" if soft is None else "length_hard"
            yield f"{missing}: is missing; length_soft and length_hard go together"
        elif soft is not None and hard is not None and not 0 < soft < hard:
            yield f"length_soft: is {soft} and length_hard {hard}; 0 < soft < hard is right"
        if self.length_weight and soft is None and hard is None:
            yield "length_weight: has no effect without length_soft and length_hard; give both"


_LEAST = {
    "consistency_weight": 0,
    "length_weight": 0,
    "resample_tries": 0,
    "patience": 0,
    "min_pixels": 1,
    "max_pixels": 1,
    "validation_items": 1,
    "validation_max_new_tokens": 1,
    "processes": 1,
    "machines": 1,
}


def _separate(names: Sequence[str]) -> list[str]:
    return [name for several in names for name in several.split(",") if name]


def _from_text(value: Any) -> Any:
    """A flag's YAML text as what it says; text that is no YAML stays as it is."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


def _weight_faults(name: str, weights: object, key_is: str) -> Iterator[str]:
    for key, weight in weights.items() if isinstance(weights, Mapping) else ():
        if not isinstance(key, str):
            yield f"{name}: {key!r} is not {key_is}"
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            yield f"{name}: {key}: is {weight!r}; would be right: a number"
