"""Graded and ranked benchmarks: from their published files to rows, and their official scores."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from PIL import Image
from support.graded_replicas import (
    GRADED_REPLICAS,
    IMAGEREWARD_RANKS,
    MLLMJUDGE_MODELS,
    imagereward_image,
)

from mtrl_judge.common.files import read_json
from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.judge_tasks.dataset_keys import LOCAL_FILES_VARIABLE
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows
from mtrl_judge.judge_tasks.spec import DATA_CARD
from mtrl_judge.judge_tasks.validate import validate
from mtrl_judge.metrics.human import HumanRating, RatedRow, human_agreement, judge_score
from mtrl_judge.metrics.rankings import read_order
from mtrl_judge.metrics.records import Record


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "root"
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(folder))
    return folder


def rows_of(name: str, root: Path) -> list[JudgeRow]:
    """The rows of the evaluated split, prepared from a replica."""
    task = find_task(name)
    raw = root.with_name("raw")
    GRADED_REPLICAS[name](raw)
    list(prepare([task], root, PrepareOptions(source=raw, any_count=True), lambda *_: None))
    loaded = load_rows(task, task.evaluation_split, root)
    assert loaded.rows.undecodable == {}
    counted = sum(loaded.record["labels"].values()) + loaded.record["unlabeled"]
    assert counted == len(loaded.rows.dataset)  # between levels, and orders, too
    assert validate(task.path, rows=20) == []
    return [JudgeRow.from_doc(doc) for doc in loaded.rows.dataset]


_AGIN = {"sd_00002.png": "2.4", "sd_00014.png": "2.8"}
_NAMES = [f"AttnGAN_normal_{number:03d}.jpg" for number in range(6)]
# The label of each item, in the order of the rows; what questions show of some items.
LABELS: dict[str, dict[str, str | None]] = {
    **{f"mtrl_judge_agin_{name}_graded": _AGIN for name in ("nat", "rat", "tech")},
    "mtrl_judge_agiqa3k_quality": dict(zip(_NAMES, ["0", "0.965603", "4.48874"] * 2, strict=True)),
    "mtrl_judge_agiqa3k_alignment": dict(
        zip(_NAMES, ["0.0214623", "0.408893", "4.2862"] * 2, strict=True)
    ),
    "mtrl_judge_genaibench_graded": {
        "0/0": "2.33333",
        "0/1": "3",
        "0/2": "3.5",
        "0/3": "4.33333",
        "0/4": "5",
        "0/5": None,
        "1/0": "2.66667",
        "1/1": "3.33333",
        "1/2": "4",
        "1/3": "4.66667",
        "1/4": "3.66667",
        "1/5": "2.66667",
    },
    "mtrl_judge_mllmjudge_score": {f"{n}": f"{n % 4 + n // 4 + 1}" for n in range(8)},
}
SHOWN = {
    "mtrl_judge_agiqa3k_alignment": ('statue 0 of a man, "close up"', "baroque style"),
    "mtrl_judge_genaibench_graded": ("0 bakers", "1 bakers"),
    "mtrl_judge_mllmjudge_score": ("Answer:  gpt4 says 1.\nReally.", "what is shown?"),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_replica_becomes_rated_rows(name: str, root: Path) -> None:
    rows = rows_of(name, root)
    assert {row.item_id: row.label for row in rows} == LABELS[name]
    assert [row.n_images for row in rows] == [len(row.images) for row in rows] == [1] * len(rows)
    for text in SHOWN.get(name, ()):
        assert any(text in row.question for row in rows)
    shared = {row.item_id[:1]: row.cluster for row in rows}
    if "genaibench" in name:  # six images of a prompt
        assert {row.cluster for row in rows} == {*shared.values()}


def test_a_dataset_on_the_hub_gives_the_rows_of_a_prepared_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = find_task("mtrl_judge_genaibench_graded")
    rows_of(task.task, root)
    prepared = load_rows(task, "test", root)
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "1")
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    local = {"dataset_path": str(root.with_name("raw")), "dataset_kwargs": {}}
    direct = load_rows(task.model_copy(update=local), "test")
    assert (prepared.record["source"], direct.record["source"]) == ("prepared", "hub")
    assert prepared.record["fingerprint"] == direct.record["fingerprint"]


def test_the_images_of_a_prompt_are_rated_and_ranked(root: Path) -> None:
    """The same files serve both tasks; rows of a prompt are not next to one another."""
    graded = rows_of("mtrl_judge_imagereward_graded", root)
    names = ("000001-0000", "000001-0001", "000001-0002")
    ratings = [sorted(float(row.label or 0) for row in graded if row.group == n) for n in names]
    assert ratings == [sorted(max(1, 8 - rank) for rank in r) for r in IMAGEREWARD_RANKS]
    known = [row.human for row in graded if row.group == names[2] and row.human]
    assert sorted((h.rank, h.rating) for h in known) == [(r, max(1, 8 - r)) for r in range(1, 10)]
    list(
        prepare(
            [find_task("mtrl_judge_imagereward_ranked")],
            root,
            PrepareOptions(source=root.with_name("raw"), any_count=True),
            lambda *_: None,
        )
    )
    cards = [
        read_json(root / f"mtrl_judge_imagereward_{kind}" / DATA_CARD)
        for kind in ("graded", "ranked")
    ]
    assert [card["expected"]["test"] for card in cards] == [2720, 466]
    task = find_task("mtrl_judge_imagereward_ranked")
    assert validate(task.path, rows=20) == []
    dataset = load_rows(task, "test", root).rows.dataset
    rows = [JudgeRow.from_doc(doc) for doc in dataset]
    assert [row.item_id for row in rows] == [*names, *(n.replace("1-", "2-") for n in names)]
    rank_of = {
        pixels(imagereward_image("test", part, prompt, place)): rank
        for part in (1, 2)
        for prompt, ranks in enumerate(IMAGEREWARD_RANKS)
        for place, rank in enumerate(ranks)
    }
    first = set()
    for row in rows:
        shown = {
            letter: rank_of[image.tobytes()]
            for letter, image in zip(row.verdicts, row.images, strict=True)
        }
        expected = IMAGEREWARD_RANKS[int(row.item_id[-1])]
        assert sorted(shown.values()) == sorted(expected)
        places = [{shown[letter] for letter in place} for place in read_order(row.label or "")]
        assert places == [{rank} for rank in sorted(set(expected))]
        assert f'"a fantasy castle {row.item_id[5]} {row.item_id[-1]}"' in row.question
        first.add(list(expected).index(shown["A"]))
    assert len(first) > 1  # not every prompt begins with its first image


def test_four_answers_are_shown_with_their_places_in_the_label(root: Path) -> None:
    rows = rows_of("mtrl_judge_mllmjudge_batch", root)
    assert [row.item_id for row in rows] == ["100", "101"]
    for row, human in zip(rows, ("CDAB", "DBCA"), strict=True):
        letters = re.findall(r"Answer (.):\s+(\w+) says", row.question)
        model_of = dict(letters)
        assert list(model_of) == list(row.verdicts) == list("ABCD")
        best_first = [model_of[letter] for (letter,) in read_order(row.label or "")]
        assert best_first == [MLLMJUDGE_MODELS["ABCD".index(letter)] for letter in human]
        assert row.n_images == 1


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


# Official scores, each by its plain definition


def pearson(one: Sequence[float], other: Sequence[float]) -> float:
    a, b = fmean(one), fmean(other)
    product = sum((x - a) * (y - b) for x, y in zip(one, other, strict=True))
    return product / sqrt(sum((x - a) ** 2 for x in one) * sum((y - b) ** 2 for y in other))


def ranks(values: Sequence[float]) -> list[float]:
    """Equal values share the mean of their ranks."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def kendall_b(one: Sequence[float], other: Sequence[float]) -> float:
    pairs = list(combinations(zip(one, other, strict=True), 2))
    balance = sum(sign(a - c) * sign(b - d) for (a, b), (c, d) in pairs)
    untied = [sum(p[k] != q[k] for p, q in pairs) for k in (0, 1)]
    return balance / sqrt(untied[0] * untied[1])


def sign(number: float) -> int:
    return (number > 0) - (number < 0)


def summarized(name: str, records: Sequence[Record]) -> dict[str, Any]:
    return find_task(name).summarize(records)


def rated(
    labels: Sequence[float], ratings: Sequence[float], groups: Sequence[str] | None = None
) -> list[Record]:
    of = groups or [None] * len(labels)
    return [
        Record(f"{label:g}", f"{rating:g}", group=group)
        for label, rating, group in zip(labels, ratings, of, strict=True)
    ]


MOS = [0.4, 1.36, 2.2, 2.2, 3.1, 3.6, 4.49, 1.9]
RATINGS = [1, 1, 3, 2, 3, 4.5, 4, 2]


@pytest.mark.parametrize("name", ["agiqa3k_quality", "agiqa3k_alignment", "agin_nat_graded"])
def test_correlations_with_mean_opinions(name: str) -> None:
    """SRCC, PLCC and KRCC over images (arXiv 2306.04717 and 2312.05476).

    No logistic function is fitted before PLCC.
    """
    labels = [max(value, 1) for value in MOS] if "agin" in name else MOS
    table = summarized(f"mtrl_judge_{name}", rated(labels, RATINGS))
    assert table["spearman"] == pytest.approx(pearson(ranks(labels), ranks(RATINGS)))
    assert table["pearson"] == pytest.approx(pearson(labels, RATINGS))
    assert table["kendall"] == pytest.approx(kendall_b(labels, RATINGS))


def test_genaibench_counts_ties() -> None:
    """`GenAIBench_Image.correlation` in dataset.py of linzhiqiu/t2v_metrics.

    All pairs of images are compared. Scores that differ by no more than a margin are ties; the best
    margin counts.
    """
    labels = [fmean(each) for each in ([1, 2, 3], [2, 2, 2], [4, 4, 5], [5, 5, 5], [3, 3, 3])]
    ratings = [2.1, 1.9, 4.2, 4.7, 3.2]
    pairs = list(combinations(zip(labels, ratings, strict=True), 2))
    margins = [0.0, *(round(abs(b - d), 9) for (_, b), (_, d) in pairs)]
    accuracies = [
        fmean(
            sign(a - c) == (0 if round(abs(b - d), 9) <= margin else sign(b - d))
            for (a, b), (c, d) in pairs
        )
        for margin in margins
    ]
    assert max(accuracies) > accuracies[0]  # the margin matters
    table = summarized("mtrl_judge_genaibench_graded", rated(labels, ratings))
    assert table["tie_calibrated_accuracy"] == pytest.approx(max(accuracies))
    assert table["pearson"] == pytest.approx(pearson(labels, ratings), abs=1e-5)
    assert table["kendall"] == pytest.approx(kendall_b(labels, ratings))


Judged = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Ranks of the images of prompts, and a judge's ratings of them."""


def imagereward_accuracy(judged: Judged, credit_for_a_tie: float = 0) -> float:
    """`acc` in test.py of THUDM/ImageReward, where a tie of the judge is wrong."""
    right, pairs = 0.0, 0
    for rank, rewards in judged:
        for i, j in combinations(range(len(rank)), 2):
            if rank[i] != rank[j]:
                better, worse = (i, j) if rank[i] < rank[j] else (j, i)
                pairs += 1
                right += rewards[better] > rewards[worse]
                right += credit_for_a_tie * (rewards[better] == rewards[worse])
    return right / pairs


def imagereward_records(judged: Judged) -> dict[str, list[Record]]:
    """The judge's ratings, and the orders that they are."""
    records: dict[str, list[Record]] = {"graded": [], "ranked": []}
    for prompt, (rank, rewards) in enumerate(judged):
        ratings = rated([8 - r for r in rank], rewards, [str(prompt)] * len(rank))
        records["graded"] += ratings
        truth, said = (dict(zip("ABCDE", n, strict=False)) for n in (rank, [-r for r in rewards]))
        records["ranked"].append(Record(order(truth), order(said)))
    return records


def order(numbers: dict[str, float]) -> str:
    """Lowest first."""
    return ">".join(
        "=".join(name for name in sorted(numbers) if numbers[name] == value)
        for value in sorted(set(numbers.values()))
    )


@pytest.mark.parametrize("name", ["graded", "ranked"])
def test_imagereward_is_the_accuracy_of_all_pairs_of_unequal_rank(name: str) -> None:
    """Of all prompts together, whether images are rated one by one or ranked."""

    def ours(judged: Judged) -> Any:
        records = imagereward_records(judged)[name]
        return summarized(f"mtrl_judge_imagereward_{name}", records)["pairwise_accuracy"]

    other = ([2, 1, 3], [4, 6, 5])
    decided = [([1, 2, 2, 4, 5], [7, 6, 3, 5, 1]), other]
    assert ours(decided) == pytest.approx(imagereward_accuracy(decided))
    tied = [([1, 2, 2, 4, 5], [7, 6, 5, 5, 1]), other]  # half right here, wrong in their script
    assert ours(tied) == pytest.approx(imagereward_accuracy(tied, 0.5))
    assert imagereward_accuracy(tied) < ours(tied)


def test_images_with_one_rating_are_compared_by_their_ranks() -> None:
    """`pairwise_human` of graded images is ImageReward's score where `pairwise_accuracy` is not."""
    judged = [([1, 2, 3, 4], [5, 6, 4, 1]), ([1, 2, 2], [3, 2, 7])]
    ratings_of = {1: 6, 2: 6, 3: 4, 4: 2}  # of the ranks
    levels = find_task("mtrl_judge_imagereward_graded").judge.verdicts
    rows, records = [], []
    for prompt, (rank, rewards) in enumerate(judged):
        group = str(prompt)
        for place, reward in zip(rank, rewards, strict=True):
            human = HumanRating(ratings_of[place], group, place)
            rows.append(RatedRow(judge_score(str(reward), levels), human, None, group))
        records += rated([ratings_of[place] for place in rank], rewards, [group] * len(rank))
    (found,) = human_agreement([rows], [levels], ["imagereward"])
    assert found["pairwise_human"].value == pytest.approx(imagereward_accuracy(judged))
    table = summarized("mtrl_judge_imagereward_graded", records)
    assert table["pairwise_accuracy"] != pytest.approx(imagereward_accuracy(judged))


def levenshtein(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    return min(
        levenshtein(one[1:], other) + 1,
        levenshtein(one, other[1:]) + 1,
        levenshtein(one[1:], other[1:]) + (one[0] != other[0]),
    )


def test_mllm_as_a_judge() -> None:
    """scripts/calculate_metrics.ipynb of Dongping-Chen/MLLM-Judge.

    It has the distance alone; the paper's is normalized (arXiv 2402.04788).
    """
    labels, ratings = [3, 5, 2, 4, 4, 1], [4, 5, 3, 3, 5, 1]
    table = summarized("mtrl_judge_mllmjudge_score", rated(labels, ratings))
    assert table["pearson"] == pytest.approx(pearson(labels, ratings))
    orders = [("CDAB", "CDAB"), ("CABD", "CBAD"), ("ACBD", "BACD"), ("DCBA", "ABCD")]
    records = [Record(">".join(truth), ">".join(said)) for truth, said in orders]
    table = summarized("mtrl_judge_mllmjudge_batch", records)
    expected = fmean(levenshtein(said, truth) / 4 for truth, said in orders)
    assert table["edit_distance"] == pytest.approx(expected)
