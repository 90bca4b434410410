"""What the gate found, for a pull request (markdown) and for the tables of CI systems (JUnit XML).

Names come from models and data, so they are hostile: in a pull request they stand as code, where
nothing is markup, and in XML without the characters that it forbids.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from .compatibility import tasks_of
from .gate import BASELINE, NOW, Gate, TaskGate
from .runs import Estimate, Judged, Run

MARK = "<!-- mtrl-judge gate -->"
"""The first line of every summary, by which a workflow finds its own comment again."""
# GitHub refuses a comment of more than 65,536 characters.
_MOST = 60_000
_LONGEST_NAME = 100
_BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_FORBIDDEN_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def markdown(gate: Gate) -> str:
    """The summary: one line a task, what decides, and what was compared."""
    lines = [MARK, f"### mtrl-judge gate: {gate.outcome}", "", _counted(gate), ""]
    lines += _within(_MOST // 2, [_HEAD, _RULE], [_row(gate, each) for each in gate.tasks])
    lines += ["", _rule(gate), ""]
    about = ["<details><summary>What was compared</summary>", "", *_runs_table(gate), ""]
    about += _within(_MOST // 3, ["| task | rows | style |", "|:--|:--|:--|"], _tasks_rows(gate))
    return "\n".join([*lines, *about, "", "</details>", ""])


def markdown_of_error(message: str) -> str:
    """The summary where there is nothing to compare: what is wrong, and what would be right."""
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", message))]))
    lines = [
        MARK,
        "### mtrl-judge gate: cannot be judged",
        "",
        fence,
        *map(_clean, message.splitlines()),
    ]
    return "\n".join([*lines, fence, ""])


def junit(gate: Gate) -> str:
    """JUnit XML, a test case a task; an error cannot be judged, skipped is what is new."""
    cases = [_case(gate, each) for each in gate.tasks]
    return _suite(cases)


def junit_of_error(message: str) -> str:
    """The same where there is nothing to compare: one case, in error."""
    case = ElementTree.Element("testcase", classname=_SUITE, name="gate")
    _said(case, "error", message)
    return _suite([case])


_SUITE = "mtrl-judge gate"
_HEAD = "| task | n | baseline | now | difference [95 %] | p (Holm) | outcome |"
_RULE = "|:--|--:|--:|--:|--:|--:|:--|"


# Markdown


def _counted(gate: Gate) -> str:
    total = len(gate.tasks)
    return (
        f"Of {total} {'task' if total == 1 else 'tasks'} {gate.count('passed')} passed, "
        f"{gate.count('failed')} failed, {gate.count('cannot be judged')} cannot be judged."
    )


def _row(gate: Gate, each: TaskGate) -> str:
    reasons = "; ".join([*each.failures, *each.obstacles, *each.notes])
    outcome = f"**{each.outcome}**" if each.outcome != "passed" else each.outcome
    cells = [
        _code(each.task),
        "–" if each.n is None else f"{each.n:,}",
        _number(each.baseline),
        _number(each.current),
        _interval(each.difference),
        "–" if each.p_value is None else f"{each.p_value:.2g}",
        f"{outcome}: {_text(reasons)}" if reasons else outcome,
    ]
    return f"| {' | '.join(cells)} |"


def _rule(gate: Gate) -> str:
    better = "less" if gate.less_is_better else "more"
    return (
        f"`{gate.metric}`; {better} is better. A task fails where it is significantly worse "
        f"(paired bootstrap of {gate.resamples:,} resamples, seed {gate.seed}, p after Holm over "
        f"the tasks tested below {gate.alpha:g}), worse by more than {gate.max_drop:g}, or beyond "
        "a value of its own (`--min`)."
    )


def _runs_table(gate: Gate) -> list[str]:
    runs = {BASELINE: gate.baseline, NOW: gate.current}
    lines = [f"| | {' | '.join(runs)} |", "|:--|:--|:--|"]
    facts = {name: _facts(run) for name, run in runs.items()}
    for key in facts[BASELINE]:
        lines.append(f"| {key} | {' | '.join(_code(each[key]) for each in facts.values())} |")
    return lines


def _facts(run: Run) -> dict[str, str]:
    versions = {
        name: value
        for judged in run.tasks.values()
        for name, value in (judged.about.get("versions") or {}).items()
    }
    return {
        "model": run.model,
        "evaluated": run.date,
        "backend": run.backend or "–",
        "file": run.file.name,
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()) or "–",
    }


def _tasks_rows(gate: Gate) -> list[str]:
    runs = [gate.baseline, gate.current]
    rows = []
    for task in tasks_of(runs):
        judged = [run.tasks[task] for run in runs if task in run.tasks]
        data, style = (_agreed(map(of, judged)) for of in (_data, _style))
        rows.append(f"| {_code(task)} | {_code(data)} | {_code(style)} |")
    return rows


def _data(judged: Judged) -> str:
    about = judged.about
    revision = f"@{about['revision']}" if about.get("revision") else ""
    return f"{about.get('source') or '?'}{revision} {about.get('fingerprint') or '?'}"


def _style(judged: Judged) -> str:
    words = [
        judged.about.get("style"),
        judged.about.get("scoring"),
        judged.about.get("perturbation"),
    ]
    return ", ".join(str(word) for word in words if word) or "?"


def _agreed(values: Iterable[str]) -> str:
    return " → ".join(dict.fromkeys(values))


def _within(budget: int, head: Sequence[str], rows: Sequence[str]) -> list[str]:
    """As many rows as a comment has room for, and how many are left out."""
    lines, used = list(head), 0
    for place, row in enumerate(rows):
        used += len(row.encode()) + 1
        if used > budget:
            return [*lines, "", f"… and {len(rows) - place} more tasks."]
        lines.append(row)
    return lines


def _number(estimate: Estimate) -> str:
    return "–" if estimate.value is None else f"{estimate.value:.3f}"


def _interval(difference: Estimate) -> str:
    if difference.value is None:
        return "–"
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.3f}"
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _clean(text: str) -> str:
    """On one line, without what a terminal or a reader could be misled by."""
    return "".join(
        " "
        if unicodedata.category(char) in ("Cc", "Zl", "Zp")
        else "\ufffd"
        if unicodedata.category(char) == "Cs" or char in _BIDIRECTIONAL
        else char
        for char in text
    )


def _code(name: str) -> str:
    """A name as code in a cell of a table: there nothing is markup, a mention or a reference."""
    shown = _clean(name)
    if len(shown) > _LONGEST_NAME:
        shown = shown[: _LONGEST_NAME - 1] + "…"
    fence = "`" * (1 + max([0, *map(len, re.findall("`+", shown))]))
    padded = f" {shown} " if shown != shown.strip(" `") or not shown.strip() else shown
    # A pipe ends a cell also within code unless an odd number of backslashes stands before it.
    piped = re.sub(r"(\\*)\|", lambda match: match[1] * 2 + r"\|", padded)
    return f"{fence}{piped}{fence}"


def _text(text: str) -> str:
    """Free text in a cell; what is markup or would call on somebody is neither."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", _clean(text))
    return re.sub("([@#])", "\\1\u200b", escaped)


# XML


def _case(gate: Gate, each: TaskGate) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=_SUITE, name=_xml(each.task))
    reasons = "; ".join([*each.failures, *each.obstacles])
    if each.outcome == "failed":
        _said(case, "failure", reasons)
    elif each.outcome == "cannot be judged":
        _said(case, "error", reasons)
    elif each.difference.value is None:
        _said(case, "skipped", "; ".join(each.notes))
    output = ElementTree.SubElement(case, "system-out")
    numbers = f"{_number(each.baseline)}, now {_number(each.current)}"
    output.text = _xml("; ".join([f"{gate.metric} {numbers}", *each.notes]))
    return case


def _said(case: ElementTree.Element, kind: str, message: str) -> None:
    element = ElementTree.SubElement(case, kind, message=_xml(message))
    element.text = _xml(message)


def _suite(cases: Sequence[ElementTree.Element]) -> str:
    counts = {
        key: str(sum(case.find(kind) is not None for case in cases))
        for key, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    suite = ElementTree.Element("testsuite", {"name": _SUITE, "tests": str(len(cases)), **counts})
    suite.extend(cases)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _xml(text: str) -> str:
    return _FORBIDDEN_IN_XML.sub("", text)
