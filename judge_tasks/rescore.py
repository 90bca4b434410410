"""Score saved outputs again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import DataError, did_you_mean
from mtrl_judge.common.files import json_text, read_json_lines, write_text
from mtrl_judge.common.printable import printable_line
from mtrl_judge.metrics.calibration import known_probabilities
from mtrl_judge.metrics.records import FactCounts, Record

from .facts import fact_counts
from .loading import find_task
from .request_failures import request_failure
from .scoring import Score, score
from .spec import JudgeTask
from .verdicts import PARSER_VERSION

EXAMPLES = 3
_EDGE = 60
"""Characters of a text's beginning, and of its end, in an example."""


class SavedOutput(NamedTuple):
    """One line of a file of outputs, with the fields that the scorer needs."""

    item_id: str
    kind: str
    label: str | None
    verdicts: tuple[str, ...]
    text: str
    pair_id: str | None
    swapped: bool
    group: str | None
    joint: str | None
    facts: FactCounts | None
    """What was counted when the output was judged; the facts themselves are not in the file."""
    probabilities: tuple[float, ...] | None


class Example(NamedTuple):
    """One text of a :class:`Reading`, on one line of printable characters."""

    item_id: str
    reading: str
    """The verdict, or what the parser found instead, such as the verdicts of which there are
    several."""
    text: str
    """Its beginning and end."""


class Reading(NamedTuple):
    """Texts that were read in the same way."""

    has_verdict: bool
    reason: str
    """The form of the verdict, or why there is none."""
    n: int
    examples: Sequence[Example]


class Rescored(NamedTuple):
    """A file of outputs, scored again."""

    metrics: dict[str, Any]
    """With the task and the version of the parser."""
    readings: Sequence[Reading]
    """Texts without a verdict first, then the most frequent reason."""


def rescore(name: str, file: Path, *, out: Path | None, force: bool) -> Rescored:
    """Score a file of outputs, and say how the texts were read.

    Args:
        name: of the task, or the path of its YAML.
        file: JSONL of {item_id, label, text}, or lmms-eval's samples of a judge task.
        out: a JSONL file to write with each item's verdict and score.

    Raises:
        DataError: naming the invalid line.
    """
    task = find_task(name)
    outputs = list(read_outputs(file, task))
    scores = [score(output, output.text) for output in outputs]
    records = [_record(*scored) for scored in zip(outputs, scores, strict=True)]
    if out is not None:
        write_text(out, "".join(map(_line, outputs, scores, records)), force)
    try:
        summary = task.summarize(records)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None
    metrics = {"task": task.task, "parser": PARSER_VERSION, **summary}
    return Rescored(metrics, _readings(outputs, scores))


def _record(output: SavedOutput, scored: Score) -> Record:
    failure = request_failure(output.text)
    return Record(
        label=output.label,
        verdict=scored.verdict.value,
        well_formed=scored.verdict.well_formed,
        pair_id=output.pair_id,
        swapped=output.swapped,
        group=output.group,
        joint=output.joint,
        failure=failure and failure.kind,
        facts=output.facts,
        probabilities=output.probabilities,
    )


def _readings(outputs: Sequence[SavedOutput], scores: Sequence[Score]) -> list[Reading]:
    groups: defaultdict[tuple[bool, str], list[Example]] = defaultdict(list)
    counts: Counter[tuple[bool, str]] = Counter()
    for output, scored in zip(outputs, scores, strict=True):
        value, _, reason = scored.verdict
        # What follows a colon belongs to one text: "several verdicts: No, Yes".
        name, _, detail = reason.partition(":")
        key = (value is not None, name)
        counts[key] += 1
        if len(groups[key]) < EXAMPLES:
            example = Example(output.item_id, value or detail, output.text)
            groups[key].append(Example(*map(_excerpt, example)))
    order = sorted(counts, key=lambda key: (key[0], -counts[key], key[1]))
    return [Reading(*key, counts[key], groups[key]) for key in order]


def _excerpt(text: str) -> str:
    """The beginning and the end of a text on one line, as plain text.

    Judges write a verdict first or last. Control characters would act on the terminal.
    """
    if len(text) > 4 * _EDGE:
        text = f"{text[: 2 * _EDGE]} {text[-2 * _EDGE :]}"
    line = printable_line(text)
    return line if len(line) <= 2 * _EDGE else f"{line[:_EDGE]} … {line[-_EDGE:]}"


def _line(output: SavedOutput, scored: Score, record: Record) -> str:
    row = {
        "item_id": output.item_id,
        "label": output.label,
        "verdict": record.verdict,
        "state": record.state,
        "score": None if record.failed else scored.correct,
        "well_formed": record.well_formed,
    }
    return json_text(row, indent=None) + "\n"


def read_outputs(file: Path, task: JudgeTask) -> Iterator[SavedOutput]:
    """The outputs in a JSONL file, ours or lmms-eval's samples of a judge task.

    Raises:
        DataError: naming the invalid line.
    """
    for where, row in read_json_lines(file):
        yield _output(row, task, where)


def _output(row: dict[str, Any], task: JudgeTask, where: str) -> SavedOutput:
    missing = [key for key in ("item_id", "label", "text") if key not in row]
    if missing:
        raise DataError(f"{where}: no field {missing[0]!r}; found: {', '.join(map(str, row))}")
    label, text = row["label"], row["text"]
    if label is not None and not task.kind.has_label(label, task.judge.verdicts):
        hint = did_you_mean(label, task.judge.verdicts)
        raise DataError(f"{where}: label {label!r} is not a verdict of {task.task}; {hint}")
    if not isinstance(text, str | None):
        raise DataError(f"{where}: text is {text!r}; expected the judge's answer, a string")
    pair_id = row.get("pair_id")
    return SavedOutput(
        item_id=str(row["item_id"]),
        kind=task.judge.kind,
        label=label,
        verdicts=tuple(task.kind.verdicts_about(label, task.judge.verdicts)),
        text=text or "",
        pair_id=None if pair_id is None else str(pair_id),
        swapped=row.get("order") == "BA" or row.get("swapped") is True,
        group=None if row.get("group") is None else str(row["group"]),
        joint=None if row.get("joint") is None else str(row["joint"]),
        facts=fact_counts(row.get("facts"), where),
        probabilities=known_probabilities(row.get("probabilities"), task.judge.verdicts),
    )
