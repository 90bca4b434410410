"""YAML as plain data, within limits: reading a stranger's file costs no more than reading our own.

PyYAML's safe loader runs no code, but it has no limits. A few hundred bytes of nested aliases stand
for gigabytes, and deep nesting ends in a ``RecursionError``.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .errors import DataError, Problem
from .files import read_regular_file

# The shipped files have up to 5 KB, 150 values and 5 levels.
MAX_BYTES = 2**18
MAX_VALUES = 10_000
MAX_DEPTH = 32
MAX_DIGITS = 100
# What PyYAML's constructors raise for scalars such as 0x_ or 2001-99-99.
_BAD_SCALAR = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError)


class Yaml(NamedTuple):
    """What a YAML file says, and what is wrong with it."""

    value: Any
    """None if the file cannot be read or is not YAML."""
    problems: list[Problem]


def read_yaml(path: Path) -> Yaml:
    """Read a file; an unreadable one is a problem too."""
    try:
        text = read_regular_file(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        return Yaml(None, [Problem("file", "does not exist", "give the path of a YAML file")])
    except (OSError, ValueError) as error:
        return Yaml(None, [Problem("file", f"cannot be read ({error})", "a UTF-8 text file")])
    return parse_yaml(text)


def parse_yaml(text: str) -> Yaml:
    """Parse a text: mappings, lists, texts, numbers, dates, booleans and nulls.

    Repeated keys and explicit tags are problems. So is more than :data:`MAX_VALUES` values or
    :data:`MAX_BYTES` characters with every alias written out, more than :data:`MAX_DEPTH` levels,
    and a number of more than :data:`MAX_DIGITS` digits.
    """
    value, problems = _parsed(text)
    return Yaml(deepcopy(value), [*problems])


# PyYAML takes tens of milliseconds for a task, and one process reads each task several times.
@lru_cache(maxsize=128)
def _parsed(text: str) -> Yaml:
    try:
        loader = _PlainLoader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except _OverLimitError as error:
        return Yaml(None, [error.problem])
    except (yaml.YAMLError, *_BAD_SCALAR) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "file"
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        wrong = f"not YAML: {what or type(error).__name__}"
        return Yaml(None, [Problem(where, wrong, "check quotes, colons and indentation")])
    return Yaml(value, loader.problems)


def yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        DataError: with every problem of the file.
    """
    value, problems = read_yaml(path)
    if not problems and not isinstance(value, dict):
        problems = [Problem("file", "is not a mapping", "write one `key: value` per line")]
    if problems:
        raise DataError("\n".join(f"{path}: {problem}" for problem in problems))
    mapping: dict[str, Any] = value
    return mapping


class _OverLimitError(Exception):
    def __init__(self, line: int, found: str, expected: str) -> None:
        self.problem = Problem(f"line {line}", found, expected)


class _PlainLoader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.problems: list[Problem] = []
        self._depth = 0
        self._values = 0
        self._characters = 0
        # Values and characters of each finished node, which an alias of it repeats.
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _OverLimitError(line, f"*{event.anchor} contains itself", "remove the alias")
            self._add(line, *self._sizes[id(node)])
            return node
        self._check_tag(event, line)
        before = self._values, self._characters
        self._add(line, 1, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            wrong = f"nested more than {MAX_DEPTH} levels deep"
            raise _OverLimitError(line, wrong, "flatten it, or quote a text with many brackets")
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._values - before[0], self._characters - before[1]
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        return node

    def _add(self, line: int, values: int, characters: int) -> None:
        self._values += values
        self._characters += characters
        if self._values > MAX_VALUES or self._characters > MAX_BYTES:
            wrong = (
                f"more than {MAX_VALUES:,} values or {MAX_BYTES:,} characters, with each alias "
                "written out"
            )
            raise _OverLimitError(line, wrong, "shorten the file, or remove aliases")

    def _check_tag(self, event: Any, line: int) -> None:
        tag = event.tag
        if tag is None:
            return
        wrong = f"tag {tag.replace('tag:yaml.org,2002:', '!!')} is not allowed"
        right = "the file is plain data and runs no code; remove the tag"
        self.problems.append(Problem(f"line {line}", wrong, right))
        # As if it were not there: the text of a scalar, a plain mapping or list.
        event.tag = "tag:yaml.org,2002:str" if isinstance(event, yaml.ScalarEvent) else None

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """YAML forbids repeated keys, but PyYAML keeps the last value."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                wrong = f"given twice (line {key.start_mark.line + 1})"
                self.problems.append(Problem(key.value, wrong, "keep one of the two"))
            seen.add(key.value)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        if len(node.value) > MAX_DIGITS:
            line = node.start_mark.line + 1
            wrong = f"a number of more than {MAX_DIGITS} digits"
            raise _OverLimitError(line, wrong, "write it in quotes if it is a text")
        integer = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _PlainLoader.construct_number)
