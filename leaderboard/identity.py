"""What results say about how answers came about, beside the judge itself.

The *identity* of a result is what its answers and scores depend on. Everything else that results
record about a run, such as pixel limits or versions, is only shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from mtrl_judge.common.hashing import digest

from .formats import one_line
from .runs import TaskResult

Value: TypeAlias = Callable[[TaskResult], str | None]
"""What a result has in a field, for reading; None if that is unknown."""

UNKNOWN = "unknown"
"""In fields of which None means none."""


def stated(field: str) -> Value:
    """The text of a field of the metadata."""

    def value(result: TaskResult) -> str | None:
        stated = result.metadata.get(field)
        return None if stated is None else str(stated)

    return value


def _text(field: str) -> Value:
    def value(result: TaskResult) -> str | None:
        text = result.metadata.get(field)
        if not text:
            return None if text is None else "none"
        return f'"{one_line(str(text), 48)}" ({digest([str(text).encode()])[:6]})'

    return value


def _source(result: TaskResult) -> str | None:
    source = result.metadata.get("source")
    return source and ("sample data" if source == "sample" else "real data")


def _label(result: TaskResult) -> str | None:
    rule = result.metadata.get("label_rule")
    if rule is None:
        return None
    threshold = result.metadata.get("threshold")
    return json.dumps(rule, ensure_ascii=False) + (f" at {threshold}" if threshold else "")


def _calibration(result: TaskResult) -> str | None:
    calibration = result.metadata.get("calibration", UNKNOWN)
    if result.metadata.get("scoring") != "logprob" or calibration == UNKNOWN:
        return None
    if calibration is None:
        return "none"
    return ", ".join(
        str(calibration[key])
        for key in ("mode", "fingerprint", "labeled_rows")
        if calibration.get(key) is not None
    )


def _perturbation(result: TaskResult) -> str:
    """With the text of a paraphrase, where it is known: another version of a YAML may have another
    one."""
    name = result.metadata.get("perturbation") or "none"
    text = _text("paraphrase")(result)
    return name if text is None else f"{name} {text}"


def _demonstrations(result: TaskResult) -> str | None:
    """Their number, and how which were chosen: other ones are another prompt."""
    number, how = result.metadata.get("demonstrations"), result.metadata.get("demonstrated")
    if not number or not how:
        return None if number is None else str(number)
    compared = " and ".join(how["by"]) or "nothing"
    return (
        f"{number} from {how['from']} by {compared} ({how['encoder'] or 'random'}), selection "
        f"{how['fingerprint']}"
    )


def _parser(result: TaskResult) -> str:
    return f"version {result.parser}"


IDENTITY: Mapping[str, Value] = {
    "rows": stated("fingerprint"),
    "source": _source,
    "label": _label,
    "question": _text("question"),
    "instruction": _text("instruction"),
    "style": stated("style"),
    "scoring": stated("scoring"),
    "calibration": _calibration,
    "parser": _parser,
    "version": stated("version"),
    "perturbation": _perturbation,
}
"""What runs must agree on, by the name that ``--across`` knows it by."""

RENDERED = ("label", "question")
"""The fields of the identity that the fingerprint of the rows covers too."""


def other_fields(results: Iterable[TaskResult]) -> Iterator[tuple[str, Value]]:
    """What is shown where results differ in it, by name."""
    yield "engine", stated("engine")
    yield "min_pixels", _known("min_pixels")
    yield "max_pixels", _known("max_pixels")
    yield "system prompt", _text("system_prompt")
    yield "demonstrations", _demonstrations
    yield "samples", stated("samples")
    yield "vote", stated("vote")
    known = list(results)
    for field in ("model_args", "generation", "versions"):
        keys = {key for result in known for key in result.metadata.get(field) or {}}
        yield from ((f"{field} {key}", _entry(field, key)) for key in sorted(keys))


def settings(result: TaskResult) -> Hashable:
    """The same for results of one judge that can vote together: asked for in the same way."""
    others = {
        name: value_of
        for name, value_of in other_fields([result])
        if not name.startswith(("model_args", "versions"))
    }
    return tuple((name, value_of(result)) for name, value_of in {**IDENTITY, **others}.items())


def weights(result: TaskResult) -> str | None:
    """What identifies the judge's weights: a commit on the hub, or a hash of the files."""
    return stated("model_revision")(result)


def _known(field: str) -> Value:
    def value(result: TaskResult) -> str | None:
        known = result.metadata.get(field, UNKNOWN)
        return None if known == UNKNOWN else "none" if known is None else str(known)

    return value


def _entry(field: str, key: str) -> Value:
    """One key of a field that is a mapping; what is not installed has no version."""

    def value(result: TaskResult) -> str | None:
        known: Mapping[str, Any] | None = result.metadata.get(field)
        if known is None or (field == "versions" and key not in known):
            return None
        return str(known[key]) if key in known else "not given"

    return value
