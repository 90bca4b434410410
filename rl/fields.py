"""The fields that a recipe or a flag may set, and their values, read and validated together."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mtrl_judge.common.errors import JudgeError, nearest

from .arguments import METHODS, CommonArguments, JudgeArguments, Method

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


@cache
def _field_types(method: Method) -> Mapping[str, Any]:
    """The type of each field that a recipe or a flag may set."""
    types: dict[str, Any] = {}
    for arguments in argument_classes(method):
        hints = get_type_hints(arguments, include_extras=True)
        for field in fields(arguments):
            hint = hints[field.name]
            # TRL gives the values of a plain str as metadata.
            if choices := field.metadata.get("choices"):
                literal: Any = Literal[tuple(choices)]
                hint = literal | None if type(None) in get_args(hint) else literal
            if field.name not in _REPLACED:
                types[field.name] = hint
    return types


@cache
def _adapter(method: Method) -> TypeAdapter[Any]:
    """Validates any number of fields, and refuses unknown ones."""
    table: Any = TypedDict("Fields", dict(_field_types(method)), total=False)  # type: ignore[misc]
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
        known = _field_types(method)
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
    if any(name in _field_types(other) for other in METHODS):
        return f"not a field of {method}"
    known = nearest(name, _field_types(method))
    return f"did you mean {known!r}?" if known else "`--help` lists all fields"


def read_recipe(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The values of a recipe, and what is wrong with the file."""
    try:
        text = path.read_text(encoding="utf-8")
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        return {}, [f"{path}: not valid YAML: {' '.join(str(error).split())}"]
    if values is None:
        return {}, []
    if not isinstance(node, yaml.MappingNode):
        return {}, [f"{path}: expected one `field: value` per line"]
    # YAML forbids repeated keys, but PyYAML silently keeps the last value.
    counts = Counter(str(key.value) for key, _ in node.value)
    repeated = [
        f"{path}: {name}: given {count} times" for name, count in counts.items() if count > 1
    ]
    return {str(name): value for name, value in values.items()}, repeated


def parse_flags(method: Method, argv: Sequence[str]) -> dict[str, Any]:
    """The flags' values as text, by field; unknown flags are left to :func:`validate`."""
    try:
        namespace, rest = _flag_parser(method).parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise JudgeError(str(error).removeprefix("argument ")) from None
    unknown = [word for word in rest if word.startswith("--")]
    if rest and not unknown:
        raise JudgeError(f"{rest[0]}: belongs to no flag; flags are written --field value")
    names = (word[2:].split("=")[0].replace("-", "_") for word in unknown)
    values = {**vars(namespace), **dict.fromkeys(names)}
    for name, value in values.items():
        # TRL's rule (trl/scripts/_hf_argparser.py): "none" is null unless the field takes text.
        options = get_args(_field_types(method).get(name))
        nullable = type(None) in options and str not in options
        if nullable and str(value).casefold() in ("none", "null"):
            values[name] = None
    return values


def _flag_parser(method: Method) -> argparse.ArgumentParser:
    """A flag for each field, spelled as TRL spells it (trl/scripts/_hf_argparser.py).

    Values stay text: they are validated as a recipe's are, all at once.
    """
    parser = argparse.ArgumentParser(
        prog=f"mtrl-judge train {method}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--recipe", help="A shipped recipe, or a file.")
    types = _field_types(method)
    for arguments in argument_classes(method):
        group = parser.add_argument_group(arguments.__name__)
        for field in fields(arguments):
            name, hint = field.name, types.get(field.name)
            if hint is None:
                continue
            takes: dict[str, Any] = {}
            if hint in (bool, bool | None):
                takes = {"nargs": "?", "const": True}
            elif "list[" in str(hint) and str not in get_args(hint):
                takes = {"nargs": "+"}
            spellings = dict.fromkeys((name, name.replace("_", "-")))
            help_text = field.metadata.get("help")
            group.add_argument(*(f"--{s}" for s in spellings), dest=name, help=help_text, **takes)
            if field.default is True:
                negations = [f"--no_{name}", f"--no-{name.replace('_', '-')}"]
                group.add_argument(*negations, dest=name, action="store_false")
    return parser
