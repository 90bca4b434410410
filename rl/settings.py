"""A recipe and flags to typed settings: TRL's own fields, and what a judge adds to them.

Every field of :class:`JudgeArguments`, of TRL's ``GRPOConfig`` or ``SFTConfig`` and of its
``ModelConfig`` can stand in a recipe (a flat YAML file) or be a flag; a flag goes over the recipe,
the recipe over our defaults, and those over TRL's.
"""

from __future__ import annotations

import json
import os
import shlex
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from mtrl_judge.judge_tasks.errors import Fault, JudgeError, did_you_mean
from mtrl_judge.judge_tasks.loading import GROUPS, SHIPPED, find_task, shipped_paths
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask, Style

from .dataset import Balance

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.model_config import ModelConfig
    from trl.trainer.sft_config import SFTConfig

Method: TypeAlias = Literal["grpo", "sft"]
METHODS: tuple[Method, ...] = ("grpo", "sft")
RECIPES = Path(__file__).parent / "recipes"
SAVE_STEPS = 50
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


def shipped_recipes(method: Method) -> list[Path]:
    """The recipes that come with the package, by name."""
    return sorted((RECIPES / method).glob("*.yaml"))


def find_recipe(name: str, method: Method, *, field: str = "recipe") -> Path:
    """A shipped recipe by its name, or any recipe by its path.

    Args:
        field: what names it, for the message.

    Raises:
        JudgeError: there is no such recipe.
    """
    return _find(field, name, shipped_recipes(method))


def find_accelerate_config(name: str) -> Path:
    """A shipped accelerate configuration by its name, or any by its path.

    Raises:
        JudgeError: there is no such configuration.
    """
    return _find("accelerate", name, sorted((RECIPES / "accelerate").glob("*.yaml")))


def resolve_tasks(names: Sequence[str]) -> list[JudgeTask]:
    """Tasks by names, names of groups and paths of YAMLs; each task once, in the order given.

    Raises:
        JudgeError: a name is unknown, a YAML has faults, or two YAMLs have one name.
    """
    shipped = [path.stem for path in shipped_paths()]
    tasks: dict[str, JudgeTask] = {}
    for name in names:
        if not name.endswith((".yaml", ".yml")) and name not in (*GROUPS, *shipped):
            hint = did_you_mean(name, (*GROUPS, *shipped))
            raise JudgeError(f"tasks: no task, group or .yaml file {name!r}; {hint}")
        for task in map(find_task, _members(name)):
            other = tasks.setdefault(task.task, task)
            if other.path != task.path:
                raise JudgeError(
                    f"tasks: {task.path}: {task.task} is the name of {other.path} too; rename one"
                )
    return list(tasks.values())


def launch_command(method: Method, judge: JudgeArguments, argv: Sequence[str]) -> str:
    """The command that trains with these flags, under a launcher where there are many processes."""
    own = [word for word in argv if word.split("=")[0] not in ("--dry_run", "--dry-run")]
    arguments = [method, *own]
    if judge.processes == 1 and judge.accelerate is None:
        return shlex.join(["mtrl-judge", "train", *arguments])
    words = ["accelerate", "launch"]
    if judge.accelerate is not None:
        words += ["--config_file", str(find_accelerate_config(judge.accelerate))]
    words += ["--num_processes", str(judge.processes)]
    command = shlex.join(words)
    if judge.machines > 1:
        # Left to the shell of each machine.
        command += f" --num_machines {judge.machines} --machine_rank $MACHINE_RANK"
        command += " --main_process_ip $MAIN_PROCESS_IP --main_process_port 29500"
    return f"{command} {shlex.join(['-m', 'mtrl_judge.rl.train', *arguments])}"


def _find(field_name: str, name: str, shipped: Sequence[Path]) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise JudgeError(f"{field_name}: no file {path}")
        return path
    by_name = {path.stem: path for path in shipped}
    if name not in by_name:
        hint = did_you_mean(name, by_name)
        raise JudgeError(f"{field_name}: nothing shipped is called {name!r}, nor a .yaml; {hint}")
    return by_name[name]


def _members(name: str) -> list[str]:
    if name not in GROUPS:
        return [name]
    group = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
    return [str(member) for member in group["task"]]


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
