"""Pairs with degrees on the leaderboard: exact verdicts, sides, flips, and both orders averaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.results import sample, write_results

from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.file import entries_of, read_entries, write_entries
from mtrl_judge.leaderboard.reading import load_runs

VERDICTS = ["A>>B", "A>B", "A=B", "B>A", "B>>A"]
SWAP = {"A>>B": "B>>A", "A>B": "B>A"}
OTHER = {**SWAP, **{after: before for before, after in SWAP.items()}, "A=B": "A=B"}
ABOUT = {"t": {"verdicts": VERDICTS, "swap": SWAP, "kind": "pairwise", "paired": True}}
# Of ten pairs each: the label, what is said, and what is said of the other order.
SAID = [
    ("A>>B", "A>>B", "B>>A"),  # right
    ("A>>B", "A>B", "B>>A"),  # less in one order, but for the same side
    ("A>B", "A>B", "A>B"),  # always for the first slot: a flip
    ("A=B", "A=B", "A=B"),
]


def test_the_leaderboard_knows_sides(tmp_path: Path) -> None:
    rows = []
    for number, (label, *both) in enumerate(SAID * 10):
        for order, of_order, said in (("AB", label, both[0]), ("BA", OTHER[label], both[1])):
            shares = {verdict: 0.8 if verdict == said else 0.05 for verdict in VERDICTS}
            row = sample(number, of_order, said, pair_id=str(number), order=order)
            rows.append({**row, "probabilities": shares})
    write_results(tmp_path / "run", {"t": rows}, about=ABOUT)
    board = build_leaderboard(load_runs([tmp_path]), metric="accuracy_side", resamples=200)
    write_entries(entries_of(board), tmp_path / "board.json", force=False)
    again = build_leaderboard(
        read_entries(tmp_path / "board.json"), metric="accuracy_side", resamples=200
    )
    for each in (board, again):
        (judge,) = (run.name for run in each.runs)
        found = {name: score.value for name, score in each.tasks[0].scores[judge].items()}
        assert found["accuracy_side"] == pytest.approx(7 / 8)
        assert found["accuracy"] == pytest.approx(6 / 8)
        assert found["accuracy_without_ties"] == pytest.approx(4 / 6)
        assert found["both_orders_correct"] == pytest.approx(2 / 4)
        assert found["flip_rate"] == pytest.approx(1 / 4)
        # Of six verdicts for a slot, four are for the first: A>>B, A>B and twice A>B.
        assert found["first_slot_rate"] == pytest.approx(4 / 6)
        assert each.tasks[0].estimate(judge, "accuracy_side").low is not None
        # Of the pair that flips and of the one with two degrees no verdict is the most probable.
        assert found["accuracy_order_averaged"] == pytest.approx(2 / 4)
