"""What the rows of a task show that they must not: the label, and pairs that look the same swapped.

The YAML alone does not tell: another column can have the label's values, and the two candidates of
a pair can be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtrl_judge.common.errors import DataError

from .fields import label_key
from .raw_split import RawSplit
from .rows import Rows, render_variant
from .templates import question_columns

MAX_IDENTICAL_SHARE = 0.01
# Fewer rows can agree by chance.
_MIN_EQUAL, _MIN_ALIKE = 5, 20


def revealed_labels(raw: RawSplit, labels_N: Sequence[str | None]) -> Iterator[str]:
    """Faults of questions that read a column from which the label can be told.

    Such a column has the label's values or the verdicts, or exactly one value for each class of
    labels (:meth:`.Kind.label_class`): where hardly two labels are equal, hardly two captions are.
    """
    values_N = [label_key(value) for value in raw.label_values]
    rows = [index for index, label in enumerate(labels_N) if label is not None]
    labels = [str(labels_N[index]) for index in rows]
    kind, verdicts = raw.task.kind, raw.task.judge.verdicts
    classes = [kind.label_class(label, verdicts) for label in labels]
    if len(set(labels)) < 2:
        return
    known = [values_N[index] for index in rows]
    for field, template in raw.task.questions.items():
        for name, column in _read(raw, template).items():
            shown = [label_key(column[index]) for index in rows]
            both = set(zip(shown, classes, strict=True))
            one_to_one = 1 < len(set(shown)) == len(set(classes)) == len(both)
            equal = shown in (known, labels)
            if (equal and len(rows) >= _MIN_EQUAL) or (one_to_one and len(rows) >= _MIN_ALIKE):
                how = "equals the label" if equal else "has one value for each label"
                yield (
                    f"{field}: reads {name!r}, which {how} in all {len(rows)} labeled rows; show "
                    "only what a judge may know"
                )


def _read(raw: RawSplit, template: str) -> dict[str, Sequence[Any]]:
    """The columns that a template reads, and the entries that it names of columns of mappings."""
    columns: dict[str, Sequence[Any]] = {}
    for name in sorted(question_columns(template) - set(raw.task.judge.images)):
        values = raw.column(name)
        columns[name] = values
        mappings = [value for value in values if isinstance(value, Mapping)]
        for key in mappings[0] if len(mappings) == len(values) > 0 else ():
            if str(key) in template:
                columns[f"{name}.{key}"] = [value.get(key) for value in values]
    return columns


def identical_pairs(rows: Rows) -> list[str]:
    """The ids of the items that look the same with their candidates swapped, but for the label.

    Whatever a judge answers, it is wrong about one of the two orders.
    """
    task, raw = rows.raw.task, rows.raw
    if not task.kind.compares:
        return []
    about = rows.dataset.with_format(None)
    items, labels, indices, asked = (
        about[name][:] for name in ("item_id", "label", "source_index", "question")
    )
    variants = render_variant(rows, "judge.question", exchanged=True)
    orders = about["image_order"][:]
    same: dict[str, None] = {}
    for item, label, index, text, order, swapped in zip(
        items, labels, indices, asked, orders, variants, strict=True
    ):
        if item in same or text != swapped.text:
            continue
        if task.kind.swapped_label(label, task.judge.verdicts) == label:
            continue  # a tie, or no label
        if order == swapped.images or _same_images(raw, index, order, swapped.images):
            same[item] = None
    return list(same)


def _same_images(raw: RawSplit, index: int, first: list[int], second: list[int]) -> bool:
    data = raw.image_bytes(index)
    return [data[image] for image in first] == [data[image] for image in second]


def checked_pairs(rows: Rows, labels_N: Sequence[str | None]) -> list[str]:
    """The ids of identical pairs, if they are few; refuses rows that measure no judge.

    Args:
        labels_N: of the raw rows.

    Raises:
        DataError: a question shows the label, or more than 1 % of the pairs are identical.
    """
    task = rows.raw.task
    faults = list(revealed_labels(rows.raw, labels_N))
    identical = identical_pairs(rows)
    if len(identical) > MAX_IDENTICAL_SHARE * rows.n_items:
        faults.append(identical_fault(identical, rows.n_items))
    if faults:
        raise DataError("\n".join(f"{task.path}: {fault}" for fault in faults))
    return identical


def identical_fault(items: Sequence[str], n_items: int) -> str:
    """What is wrong with identical pairs, of which there is at least one."""
    more = ", …" if len(items) > 3 else ""
    return (
        f"judge.candidates: {len(items)} of {n_items} pairs look the same in both orders but have "
        f"opposite labels ({', '.join(items[:3])}{more}); show what differs between the "
        "candidates, or exclude the items as judge.known_bad"
    )
