"""How numbers and names read in tables; every table and report formats them here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile

from mtrl_judge.common.printable import printable_line
from mtrl_judge.metrics.bootstrap import Estimate

NONE = "–"
ROLE_NAMES = {"train": "in distribution", "ood": "out of distribution"}
_METRIC_NAMES = {"macro_f1": "Macro-F1", "cohen_kappa": "Cohen's κ", "weighted_kappa": "weighted κ"}


def format_number(
    value: float | None, digits: int = 3, *, signed: bool = False, percent: bool = False
) -> str:
    """
    >>> format_number(0.85), format_number(-0.5, 2, signed=True), format_number(None)
    ('0.850', '-0.50', '–')
    >>> format_number(0.125, percent=True)
    '12.5%'
    """
    if value is None or value != value:
        return NONE
    sign = "+" if signed else ""
    return f"{value:{sign}.{max(0, digits - 2)}%}" if percent else f"{value:{sign}.{digits}f}"


def format_interval(
    estimate: Estimate, digits: int = 3, *, signed: bool = False, percent: bool = False
) -> str:
    """The interval of an estimate, or nothing if it has none."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = (
        format_number(end, digits, signed=signed, percent=percent)
        for end in (estimate.low, estimate.high)
    )
    return f"[{low}, {high}]"


def format_estimate(
    estimate: Estimate, digits: int = 3, *, signed: bool = False, percent: bool = False
) -> str:
    """
    >>> format_estimate(Estimate(0.85, 0.8, 0.9)), format_estimate(Estimate(None))
    ('0.850 [0.800, 0.900]', '–')
    """
    number = format_number(estimate.value, digits, signed=signed, percent=percent)
    interval = format_interval(estimate, digits, signed=signed, percent=percent)
    return f"{number} {interval}".rstrip()


def format_p_value(value: float | None) -> str:
    """
    >>> format_p_value(0.0334), format_p_value(0.0002), format_p_value(None)
    ('0.033', '<0.001', '–')
    """
    return "<0.001" if value is not None and value < 0.001 else format_number(value)


def metric_name(metric: str) -> str:
    """
    >>> metric_name("macro_f1"), metric_name("flip_rate")
    ('Macro-F1', 'flip rate')
    """
    return _METRIC_NAMES.get(metric, metric.replace("_", " "))


def metric_names(metrics: Iterable[str]) -> str:
    """
    >>> metric_names(["macro_f1", "spearman"])
    'Macro-F1, spearman'
    """
    return ", ".join(map(metric_name, metrics))


def task_labels(names: Sequence[str]) -> dict[str, str]:
    """Task names without the words that all of them start with.

    >>> task_labels(["mtrl_judge_agin_nat", "mtrl_judge_agin_rat"])
    {'mtrl_judge_agin_nat': 'nat', 'mtrl_judge_agin_rat': 'rat'}
    """
    words = {name: name.split("_") for name in names}
    shared = 0
    if len(words) > 1:
        columns = zip(*words.values(), strict=False)
        alike = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
        shared = min(alike, min(map(len, words.values())) - 1)
    return {name: "_".join(parts[shared:]) for name, parts in words.items()}


def format_date(date: str) -> str:
    """A date as lmms-eval writes it, for reading.

    >>> format_date("20260102_030405"), format_date("yesterday")
    ('2026-01-02 03:04', 'yesterday')
    """
    parts = re.fullmatch(r"(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)\d\d", date)
    return "{}-{}-{} {}:{}".format(*parts.groups()) if parts else date


def one_line(text: str, max_length: int = 100) -> str:
    """A name on one line, without characters that control or mislead, its middle cut if too long.

    The ends stay, because they distinguish runs.

    >>> one_line("a judge\\u2028of\\x00 mine"), one_line("0123456789", 5)
    ('a judge of\\ufffd mine', '01…89')
    """
    line = printable_line(text)
    kept = max_length // 2
    return line if len(line) <= max_length else f"{line[: max_length - kept - 1]}…{line[-kept:]}"
