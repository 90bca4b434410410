"""What all commands have in common: how flags and lists are written, the order, the examples.

Flags may be spelled with hyphens or underscores. A list is comma-separated, or its flag is
repeated; where a command takes no other words, they may also stand one after another. No flag may
be abbreviated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from mtrl_judge.common.exits import CLOSED_OUTPUT

from .examples import EXAMPLES

# In the order of use, from the first look to rarer needs.
ORDER = (
    "judge", "results",  # of push, before its others
    "demo", "tasks", "data", "new", "validate", "preview", "eval", "leaderboard", "report",
    "gate", "baseline", "robustness", "track", "train", "recipes", "experiment", "push", "serve",
    "score", "tiny",
    "sample", "prepare", "status", "leaks", "facts", "show", "add", "merge", "save", "schema",
)  # fmt: skip


def spelled_alike(name: str) -> str:
    """A flag's name as it is compared: with hyphens.

    >>> spelled_alike("data_root")
    'data-root'
    """
    return name.replace("_", "-")


class JudgeCommand(TyperCommand):
    """A command whose help ends with examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not any(isinstance(parameter, TyperArgument) for parameter in self.params):
            args = list(self._one_flag_per_value(args))
        return super().parse_args(ctx, args)

    def _one_flag_per_value(self, args: Sequence[str]) -> Iterator[str]:
        """``--tasks a b`` as ``--tasks a --tasks b``."""
        lists = {
            spelled_alike(name)
            for option in self.params
            if getattr(option, "multiple", False)
            for name in option.opts
        }
        flag, has_value = "", False
        for word in args:
            if word.startswith("-"):
                name, _, value = word.partition("=")
                flag = name if spelled_alike(name) in lists else ""
                has_value = bool(value)
            elif flag and has_value:
                yield flag
            else:
                has_value = True
            yield word

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(ctx, formatter)


class JudgeGroup(TyperGroup):
    """Commands in the order of use."""

    def list_commands(self, ctx: Any) -> list[str]:
        known = {name: position for position, name in enumerate(ORDER)}
        return sorted(super().list_commands(ctx), key=lambda name: known.get(name, len(known)))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(ctx, formatter)


class Commands(JudgeGroup):
    """All commands; where nobody reads the output any more, typer would exit with 1."""

    def make_context(self, *args: Any, **keys: Any) -> Any:  # prints --help and --version
        with _closed_output():
            return super().make_context(*args, **keys)

    def invoke(self, ctx: Any) -> Any:
        with _closed_output():
            return super().invoke(ctx)


class App(typer.Typer):
    """A group of such commands."""

    def __init__(self, *, cls: type[TyperGroup] = JudgeGroup, **options: Any) -> None:
        super().__init__(cls=cls, **options)

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **options: Any
    ) -> Callable[[Any], Any]:
        """Overrides ``typer.Typer.command`` with :class:`JudgeCommand` as the class."""
        return super().command(name, cls=cls or JudgeCommand, **options)


@contextmanager
def _closed_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise typer.Exit(CLOSED_OUTPUT) from None


def _write_examples(ctx: Any, formatter: Any) -> None:
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    examples = EXAMPLES.get(" ".join(names), ())
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':{formatter.current_indent}}mtrl-judge {example}\n")
