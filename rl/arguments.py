"""The fields that a recipe may set beside TRL's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import Doc

from mtrl_judge.common.plain_yaml import parse_yaml
from mtrl_judge.judge_tasks.spec import Style

from .dataset import Balance
from .kl_schedule import Beta
from .mixed_prompts import Prompts

Method: TypeAlias = Literal["grpo", "sft"]
METHODS: tuple[Method, ...] = ("grpo", "sft")


def _split_at_commas(names: Sequence[str]) -> list[str]:
    return [name for words in names for name in words.split(",") if name]


def _parse_yaml(value: Any) -> Any:
    """A flag's text, such as ``{a: 2.0}``, as the YAML value that a recipe would hold."""
    if not isinstance(value, str):
        return value
    parsed = parse_yaml(value)
    return value if parsed.problems else parsed.value


FromYaml = BeforeValidator(_parse_yaml)
Names: TypeAlias = Annotated[list[str], AfterValidator(_split_at_commas)]
Weight: TypeAlias = Annotated[float, Field(ge=0)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]


@dataclass
class CommonArguments:
    """What training a judge takes beside TRL's fields, with either method.

    :mod:`.fields` validates values against these types and prints the ``Doc`` of each as help.
    """

    tasks: Annotated[
        Names,
        Field(min_length=1),
        Doc("Tasks, groups (mtrl_id, mtrl_ood, mtrl_all) or paths of judge YAMLs."),
    ] = field(default_factory=lambda: ["mtrl_id"])
    data_root: Annotated[
        str | None,
        Doc("Folder with <task>/train.parquet. Default: MTRL_JUDGE_DATA, then the hub."),
    ] = None
    allow_local_files: Annotated[
        bool, Doc("Let judge YAMLs name parquet files outside the data root.")
    ] = False
    style: Annotated[
        Style | None, Doc("How the judge answers. Default: reasoned for grpo, direct for sft.")
    ] = None
    prompts: Annotated[
        Prompts,
        Doc(
            "How a row is asked: question, as its task does; or mixed, in each epoch in one of its "
            "task's wordings (question and paraphrases)."
        ),
    ] = "question"
    demonstrations: Annotated[
        dict[str, Any] | None,
        FromYaml,
        Doc(
            "Solved items in every prompt, such as {k: 4, by: [text], encoder: tfidf}; {k: 0} is "
            "none. Default: those of the tasks' YAMLs."
        ),
    ] = None
    balance: Annotated[
        Balance,
        FromYaml,
        Doc(
            "How often each task occurs: proportional, uniform, a temperature, {task: weight}; for "
            "grpo also worst_task."
        ),
    ] = "proportional"
    answers: Annotated[
        str | None,
        Doc(
            "For sft: what to learn from in place of the labels: JSON lines with task, item_id, "
            "swapped and text; data, such files beside the data; or rft, the base model's own "
            "correct answers."
        ),
    ] = None
    rft_items: Annotated[Positive, Doc("Prompts per task that rft samples answers to.")] = 256
    rft_samples: Annotated[Positive, Doc("Answers per prompt that rft samples.")] = 4
    rft_verified: Annotated[
        bool,
        Doc(
            "Of the answers that rft samples, keep those whose own reasoning speaks for their "
            "verdict."
        ),
    ] = False
    min_pixels: Annotated[
        Positive | None, Doc("Smallest width x height of an image; the checkpoint keeps it.")
    ] = None
    max_pixels: Annotated[
        Positive | None, Doc("Largest width x height of an image; the checkpoint keeps it.")
    ] = None
    freeze_vision: Annotated[bool, Doc("Do not train the vision tower.")] = False
    adapter: Annotated[
        Literal["lora", "mixlora"],
        Doc(
            "With use_peft: lora, or mixlora, of whose factors a router chooses lora_r for each "
            "prompt."
        ),
    ] = "lora"
    mixlora_factors: Annotated[
        Positive, Doc("For adapter: mixlora, the factors of each layer; at least lora_r.")
    ] = 16
    mixlora_router: Annotated[
        Literal["trained", "frozen"],
        Doc("For adapter: mixlora; frozen leaves the router as it is drawn, as a control."),
    ] = "trained"
    validation_items: Annotated[
        Positive, Doc("Validation items per task, chosen by the seed, each label in proportion.")
    ] = 256
    validation_max_new_tokens: Annotated[
        Positive | None,
        Doc(
            "Longest answer in validation. Default: max_completion_length for grpo; for sft 16 "
            "(direct) or 1024 (reasoned)."
        ),
    ] = None
    patience: Annotated[
        Count, Doc("Stop after this many validations without improvement; 0 never stops.")
    ] = 0
    processes: Annotated[Positive, Doc("Processes that the batch sizes are meant for.")] = 1
    machines: Annotated[Positive, Doc("Machines that run these processes.")] = 1
    accelerate: Annotated[
        str | None, Doc("A shipped accelerate configuration, or the path of one.")
    ] = None
    accept_license: Annotated[
        Names, Doc("Tasks, such as seetrue, to train on although their card forbids it.")
    ] = field(default_factory=list)
    allow_leaks: Annotated[
        bool, Doc("Train although validation or test data shares items with it.")
    ] = False
    resume: Annotated[bool, Doc("Resume from the newest complete checkpoint in output_dir.")] = (
        False
    )
    dry_run: Annotated[
        bool, Doc("Print what would be trained and stop; no weights are loaded.")
    ] = False


@dataclass
class JudgeArguments(CommonArguments):
    """Also what GRPO alone takes; with SFT these fields keep their defaults."""

    alpha: Annotated[
        float,
        Field(ge=0, le=1),
        Doc("Share of the format reward: R = (1 - alpha) accuracy + alpha format."),
    ] = 0.1
    accuracy_reward: Annotated[
        Literal["proportional", "exact", "fidelity"],
        Doc(
            "How ratings and orders are rewarded: proportional to how right they are, exact (1 or "
            "0), or fidelity, by how well ratings order the items of a batch."
        ),
    ] = "proportional"
    beta: Annotated[
        Beta,
        FromYaml,
        Doc(
            "Weight of the KL to the model at the start: a number, {start, end, shape: "
            "linear|cosine}, or {target_kl, start}."
        ),
    ] = 0.0
    confidence_weight: Annotated[
        Weight,
        Doc(
            "For style: confidence, weight of -(stated confidence - correct)^2 relative to "
            "accuracy; 1 is RLCR, 0 is off."
        ),
    ] = 0.0
    consistency_weight: Annotated[
        Weight, Doc("Weight of the reward for both orders of a pair being correct; 0 is off.")
    ] = 0.0
    length_soft: Annotated[
        Positive | None, Doc("Completion length, in tokens, where the length penalty starts.")
    ] = None
    length_hard: Annotated[
        Positive | None, Doc("Completion length, in tokens, where the penalty reaches -1.")
    ] = None
    length_weight: Annotated[Weight, Doc("Weight of the length penalty; 0 is off.")] = 0.0
    perception_weight: Annotated[
        Weight, Doc("Weight of the share of an item's facts that the reasoning states; 0 is off.")
    ] = 0.0
    perception_checker: Annotated[
        Literal["phrase", "openai"],
        Doc("What looks for facts: their phrases, or a text judge with an OpenAI-compatible API."),
    ] = "phrase"
    perception_model: Annotated[
        str | None, Doc("The text judge's name on its server, for perception_checker: openai.")
    ] = None
    perception_base_url: Annotated[
        str | None, Doc("The address of the text judge's API. Default: the openai client's.")
    ] = None
    repetition_weight: Annotated[
        Weight, Doc("Weight of the penalty 1 - distinct / total over n-grams of tokens; 0 is off.")
    ] = 0.0
    repetition_ngram: Annotated[
        Positive, Doc("Length of the n-grams of the repetition penalty, in tokens.")
    ] = 20
    user_rewards: Annotated[
        dict[str, float] | None,
        FromYaml,
        Doc("Your own reward functions: {package.module:function: weight}."),
    ] = None
    resample_tries: Annotated[
        Count, Doc("How many times, at most, to replace zero-variance groups; 0 is off.")
    ] = 0
    share_prompt: Annotated[
        bool, Doc("Process the images and the prompt of a group once, not per completion.")
    ] = True
    share_prompt_check: Annotated[
        bool, Doc("Compare the first micro-batch with TRL's own result; stop if they differ.")
    ] = True
    micro_batch_tokens: Annotated[
        Positive | None,
        Doc(
            "Compute per_device_train_batch_size completions in passes of up to so many tokens, a "
            "shared prompt counted once; default: in one pass."
        ),
    ] = None
    warm_up: Annotated[
        str | None,
        Doc(
            "What to run first; GRPO starts from its checkpoint. An SFT recipe, or rft or "
            "rft:RECIPE: SFT on the base model's own correct answers."
        ),
    ] = None
