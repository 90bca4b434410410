"""Rewards for answers that can be partly right, by hand."""

from __future__ import annotations

from math import erf, sqrt
from pathlib import Path
from typing import Any

import pytest
from support.tasks import write_yaml

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.rl.graded_rewards import exact, fidelity
from mtrl_judge.rl.rewards import accuracy
from mtrl_judge.rl.settings import build_settings

FIVE = [str(level) for level in range(1, 6)]
YES_NO = ["Yes", "No"]


def rewards(
    of: Any, rows: list[tuple[str, str | None, str]], kind: str = "score", **columns: Any
) -> list[float | None]:
    """Of rows (completion, label, item)."""
    texts, labels, items = zip(*rows, strict=True)
    n = len(rows)
    named = {"kind": [kind] * n, "verdicts": [FIVE] * n, "task": ["t"] * n, **columns}
    return list(of(list(texts), label=list(labels), item_id=list(items), **named))


def phi(z: float) -> float:
    return (1 + erf(z / sqrt(2))) / 2


def test_exact_is_as_right_as_a_level_can_be() -> None:
    rows = [("3", "3.4", "a"), ("4", "3.4", "a"), ("3.4", "3.4", "a"), ("?", "3", "b")]
    assert rewards(exact, rows) == [1, 0, 1, 0]
    assert rewards(exact, [("3", None, "a")]) == [None]
    orders = [("A > B > C", "A>B>C", "a"), ("A > C > B", "A>B>C", "a")]
    of_three = [["A", "B", "C"]] * 2
    assert rewards(exact, orders, "ranking", verdicts=of_three) == [1, 0]
    assert rewards(accuracy, orders, "ranking", verdicts=of_three) == [1, pytest.approx(2 / 3)]


def test_fidelity_compares_the_items_of_a_batch() -> None:
    # Ratings of a: 5 and 3, mean 4 and variance 1; of b: 2 and 2; of c: 4 alone.
    rows = [
        ("5", "4.5", "a"),
        ("3", "4.5", "a"),
        ("2", "1.5", "b"),
        ("2", "1.5", "b"),
        ("4", "4.5", "c"),
        ("none", "4.5", "c"),
    ]
    above_b = [sqrt(phi((5 - 2) / 1)), sqrt(phi((3 - 2) / 1))]
    equal_to_c = [sqrt(phi(1) / 2) + sqrt(phi(-1) / 2)] * 2  # 5 and 3 are both one from 4
    below = (sqrt(phi((4 - 2) / 1)) + 1) / 2  # b below a, and below c without any variance
    at_c = sqrt(1 / 4) + sqrt(1 / 4)  # of the mean of a, 4, whose label is the same
    assert rewards(fidelity, rows) == pytest.approx(
        [
            (above_b[0] + equal_to_c[0]) / 2,
            (above_b[1] + equal_to_c[1]) / 2,
            below,
            below,
            (at_c + 1) / 2,
            0,
        ]
    )


def test_fidelity_compares_within_a_task() -> None:
    rows = [("5", "5", "a"), ("1", "1", "b"), ("1", "5", "c"), ("2", None, "d")]
    assert rewards(fidelity, rows, task=["t", "t", "u", "t"]) == [1, 1, None, None]
    # What is right or wrong is rewarded as ever.
    mixed = [("5", "5", "a"), ("1", "1", "b"), ("Yes", "Yes", "c"), ("No", "Yes", "d")]
    columns = {
        "kind": ["score"] * 2 + ["pointwise"] * 2,
        "verdicts": [FIVE] * 2 + [YES_NO] * 2,
        "task": ["t"] * 2 + ["u"] * 2,
    }
    texts, labels, items = (list(column) for column in zip(*mixed, strict=True))
    assert fidelity(texts, label=labels, item_id=items, **columns) == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("reward", "tasks", "changes", "message"),
    [
        ("exact", ["points"], {}, "answers of these tasks are either right or wrong"),
        ("fidelity", ["points"], {}, "answers of these tasks are either right or wrong"),
        ("fidelity", ["ratings", "orders"], {}, "orders has none"),
        ("fidelity", ["ratings"], {"num_generations": 4}, "at least 8"),
        ("squared", ["ratings"], {}, "expected 'proportional', 'exact' or 'fidelity'"),
        ("exact", ["ratings", "orders"], {}, None),
        ("fidelity", ["ratings", "points"], {}, None),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(
    tmp_path: Path, reward: str, tasks: list[str], changes: dict[str, Any], message: str | None
) -> None:
    write_yaml(tmp_path, "points")
    write_yaml(
        tmp_path, "ratings", kind="score", label="{column: mos}", scale="{min: 1, max: 5}",
        verdicts="null",
    )  # fmt: skip
    write_yaml(
        tmp_path,
        "orders",
        kind="ranking",
        images="[image0, image1]",
        candidates="[image0, image1]",
        question="'{{ text }}?'",
        label="{column: ranks, best: lowest}",
        verdicts='["A", "B"]',
    )
    given = {
        "tasks": [str(tmp_path / f"{name}.yaml") for name in tasks],
        "model_name_or_path": "owner/judge",
        "output_dir": str(tmp_path / "run"),
        "accuracy_reward": reward,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "use_cpu": True,
        "bf16": False,
        **changes,
    }
    if message is None:
        assert build_settings("grpo", given).judge.accuracy_reward == reward
    else:
        with pytest.raises(JudgeError, match="accuracy_reward") as error:
            build_settings("grpo", given)
        assert message in str(error.value)
