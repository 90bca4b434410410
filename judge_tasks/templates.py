"""The language of questions: as much of Jinja as shows the columns of a row.

Jinja's sandbox keeps a template from code, but not from memory and time: compiling
``{{ 'a' * 10**9 }}`` takes gigabytes. So only what is listed here is compiled, and rendering counts
what it does. A template is checked when its YAML is read; text from data is never a template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
from jinja2 import (
    StrictUndefined,
    Template,
    TemplateSyntaxError,
    Undefined,
    meta,
    nodes,
    pass_context,
)
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mtrl_judge.common.markup import neutralize

from .column_paths import ColumnPath, Step

IMAGE_MARK = "<image>"
"""Where an image stands in a rendered question; data that has it is neutralized."""
MAX_TEMPLATE = 20_000
"""Characters of a template."""
MAX_TOKENS = 300
"""Words and symbols in the tags of a template."""
MAX_DEPTH = 20
"""Tags and expressions in one another."""
MAX_STEPS = 10_000
"""Passes through all loops together, for one row."""
MAX_RENDERED = 1_000_000
"""Characters of a rendered question."""
_MAX_CONSTANT = 100  # characters of a text, or digits of a number, in a tag

FILTER_NAMES = (
    *("capitalize", "default", "first", "float", "int", "interleave", "join", "last", "length"),
    *("lower", "round", "string", "title", "trim", "truncate", "upper"),
)
TESTS = ("defined", "none")
LOOP_ATTRIBUTES = ("first", "index", "index0", "last", "length", "revindex", "revindex0")
_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For),
    *(nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr),
    *(nodes.List, nodes.Tuple, nodes.Keyword),
)
_ARITHMETIC = (
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow),
    *(nodes.Concat, nodes.Pos, nodes.Neg),
)
_NAMES: Mapping[type[nodes.Node], str] = {
    nodes.Call: "a call",
    nodes.Slice: "a slice",
    nodes.Dict: "a mapping",
    nodes.Assign: "set",
    nodes.AssignBlock: "set",
    nodes.CallBlock: "call",
    nodes.FilterBlock: "filter",
    nodes.FromImport: "import",
    **dict.fromkeys(_ARITHMETIC, "arithmetic"),
}
_RENAME = "judge.each gives a column whose name has spaces or signs another one"
_USE = "use columns, if, for, comparisons and the filters that docs/tasks.md lists"
_STEPS = " steps"  # no template can spell a name with a space


class QuestionError(ValueError):
    """A template that is not a question; the parts of a :class:`~..common.errors.Problem`."""

    def __init__(self, line: int, found: str, expected: str = _USE) -> None:
        super().__init__(f"line {line} of the template: {found}; {expected}")
        self.found, self.expected = f"line {line} of the template: {found}", expected


# On values that do not fit; the filter truncate asserts that its length is large enough.
RENDER_ERRORS = (
    *(jinja2.TemplateError, ArithmeticError, AssertionError, TypeError, ValueError, LookupError),
    RecursionError,
)


class Place:
    """An image as a value of a template: ``{{ … }}`` places it.

    Args:
        index: which of the row's images it is.
        placed: the indices of the images placed so far, in order.
    """

    def __init__(self, index: int, placed: list[int]) -> None:
        self.index, self.placed = index, placed

    def mark(self) -> str:
        self.placed.append(self.index)
        return IMAGE_MARK

    def __str__(self) -> str:
        raise ValueError("an image is no text; write {{ column }} where it stands, without filters")


class Places(list[Place]):
    """Several images, or none, as one value of a template."""


class Interleaved:
    """Texts and images in order, as one value of a template."""

    def __init__(self, parts: list[str | Place]) -> None:
        self.parts = parts

    def __str__(self) -> str:
        raise ValueError("interleave is the last filter; what it gives is no text")


class _Question(NamedTuple):
    template: Template
    columns: frozenset[str]
    paths: frozenset[ColumnPath]


def question_columns(question: str) -> frozenset[str]:
    """The columns a question's template reads.

    Raises:
        QuestionError: it does not parse, or has something that is not allowed.
    """
    return _compiled(question).columns


def question_paths(question: str) -> frozenset[ColumnPath]:
    """What a question's template reads of its columns, as far as it names keys and positions.

    Raises:
        QuestionError: it does not parse, or has something that is not allowed.
    """
    return _compiled(question).paths


def render(question: str, values: Mapping[str, Any]) -> str:
    """The text of a question for one row.

    Raises:
        Exception: what the template raises on these values; see :data:`RENDER_ERRORS`.
    """
    pieces, length = [], 0
    # Pieces are counted as they come, before the text as a whole takes memory.
    for piece in _compiled(question).template.generate({**values, _STEPS: _Steps()}):
        length += len(piece)
        if length > MAX_RENDERED:
            raise ValueError(f"longer than {MAX_RENDERED:,} characters")
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=1024)  # the shipped tasks have 320, paraphrases included
def _compiled(question: str) -> _Question:
    try:
        _check_text(question)
        tree = _ENVIRONMENT.parse(question)
    except TemplateSyntaxError as error:
        wrong, right = str(error.message), f"a column is written {{{{ column }}}}; {_RENAME}"
        raise QuestionError(error.lineno, wrong, right) from None
    except RecursionError:
        raise QuestionError(1, f"nested more than {MAX_DEPTH} levels deep") from None
    _check_tree(tree)
    columns = frozenset(meta.find_undeclared_variables(tree))
    paths = frozenset(path for path in _paths(tree) if path.column in columns)
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, _STEPS, [], [], None, None, lineno=loop.lineno)
    return _Question(_ENVIRONMENT.from_string(tree), columns, paths)


def _paths(node: nodes.Node) -> Iterator[ColumnPath]:
    """Names with the keys and positions that are taken from them, as `conversations[0].value`."""
    steps: list[Step] = []
    inner = node
    while isinstance(inner, nodes.Getattr | nodes.Getitem):
        step: Step = inner.attr if isinstance(inner, nodes.Getattr) else None
        if isinstance(inner, nodes.Getitem):
            if isinstance(inner.arg, nodes.Const) and isinstance(inner.arg.value, str | int):
                step = inner.arg.value
            else:
                yield from _paths(inner.arg)
        steps.append(step)
        inner = inner.node
    if isinstance(inner, nodes.Name):
        yield ColumnPath(inner.name, tuple(reversed(steps)))
        return
    for child in inner.iter_child_nodes():
        yield from _paths(child)


def _check_text(question: str) -> None:
    """What must hold before the parser, which is recursive, reads the template."""
    if len(question) > MAX_TEMPLATE:
        raise QuestionError(1, f"longer than {MAX_TEMPLATE:,} characters", "shorten it")
    tokens = depth = 0
    for line, kind, text in _ENVIRONMENT.lex(question):
        tokens += kind not in ("data", "whitespace") and not kind.startswith(("comment", "raw"))
        if tokens > MAX_TOKENS:
            wrong = f"more than {MAX_TOKENS} words and symbols in tags"
            raise QuestionError(line, wrong, "shorten it")
        if kind == "operator":
            depth += (text in "([{") - (text in ")]}")
        if depth > MAX_DEPTH:
            raise QuestionError(
                line, f"more than {MAX_DEPTH} brackets in one another", "remove some"
            )
        if kind in ("integer", "float", "string") and len(text) > _MAX_CONSTANT:
            wrong = f"a text or number of more than {_MAX_CONSTANT} characters in a tag"
            raise QuestionError(line, wrong, "write text outside of tags")


def _check_tree(tree: nodes.Template) -> None:
    waiting: list[tuple[nodes.Node, int]] = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise QuestionError(node.lineno, f"nested more than {MAX_DEPTH} levels deep")
        what = _refused(node)
        if what is not None:
            right = f"{_USE}; {_RENAME}" if isinstance(node, _ARITHMETIC) else _USE
            raise QuestionError(node.lineno, f"{what} is not allowed", right)
        waiting += ((child, depth + 1) for child in node.iter_child_nodes())


def _refused(node: nodes.Node) -> str | None:
    """What a node is, if a question may not have it."""
    if isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const):
        return None  # a negative number
    if not isinstance(node, _ALLOWED):
        return _NAMES.get(type(node), type(node).__name__.lower())
    if isinstance(node, nodes.Filter):
        if node.name not in FILTER_NAMES:
            return f"the filter {node.name}"
        constants = node.name != "interleave"
        if constants and not all(map(_is_small_constant, _arguments(node))):
            return f"an argument of {node.name} that is a column or over {MAX_TEMPLATE:,}"
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        return f"the test {node.name}"
    if isinstance(node, nodes.For) and node.recursive:
        return "a recursive for"
    if isinstance(node, nodes.Name) and node.name == "self":
        return "the name self"
    return None


def _is_small_constant(node: nodes.Node) -> bool:
    if not isinstance(node, nodes.Const):
        return False
    return not isinstance(node.value, int | float) or node.value <= MAX_TEMPLATE


def _arguments(node: nodes.Filter) -> Iterator[nodes.Node]:
    yield from node.args
    yield from (keyword.value for keyword in node.kwargs)
    yield from filter(None, (node.dyn_args, node.dyn_kwargs))


class StandIn:
    """A value for a column when there is no data: whatever is taken from it is itself, and a loop
    over it passes once."""

    def __iter__(self) -> Iterator[StandIn]:
        yield self

    def __len__(self) -> int:
        return 1


class StandInText(StandIn, str):  # type: ignore[misc]  # its items are not texts
    """One that is a text."""


class StandInNumber(StandIn, int):
    """One that is a number."""


class StandInImage(StandIn, Place):
    """One that is an image, or holds images."""


class _Steps:
    """Counts passes through the loops of one rendering."""

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def take(self, n: int) -> None:
        self.left -= n + 1  # a loop over nothing is work too
        if self.left < 0:
            raise ValueError(f"more than {MAX_STEPS:,} passes through loops")


@pass_context
def _counted(context: Context, items: Any) -> Any:
    """What a loop is over, charged to this rendering."""
    if isinstance(items, Undefined):
        return items  # iterating over it raises
    if not isinstance(items, list | tuple | str | Mapping | StandIn):
        raise ValueError(f"for over {type(items).__name__}; expected a list")
    context[_STEPS].take(len(items))
    return items


def _joined(items: Any, separator: str = "") -> str:
    if isinstance(items, Undefined):
        return str(items)  # which raises
    if not isinstance(items, list | tuple | str):
        raise ValueError(f"join of {type(items).__name__}; expected a list")
    if len(items) * (len(separator) + 1) > MAX_RENDERED:
        raise ValueError(f"join of more than {MAX_RENDERED:,} characters")
    return separator.join(map(str, items))


# Images stand in their own order, whatever the numbers, as `extract_images_and_text` in
# benchmark/build_from_hf.py of github.com/facebookresearch/MMRB2 has it. LLaVA's conversations have
# <image> without numbers.
_MARK = re.compile(r"<image(?:_[0-9]{1,4})?>")


def _interleaved(text: Any, images: Any) -> Interleaved:
    """A text with images in the places of <image_1>, <image_2>, … or of each <image>; those without
    one follow it."""
    for value in (text, images):
        if isinstance(value, Undefined):
            str(value)  # which raises
    if not isinstance(text, str):
        raise ValueError(f"interleave of {type(text).__name__}; expected a text")
    images = images if isinstance(images, list) else [images]
    if not all(isinstance(image, Place) for image in images):
        raise ValueError("interleave: its argument is no column of judge.images")
    waiting = iter(images)
    parts: list[str | Place] = []
    position = 0
    for mark in _MARK.finditer(text):
        image = next(waiting, None)
        if image is None:
            break
        parts += [text[position : mark.start()], image]
        position = mark.end()
    return Interleaved([*parts, text[position:], *waiting])


def _rounded(value: Any, digits: int = 0) -> float:
    return round(float(value), digits)


class _Environment(ImmutableSandboxedEnvironment):
    """Access reaches keys and positions of the data; no value of a template has attributes."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined | StandIn):
            return obj
        if isinstance(obj, LoopContext) and argument in LOOP_ATTRIBUTES:
            return getattr(obj, argument)
        if isinstance(obj, Mapping) and argument in obj:
            return obj[argument]
        in_order = isinstance(obj, str | list | tuple) and isinstance(argument, int)
        if in_order and -len(obj) <= argument < len(obj):
            return obj[argument]
        return self.undefined(obj=obj, name=argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)


def _finalize(value: Any) -> Any:
    """What ``{{ … }}`` inserts; text of the template itself does not pass through here."""
    if value is None:
        raise ValueError("a value of the question is null; write {{ column or '' }} to allow it")
    if isinstance(value, Place):
        return value.mark()
    if isinstance(value, Places):
        return "".join(place.mark() for place in value)
    if isinstance(value, Interleaved):
        return "".join(map(_finalize, value.parts))
    if isinstance(value, Undefined | int | float):
        return value
    return neutralize(str(value))


_ENVIRONMENT = _Environment(
    undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.globals.clear()
_OWN_FILTERS = {"join": _joined, "round": _rounded, "interleave": _interleaved}
_ENVIRONMENT.filters = {name: FILTERS[name] for name in FILTER_NAMES if name in FILTERS}
_ENVIRONMENT.filters |= {**_OWN_FILTERS, _STEPS: _counted}
