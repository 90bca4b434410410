"""Solved items for a prompt, retrieved for each item from a training split.

Retrieval by similarity, stratified by label, follows retrieval-augmented multimodal chain of
thought (Liu et al., arXiv 2312.01714), similarities of images and texts averaged as in AR-MCTS
(arXiv 2412.14835). What is compared is what varies from row to row: the images, and the columns
that the question reads.

The choice depends on the item's content, the training split and the encoder, and on nothing else.

Axis suffixes: `N` items that are asked about, `P` items of the pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hashing import digest, stable_hash
from mtrl_judge.judge_tasks.demonstration_checks import JUDGE, TFIDF
from mtrl_judge.judge_tasks.demonstrations import source_task
from mtrl_judge.judge_tasks.images import shown
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import Rows, with_demonstrations
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, Style
from mtrl_judge.judge_tasks.templates import question_columns

from .encoders import (
    Floats,
    ImageEncoder,
    TextEncoder,
    TfidfSimilarity,
    VectorSimilarity,
    mean_vector,
    scaled,
    sentence_encoders,
)
from .leaks import normalized
from .near_duplicates import DuplicateCheck

if TYPE_CHECKING:
    from datasets import Dataset

_DECIMALS = 6  # of a similarity; what is nearer is a tie, as machines round differently


class Chosen(NamedTuple):
    """The demonstrations of N items."""

    ids_N: list[tuple[str, ...]]
    """Items of the pool, in the order in which they are shown: the most similar comes last."""
    excluded: Counter[str]
    """Why items were passed over that would have been shown; each item counts for each query."""


class _Query(NamedTuple):
    """What of an item is compared."""

    key: str
    """Names its content."""
    item: str
    cluster: str
    images: Sequence[bytes]
    texts: Sequence[str]


class Demonstrator:
    """Chooses the demonstrations of a task's items.

    Args:
        task: whose items are asked about; its ``judge.demonstrations`` say how.
        pool: the training split that they come from.
        style: with reasoning, only items that have some are shown.
        encode_image: the judge's own vision tower, for ``encoder: judge``.

    Raises:
        JudgeError: no item can be shown, or the encoder cannot be used.
    """

    def __init__(
        self,
        task: JudgeTask,
        pool: Rows,
        style: Style,
        encode_image: ImageEncoder | None = None,
    ) -> None:
        assert task.judge.demonstrations is not None
        self.task, self.spec = task, task.judge.demonstrations
        self.is_own = pool.raw.task.task == task.task
        self.dataset = _one_order(pool, style)
        about = self.dataset.with_format(None)
        self._ids_P: list[str] = about["item_id"][:]
        self._reader = _Reader(pool.raw)
        self._indices_P: list[int] = about["source_index"][:]
        kind, verdicts_P = pool.raw.task.kind, about["verdicts"][:]
        self._labels_P = [
            kind.label_class(label, verdicts)
            for label, verdicts in zip(about["label"][:], verdicts_P, strict=True)
        ]
        self._ties_P = np.array([stable_hash("demonstrations", i) for i in self._ids_P], np.uint64)
        self._fingerprint = pool.fingerprint
        self._check = DuplicateCheck()
        self._encode_text: TextEncoder | None = None
        self._encode_image = encode_image
        self._prepare_encoder()

    def _prepare_encoder(self) -> None:
        name, by = self.spec.encoder, self.spec.by
        if name == JUDGE and "image" in by and self._encode_image is None:
            raise JudgeError(
                f"{self.task.task}: demonstrations: encoder: judge: the vision tower of this judge "
                "cannot be used, as only the backend mtrl_judge on the engine transformers "
                "computes with it here; use encoder: tfidf with by: [text], or a model of "
                "sentence-transformers"
            )
        if name is not None and name not in (JUDGE, TFIDF):
            encoders = sentence_encoders(name, images="image" in by)
            self._encode_text, self._encode_image = encoders

    def record(self, chosen: Chosen) -> dict[str, Any]:
        """What results say about the demonstrations of a split."""
        numbers = [len(ids) for ids in chosen.ids_N] or [0]
        lines = sorted("\x1f".join(ids) for ids in chosen.ids_N)
        return {
            **self.spec.model_dump(mode="json", by_alias=True),
            "from": self._reader.raw.task.task,
            "pool": {"items": len(self._ids_P), "fingerprint": self._fingerprint},
            "fewest": min(numbers),
            "excluded": dict(sorted(chosen.excluded.items())),
            "fingerprint": digest(line.encode() for line in lines)[:16],
        }

    def attach(self, rows: Rows) -> tuple[Rows, dict[str, Any]]:
        """The rows with their demonstrations, and the record of them.

        Both orders of a pair have the same ones.
        """
        sources: list[int] = rows.dataset.with_format(None)["source_index"][:]
        kept = sorted({*sources})
        chosen = self.choose(rows.raw, kept)
        of_item = dict(zip(kept, chosen.ids_N, strict=True))
        ids_N = [of_item[index] for index in sources]
        return with_demonstrations(rows, self.dataset, ids_N), self.record(chosen)

    def choose(self, raw: RawSplit, indices_N: Sequence[int]) -> Chosen:
        """The demonstrations of items of a split, by their indices in it."""
        reader, excluded = _Reader(raw), Counter[str]()
        queries = (reader.query(index) for index in indices_N)
        return Chosen([self._choose(query, excluded) for query in queries], excluded)

    def _choose(self, query: _Query, excluded: Counter[str]) -> tuple[str, ...]:
        # What is equally similar comes in an order of its own for each item, by splitmix64.
        ties_P = _mixed(self._ties_P ^ np.uint64(stable_hash(query.key)))
        order_P = np.lexsort((ties_P, -self._similarities(query)))
        rank = {int(number): place for place, number in enumerate(order_P)}
        strata: Mapping[str, list[int]] = {"": [int(number) for number in order_P]}
        if self.spec.stratify == "label":
            strata = _by_label(order_P, self._labels_P)
        admitted = [self._admitted(query, members, excluded) for members in strata.values()]
        chosen = sorted(_in_turn(admitted, self.spec.k), key=rank.__getitem__, reverse=True)
        return tuple(self._ids_P[number] for number in chosen)

    def _admitted(
        self, query: _Query, members: Sequence[int], excluded: Counter[str]
    ) -> Iterator[int]:
        for number in members:
            reason = self._reason_against(query, number)
            if reason is None:
                yield number
            else:
                excluded[reason] += 1

    def _reason_against(self, query: _Query, number: int) -> str | None:
        """Why an item of the pool is not shown with a query; None where it may be."""
        other = self._pool(number)
        if other.key == query.key or (self.is_own and other.item == query.item):
            return "the item itself"
        if self.is_own and self.spec.exclude == "cluster" and other.cluster == query.cluster:
            return "same cluster"
        if any(self._check.same(ours, theirs) for ours in query.images for theirs in other.images):
            return "near-duplicate image"
        texts = normalized("\n".join(query.texts))
        if texts and texts == normalized("\n".join(other.texts)):
            return "same text"
        return None

    def _similarities(self, query: _Query) -> Floats:
        """Of an item to the pool, P; the mean over what is compared."""
        found = [similarity(query) for similarity in self._measures]
        if not found:
            return np.zeros(len(self._ids_P))
        mean: Floats = np.mean(np.stack(found), axis=0)
        return mean.round(_DECIMALS)

    @cached_property
    def _measures(self) -> list[Callable[[_Query], Floats]]:
        measures: list[Callable[[_Query], Floats]] = []
        pool = range(len(self._ids_P))
        if "image" in self.spec.by:
            vectors_P = [self._image_vector(self._pool(number)) for number in pool]
            by_image = VectorSimilarity(vectors_P)
            measures.append(lambda query: by_image(self._image_vector(query)))
        if "text" in self.spec.by:
            texts_P = [" ".join(self._pool(number).texts) for number in pool]
            if self._encode_text is None:
                tfidf = TfidfSimilarity(texts_P)
                measures.append(lambda query: tfidf(" ".join(query.texts)))
            else:
                encode = self._encode_text
                by_text = VectorSimilarity([scaled(encode(text)) for text in texts_P])
                measures.append(lambda query: by_text(scaled(encode(" ".join(query.texts)))))
        return measures

    def _image_vector(self, query: _Query) -> Floats | None:
        assert self._encode_image is not None
        known = self._vectors
        vectors = []
        for data in query.images:
            name = digest([data])
            if name not in known:
                known[name] = self._encode_image(shown(data))
            vectors.append(known[name])
        return mean_vector(vectors)

    @cached_property
    def _vectors(self) -> dict[str, NDArray[Any]]:
        """By the digest of an image: both orders of a pair have the same, and so have clusters."""
        return {}

    def _pool(self, number: int) -> _Query:
        return self._reader.query(self._indices_P[number])


class _Reader:
    """Reads of the items of a split what is compared."""

    def __init__(self, raw: RawSplit) -> None:
        self.raw = raw
        judge = raw.task.judge
        images = {raw.path_of(path).column for path in judge.images}
        # What only candidates name is shown too, such as the texts of a list.
        compared = {raw.path_of(path).column for group in raw.task.candidates for path in group}
        names = (question_columns(judge.question) | compared) - images
        self._columns = [raw.column(name) for name in sorted(names) if name in raw.column_names]

    def query(self, index: int) -> _Query:
        raw = self.raw
        images = [data for data in raw.image_bytes(index) if data]
        texts = ["" if c[index] is None else str(c[index]) for c in self._columns]
        key = digest(part.encode() for part in (raw.digests[index], *texts))
        return _Query(key, raw.ids[index], raw.clusters[index], images, texts)


def load_demonstrator(
    task: JudgeTask,
    style: Style,
    *,
    root: Path | None = None,
    encode_image: ImageEncoder | None = None,
) -> Demonstrator:
    """The demonstrator of a task, with the training split that its demonstrations come from.

    Raises:
        JudgeError: as :func:`.source_task`, :func:`.load_rows` and :class:`Demonstrator`.
    """
    pool, _ = load_rows(source_task(task), "train", root)
    return Demonstrator(task, pool, style, encode_image)


def _one_order(pool: Rows, style: Style) -> Dataset:
    """The rows of a pool that can be shown: labeled, with reasoning where the style shows some, and
    of each item one order, which its id decides."""
    about = pool.dataset.with_format(None)
    names = ("source_index", "label", "reasoning")
    orders: dict[int, list[int]] = {}
    for number, (source, label, reasoning) in enumerate(
        zip(*(about[name][:] for name in names), strict=True)
    ):
        if label is not None and (style == "direct" or reasoning):
            orders.setdefault(source, []).append(number)
    task, ids = pool.raw.task, pool.raw.ids
    if not orders:
        what = "a label" if style == "direct" else "a label and reasoning"
        raise JudgeError(
            f"{task.task}: demonstrations: no item of its training split has {what}; expected some "
            "to show"
        )
    return pool.dataset.select(
        sorted(
            numbers[stable_hash("demonstrated order", ids[source]) % len(numbers)]
            for source, numbers in orders.items()
        )
    )


def _by_label(order_P: NDArray[Any], labels_P: Sequence[str]) -> dict[str, list[int]]:
    """The items of each label, in order; the label of the first item comes first."""
    members: dict[str, list[int]] = {}
    for number in order_P:
        members.setdefault(labels_P[number], []).append(int(number))
    return members


def _in_turn(strata: Sequence[Iterator[int]], k: int) -> list[int]:
    """Up to k items, one of each stratum in turn for as long as it has any."""
    chosen: list[int] = []
    left = [*strata]
    while left and len(chosen) < k:
        for stratum in [*left]:
            if len(chosen) == k:
                break
            found = next(stratum, None)
            if found is None:
                left.remove(stratum)
            else:
                chosen.append(found)
    return chosen


def _mixed(values_P: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = (values_P ^ (values_P >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
