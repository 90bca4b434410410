"""``python -m benchmarks.verdicts FILE.jsonl[.gz]…``: how well the parser reads real judges.

Each line of a file has the fields

- ``source``: the judge, or the set that the text is from; by default the file's name
- ``verdicts``: the task's verdicts
- ``text``: what the judge wrote
- ``want``: the verdict that the text states; null where it states none, such as a tie

The table has a row per source: texts, recall (the share of stated verdicts that are read), wrong
readings (another verdict than the stated one), ties read as verdicts, and the forms by which
verdicts were read. The last line is one JSON object:

- ``texts``: of all files
- ``recall``: over all texts with a stated verdict
- ``wrong``: verdicts that differ from ``want``, ties read as verdicts included
- ``us_a_text``: microseconds in ``parse_verdict`` for one text, the median of five passes over all
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError, model_validator
from tabulate import tabulate

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import read_json_lines
from mtrl_judge.judge_tasks.verdicts import Verdict, parse_verdict

from .timing import median_seconds

FORMS_WIDTH = 60


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
    try:
        cases = [case for file in parser.parse_args().files for case in read_cases(file)]
        if not cases:
            raise DataError("no texts in the files")
    except JudgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    readings = [parse_verdict(case.text, case.verdicts) for case in cases]
    by_source: dict[str, list[tuple[Case, Verdict]]] = {}
    for case, reading in zip(cases, readings, strict=True):
        by_source.setdefault(case.source, []).append((case, reading))
    everything = list(zip(cases, readings, strict=True))
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


def recall(pairs: Sequence[tuple[Case, Verdict]]) -> float | None:
    """The share of stated verdicts that are read; None if no text states one."""
    right = [reading.value == case.want for case, reading in pairs if case.want is not None]
    return round(sum(right) / len(right), 4) if right else None


def summary(source: str, pairs: Sequence[tuple[Case, Verdict]]) -> dict[str, object]:
    read = [(case, reading) for case, reading in pairs if reading.value is not None]
    forms = Counter((reading.reason or "verdict").partition(":")[0] for _, reading in read)
    return {
        "source": source,
        "n": len(pairs),
        "recall": recall(pairs),
        "wrong": sum(case.want not in (None, reading.value) for case, reading in read),
        "ties read": sum(case.want is None for case, _ in read),
        "forms": ", ".join(f"{form} {n}" for form, n in forms.most_common()),
    }


if __name__ == "__main__":
    main()
