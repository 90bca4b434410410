"""The judge task: a native lmms-eval task YAML plus one ``judge:`` block.

The YAML is data: safe YAML only, nothing in it is executed. :mod:`.loading` reads a file, checks
all of it and reports every fault at once; a field's ``description`` is what such a report says
would be right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)
from pydantic_core import PydanticCustomError

Style: TypeAlias = Literal["reasoned", "direct"]
Role: TypeAlias = Literal["train", "ood"]
SplitName: TypeAlias = Literal["train", "validation", "test"]
STYLES: tuple[Style, ...] = ("reasoned", "direct")
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
SPLIT_KEYS: Mapping[SplitName, str] = {
    "train": "training_split",
    "validation": "validation_split",
    "test": "test_split",
}
TRAIN_MEDIAN = "train_median"
DATA_CARD = "card.json"  # beside a task's parquet files: what they are
CHECKPOINT_CARD = "mtrl_judge.json"  # beside a checkpoint's weights: the style it was trained on


def _text_only(value: object) -> object:
    """YAML 1.1 reads a bare Yes, No or 1 as a boolean or a number; a verdict is text."""
    if isinstance(value, bool):
        word = "Yes" if value else "No"
        raise PydanticCustomError(
            "bare_boolean",
            "is the boolean {value}, not text; write it in quotes, such as {word}",
            {"value": str(value).lower(), "word": f'"{word}"'},
        )
    if isinstance(value, int | float):
        raise PydanticCustomError(
            "bare_number",
            "is the number {value}, not text; write it in quotes: {quoted}",
            {"value": value, "quoted": f'"{value}"'},
        )
    return value


def label_key(value: object) -> str:
    """How a raw label value is looked up in ``map``: 1, 1.0, "1" and True-as-1 are one key.

    >>> [label_key(v) for v in (1, 1.0, "Unsafe", True)]
    ['1', '1', 'Unsafe', 'true']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return str(value)


def _label_map(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {label_key(key): verdict for key, verdict in value.items()}


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _threshold(value: object) -> object:
    if value == TRAIN_MEDIAN or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("threshold", "is {value}, no number", {"value": repr(value)})


Text: TypeAlias = Annotated[str, StringConstraints(min_length=1), BeforeValidator(_text_only)]
Column: TypeAlias = Annotated[str, StringConstraints(min_length=1)]
Columns: TypeAlias = Annotated[tuple[Column, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
TaskName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
RawValue: TypeAlias = Annotated[str, BeforeValidator(label_key)]


class Frozen(BaseModel):
    """Immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)


class MapLabel(Frozen):
    """Label by value: ``{column: safety_label, map: {Unsafe: "Yes", Safe: "No"}}``."""

    column: Column = Field(description="the column that holds the label")
    map: Annotated[dict[str, Text], BeforeValidator(_label_map)] = Field(
        min_length=1, description='a verdict for each value, such as {Unsafe: "Yes", Safe: "No"}'
    )


class ThresholdLabel(Frozen):
    """Label by number: the first verdict where ``column >= threshold``, else the second.

    ``train_median`` is the median of the column over the training split, whatever split is read.
    """

    column: Column = Field(description="the column that holds the number")
    threshold: Annotated[float | Literal["train_median"], BeforeValidator(_threshold)] = Field(
        description="a number such as 5, or train_median"
    )


class PairLabel(Frozen):
    """Which candidate is preferred, by the values of a column."""

    column: Column = Field(description="the column that holds the preference")
    first: RawValue = Field(description="the value that prefers the first candidate")
    second: RawValue = Field(description="the value that prefers the second candidate")
    tie: RawValue | None = Field(None, description="the value that prefers neither")


class IndexLabel(Frozen):
    """Which candidate is preferred, by its index: 0 the first, 1 the second."""

    column: Column = Field(description="the column that holds the index, 0 or 1")


def label_kind(value: object) -> str:
    """Which label rule a mapping means, by the keys that only that rule has."""
    if isinstance(value, MapLabel | ThresholdLabel | PairLabel | IndexLabel):
        return LABEL_KINDS[type(value)]
    keys = set(value) if isinstance(value, Mapping) else set()
    if "map" in keys:
        return "map"
    if "threshold" in keys:
        return "threshold"
    return "pair" if keys & {"first", "second", "tie"} else "index"


LABEL_KINDS: dict[type[Frozen], str] = {
    MapLabel: "map",
    ThresholdLabel: "threshold",
    PairLabel: "pair",
    IndexLabel: "index",
}
Label: TypeAlias = Annotated[
    Annotated[MapLabel, Tag("map")]
    | Annotated[ThresholdLabel, Tag("threshold")]
    | Annotated[PairLabel, Tag("pair")]
    | Annotated[IndexLabel, Tag("index")],
    Discriminator(label_kind),
]


class MadeSplit(Frozen):
    """A split cut out of another one.

    Folds are ranked by a stable hash of the item (or of ``group_by``), so they do not hang on row
    order. ``stratify`` keeps the shares of a column's values; the word ``label`` means the
    task's own label.
    """

    source: SplitName = Field(
        alias="from", description="the split to cut it from: train, validation or test"
    )
    fraction: float = Field(gt=0, lt=1, description="a share between 0 and 1, such as 0.1")
    seed: int = Field(0, description="a whole number, such as 0")
    stratify: Column | None = Field(None, description="a column, or label for the task's label")
    group_by: Column | None = Field(
        None, description="a column whose values must not stand in two splits"
    )


class Pictures(Frozen):
    """Pictures that are files of their own; a column of the tables names them."""

    named_by: Column = Field(description="the column that names each picture's file")
    image: Column = Field(description="the column to put the picture in, such as image")
    archives: dict[SplitName, Columns] = Field(
        {},
        description="zip files with the pictures of each split, such as {train: images.zip}; "
        "{1-4} in a name stands for four files; without, the pictures lie beside the tables",
    )
    subset: bool = Field(
        False, description="true where the dataset is the rows whose picture is in the archives"
    )


class Raw(Frozen):
    """The files a dataset is published as, for ``mtrl-judge data prepare``."""

    tables: dict[SplitName, Columns] = Field(
        min_length=1,
        description="CSV or parquet files of each split, such as {train: data/train-*.parquet}",
    )
    pictures: Pictures | None = Field(
        None, description="{named_by, image, archives, subset} where pictures are files"
    )


class KnownBad(Frozen):
    """An item that is left out."""

    item: Text = Field(description="the item's id, as in results")
    reason: str = Field(min_length=1, description="why it is left out")


class Card(Frozen):
    """What a user must know before using the data."""

    licence: str = Field(min_length=1, description="the data's licence, such as CC-BY-4.0")
    gated: bool = Field(False, description="true where terms must be accepted on the hub")
    url: str = Field(min_length=1, description="where the dataset lives")
    citation: str = Field(min_length=1, description="the paper or page to cite")
    known_problems: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="a list of sentences"
    )
    forbids_training: str | None = Field(
        None, min_length=1, description="what its authors say against training on it"
    )
    expects: dict[SplitName, Annotated[int, Field(gt=0)]] = Field(
        {}, description="the number of items of each split, such as {train: 6194}"
    )


class JudgeSpec(Frozen):
    """The ``judge:`` block: what lmms-eval has no word for."""

    kind: Literal["pointwise", "pairwise"] = Field(description="pointwise or pairwise")
    role: Role = Field(description="train, or ood for data that no training may see")
    dimension: str = Field(min_length=1, description="what is judged, such as safety")
    images: Columns = Field(description="the image columns, such as [image]")
    question: str = Field(min_length=1, description="the text put to the judge")
    paraphrases: Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="a list of texts that ask the same as the question in other words"
    )
    label: Label = Field(
        description='a mapping such as {column: safety_label, map: {Unsafe: "Yes", Safe: "No"}}'
    )
    verdicts: tuple[Text, ...] = Field(
        min_length=2, description='the possible answers, such as ["Yes", "No"]'
    )
    id: Columns | None = Field(
        None, description="columns that name an item; without, an item is named by its content"
    )
    candidates: tuple[Column, Column] | None = Field(
        None, description="the two columns to compare, such as [image0, image1]"
    )
    orders: Literal["both", "hashed"] | None = Field(
        None, description="both (each pair is judged as AB and as BA) or hashed (in one of them)"
    )
    reasoning: Column | None = Field(
        None, description="the column that holds the reasoning of a good answer, to learn from"
    )
    cluster_by: Column | None = Field(
        None, description="the column of what items share, such as prompt or image"
    )
    splits: dict[SplitName, MadeSplit] = Field(
        {}, description="such as {validation: {from: train, fraction: 0.1}}"
    )
    known_bad: tuple[KnownBad, ...] = Field(
        (), description="a list of items to leave out, each {item: its id, reason: why}"
    )
    style: Style = Field("reasoned", description="reasoned or direct")
    raw: Raw | None = Field(None, description="a mapping: tables, pictures")
    card: Card = Field(
        description="licence, gated, url, citation, known_problems, forbids_training, expects"
    )


class JudgeTask(Frozen):
    """One task: native lmms-eval keys at the top, ours under ``judge``."""

    task: TaskName = Field(
        description="the task's name: letters, digits, '_', '-' and '.', such as mtrl_judge_mine"
    )
    task_alias: str | None = Field(None, description="a name to show in lmms-eval's tables")
    tag: Columns | None = Field(None, description="lmms-eval tags")
    dataset_path: str | None = Field(None, description="the dataset's name on the hub")
    dataset_name: str | None = Field(None, description="the dataset's configuration")
    dataset_kwargs: dict[str, Any] = Field({}, description="a mapping, such as {revision: main}")
    training_split: str | None = Field(None, description="the dataset's name of its split")
    validation_split: str | None = Field(None, description="the dataset's name of its split")
    test_split: str | None = Field(None, description="the dataset's name of its split")
    generation_kwargs: dict[str, Any] = Field({}, description="a mapping as in lmms-eval")
    repeats: int = Field(1, ge=1, description="how often each item is judged")
    metadata: dict[str, Any] = Field({}, description="a mapping, such as {version: 1.0}")
    judge: JudgeSpec = Field(description="a mapping: kind, role, dimension, images, question, …")
    path: Path = Field(exclude=True)

    @property
    def short_name(self) -> str:
        """The task's name as one types it: seetrue for mtrl_judge_seetrue."""
        return self.task.removeprefix("mtrl_judge_")

    def source_split(self, split: SplitName) -> str | None:
        """The dataset's own name for a split, None where the dataset has no such split."""
        name: str | None = getattr(self, SPLIT_KEYS[split])
        return name

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits a user can ask for: the dataset's own and those made from them."""
        return tuple(s for s in SPLITS if self.source_split(s) or s in self.judge.splits)

    @property
    def evaluation_split(self) -> SplitName:
        """The split lmms-eval judges: test, or validation where there is no test."""
        return "test" if "test" in self.splits else "validation"

    @property
    def questions(self) -> dict[str, str]:
        """The question's template and those of its paraphrases, by their fields."""
        others = {f"judge.paraphrases.{n}": text for n, text in enumerate(self.judge.paraphrases)}
        return {"judge.question": self.judge.question, **others}

    @property
    def paired(self) -> bool:
        """Whether each item is judged in both orders."""
        return self.judge.kind == "pairwise" and self.judge.orders != "hashed"

    @property
    def candidates(self) -> tuple[str, str] | None:
        """The two columns that are compared; None for a task that judges one thing at a time."""
        if self.judge.kind != "pairwise":
            return None
        return self.judge.candidates or (self.judge.images[0], self.judge.images[1])

    @property
    def revision(self) -> str | None:
        revision = self.dataset_kwargs.get("revision")
        return None if revision is None else str(revision)


GROUPS = ("mtrl_id", "mtrl_ood", "mtrl_all")
