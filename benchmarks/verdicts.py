"""``python -m benchmarks.verdicts FILE.jsonl[.gz]…``: how well the parser reads real judges.

Each line of a file has the fields

- ``source``: the judge, or the set that the text is from; by default the file's name
- ``verdicts``: the task's verdicts
- ``text``: what the judge wrote
- ``want``: the verdict that the text states; null where it states none, such as a tie

The table has a row per source: texts, recall (the share of stated verdicts that are read), wrong
readings (another verdict than the stated one), ties read as verdicts, texts that contradict
themselves, and the forms by which verdicts were read. A text contradicts itself if it states a
verdict and concludes another; it has no verdict, and recall leaves it out. The last line is one
JSON object:

- ``texts``: of all files
- ``recall``: over the texts that state a verdict and do not contradict themselves
- ``recall_of_all``: over all texts that state a verdict
- ``contradicting``: texts that contradict themselves
- ``wrong``: verdicts that differ from ``want``, ties read as verdicts included
- ``us_a_text``: microseconds in ``parse_verdict`` for one text, the median of five passes over all
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, ValidationError, model_validator
from tabulate import tabulate

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.exits import exits_with_message
from mtrl_judge.common.files import read_json_lines
from mtrl_judge.judge_tasks.verdicts import SELF_CONTRADICTION, Verdict, parse_verdict

from .timing import median_seconds

FORMS_WIDTH = 60

Pairs: TypeAlias = "Sequence[tuple[Case, Verdict]]"


class Case(BaseModel):
    """A text of a judge with the verdict that it states."""

    source: str
    verdicts: tuple[str, ...]
    text: str
    want: str | None

    @model_validator(mode="after")
    def _has_readable_verdicts(self) -> Case:
        parse_verdict("", self.verdicts)  # raises ValueError if no text could distinguish them
        if self.want is not None and self.want not in self.verdicts:
            raise ValueError(f"want is {self.want!r}; expected null or one of {self.verdicts}")
        return self


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    files = parser.parse_args().files
    with exits_with_message():
        cases = [case for file in files for case in read_cases(file)]
        if not cases:
            raise DataError("no texts in the files")
    everything = [(case, parse_verdict(case.text, case.verdicts)) for case in cases]
    by_source: dict[str, list[tuple[Case, Verdict]]] = {}
    for case, reading in everything:
        by_source.setdefault(case.source, []).append((case, reading))
    rows = [summary(source, pairs) for source, pairs in sorted(by_source.items())]
    rows.append(summary("all", everything))
    widths = [None] * (len(rows[0]) - 1)
    print(tabulate(rows, headers="keys", maxcolwidths=[*widths, FORMS_WIDTH], floatfmt=".4f"))

    def parse_all() -> None:
        for case in cases:
            parse_verdict(case.text, case.verdicts)

    figures = {
        "texts": len(cases),
        "recall": recall(everything),
        "recall_of_all": recall(everything, of_all=True),
        "contradicting": sum(_contradicts_itself(reading) for _, reading in everything),
        "wrong": sum(reading.value not in (None, case.want) for case, reading in everything),
        "us_a_text": round(median_seconds(parse_all) / len(cases) * 1e6, 1),
    }
    print(json.dumps(figures))


def read_cases(file: Path) -> Iterator[Case]:
    """The texts of a file.

    Raises:
        DataError: naming the invalid line.
    """
    for where, row in read_json_lines(file):
        try:
            yield Case.model_validate({"source": file.name, **row})
        except ValidationError as error:
            fault = error.errors()[0]
            field = "".join(f"{name}: " for name in fault["loc"])
            message = fault["msg"].removeprefix("Value error, ")
            raise DataError(f"{where}: {field}{message}") from None


def recall(pairs: Pairs, of_all: bool = False) -> float | None:
    """The share of stated verdicts that are read; None if no text states one.

    Args:
        of_all: whether texts that contradict themselves count.
    """
    right = [
        reading.value == case.want
        for case, reading in pairs
        if case.want is not None and (of_all or not _contradicts_itself(reading))
    ]
    return round(sum(right) / len(right), 4) if right else None


def summary(source: str, pairs: Pairs) -> dict[str, object]:
    read = [(case, reading) for case, reading in pairs if reading.value is not None]
    forms = Counter(reading.reason for _, reading in read)
    return {
        "source": source,
        "n": len(pairs),
        "recall": recall(pairs),
        "wrong": sum(case.want not in (None, reading.value) for case, reading in read),
        "ties read": sum(case.want is None for case, _ in read),
        "contradicting": sum(_contradicts_itself(reading) for _, reading in pairs),
        "forms": ", ".join(f"{form} {n}" for form, n in forms.most_common()),
    }


def _contradicts_itself(reading: Verdict) -> bool:
    return reading.reason.startswith(SELF_CONTRADICTION)


if __name__ == "__main__":
    main()
