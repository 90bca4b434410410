"""A recipe and flags to typed settings: TRL's own fields, and what a judge adds to them.

Every field of :class:`JudgeArguments`, of TRL's ``GRPOConfig`` or ``SFTConfig`` and of its
``ModelConfig`` can stand in a recipe (a flat YAML file) or be a flag; a flag goes over the recipe,
the recipe over our defaults, and those over TRL's.
"""

from __future__ import annotations

import json
import os
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from mtrl_judge.common.errors import Fault, JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import Style

from .arguments import GRPO_ONLY, JudgeArguments, Method
from .recipes import find_accelerate_config, find_recipe, launch_command, resolve_tasks

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.model_config import ModelConfig
    from trl.trainer.sft_config import SFTConfig

SAVE_STEPS = 50
_REQUIRED = {
    "model_name_or_path": "name the model to train: --model_name_or_path FOLDER|HUB_NAME",
    "output_dir": "name the run's folder: --output_dir FOLDER",
}
# TRL's fields that ours take the place of.
_INSTEAD = {
    "reward_weights": "give alpha, consistency_weight, length_weight and user_rewards",
    "resume_from_checkpoint": "give resume: true, and the same output_dir",
    "deepspeed": "give accelerate: zero3 or a file, and start under accelerate's launcher",
    "fsdp": "give accelerate: fsdp2 or a file, and start under accelerate's launcher",
}
# What a start is asked to do, not what is trained: no part of a run's recipe.
_ASKED_ONCE = ("resume", "dry_run")


class Settings(NamedTuple):
    """All that a run is made from."""

    method: Method
    judge: JudgeArguments
    trainer: GRPOConfig | SFTConfig
    model: ModelConfig
    recipe: Path | None
    given: dict[str, Any]
    """Fields that are not as TRL has them, JSON-able; as a recipe it gives these settings again."""
    argv: tuple[str, ...]
    """The flags, ``--recipe`` among them."""

    @property
    def style(self) -> Style:
        """How the judge is asked to answer."""
        return cast(Style, self.judge.style)

    @property
    def answer_tokens(self) -> int:
        """The longest answer in validation, in tokens."""
        return cast(int, self.judge.validation_max_new_tokens)


class _Given(NamedTuple):
    """Values by field, and the faults of the place they stand in."""

    values: dict[str, Any]
    faults: list[str]


class _Known(NamedTuple):
    """A field that a recipe or a flag may set."""

    hint: Any
    help: str
    choices: Sequence[Any] | None


def parse_settings(method: Method, argv: Sequence[str]) -> Settings:
    """Settings from flags, ``--recipe NAME|FILE`` among them.

    Raises:
        JudgeError: with every fault of the recipe and of the flags at once, or the contradictions
            between fields that are each right.
    """
    known = _known_fields(method)
    flags, recipe_name, faults = _parse_flags(method, argv, known)
    recipe = find_recipe(recipe_name, method) if recipe_name else None
    read = _read_recipe(method, recipe, known) if recipe else _Given({}, [])
    faults = [*read.faults, *faults]
    given = {**read.values, **flags}
    if method == "sft":
        faults += [
            f"{'--' if name in flags else f'{recipe}: '}{name}: is for grpo alone; remove it"
            for name in GRPO_ONLY
            if name in given
        ]
    faults += [
        f"{'--' if name in flags else f'{recipe}: '}{name}: is not for judges; {instead}"
        for name, instead in _INSTEAD.items()
        if name in given
    ]
    if faults:
        raise JudgeError("\n".join(faults))
    return _build(method, given, recipe, tuple(argv))


def _known_fields(method: Method) -> dict[str, _Known]:
    known: dict[str, _Known] = {}
    for arguments in (JudgeArguments, _trainer_class(method), _model_class()):
        hints = typing.get_type_hints(arguments)
        for each in fields(arguments):
            text = str(each.metadata.get("help") or "").replace("%%", "%")
            known[each.name] = _Known(hints[each.name], text, each.metadata.get("choices"))
    return known


def _trainer_class(method: Method) -> Any:
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.sft_config import SFTConfig

    return GRPOConfig if method == "grpo" else SFTConfig


def _model_class() -> Any:
    from trl.trainer.model_config import ModelConfig

    return ModelConfig


def _read_recipe(method: Method, path: Path, known: Mapping[str, _Known]) -> _Given:
    raw, problems = _read_yaml(path)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in known:
            problems.append(Fault(path, str(name), "unknown field", _where_known(name, method)))
            continue
        try:
            values[name] = _typed(known[name], value)
        except ValueError as error:
            problems.append(Fault(path, name, f"is {value!r}", str(error)))
    return _Given(values, [str(problem) for problem in problems])


def _read_yaml(path: Path) -> tuple[dict[str, Any], list[Fault]]:
    try:
        text = path.read_text(encoding="utf-8")
        node, raw = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "file"
        right = "check quotes, colons and indentation"
        problem = getattr(error, "problem", None) or type(error).__name__
        return {}, [Fault(path, where, f"not YAML: {problem}", right)]
    if raw is None:
        return {}, []
    if not isinstance(raw, dict) or not isinstance(node, yaml.MappingNode):
        return {}, [Fault(path, "file", "is no mapping", "write one `field: value` a line")]
    names = [key.value for key, _ in node.value]
    twice = sorted({name for name in names if names.count(name) > 1})
    return raw, [Fault(path, name, "given twice", "keep one of the two") for name in twice]


def _where_known(name: object, method: Method) -> str:
    """The nearest field, or the method that has a field of this name."""
    other: Method = "sft" if method == "grpo" else "grpo"
    if name in _known_fields(other):
        return f"it is a field of {other}, not of {method}"
    return _nearest_field(name, _known_fields(method))


def _nearest_field(name: object, known: Mapping[str, _Known]) -> str:
    """The nearest field, where one is near: the list of all would be of no help."""
    hint = did_you_mean(name, known)
    return hint if hint.startswith("did") else "see `--help` for the fields there are"


def _typed(known: _Known, value: Any) -> Any:
    """The value as the field's type has it.

    Raises:
        ValueError: it is of another type, with what would be right.
    """
    if known.choices is not None and value is not None and value not in known.choices:
        raise ValueError(did_you_mean(value, known.choices))
    try:
        typed = TypeAdapter(known.hint).validate_python(value)
    except ValidationError:
        first_sentence = known.help.split(". ")[0].rstrip(".")
        right = f"would be right: {_type_name(known.hint)}"
        raise ValueError(f"{right} ({first_sentence})" if known.help else right) from None
    return value if isinstance(value, int) and isinstance(typed, float) else typed


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(map(_type_name, typing.get_args(hint)))
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _parse_flags(
    method: Method, argv: Sequence[str], known: Mapping[str, _Known]
) -> tuple[dict[str, Any], str | None, list[str]]:
    """The flags' values, the recipe they name, and what is wrong with them."""
    namespace, rest = _flag_parser(method).parse_known_args(list(argv))
    texts = vars(namespace)
    recipe = texts.pop("recipe", None)
    faults = list(_stray_words(rest, known))
    values: dict[str, Any] = {}
    for name, text in texts.items():
        is_null = str(text).casefold() in ("none", "null")
        args = typing.get_args(known[name].hint)
        try:
            # As in TrlParser, where text itself may be a field's value.
            null = is_null and type(None) in args and str not in args
            values[name] = None if null else _typed(known[name], text)
        except ValueError as error:
            faults.append(f"--{name}: is {text!r}; {error}")
    return values, recipe, faults


def _stray_words(words: Sequence[str], known: Mapping[str, _Known]) -> Iterator[str]:
    after_flag = False
    for word in words:
        if word.startswith("--"):
            name = word[2:].split("=")[0].replace("-", "_")
            yield f"--{name}: unknown flag; {_nearest_field(name, {'recipe': _NO_FIELD, **known})}"
            after_flag = "=" not in word
        elif not after_flag:
            yield f"{word}: belongs to no flag; flags are written --field value"


_NO_FIELD = _Known(str, "", None)


def _flag_parser(method: Method) -> Any:
    """TRL's parser, which knows how each field is spelled as a flag and how many words it takes.

    Values are left as text: they are checked as a recipe's are, all at once.
    """
    import argparse

    from trl.scripts.utils import TrlParser

    class Parser(TrlParser):  # type: ignore[misc]  # TRL has no types
        def error(self, message: str) -> typing.NoReturn:
            raise JudgeError(message.removeprefix("argument ").split("/", 1)[-1])

    arguments: list[Any] = [JudgeArguments, _trainer_class(method), _model_class()]
    parser = Parser(arguments, prog=f"mtrl-judge train {method}", allow_abbrev=False)
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            action.default = argparse.SUPPRESS
            action.type = action.choices = None
            action.required = False
    parser.add_argument("--recipe", default=argparse.SUPPRESS, help="A shipped recipe, or a file.")
    return parser


def _build(
    method: Method, given: dict[str, Any], recipe: Path | None, argv: tuple[str, ...]
) -> Settings:
    where = str(recipe) if recipe else "settings"
    judge = _construct(JudgeArguments, given, where)
    judge.style = judge.style or ("reasoned" if method == "grpo" else "direct")
    missing = [name for name in _REQUIRED if name not in given and not judge.dry_run]
    if missing:
        raise JudgeError("\n".join(f"{name}: is missing; {_REQUIRED[name]}" for name in missing))
    given = {**_our_defaults(method, given), **given}
    trainer = _construct_trainer(method, given, where, judge, argv)
    model = _construct(_model_class(), given, where)
    if judge.validation_max_new_tokens is None:
        by_style = 16 if judge.style == "direct" else 1024
        length = getattr(trainer, "max_completion_length", None)
        judge.validation_max_new_tokens = length or by_style
    kept = {name: value for name, value in given.items() if name not in _ASKED_ONCE}
    kept = json.loads(json.dumps(kept, default=str))
    settings = Settings(method, judge, trainer, model, recipe, kept, argv)
    faults = list(_contradictions(settings))
    if faults:
        raise JudgeError("\n".join(f"{where}: {fault}" for fault in faults))
    return settings


def _our_defaults(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Ours over TRL's, where neither recipe nor flags say anything.

    Transformers keeps the best checkpoint only if what is validated is saved
    (``TrainingArguments._validate_args``), so the two go together.
    """
    strategy = given.get("eval_strategy", given.get("save_strategy", "steps"))
    steps = given.get("eval_steps", given.get("save_steps", SAVE_STEPS))
    defaults: dict[str, Any] = {
        "remove_unused_columns": False,
        "eval_strategy": strategy,
        "save_strategy": strategy,
        "eval_steps": steps,
        "save_steps": steps,
        "load_best_model_at_end": strategy != "no",
        "metric_for_best_model": "eval_macro_f1",
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,
        "save_total_limit": 2,
        "report_to": "none",
        "logging_steps": 1,
    }
    if method == "grpo":
        # Validation is greedy, one answer a prompt, and not TRL's.
        return {**defaults, "num_generations_eval": 1}
    return {**defaults, "completion_only_loss": True, "max_length": None}


def _construct(arguments: type[Any], given: Mapping[str, Any], where: str) -> Any:
    own = {name: given[name] for name in (each.name for each in fields(arguments)) if name in given}
    try:
        with warnings.catch_warnings():
            # TRL sets the old name by default (trl/trainer/base_config.py); no user can mend that.
            warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
            return arguments(**own)
    except (ValueError, TypeError, NotImplementedError, ImportError, OSError) as error:
        raise JudgeError(
            "\n".join(f"{where}: {line}" for line in str(error).splitlines())
        ) from None


def _construct_trainer(
    method: Method,
    given: Mapping[str, Any],
    where: str,
    judge: JudgeArguments,
    argv: Sequence[str],
) -> Any:
    config = _trainer_class(method)
    if not judge.dry_run:
        _refuse_another_world(method, judge, argv)
        return _construct(config, given, where)
    # A dry run checks the batch sizes for the processes that are planned, on any machine; TRL asks
    # the machine at hand.
    planned = type(config.__name__, (config,), {"world_size": judge.processes})
    trainer = _construct(planned, {**given, "use_cpu": True}, where)
    trainer.use_cpu = given.get("use_cpu", False)
    return trainer


def _refuse_another_world(method: Method, judge: JudgeArguments, argv: Sequence[str]) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != judge.processes:
        raise JudgeError(
            f"processes: is {judge.processes}, and {world} started; the batch sizes are meant for "
            f"{judge.processes}. Start with:\n  {launch_command(method, judge, argv)}\n"
            f"or say what there is: --processes {world}"
        )


def _contradictions(settings: Settings) -> Iterator[str]:
    """Fields that are each right and do not go together, or name what is not there."""
    judge, trainer = settings.judge, settings.trainer
    checks: list[Callable[[], object]] = [lambda: resolve_tasks(judge.tasks)]
    if judge.accelerate is not None:
        checks.append(lambda: find_accelerate_config(str(judge.accelerate)))
    if judge.warm_up is not None:
        checks.append(lambda: _warm_up_settings(judge))
    for check in checks:
        try:
            check()
        except JudgeError as error:
            yield str(error)
    if judge.data_root is not None and not Path(judge.data_root).expanduser().is_dir():
        yield f"data_root: no folder {judge.data_root}"
    if judge.processes % judge.machines:
        yield f"machines: {judge.processes} processes do not spread over {judge.machines}"
    if trainer.remove_unused_columns:
        yield "remove_unused_columns: would take away labels and pictures; remove it"
    if settings.method == "grpo":
        yield from _grpo_contradictions(judge, trainer)
    if judge.patience and trainer.eval_strategy == "no":
        yield "patience: nothing is validated with eval_strategy: no; set one of the two"


def _warm_up_settings(judge: JudgeArguments) -> Settings:
    recipe = find_recipe(str(judge.warm_up), "sft", field="warm_up")
    flags = ["--recipe", str(recipe), "--processes", str(judge.processes), "--dry_run"]
    return parse_settings("sft", flags)


def _grpo_contradictions(judge: JudgeArguments, trainer: Any) -> Iterator[str]:
    longest = trainer.max_completion_length
    if judge.length_weight and longest is not None and (judge.length_soft or 0) >= longest:
        yield f"length_soft: no completion is longer than max_completion_length ({longest})"
    batch = trainer.per_device_train_batch_size * trainer.steps_per_generation
    if judge.resample_tries and batch % trainer.num_generations:
        yield (
            f"resample_tries: groups that are drawn again must be whole in one process; "
            f"per_device_train_batch_size x steps_per_generation is {batch}, no multiple of "
            f"num_generations ({trainer.num_generations})"
        )
    if not judge.consistency_weight:
        return
    pair = 2 * trainer.num_generations
    if batch % pair:
        yield (
            f"consistency_weight: both orders of a pair must be in one process's generation batch, "
            f"{pair} completions (2 x num_generations); per_device_train_batch_size x "
            f"steps_per_generation is {batch}, no multiple of it"
        )
    if judge.resample_tries:
        yield (
            "consistency_weight: groups that are drawn again (resample_tries) part the orders of a "
            "pair; set one of the two to 0"
        )
