"""From a recipe and flags to typed settings: TRL's fields, and what a judge adds to them.

Every field of :class:`.arguments.JudgeArguments`, of TRL's ``GRPOConfig`` or ``SFTConfig`` and of
its ``ModelConfig`` can stand in a recipe (a flat YAML file) or be a flag. Flags override the
recipe, the recipe overrides our defaults, and our defaults override TRL's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import expanded
from mtrl_judge.judge_tasks.dataset_keys import LOCAL_FILES_VARIABLE
from mtrl_judge.judge_tasks.demonstrations import (
    demonstrated_style,
    parse_demonstrations,
    with_demonstrations,
)
from mtrl_judge.judge_tasks.sources import data_root
from mtrl_judge.judge_tasks.spec import ANSWERS_FILE, JudgeTask, Style
from mtrl_judge.metrics.rates import higher_is_better

from .arguments import JudgeArguments, Method
from .dataset import require_reasoning
from .engine import named_engine
from .fields import argument_classes, parse_flags, read_recipe, validate
from .host_warnings import without_renamed
from .kl_schedule import kl_schedule
from .mixed_prompts import without_paraphrases
from .recipes import (
    as_shell,
    find_recipe,
    launch_command,
    resolve_tasks,
)
from .rejection_sampling import require_verifiable

if TYPE_CHECKING:
    from trl.trainer.model_config import ModelConfig

SAVE_STEPS = 50
RFT = "rft"
DATA = "data"
_REQUIRED = {
    "model_name_or_path": "a checkpoint's folder or its name on the hub",
    "output_dir": "the folder of the run",
}
# How a run is started, not what is trained: not part of its recipe.
_START_ONLY = ("resume", "dry_run")


@dataclass(frozen=True)
class Settings:
    """Everything that a run is made from."""

    method: Method
    judge: JudgeArguments
    trainer: Any
    """TRL's ``GRPOConfig`` or ``SFTConfig``."""
    model: ModelConfig
    tasks: tuple[JudgeTask, ...]
    recipe: Path | None
    given: dict[str, Any]
    """The fields set by flags, recipe and our defaults, JSON-able; a recipe of the same run."""
    flags: tuple[str, ...]
    """The command-line flags that give these settings, ``--recipe`` among them."""

    @property
    def style(self) -> Style:
        """How the judge is asked to answer: direct where demonstrations show no reasoning."""
        asked = self.asked_style
        shown = {demonstrated_style(task, asked) for task in self.tasks}
        return "direct" if "direct" in shown else asked

    @property
    def asked_style(self) -> Style:
        """The style that the recipe or the method asks for."""
        return self.judge.style or ("reasoned" if self.method == "grpo" else "direct")

    @property
    def answer_tokens(self) -> int:
        """The longest answer in validation, in tokens."""
        longest = getattr(self.trainer, "max_completion_length", None)
        by_style = 16 if self.style == "direct" else 1024
        return self.judge.validation_max_new_tokens or longest or by_style

    @property
    def headline(self) -> str:
        """The metric that validation averages over the tasks; it chooses the best checkpoint."""
        return _shared_headline(self.tasks)

    def answer_files(self) -> list[Path]:
        """The files of answers to learn from in place of the labels; none without ``answers``.

        Raises:
            JudgeError: there is no data root for the files beside the data.
        """
        given = self.judge.answers
        if given != DATA:
            return [] if given is None else [Path(given)]
        root = self.data_root or data_root()
        if root is None:
            raise JudgeError("answers: data: the files are beside the data; give data_root")
        return [root / task.task / ANSWERS_FILE for task in self.tasks]

    @property
    def data_root(self) -> Path | None:
        """The folder of the data; None is ``MTRL_JUDGE_DATA``, or the hub."""
        return expanded(self.judge.data_root) if self.judge.data_root else None


def parse_settings(method: Method, argv: Sequence[str]) -> Settings:
    """Settings from command-line flags, ``--recipe NAME|FILE`` among them.

    Raises:
        JudgeError: as :func:`build_settings`.
    """
    values = parse_flags(method, argv)
    recipe = values.pop("recipe", None)
    return build_settings(method, values, recipe=recipe, flags=argv)


def build_settings(
    method: Method,
    values: Mapping[str, Any],
    *,
    recipe: str | Path | None = None,
    flags: Sequence[str] | None = None,
) -> Settings:
    """Settings from values by field, which override the recipe's.

    Args:
        recipe: the name of a shipped recipe, or a file.
        flags: the command-line flags that the values come from, if they do.

    Raises:
        JudgeError: all faults of the recipe and of the values at once, each with its file or flag,
            what was found and what is expected.
    """
    path = None if recipe is None else find_recipe(str(recipe), method)
    in_recipe, faults = ({}, []) if path is None else read_recipe(path)
    given, field_faults = validate(method, {**in_recipe, **values})
    for name, fault in field_faults.items():
        faults.append(f"{f'--{name}' if name in values else f'{path}: {name}'}: {fault}")
    if faults:
        raise JudgeError("\n".join(faults))
    if flags is None:
        kept = {name: value for name, value in values.items() if name not in _START_ONLY}
        flags = as_flags(kept if path is None else {"recipe": path, **kept})
    return _build(method, given, path, flags)


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """The command-line flags of values by field, for a training in another process.

    >>> as_flags({"recipe": "tiny_cpu", "tasks": ["a", "b"], "balance": {"a": 2.0}, "resume": True})
    ['--recipe', 'tiny_cpu', '--tasks', 'a', 'b', '--balance', '{"a": 2.0}', '--resume', 'true']
    """
    words: list[str] = []
    for name, value in values.items():
        parts = value if isinstance(value, list | tuple) else [value]
        texts = [str(part) if isinstance(part, str | Path) else json.dumps(part) for part in parts]
        words += [f"--{name}", *texts]
    return words


def _build(
    method: Method, given: dict[str, Any], recipe: Path | None, flags: Sequence[str]
) -> Settings:
    where = str(recipe) if recipe else "settings"
    judge = _construct(JudgeArguments, given, where)
    if not judge.dry_run:
        missing = [
            f"{name}: missing; expected {expected}"
            for name, expected in _REQUIRED.items()
            if name not in given
        ]
        if missing:
            raise JudgeError("\n".join(missing))
        _refuse_other_world_size(method, judge, flags)
    if judge.allow_local_files:
        os.environ[LOCAL_FILES_VARIABLE] = "1"  # also for the processes of this run
    named = parse_demonstrations(judge.demonstrations, f"{where}: demonstrations")
    tasks = [with_demonstrations(task, named) for task in resolve_tasks(judge.tasks)]
    given = {**_our_defaults(method, given, tasks), **given}
    _, trainer_config, model_config = argument_classes(method)
    recorded = {name: value for name, value in given.items() if name not in _START_ONLY}
    settings = Settings(
        method,
        judge,
        _construct_trainer(trainer_config, _as_trl(given, judge, where), where, judge),
        _construct(model_config, given, where),
        tuple(tasks),
        recipe,
        json.loads(json.dumps(recorded, default=str)),
        tuple(flags),
    )
    conflicts = [f"{where}: {fault}" for fault in _conflicts(settings)]
    if conflicts:
        raise JudgeError("\n".join(conflicts))
    return settings


def _as_trl(given: Mapping[str, Any], judge: JudgeArguments, where: str) -> dict[str, Any]:
    """The fields with a β that TRL takes: of a schedule the largest, so that it is not 0."""
    try:
        schedule = kl_schedule(judge.beta)
    except JudgeError as error:
        raise JudgeError("\n".join(f"{where}: {line}" for line in str(error).split("\n"))) from None
    return {**given, "beta": schedule.largest} if schedule else dict(given)


def _shared_headline(tasks: Sequence[JudgeTask]) -> str:
    """The headline metric of the tasks, or ``headline`` where they have different ones."""
    names = {task.kind.headline for task in tasks}
    return names.pop() if len(names) == 1 else "headline"


def _our_defaults(
    method: Method, given: Mapping[str, Any], tasks: Sequence[JudgeTask]
) -> dict[str, Any]:
    """Our defaults in place of TRL's.

    transformers can load the best checkpoint only if every validation is followed by a save
    (``TrainingArguments.__post_init__``), so the two go together.
    """
    strategy = given.get("eval_strategy", given.get("save_strategy", "steps"))
    steps = given.get("eval_steps", given.get("save_steps", SAVE_STEPS))
    headline = _shared_headline(tasks)
    defaults: dict[str, Any] = {
        "remove_unused_columns": False,
        "eval_strategy": strategy,
        "save_strategy": strategy,
        "eval_steps": steps,
        "save_steps": steps,
        "load_best_model_at_end": strategy != "no",
        "metric_for_best_model": f"eval_{headline}",
        "greater_is_better": higher_is_better(headline),
        "restore_callback_states_from_checkpoint": True,
        "save_total_limit": 2,
        "report_to": "none",
        "logging_steps": 1,
    }
    if method == "grpo":
        # Validation is ours: greedy, one answer per prompt.
        return {**defaults, "num_generations_eval": 1}
    return {**defaults, "completion_only_loss": True, "max_length": None}


def _construct(arguments: type[Any], given: Mapping[str, Any], where: str) -> Any:
    values = {f.name: given[f.name] for f in fields(arguments) if f.name in given}
    try:
        with without_renamed():
            return arguments(**values)
    except (ValueError, TypeError, NotImplementedError, ImportError, OSError) as error:
        lines = str(error).splitlines()
        raise JudgeError("\n".join(f"{where}: {line}" for line in lines)) from None


def _construct_trainer(
    config: type[Any], given: Mapping[str, Any], where: str, judge: JudgeArguments
) -> Any:
    if not judge.dry_run:
        return _construct(config, given, where)
    # A dry run checks the batch sizes for the planned processes on any machine; TRL would take the
    # number of processes and the device from this one.
    planned = type(config.__name__, (config,), {"world_size": judge.processes})
    with _accelerate_as_it_was():
        trainer = _construct(planned, {**given, "use_cpu": True}, where)
    trainer.use_cpu = given.get("use_cpu", False)
    return trainer


@contextmanager
def _accelerate_as_it_was() -> Iterator[None]:
    """Restore what accelerate keeps for the whole process, which every TrainingArguments replaces.

    Otherwise a run would continue on the device of the warm-up that was only checked.
    """
    from accelerate.state import AcceleratorState, PartialState

    shared = [state._shared_state for state in (PartialState, AcceleratorState)]
    before = [dict(values) for values in shared]
    try:
        yield
    finally:
        for values, kept in zip(shared, before, strict=True):
            values.clear()
            values.update(kept)


def _refuse_other_world_size(method: Method, judge: JudgeArguments, flags: Sequence[str]) -> None:
    """Stop where another number of processes would silently change the batch size."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != judge.processes:
        raise JudgeError(
            f"processes: is {judge.processes}, but {world_size} started. Add --launch, or start "
            "with:\n"
            f"  {as_shell(launch_command(method, judge, flags))}\n"
            f"or set it to what started: --processes {world_size}"
        )


def _conflicts(settings: Settings) -> Iterator[str]:
    """Fields that are each valid but not together, or that name what does not exist."""
    judge, trainer = settings.judge, settings.trainer
    yield from _faults_of(lambda: named_engine(judge))
    if judge.warm_up is not None:
        yield from _faults_of(lambda: warm_up_settings(settings, {"dry_run": True}))
    yield from _adapter_conflicts(settings)
    for name in [name for name in ("warm_up", "answers") if samples_answers(judge, name)]:
        if judge.accelerate is not None:
            yield (
                f"{name}: rft loads the whole model in each process, and accelerate shards it; "
                "sample in a run without accelerate, and use its answers in an SFT recipe"
            )
    if judge.rft_verified:
        if not (samples_answers(judge, "warm_up") or samples_answers(judge, "answers")):
            yield "rft_verified: nothing is sampled; set warm_up or answers to rft"
        yield from _faults_of(lambda: require_verifiable(settings.tasks, settings.style))
    if judge.answers is not None and settings.method == "grpo":
        yield "answers: not a field of grpo"
    if judge.answers not in (None, RFT, DATA) and not Path(str(judge.answers)).is_file():
        yield f"answers: no file {judge.answers}; expected a file, {DATA} or {RFT}"
    if settings.method == "sft" and judge.answers is None and settings.style != "direct":
        yield from _faults_of(lambda: require_reasoning(settings.tasks))
    if settings.data_root is not None and not settings.data_root.is_dir():
        yield f"data_root: no folder {judge.data_root}"
    if judge.processes % judge.machines:
        yield f"machines: {judge.processes} processes cannot be split over {judge.machines}"
    if trainer.remove_unused_columns:
        yield "remove_unused_columns: would remove labels and images; leave it out"
    if judge.patience and trainer.eval_strategy == "no":
        yield "patience: has no effect with eval_strategy: no; change one of the two"
    if judge.prompts == "mixed":
        if len(without_paraphrases(settings.tasks)) == len(settings.tasks):
            yield (
                "prompts: is mixed, and no task lists judge.paraphrases; add some, or leave it out"
            )
        if trainer.dataloader_persistent_workers:
            yield (
                "dataloader_persistent_workers: workers that outlive an epoch do not change the "
                "wordings of prompts: mixed; leave it out"
            )
    if settings.method == "sft" and judge.balance == "worst_task":
        yield "balance: worst_task goes by rewards, which sft has not; expected another balance"
    if settings.method == "grpo":
        yield from _length_conflicts(judge, trainer)
        yield from _pass_conflicts(judge, trainer)
        yield from _reward_conflicts(settings)
        if trainer.use_transformers_continuous_batching:
            yield (
                "use_transformers_continuous_batching: TRL does not support it for models with "
                "images; use vLLM (use_vllm: true), or cache_implementation: static"
            )
        server = trainer.use_vllm and trainer.vllm_mode == "server"
        if server and (judge.min_pixels is None) != (judge.max_pixels is None):
            name = "min_pixels" if judge.min_pixels is None else "max_pixels"
            yield (
                f"{name}: missing; with vllm_mode: server, min_pixels and max_pixels go together, "
                "because the server has to be started with both"
            )
        yield from _group_conflicts(judge, trainer)


def _adapter_conflicts(settings: Settings) -> Iterator[str]:
    judge, model, trainer = settings.judge, settings.model, settings.trainer
    if judge.adapter != "mixlora":
        for name in ("mixlora_factors", "mixlora_router"):
            if name in settings.given:
                yield f"{name}: has no effect without adapter: mixlora; leave it out"
        return
    if not model.use_peft:
        yield "adapter: has no effect without use_peft: true; set it, or leave adapter out"
    if not 2 <= model.lora_r <= judge.mixlora_factors:
        yield (
            f"lora_r: is {model.lora_r}; expected 2 to mixlora_factors ({judge.mixlora_factors}): "
            "so many factors are chosen for a prompt, and a single one's weight teaches its router "
            "nothing"
        )
    if model.lora_target_parameters:
        yield (
            "lora_target_parameters: not with adapter: mixlora, whose layers read whole prompts, "
            "and experts read single tokens; expected lora_target_modules"
        )
    if judge.accelerate is not None:
        yield (
            "accelerate: adapter: mixlora needs the whole model in each process; leave out one of "
            "the two"
        )
    if getattr(trainer, "use_vllm", False):
        yield "use_vllm: vLLM cannot run adapter: mixlora; leave out one of the two"
    if getattr(trainer, "cache_implementation", None) is not None:
        yield (
            "cache_implementation: not with adapter: mixlora, whose choice is kept with the cache "
            "and cannot be compiled; leave out one of the two"
        )
    for name in ("use_dora", "use_rslora", "load_in_4bit", "load_in_8bit"):
        if getattr(model, name):
            yield f"{name}: not with adapter: mixlora; leave out one of the two"


def _faults_of(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except JudgeError as error:
        yield str(error)


def warm_up_settings(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings of the SFT that ``warm_up`` names: its recipe, this run's engine, ``values``.

    Raises:
        JudgeError: there is no such recipe, or it has faults.
    """
    name = str(settings.judge.warm_up)
    names = ("processes", "machines", "accelerate")
    values = {**{name: getattr(settings.judge, name) for name in names}, **values}
    if samples_answers(settings.judge, "warm_up"):
        own = settings.recipe.stem if settings.recipe else ""
        name = name.partition(":")[2] or own
        if not name:
            raise JudgeError("warm_up: rft: with which SFT recipe? Write rft:RECIPE")
        values = {"style": settings.style, "answers": RFT, **values}
    recipe = find_recipe(name, "sft", field="warm_up")
    return build_settings("sft", values, recipe=recipe)


def samples_answers(judge: JudgeArguments, field: Literal["warm_up", "answers"]) -> bool:
    """Whether the warm-up, or SFT itself, learns from sampled answers: see
    :mod:`.rejection_sampling`."""
    if field == "answers":
        return judge.answers == RFT
    return (judge.warm_up or "").partition(":")[0] == RFT


def _length_conflicts(judge: JudgeArguments, trainer: Any) -> Iterator[str]:
    soft, hard, longest = judge.length_soft, judge.length_hard, trainer.max_completion_length
    if soft is None and hard is None:
        if judge.length_weight:
            yield "length_weight: has no effect without length_soft and length_hard; set both"
    elif soft is None or hard is None:
        missing = "length_soft" if soft is None else "length_hard"
        yield f"{missing}: missing; length_soft and length_hard go together"
    elif soft >= hard:
        yield f"length_soft: is {soft}, length_hard is {hard}; expected length_soft < length_hard"
    elif judge.length_weight and longest is not None and soft >= longest:
        yield f"length_soft: is {soft}; expected less than max_completion_length ({longest})"


def _reward_conflicts(settings: Settings) -> Iterator[str]:
    judge = settings.judge
    yield from _accuracy_conflicts(settings)
    if judge.perception_weight and settings.style == "direct":
        yield "perception_weight: there is no reasoning in the direct style; use style: reasoned"
    if judge.confidence_weight and settings.style != "confidence":
        yield "confidence_weight: answers state no confidence; use style: confidence"
    if judge.perception_checker == "openai" and judge.perception_model is None:
        yield "perception_model: missing; perception_checker: openai needs the text judge's name"
    for name in ("perception_model", "perception_base_url"):
        if judge.perception_checker == "phrase" and getattr(judge, name) is not None:
            yield f"{name}: has no effect with perception_checker: phrase; leave it out"


def _accuracy_conflicts(settings: Settings) -> Iterator[str]:
    reward = settings.judge.accuracy_reward
    graded = [task for task in settings.tasks if task.kind.graded]
    if reward == "proportional":
        return
    if not graded:
        yield (
            f"accuracy_reward: is {reward}, and answers of these tasks are either right or wrong; "
            "leave it out"
        )
    others = [task.task for task in graded if not task.kind.scaled]
    if reward == "fidelity" and others:
        yield (
            f"accuracy_reward: is fidelity, which compares ratings; {', '.join(others)} has none: "
            "use another reward, or train on it in another run"
        )


def _pass_conflicts(judge: JudgeArguments, trainer: Any) -> Iterator[str]:
    """What TRL takes over all tokens of a micro-batch is no sum over its passes."""
    over_all = {
        "top_entropy_quantile": trainer.top_entropy_quantile < 1,
        "entropy_coef": trainer.entropy_coef,
        "use_adaptive_entropy": trainer.use_adaptive_entropy,
    }
    for name, given in over_all.items():
        if judge.micro_batch_tokens and given:
            yield f"micro_batch_tokens: does not go with {name}; leave out one of the two"


def _group_conflicts(judge: JudgeArguments, trainer: Any) -> Iterator[str]:
    """Resampled groups and both orders of a pair must be complete within one process."""
    batch = trainer.per_device_train_batch_size * trainer.steps_per_generation
    group = trainer.num_generations
    if judge.resample_tries and batch % group:
        yield (
            f"resample_tries: per_device_train_batch_size x steps_per_generation is {batch}; "
            f"expected a multiple of num_generations ({group})"
        )
    if judge.accuracy_reward == "fidelity" and (batch % group or batch < 2 * group):
        yield (
            f"accuracy_reward: per_device_train_batch_size x steps_per_generation is {batch}; "
            f"fidelity compares items: expected a multiple of num_generations ({group}), at least "
            f"{2 * group}"
        )
    if judge.consistency_weight and batch % (2 * group):
        yield (
            f"consistency_weight: per_device_train_batch_size x steps_per_generation is {batch}; "
            f"expected a multiple of 2 x num_generations ({2 * group})"
        )
