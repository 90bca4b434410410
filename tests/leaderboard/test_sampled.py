"""Several samples of an item in results: the table of votes, the oracle, and faulty fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.results import sample, write_results

from mtrl_judge.common.errors import DataError
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.tables import Table
from mtrl_judge.leaderboard.view import build_view

LABELS = ["Yes", "No", "Yes", "No"]
SAMPLED: list[list[tuple[str | None, float]]] = [  # verdict, probability of Yes
    [("Yes", 0.9), ("No", 0.4), ("No", 0.4)],  # mean and verified are right
    [("No", 0.1), ("No", 0.2), ("Yes", 0.6)],  # all are right
    [("No", 0.3), ("No", 0.2), ("No", 0.1)],  # none can be
    [("Yes", 0.55), (None, 0.1), ("Yes", 0.6)],  # mean is right, without a sample that says so
]


def rows(verdict: str = "Yes") -> list[dict[str, Any]]:
    return [
        sample(
            number,
            label,
            verdict,
            samples=[
                {
                    "text": f"<answer>{own}</answer>",
                    "verdict": own,
                    "weight": 1.0,
                    "probabilities": {"Yes": p, "No": 1 - p},
                }
                for own, p in sampled
            ],
        )
        for number, (label, sampled) in enumerate(zip(LABELS, SAMPLED, strict=True))
    ]


def tables_of(folder: Path) -> dict[str, Table]:
    board = build_leaderboard(load_runs([folder]), resamples=50)
    return {table.title: table for table in build_view(board, full=True).tables}


def macro_f1(verdicts: list[str | None]) -> float:
    scores = []
    for name in ("Yes", "No"):
        hits = sum(v == t == name for v, t in zip(verdicts, LABELS, strict=True))
        scores.append(2 * hits / (verdicts.count(name) + LABELS.count(name)))
    return sum(scores) / 2


def test_votes_and_the_oracle_of_the_same_samples(tmp_path: Path) -> None:
    write_results(tmp_path, {"judged": rows()}, about={"judged": {"samples": 3, "vote": "mean"}})
    (row,) = tables_of(tmp_path)["Samples"].rows
    cells = {name: cell.value for name, cell in row.cells.items()}
    assert (cells["samples"], cells["vote"]) == (3, "mean")
    votes: dict[str, list[str | None]] = {
        "majority": ["No", "No", "No", "Yes"],
        "mean": ["Yes", "No", "No", "No"],
        "verified": ["No", "No", "No", "Yes"],
        "oracle": ["Yes", "No", "No", "Yes"],
    }
    # Of the first row, No weighs 0.6 twice and Yes 0.9.
    for name, verdicts in votes.items():
        assert cells[name] == pytest.approx(macro_f1(verdicts)), name
    singles = [[sampled[k][0] for sampled in SAMPLED] for k in range(3)]
    mean = sum(map(macro_f1, singles)) / 3
    assert cells["Macro-F1 of one"] == pytest.approx(mean)


def test_pairs_with_ties_have_the_vote_of_davidson(tmp_path: Path) -> None:
    verdicts = ["1", "2", "tie"]
    votes = [["1", "2", "1", "tie", "tie"], ["tie"] * 5, ["2"] * 5, ["1"] * 4 + ["tie"]]
    given = [
        sample(
            number,
            label,
            own[0],
            samples=[{"text": v, "verdict": v, "weight": 1.0, "probabilities": None} for v in own],
        )
        for number, (label, own) in enumerate(zip(["tie", "tie", "2", "1"], votes, strict=True))
    ]
    about = {"kind": "pairwise", "verdicts": verdicts, "samples": 5, "vote": "majority"}
    write_results(tmp_path, {"compared": given}, about={"compared": about})
    (row,) = tables_of(tmp_path)["Samples"].rows
    cells = {name: cell.value for name, cell in row.cells.items()}
    assert cells["Davidson"] == 1.0
    assert cells["Davidson"] > cells["majority"]
    assert "mean" not in cells


def test_runs_without_samples_have_no_table(tmp_path: Path) -> None:
    write_results(tmp_path, {"judged": [sample(0, "Yes", "Yes"), sample(1, "No", "Yes")]})
    assert "Samples" not in tables_of(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"verdict": "Perhaps"}, "samples: verdict is 'Perhaps'; expected one of"),
        ({"weight": None}, "samples: expected verdict, weight and probabilities of each"),
    ],
)
def test_faulty_samples_are_refused(tmp_path: Path, damage: dict[str, Any], message: str) -> None:
    given = rows()
    given[1]["samples"][0] |= damage
    write_results(tmp_path, {"judged": given}, about={"judged": {"samples": 3, "vote": "mean"}})
    with pytest.raises(DataError, match=message):
        load_runs([tmp_path])
