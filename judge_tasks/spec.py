"""The judge task: a native lmms-eval task YAML plus one ``judge:`` block.

The YAML is data: it is read as safe YAML and nothing in it is executed. :mod:`.loading` reads and
checks a file and reports all of its faults at once; the ``description`` of a field is what such a
report gives as expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from mtrl_judge.metrics.groups import GROUP_MEANS, group_means
from mtrl_judge.metrics.joint import JOINT_ACCURACY, joint_metrics
from mtrl_judge.metrics.records import Record
from mtrl_judge.metrics.slots import PairVerdicts

from .fields import (
    ANY_VALUES,
    ONE_OR_MORE,
    VALUES_BY_KEY,
    Column,
    Columns,
    Frozen,
    RawValue,
    Text,
    as_tuple,
    label_key,
)
from .kinds import KINDS, LABEL_RULES
from .kinds.base import Kind, LabelRule, label_rule

Style: TypeAlias = Literal["reasoned", "direct", "confidence"]
Role: TypeAlias = Literal["train", "ood"]
SplitName: TypeAlias = Literal["train", "validation", "test"]
STYLES: tuple[Style, ...] = ("reasoned", "direct", "confidence")
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
SPLIT_KEYS: Mapping[SplitName, str] = {
    "train": "training_split",
    "validation": "validation_split",
    "test": "test_split",
}
GENERATION_KEYS = (
    "do_sample",
    "max_new_tokens",
    "num_beams",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "until",
)
# A scale from 0 to 100 has 101 verdicts. Reading a text takes longer with each of them.
MAX_VERDICTS, MAX_VERDICT = 101, 200
MAX_PARAPHRASES = 20
MAX_EACH = 50
DATA_CARD = "card.json"  # beside a task's parquet files: what they are
ANSWERS_FILE = "answers.jsonl"
"""Answers to learn from, beside a task's data or in a run's folder: JSON lines with task, item_id,
swapped and text."""
CHECKPOINT_CARD = "mtrl_judge.json"  # beside a checkpoint's weights: the style it was trained on


def _as_groups(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


def _as_values(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


TaskName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]

if TYPE_CHECKING:
    Label: TypeAlias = LabelRule
else:
    # The rules of all kinds; each kind checks that the rule is one of its own.
    _TAGGED = tuple(Annotated[rule, Tag(rule.__name__)] for rule in LABEL_RULES)
    Label = Annotated[
        Union[_TAGGED],  # noqa: UP007  the number of rules is not fixed
        Discriminator(lambda value: label_rule(value).__name__),
    ]


class MadeSplit(Frozen):
    """A split cut out of another one.

    Items are ranked by a stable hash of their id (or of ``group_by``), so that the split does not
    depend on the order of rows. ``stratify`` keeps the proportions of a column's values; the word
    ``label`` stands for the task's own label.
    """

    source: SplitName = Field(
        alias="from", description="the split to cut it from: train, validation or test"
    )
    fraction: float = Field(gt=0, lt=1, description="a share between 0 and 1, such as 0.1")
    seed: int = Field(0, description="a whole number, such as 0")
    stratify: Column | None = Field(None, description="a column, or label for the task's label")
    group_by: Column | None = Field(
        None, description="a column whose values must not occur in two splits"
    )


class ImageFiles(Frozen):
    """Images in separate files, named by columns of the tables."""

    named_by: Column | dict[Column, Column] = Field(
        description="the column that names each image's file, or for each column of images the one "
        "that names theirs, such as {image0: left_file, image1: right_file}"
    )
    image: Column | None = Field(
        None, description="the column to put the image in, such as image, where there is one"
    )
    archives: dict[SplitName, Columns] = Field(
        {},
        description="zip files with the images of each split, such as {train: images.zip}; "
        "{1-4} in a name stands for four files; without archives, the images lie beside the tables",
    )
    subset: bool = Field(
        False, description="true where the dataset is the rows whose images are in the archives"
    )

    @property
    def columns(self) -> dict[str, str]:
        """The column or path that names the files, by the column of images."""
        if isinstance(self.named_by, str):
            return {str(self.image): self.named_by}
        return dict(self.named_by)


class Raw(Frozen):
    """The files a dataset is published as, for ``mtrl-judge data prepare``."""

    tables: dict[SplitName, Columns] = Field(
        min_length=1,
        description="CSV, TSV, JSON or parquet files of each split, such as "
        "{train: data/train-*.parquet}",
    )
    file_column: Column | None = Field(
        None,
        description="a column to add, with the name of each row's file without its ending, such as "
        "subset",
    )
    images: ImageFiles | None = Field(
        None, description="{named_by, image, archives, subset} where images are files"
    )


class KnownBad(Frozen):
    """An item that is excluded."""

    item: Text = Field(description="the item's id, as in results")
    reason: str = Field(min_length=1, description="why it is excluded")


class Card(Frozen):
    """What a user must know before using the data."""

    license: str = Field(min_length=1, description="the data's license, such as CC-BY-4.0")
    gated: bool = Field(False, description="true where terms must be accepted on the hub")
    url: str = Field(min_length=1, description="where the dataset lives")
    citation: str = Field(min_length=1, description="the paper or page to cite")
    known_problems: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        (), description="a list of sentences"
    )
    forbids_training: str | None = Field(
        None, min_length=1, description="what its authors say against training on it"
    )
    expects: dict[SplitName, Annotated[int, Field(gt=0)]] = Field(
        {}, description="the number of items of each split, such as {train: 6194}"
    )


NOT_STATED = "not stated"


class Human(Frozen):
    """What people thought of an item, as the dataset has it, beside the label made from it."""

    column: Column = Field(
        description="the column with people's rating, a number; higher speaks for the first verdict"
    )
    group: Column | None = Field(
        None, description="a column of what rated items have in common, such as prompt or source"
    )
    rank: Column | None = Field(
        None, description="a column with an item's rank in its group, 1 for the best"
    )


class Scale(Frozen):
    """The numbers that a rating can be."""

    min: float = Field(description="the lowest rating, such as 1")
    max: float = Field(description="the highest rating, such as 10")
    step: float = Field(1, gt=0, description="the difference of two levels, such as 1 or 0.5")


class Gather(Frozen):
    """Rows of the dataset that are one item together."""

    by: Column = Field(description="the column whose value rows of one item share")
    columns: Columns = Field(
        description="the columns that become lists, one value for each row, such as [image, rank]"
    )


class ColumnOf(Frozen):
    """A value that an item takes from a column or path of the dataset."""

    column: Column = Field(description="a column or path of the dataset")
    listed: bool = False
    """Whether it is a list of the values of several items."""


def _cell(value: object) -> object:
    """A constant, or where it comes from."""
    if isinstance(value, Mapping) and len(value) == 1:
        key, path = next(iter(value.items()))
        if key in ("column", "each") and isinstance(path, str):
            return ColumnOf(column=path, listed=key == "each")
    if isinstance(value, Mapping | list):
        raise PydanticCustomError("no_cell", "is neither a constant nor {column: …} or {each: …}")
    return value


_CELL_SCHEMA = {
    "anyOf": [
        {"type": ["string", "number", "boolean", "null"]},
        *(
            {
                "type": "object",
                "properties": {key: {"type": "string"}},
                "required": [key],
                "additionalProperties": False,
            }
            for key in ("column", "each")
        ),
    ]
}
Cell: TypeAlias = Annotated[Any, BeforeValidator(_cell), WithJsonSchema(_CELL_SCHEMA)]


def _as_group_map(value: object) -> object:
    """The group by value; written as the list of values of each group."""
    if not isinstance(value, Mapping):
        return value
    groups: dict[str, object] = {}
    for group, values in value.items():
        listed = values if isinstance(values, list) else [values]
        if not listed or any(each is None or isinstance(each, list | Mapping) for each in listed):
            raise PydanticCustomError(
                "no_values", "has no single values for {group}", {"group": repr(group)}
            )
        for each in listed:
            if label_key(each) in groups:
                raise PydanticCustomError(
                    "repeated", "has {value} twice", {"value": repr(label_key(each))}
                )
            groups[label_key(each)] = group
    return groups


class Groups(Frozen):
    """What results are also reported by."""

    column: Column = Field(description="a column such as category")
    map: Annotated[dict[str, Text], BeforeValidator(_as_group_map), VALUES_BY_KEY] = Field(
        {},
        description="the values of each group, such as {animals: [cat, dog]}; without it, every "
        "value is a group",
    )


_COLUMN_OR_GROUPS = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"column": {"type": "string"}, "map": {"type": "object"}},
                "additionalProperties": False,
            },
        ]
    }
)


class Facts(Frozen):
    """What items show, to look for in a judge's reasoning."""

    column: Column = Field(
        description="the column with a list of facts, each a phrase or {fact, instead}"
    )


MAX_DEMONSTRATIONS = 32


class Demonstrations(Frozen):
    """Solved items that come before the one that is asked about."""

    k: int = Field(
        ge=0, le=MAX_DEMONSTRATIONS, description=f"how many, from 0 to {MAX_DEMONSTRATIONS}"
    )
    by: Annotated[tuple[Literal["image", "text"], ...], BeforeValidator(as_tuple)] = Field(
        (), description="what is compared with the item: image, text or both; [] chooses at random"
    )
    encoder: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="tfidf (texts), judge (its own vision tower; texts by tfidf) or a model of "
        "sentence-transformers",
    )
    stratify: Literal["label"] | None = Field(
        None, description="label for as many of each label, as far as k allows"
    )
    exclude: Literal["cluster", "item"] = Field(
        "cluster",
        description="cluster to leave out what shares the item's cluster, or item for the item "
        "alone; near-duplicates are always left out",
    )
    source: TaskName | Literal["self"] = Field(
        "self",
        alias="from",
        description="self, or the name of a task whose training split they come from",
    )


class JudgeSpec(Frozen):
    """The ``judge:`` block: all that lmms-eval has no key for."""

    kind: str = Field(description=f"one of: {', '.join(KINDS)}")
    role: Role = Field(description="train, or ood for data that no training may see")
    dimension: str = Field(min_length=1, description="what is judged, such as safety")
    images: Annotated[tuple[Column, ...], BeforeValidator(as_tuple), ONE_OR_MORE] = Field(
        (), description="the columns of images, such as [image]; [] without images"
    )
    question: str = Field(min_length=1, description="the text that the judge is asked")
    paraphrases: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        (),
        max_length=MAX_PARAPHRASES,
        description=f"a list of up to {MAX_PARAPHRASES} texts that ask the question in other words",
    )
    label: Label = Field(
        description='a mapping such as {column: safety_label, map: {Unsafe: "Yes", Safe: "No"}}'
    )
    swap: dict[Text, Text] = Field(
        {},
        description="pairs with more than three verdicts: which verdict becomes which when the "
        'candidates change places, such as {"A>>B": "B>>A", "A>B": "B>A"}',
    )
    verdicts: tuple[Annotated[Text, StringConstraints(max_length=MAX_VERDICT)], ...] = Field(
        min_length=2,
        max_length=MAX_VERDICTS,
        description=f'up to {MAX_VERDICTS} answers, such as ["Yes", "No"]',
    )
    where: dict[
        Column, Annotated[tuple[RawValue, ...], BeforeValidator(_as_values), ANY_VALUES]
    ] = Field(
        {}, description="rows to keep, by the value or values of columns, such as {split: [a, b]}"
    )
    json_columns: Annotated[tuple[Column, ...], BeforeValidator(as_tuple), ONE_OR_MORE] = Field(
        (), description="columns whose texts are JSON, such as [text], for paths into them"
    )
    gather: Gather | None = Field(
        None,
        description="{by, columns}: rows that become one item, whose columns become lists, such as "
        "{by: prompt_id, columns: [image, rank]}",
    )
    each: tuple[Annotated[dict[Column, Cell], Field(min_length=1)], ...] = Field(
        (),
        max_length=MAX_EACH,
        description=f"a list of up to {MAX_EACH} mappings: each row becomes an item for each of "
        "them, with these columns, such as {text: {column: caption_0}, asked: text}; with "
        "{text: {each: captions}}, for each value of a list",
    )
    scale: Scale | None = Field(
        None, description="{min, max, step}: the scale of a task whose kind is score"
    )
    aspects: tuple[Text, ...] = Field(
        (), description="what is rated on the scale, each by itself, such as [quality, alignment]"
    )
    id: Columns | None = Field(
        None, description="columns that identify an item; without them its content does"
    )
    candidates: Column | tuple[Columns, ...] | None = Field(
        None,
        description="what is compared: a column for each, such as [image0, image1], or the columns "
        "that belong together, such as [[text0, image0], [text1, image1]], or a column of lists",
    )
    orders: Literal["both", "cyclic", "hashed"] | None = Field(
        None,
        description="both (each pair is judged as AB and as BA), cyclic (each ranking in every "
        "cyclic order) or hashed (in one of them)",
    )
    reasoning: Column | None = Field(
        None, description="the column that holds the reasoning of a good answer, to learn from"
    )
    cluster_by: Column | None = Field(
        None, description="a column of what items share, such as prompt or image"
    )
    joint_by: Column | None = Field(
        None, description="a column of what has to be judged right together, such as item"
    )
    groups: Annotated[Groups, BeforeValidator(_as_groups), _COLUMN_OR_GROUPS] | None = Field(
        None,
        description="a column by whose values results are reported too, such as category, or "
        "{column, map} with the values of each group",
    )
    human: Human | None = Field(
        None, description="{column, group, rank}: ratings by people to compare the judge with"
    )
    facts: Facts | None = Field(
        None, description="{column}: a list of what an item shows, to look for in the reasoning"
    )
    fixed_class_counts: bool = Field(
        False, description="true where it was decided how many items of each label to collect"
    )
    splits: dict[SplitName, MadeSplit] = Field(
        {}, description="such as {validation: {from: train, fraction: 0.1}}"
    )
    known_bad: tuple[KnownBad, ...] = Field(
        (), description="a list of items to exclude, each {item: its id, reason: why}"
    )
    style: Style = Field("reasoned", description="reasoned, direct or confidence")
    demonstrations: Demonstrations | None = Field(
        None, description="{k, by, encoder, stratify, exclude, from}: solved items in the prompt"
    )
    raw: Raw | None = Field(None, description="a mapping: tables, file_column, images")
    card: Card = Field(
        Card(license=NOT_STATED, url=NOT_STATED, citation=NOT_STATED),
        description="license, gated, url, citation, known_problems, forbids_training, expects",
    )

    @field_validator("verdicts")
    @classmethod
    def _with_swap(cls, verdicts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """They carry how they change, since whoever counts them has to know it."""
        swap = info.data.get("swap")
        return PairVerdicts(verdicts, swap) if swap else verdicts


class JudgeTask(Frozen):
    """One task: native lmms-eval keys at the top, ours under ``judge``."""

    task: TaskName = Field(
        description="the task's name: letters, digits, '_', '-' and '.', such as mtrl_judge_mine"
    )
    task_alias: str | None = Field(None, description="a name to show in lmms-eval's tables")
    tag: Columns | None = Field(None, description="lmms-eval tags")
    dataset_path: str | None = Field(None, description="the dataset's name on the hub: owner/name")
    dataset_name: str | None = Field(None, description="the dataset's configuration")
    dataset_kwargs: dict[str, Any] = Field(
        {}, description="a mapping with revision, data_files or token, such as {revision: main}"
    )
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
        """The task's name without the prefix: seetrue for mtrl_judge_seetrue."""
        return self.task.removeprefix("mtrl_judge_")

    def source_split(self, split: SplitName) -> str | None:
        """The dataset's name for a split; None if the dataset has no such split."""
        name: str | None = getattr(self, SPLIT_KEYS[split])
        return name

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits that exist: the dataset's own and those cut from them."""
        return tuple(s for s in SPLITS if self.source_split(s) or s in self.judge.splits)

    @property
    def evaluation_split(self) -> SplitName:
        """The split lmms-eval evaluates: test, or validation if there is no test split."""
        return "test" if "test" in self.splits else "validation"

    @property
    def questions(self) -> dict[str, str]:
        """The templates of the question and of its paraphrases, by field."""
        others = {f"judge.paraphrases.{n}": text for n, text in enumerate(self.judge.paraphrases)}
        return {"judge.question": self.judge.question, **others}

    @property
    def kind(self) -> Kind:
        """What depends on the kind of task."""
        return KINDS[self.judge.kind]

    @property
    def paired(self) -> bool:
        """Whether each item is judged in both orders."""
        return self.judge.orders == "both"

    def fixed_labels(self, split: SplitName) -> bool:
        """Whether the number of items of each label in a split is fixed rather than random."""
        made = self.judge.splits.get(split)
        stratified = made is not None and made.stratify == "label"
        return self.judge.fixed_class_counts or stratified

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """What is compared, each candidate as the columns or paths that belong to it; empty for a
        task that judges one thing at a time."""
        return self.kind.candidates(self.judge)

    def summarize(self, records: Sequence[Record]) -> dict[str, float | int | None]:
        """Every metric of judged rows of this task; see :meth:`.kinds.base.Kind.summarize`."""
        table = self.kind.summarize(records, self.judge.verdicts, self.paired)
        if self.judge.groups is not None and self.kind.counted:
            table |= group_means(records, self.judge.verdicts)
        if self.judge.joint_by is not None:
            table |= joint_metrics(records)
        return table

    @property
    def metrics(self) -> list[str]:
        """The keys of :meth:`summarize`'s table that are not counts."""
        means = GROUP_MEANS if self.judge.groups is not None and self.kind.counted else ()
        joint = (JOINT_ACCURACY,) if self.judge.joint_by is not None else ()
        return [*self.kind.metrics(self.judge.verdicts, self.paired), *means, *joint]

    @property
    def revision(self) -> str | None:
        revision = self.dataset_kwargs.get("revision")
        return None if revision is None else str(revision)


GROUPS = (
    "mtrl_id",
    "mtrl_ood",
    "mtrl_all",
    "mtrl_graded",
    "mtrl_pairs",
    "mtrl_text",
    "mtrl_everything",
)
