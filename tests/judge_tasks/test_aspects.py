"""Several aspects that are rated in one answer: reading, labels, rewards, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.images import image_cells
from support.results import sample, write_results
from support.tasks import raw_dataset, write_task, write_yaml

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.judge_tasks.aspects import aspect_verdicts, parse_aspects, scales_of
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.prompts import gold_answer, render_text
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rescore import rescore
from mtrl_judge.judge_tasks.rows import JudgeRow, to_rows
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.validate import validate
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.view import kind_table
from mtrl_judge.metrics.records import Record
from mtrl_judge.rl.graded_rewards import fidelity

SCORE = KINDS["score"]
ASPECTS = ("quality", "alignment")
VERDICTS = tuple(aspect_verdicts(ASPECTS, [str(level) for level in range(1, 6)]))
YAML = {
    "kind": "score",
    "aspects": "[quality, alignment]",
    "scale": "{min: 1, max: 5}",
    "label": "{column: [mos_quality, mos_alignment]}",
    "verdicts": "null",
}
BOTH = "quality: 4, alignment: 2.5"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (BOTH, BOTH),
        ("<think>quality: 1</think><answer>Quality: 4\nAlignment: 2.5</answer>", BOTH),
        ("**Alignment**: 2.5/5\n**Quality**: 4/5", BOTH),
        ("Quality score: 4 (sharp)\nAlignment score: 2.5", BOTH),
        ("Quality (1-5): 4\nAlignment (1-5): 2.5", BOTH),
        ('{"quality": 4, "alignment": 2.5, "reason": "the quality is fine"}', BOTH),
        ('```json\n{"quality_score": "4", "alignment_score": "2.5"}\n```', BOTH),
        ('{"alignment": {"score": 2.5}, "quality": {"score": 4, "why": "x"}}', BOTH),
        ("| quality | 4 |\n| alignment | 2.5 |", BOTH),
        ("The quality is 4 and the alignment is 2.5 out of 5.", BOTH),
        # What is no verdict, and why.
        ("quality: 4", "no rating of 'alignment'"),
        ("4\n2.5", "no rating of 'quality'"),
        ("quality: 6, alignment: 2", "'quality' is rated (outside the scale)"),
        ("quality: 4/10, alignment: 2", "'quality' is rated (outside the scale)"),
        ("quality: 4, alignment: 2-3", "'alignment' is rated (a range)"),
        ("quality: 3 or 4, alignment: 2", "'quality' is rated (a range)"),
        ("quality: <1-5>\nalignment: <1-5>", "'quality' is rated (a range)"),
        ("quality: 4, alignment: 2\nSo quality: 3", "several ratings of 'quality'"),
        ("<think>quality: 4, alignment: 2</think>", "no rating of 'quality'"),
        ("", "empty text"),
    ],
)
def test_ratings_are_read_by_aspect(text: str, read: str) -> None:
    verdict = SCORE.read(text, VERDICTS)
    assert (verdict.value or verdict.reason) == read


def test_the_longest_name_of_an_aspect_is_read() -> None:
    names = ["quality", "video quality"]
    text = "video_quality: 2\nquality: 3"
    assert parse_aspects(text, names, 1, 5).value == "quality: 3, video quality: 2"


def test_a_single_scale_has_no_aspects() -> None:
    for verdicts in (("1", "2", "3"), ("level: 1", "level: 2"), ("a: 1", "b: 2")):
        assert scales_of(verdicts) == {"": verdicts}


def rows(folder: Path, **changes: Any) -> list[JudgeRow]:
    task = write_task(folder, **YAML)
    columns = {
        "image": image_cells(4),
        "text": list("abcd"),
        "mos_quality": [1.25, 4, 5, None],
        "mos_alignment": [4.5, 2, 1, 3],
    }
    raw = RawSplit(task, raw_dataset({**columns, **changes}))
    return [JudgeRow.from_doc(doc) for doc in to_rows(raw).dataset]


def test_a_row_is_labeled_asked_and_rewarded_by_aspect(tmp_path: Path) -> None:
    of_task = rows(tmp_path)
    assert [row.label for row in of_task] == [
        "quality: 1.25, alignment: 4.5",
        "quality: 4, alignment: 2",
        "quality: 5, alignment: 1",
        None,
    ]
    first, second, *_ = of_task
    prompt = render_text(first, "reasoned")
    assert "a number from 1 (lowest) to 5 (highest) in steps of 1 for each aspect" in prompt
    assert prompt.endswith("in this form: quality: <number>, alignment: <number>")
    assert SCORE.gold(str(first.label), VERDICTS) == "quality: 1, alignment: 4"
    for style in ("reasoned", "direct", "confidence"):
        answer = gold_answer(SCORE.gold(str(second.label), VERDICTS), style)
        assert score(second, answer).correct == 1
    # By hand: one level and three levels off, of four.
    assert score(second, "quality: 5, alignment: 5").correct == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert score(second, "quality: 5").correct == 0
    assert SCORE.attainable(str(first.label), VERDICTS) == pytest.approx(1 - (0.25 + 0.5) / 8)


def test_a_label_that_is_not_on_the_scale_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mos_quality.*not cover.*covered: numbers from 1 to 5"):
        rows(tmp_path, mos_alignment=[4.5, 2, 11, 3])


def judged(n: int = 60, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Labels and ratings, n rows of two aspects: one is rated better than the other."""
    rng = np.random.default_rng(seed)
    labels = np.round(1 + 4 * rng.random((n, 2)), 2)
    noise = rng.standard_normal((n, 2)) * [0.3, 2]
    return labels, np.clip(np.round(labels + noise, 1), 1, 5)


def written(values: np.ndarray[Any, Any]) -> list[str]:
    return [f"quality: {q:g}, alignment: {a:g}" for q, a in values]


def test_metrics_are_those_of_each_aspect_and_their_mean() -> None:
    labels, ratings = judged()
    records = [Record(*both) for both in zip(written(labels), written(ratings), strict=True)]
    table = SCORE.summarize([*records, Record(None, records[0].verdict)], VERDICTS, False)
    for index, aspect in enumerate(ASPECTS):
        expected = stats.spearmanr(labels[:, index], ratings[:, index]).statistic
        assert table[f"spearman_{aspect}"] == pytest.approx(expected)
        error = np.abs(labels[:, index] - ratings[:, index]).mean()
        assert table[f"mae_{aspect}"] == pytest.approx(error)
    for metric in ("spearman", "mae", "kendall", "weighted_kappa"):
        both = [table[f"{metric}_{aspect}"] for aspect in ASPECTS]
        assert table[metric] == pytest.approx(np.mean(both))
    assert (table["n"], table["n_unlabeled"], table["null_rate"]) == (60, 1, 0)
    medians = np.abs(labels - np.median(labels, axis=0)).mean()
    assert table["median_mae"] == pytest.approx(medians)


def test_the_leaderboard_ranks_by_the_mean(tmp_path: Path) -> None:
    about = {"t": {"kind": "score", "verdicts": list(VERDICTS), "paired": False}}
    for name, seed in (("one", 0), ("two", 1)):
        labels, ratings = judged(seed=0)[0], judged(seed=seed)[1]
        pairs = zip(written(labels), written(ratings), strict=True)
        samples = [sample(number, *both) for number, both in enumerate(pairs)]
        write_results(tmp_path / name, {"t": samples}, about=about, model=name)
    board = build_leaderboard(load_runs([tmp_path]), resamples=500)
    assert board.metric == "spearman"
    (task,) = board.tasks
    mean, quality, alignment = (
        task.estimate("one", name)
        for name in ("spearman", "spearman_quality", "spearman_alignment")
    )
    assert quality.value > mean.value > alignment.value
    assert mean.low < mean.value < mean.high
    # Two aspects together are known better than the worse one of them.
    assert mean.high - mean.low < alignment.high - alignment.low
    columns = list(kind_table(board, SCORE).rows[0].cells)
    assert {"spearman", "spearman quality", "spearman alignment"} <= {*columns}
    assert task.comparisons[0].p_value < 0.05


def test_saved_answers_are_scored(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, **YAML)
    assert validate(str(path)) == []
    labels, ratings = judged(8)
    lines = [
        json.dumps({"item_id": str(number), "label": label, "text": text})
        for number, (label, text) in enumerate(zip(written(labels), written(ratings), strict=True))
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    metrics = rescore(str(path), tmp_path / "answers.jsonl", out=None, force=False).metrics
    assert metrics["spearman"] == pytest.approx(
        (metrics["spearman_quality"] + metrics["spearman_alignment"]) / 2
    )


def test_fidelity_is_the_mean_over_aspects() -> None:
    columns = {"kind": ["score"] * 2, "verdicts": [list(VERDICTS)] * 2, "task": ["t"] * 2}
    labels = ["quality: 4, alignment: 4", "quality: 2, alignment: 5"]
    texts = ["quality: 5, alignment: 5", "quality: 1, alignment: 1"]
    # The order of the qualities is right, that of the alignments is not.
    assert fidelity(texts, label=labels, item_id=["a", "b"], **columns) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"aspects": "[quality]"}, "judge.aspects", "has one aspect"),
        ({"aspects": "[quality, Quality]"}, "judge.aspects", "names an aspect twice"),
        ({"aspects": "[quality, 'a: b']"}, "judge.aspects", "is 'a: b'"),
        ({"human": "{column: mos_quality}"}, "judge.human", "about one rating"),
        (
            {"label": "{column: mos_quality}"},
            "judge.label.column",
            "a column for each of quality, alignment",
        ),
        (
            {"aspects": "[]"},
            "judge.label.reduce",
            "is missing for 2 columns",
        ),
        ({"scale": "null", "verdicts": "[bad, good]"}, "judge.scale", "is missing for aspects"),
        ({"scale": "{min: 0, max: 100}"}, "judge.scale.step", "202 verdicts"),
        (
            {"kind": "pointwise", "scale": "null", "verdicts": '["Yes", "No"]'},
            "judge.aspects",
            "is for ratings",
        ),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, changes: dict[str, str], field: str, message: str
) -> None:
    with pytest.raises(JudgeError) as error:
        write_task(tmp_path, **{**YAML, **changes})
    lines = [line for line in str(error.value).splitlines() if f": {field}: " in line]
    assert any(message in line for line in lines), str(error.value)
