"""The gate's result for a pull request (Markdown) and for CI systems (JUnit XML).

Names come from models and data and are not trusted: in a pull request they are code spans, which
contain no markup, and in XML they lose the characters that it forbids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from mtrl_judge.metrics.rates import higher_is_better

from .compare import FROM_ROWS
from .formats import format_number, one_line
from .gate import BASELINE, NOW, OUTCOMES, Gate
from .tables import Table, markdown_lines
from .view import data_table, gate_table, model_table

MARK = "<!-- mtrl-judge gate -->"
"""The first line of every summary, by which a workflow finds its own comment again."""
_SUITE = "mtrl-judge gate"
# GitHub refuses comments of more than 65,536 characters.
_MAX_BYTES = 60_000
_MAX_NOTE = 2_000  # characters
_FORBIDDEN_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def markdown(gate: Gate) -> str:
    """The summary: a row for each task, what decides, and what was compared."""
    counts = ", ".join(f"{gate.count(outcome)} {outcome}" for outcome in reversed(OUTCOMES))
    runs = [gate.baseline._replace(name=BASELINE), gate.current._replace(name=NOW)]
    return "\n".join(
        [
            MARK,
            f"### mtrl-judge gate: {gate.outcome}",
            "",
            f"{len(gate.tasks)} task{'s' * (len(gate.tasks) != 1)}: {counts}.",
            "",
            *_table_within(_MAX_BYTES // 2, gate_table(gate)),
            "",
            f"{_better(gate)} {_rule(gate)} A task also fails if it misses "
            "its own limit (`--min`). detectable: the drop that this gate would have found with a "
            "probability of 80 %.",
            "",
            *(f"{_free_text(one_line(note, _MAX_NOTE))}\n" for note in gate.notes),
            "<details><summary>What was compared</summary>",
            "",
            *_table_within(_MAX_BYTES // 6, model_table(runs)),
            "",
            *_table_within(_MAX_BYTES // 6, data_table(runs)),
            "",
            "</details>",
            "",
        ]
    )


def _better(gate: Gate) -> str:
    """Which values of the metrics are the better ones."""
    names = {
        better: [f"`{metric}`" for metric in gate.metrics if bool(higher_is_better(metric)) is high]
        for better, high in (("higher", True), ("lower", False))
    }
    return " ".join(
        f"{', '.join(metrics)}; {better} is better." for better, metrics in names.items() if metrics
    )


def _rule(gate: Gate) -> str:
    if gate.margin is not None:
        return (
            "A task fails unless the 95 % interval of its difference excludes a drop of more than "
            f"{gate.margin:g} (`--margin`; {gate.resamples:,} draws, seed {gate.seed})."
        )
    tests = {
        metric in FROM_ROWS: (
            "bootstrap over clusters"
            if metric in FROM_ROWS
            else "paired randomization test, exact for few discordant clusters"
        )
        for metric in gate.metrics
    }
    return (
        "A task fails if it is significantly worse: one-sided "
        f"{' or '.join(tests[known] for known in sorted(tests))}, p below {gate.alpha:g} after "
        "Holm over the tested tasks."
    )


def markdown_of_error(message: str) -> str:
    """The summary if nothing could be compared: the error message."""
    fence = "`" * max(3, 1 + _longest_fence(message))
    lines = [one_line(line, _MAX_BYTES) for line in message.splitlines()]
    title = "### mtrl-judge gate: not comparable"
    return "\n".join([MARK, title, "", fence, *lines, fence, ""])


def junit(gate: Gate) -> str:
    """JUnit XML with a test case for each task: an error is not comparable, skipped is new."""
    cases = []
    for task in gate.tasks:
        numbers = f"{format_number(task.baseline.value)}, now {format_number(task.current.value)}"
        case = _case(task.task, "; ".join([f"{task.metric} {numbers}", *task.notes]))
        reasons = "; ".join([*task.failures, *task.obstacles])
        if task.outcome == "failed":
            _add_message(case, "failure", reasons)
        elif task.outcome == "not comparable":
            _add_message(case, "error", reasons)
        elif task.difference.value is None:
            _add_message(case, "skipped", "; ".join(task.notes))
        cases.append(case)
    return _suite(cases)


def junit_of_error(message: str) -> str:
    """The same if nothing could be compared: one test case, in error."""
    case = _case("gate")
    _add_message(case, "error", message)
    return _suite([case])


def _table_within(max_bytes: int, table: Table) -> list[str]:
    """As many rows of a table as fit, and how many are left out."""
    lines: list[str] = []
    used = 0
    all_lines = markdown_lines(table, text=_free_text, name=_code)
    for index, line in enumerate(all_lines):
        used += len(line.encode()) + 1
        if used > max_bytes:
            return [*lines, "", f"… and {len(all_lines) - index} more rows."]
        lines.append(line)
    return lines


def _code(name: str) -> str:
    """A name as a code span in a table cell, which holds no markup, mention or reference."""
    text = one_line(name)
    fence = "`" * (1 + _longest_fence(text))
    padded = f" {text} " if text != text.strip(" `") or not text.strip() else text
    # A pipe ends a cell even in code, unless an odd number of backslashes precedes it.
    escaped = re.sub(r"(\\*)\|", lambda match: match[1] * 2 + r"\|", padded)
    return f"{fence}{escaped}{fence}"


def _longest_fence(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _free_text(text: str) -> str:
    """Text for a table cell, without markup and mentions."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", one_line(text, _MAX_BYTES))
    return re.sub("([@#])", "\\1\u200b", escaped)


def _case(name: str, output: str = "") -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=_SUITE, name=_xml(name))
    if output:
        ElementTree.SubElement(case, "system-out").text = _xml(output)
    return case


def _add_message(case: ElementTree.Element, tag: str, message: str) -> None:
    ElementTree.SubElement(case, tag, message=_xml(message)).text = _xml(message)


def _suite(cases: Sequence[ElementTree.Element]) -> str:
    counts = {
        plural: str(sum(case.find(tag) is not None for case in cases))
        for plural, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    suites = ElementTree.Element("testsuites")
    attributes = {"name": _SUITE, "tests": str(len(cases)), **counts}
    suite = ElementTree.SubElement(suites, "testsuite", attributes)
    suite.extend(cases)
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _xml(text: str) -> str:
    return _FORBIDDEN_IN_XML.sub("", text)
