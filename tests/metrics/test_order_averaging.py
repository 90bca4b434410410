"""The order-averaged verdict is that without a preference for a slot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl_judge.metrics.order_averaging import average_orders, most_probable

CLASSES = ("1", "2", "Tie")
MIRRORED = ("2", "1", "Tie")


def normalized(weights: list[float]) -> dict[str, float]:
    return dict(zip(CLASSES, (np.array(weights) / sum(weights)).tolist(), strict=False))


positive = st.floats(1e-6, 1.0)
anything = st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda w: sum(w) > 0.1)


@given(*[st.lists(positive, min_size=3, max_size=3)] * 2)
def test_any_preference_for_a_slot_cancels(merit: list[float], preference: list[float]) -> None:
    straight = normalized([m * p for m, p in zip(merit, preference, strict=True)])
    exchanged = [merit[1], merit[0], merit[2]]
    swapped = normalized([m * p for m, p in zip(exchanged, preference, strict=True)])
    # The tie has no counterpart that exchanges places with it, so its own preference remains.
    slots = np.sqrt(preference[0] * preference[1])
    expected = normalized([merit[0] * slots, merit[1] * slots, merit[2] * preference[2]])
    assert average_orders(straight, swapped, CLASSES) == pytest.approx(expected, rel=1e-9)


@given(anything.map(normalized), anything.map(normalized))
def test_exchanging_the_orders_exchanges_the_slots_exactly(
    straight: dict[str, float], swapped: dict[str, float]
) -> None:
    averaged = average_orders(straight, swapped, CLASSES)
    other = average_orders(swapped, straight, CLASSES)
    assert sum(averaged.values()) == pytest.approx(1)
    verdict, mirrored = most_probable(averaged), most_probable(other)
    exchange = dict(zip(CLASSES, MIRRORED, strict=True))
    assert (verdict and exchange[verdict]) == mirrored, "a flip"


@given(*[st.floats(0.001, 0.999)] * 2)
def test_two_verdicts_are_decided_as_by_the_arithmetic_mean(p: float, q: float) -> None:
    averaged = average_orders({"1": p, "2": 1 - p}, {"1": q, "2": 1 - q}, ("1", "2"))
    arithmetic = (p + 1 - q) / 2
    if abs(arithmetic - 0.5) > 1e-9:
        assert most_probable(averaged) == ("1" if arithmetic > 0.5 else "2")


def test_a_judge_of_slots_alone_ties() -> None:
    for first in (1.0, 0.7):
        odds = {"1": first, "2": 1 - first}
        averaged = average_orders(odds, odds, ("1", "2"))
        assert averaged == pytest.approx({"1": 0.5, "2": 0.5})
        assert most_probable(averaged) is None
    with pytest.raises(ValueError, match="row 1: probabilities"):
        average_orders({"1": 0.5, "2": 0.5}, {"1": 0.5}, ("1", "2"))
