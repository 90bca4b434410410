"""The fields that a recipe or a flag may set, and their values, read and validated together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import Doc, TypedDict

from mtrl_judge.common.errors import JudgeError, nearest
from mtrl_judge.common.plain_yaml import read_yaml

from .arguments import METHODS, CommonArguments, JudgeArguments, Method
from .recipes import shipped_recipes

# Fields of TRL that ours replace.
_REPLACED = {
    "reward_weights": "alpha, consistency_weight, length_weight and user_rewards",
    "resume_from_checkpoint": "resume: true, and the same output_dir",
    "deepspeed": "accelerate: zero3 or a file, and accelerate's launcher",
    "fsdp": "accelerate: fsdp2 or a file, and accelerate's launcher",
}


def argument_classes(method: Method) -> tuple[type[Any], type[Any], type[Any]]:
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.model_config import ModelConfig
    from trl.trainer.sft_config import SFTConfig

    if method == "grpo":
        return JudgeArguments, GRPOConfig, ModelConfig
    return CommonArguments, SFTConfig, ModelConfig


class _Field(NamedTuple):
    annotation: Any
    """The type, with pydantic's constraints."""
    options: tuple[Any, ...]
    """The types that it is a union of; one for a plain type."""
    help: str | None
    default: Any


@cache
def _fields(method: Method) -> Mapping[str, _Field]:
    """The fields that a recipe or a flag may set."""
    known: dict[str, _Field] = {}
    for arguments in argument_classes(method):
        plain = get_type_hints(arguments)
        annotated = get_type_hints(arguments, include_extras=True)
        for field in fields(arguments):
            if field.name in known:  # ours takes more than TRL's
                continue
            annotation, choices = annotated[field.name], field.metadata.get("choices")
            if choices:  # TRL lists the values of a plain str
                annotation = Literal[tuple(choices)]
                if type(None) in get_args(plain[field.name]):
                    annotation |= None
            ours = (m.documentation for m in get_args(annotation) if isinstance(m, Doc))
            text = next(ours, field.metadata.get("help"))
            plain_type = plain[field.name]
            known[field.name] = _Field(annotation, _options(plain_type), text, field.default)
    return {name: field for name, field in known.items() if name not in _REPLACED}


@cache
def _adapter(method: Method) -> TypeAdapter[Any]:
    """Validates any number of fields, and refuses unknown ones."""
    types = {name: field.annotation for name, field in _fields(method).items()}
    table: Any = TypedDict("Fields", types, total=False)  # type: ignore[misc]
    table.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return TypeAdapter(table)


def validate(method: Method, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values as their fields' types have them; or, by field, what is wrong with them."""
    try:
        typed = _adapter(method).validate_python(values)
    except ValidationError as error:
        expected: dict[str, list[str]] = {}
        for fault in error.errors():
            text = fault["msg"].removeprefix("Input should be ").partition(", unable")[0]
            expected.setdefault(str(fault["loc"][0]), []).append(text)
        known = _fields(method)
        return {}, {
            name: f"is {values[name]!r}; expected {' or '.join(dict.fromkeys(texts))}"
            if name in known
            else f"unknown field; {_instead_of(method, name)}"
            for name, texts in expected.items()
        }
    # An integer stays one where the field is a float, so that a recipe reads as it was written.
    as_written = {n: v for n, v in values.items() if type(v) is int and type(typed[n]) is float}
    return {**typed, **as_written}, {}


def _instead_of(method: Method, name: str) -> str:
    if name in _REPLACED:
        return f"use {_REPLACED[name]}"
    if any(name in _fields(other) for other in METHODS):
        return f"not a field of {method}"
    known = nearest(name, _fields(method))
    return f"did you mean {known!r}?" if known else "`--help` lists all fields"


def read_recipe(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The values of a recipe, and what is wrong with the file."""
    values, problems = read_yaml(path)
    faults = [f"{path}: {problem}" for problem in problems]
    if values is None:
        return {}, faults
    if not isinstance(values, dict):
        return {}, [*faults, f"{path}: expected one `field: value` per line"]
    return {str(name): value for name, value in values.items()}, faults


def flag_words(argv: Sequence[str]) -> dict[str, list[str]]:
    """The words behind each flag, by its name with underscores.

    Raises:
        JudgeError: a word belongs to no flag.
    """
    words: dict[str, list[str]] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            words[name] = [value] if equals else []
        elif not words:
            raise JudgeError(f"{word}: belongs to no flag; flags are written --field value")
        else:
            words[name].append(word)
    return words


def parse_flags(method: Method, argv: Sequence[str]) -> dict[str, Any]:
    """The flags' values as text, by field, and ``recipe``; for :func:`validate`.

    Flags are spelled as TRL spells them (trl/scripts/_hf_argparser.py): ``--field value``,
    ``--field=value``, ``--field`` and ``--no_field`` for booleans, with hyphens or underscores.
    A list may also be comma-separated.

    Raises:
        JudgeError: a word belongs to no flag.
    """
    words = flag_words(argv)
    known = _fields(method)
    values: dict[str, Any] = {}
    for name, texts in words.items():
        if name not in known and name.removeprefix("no_") in known:
            values[name.removeprefix("no_")] = False
        elif name == "recipe":
            values[name] = " ".join(texts)
        else:
            values[name] = _from_words(texts, known[name].options if name in known else ())
    return values


def _from_words(texts: list[str], options: Sequence[Any]) -> Any:
    """The value of a flag from the words behind it, for a field of one of these types."""
    if any(get_origin(option) is list for option in options) and str not in options:
        return [part for text in texts for part in text.split(",") if part]
    # TRL's rule again: "none" is null unless the field takes text.
    if [text.casefold() for text in texts] in (["none"], ["null"]) and str not in options:
        return None
    return texts[0] if len(texts) == 1 else texts or True


def flags_help(method: Method) -> str:
    """All flags with their descriptions, and examples."""
    shipped = "|".join([*(path.stem for path in shipped_recipes(method)), "FILE"])
    lines = [f"--recipe [{shipped}]", "    A shipped recipe, or a file.", "--launch"]
    lines.append("    Start the processes that the recipe asks for, under accelerate's launcher.")
    lines += ["--quiet, -q", "    No progress; the end of the run and warnings only."]
    lines += ["--verbose, -v", "    Also what transformers logs."]
    for name, field in _fields(method).items():
        values = _choices(field.annotation)
        shown = f" [{'|'.join(values)}]" if values else ""
        text = " ".join((field.help or "").replace("%%", "%").split())
        lines += [f"--{name}{shown}", f"    {text}"]
    usage = f"usage: mtrl-judge train {method} --field value …\n"
    example = f"  mtrl-judge train {method} --recipe tiny_cpu --model_name_or_path tiny-base"
    examples = [f"{example} --dry_run", f"{example} --output_dir runs/tiny"]
    return "\n".join([usage, *lines, "\nExamples:", *examples])


def _choices(annotation: Any) -> list[str]:
    """The values of a type that has no others."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    options = [option for option in _options(annotation) if option is not type(None)]
    parts = [_choices(option) for option in options if option is not annotation]
    return [value for part in parts for value in part] if parts and all(parts) else []


def _options(annotation: Any) -> tuple[Any, ...]:
    """The types that a union has; a plain type by itself."""
    union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if union else (annotation,)
