"""Verdicts of comparisons by degree: which change places, and rates that know it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl_judge.metrics.bootstrap import draw_rates, panel_of
from mtrl_judge.metrics.order_averaging import average_orders
from mtrl_judge.metrics.rates import RATES, STRENGTH_RATES, TIE_RATES
from mtrl_judge.metrics.records import Record
from mtrl_judge.metrics.significance import randomization_p_value
from mtrl_judge.metrics.slots import PairVerdicts, slots_of, swapped
from mtrl_judge.metrics.summary import summarize

exactly = settings(derandomize=True, deadline=None)
DEGREES = PairVerdicts(["A>>B", "A>B", "A=B", "B>A", "B>>A"], {"A>>B": "B>>A", "A>B": "B>A"})
FOUR = PairVerdicts(["both bad", "first", "second", "both good"], {"first": "second"})
ALL = [("1", "2"), ("1", "2", "tie"), DEGREES, FOUR]


@pytest.mark.parametrize("verdicts", ALL)
def test_exchanging_the_candidates_twice_changes_nothing(verdicts: Sequence[str]) -> None:
    once = [swapped(verdict, verdicts) for verdict in verdicts]
    assert sorted(map(str, once)) == sorted(verdicts)
    assert [swapped(verdict, verdicts) for verdict in once] == list(verdicts)
    first, second = slots_of(verdicts)
    for one, other in zip(first, second, strict=True):
        assert swapped(verdicts[one], verdicts) == verdicts[other]
    assert swapped(None, verdicts) is None


def test_verdicts_keep_their_pairs_when_they_are_copied() -> None:
    for copied in (deepcopy(DEGREES), pickle.loads(pickle.dumps(DEGREES))):
        assert (copied, copied.swap) == (DEGREES, DEGREES.swap)


def rows(verdicts: Sequence[str]) -> st.SearchStrategy[list[Record]]:
    """Both orders of pairs; the label of the second follows from that of the first."""
    answer = st.sampled_from([*verdicts, None])
    pair = st.tuples(st.sampled_from(list(verdicts)), answer, answer)
    return st.lists(pair, min_size=1, max_size=12).map(
        lambda pairs: [
            Record(swapped(label, verdicts) if order else label, said, True, str(number), order)
            for number, (label, *both) in enumerate(pairs)
            for order, said in enumerate(both)
        ]
    )


@exactly
@given(st.sampled_from(ALL).flatmap(lambda v: st.tuples(st.just(v), rows(v))))
def test_no_rate_depends_on_which_candidate_is_called_the_first(
    drawn: tuple[Sequence[str], list[Record]],
) -> None:
    verdicts, records = drawn
    exchanged = [
        record._replace(
            label=swapped(record.label, verdicts),
            verdict=swapped(record.verdict, verdicts),
            swapped=not record.swapped,
        )
        for record in records
    ]
    before, after = summarize(records, verdicts), summarize(exchanged, verdicts)
    for name in RATES:
        if name == "first_slot_rate":
            assert before[name] is None or before[name] == pytest.approx(1 - after[name])
        else:
            assert before[name] == (None if after[name] is None else pytest.approx(after[name]))


@exactly
@given(rows(DEGREES))
def test_rates_by_degree_are_those_of_the_sides(records: list[Record]) -> None:
    side = {"A>>B": "A", "A>B": "A", "A=B": "=", "B>A": "B", "B>>A": "B", None: None}
    table = summarize(records, DEGREES)
    said = [(side[r.label], side[r.verdict]) for r in records]
    assert table["accuracy_side"] == pytest.approx(np.mean([a == b for a, b in said]))
    exact = [r.label == r.verdict for r in records if r.label != "A=B"]
    decided = [r.label == r.verdict for r in records if "A=B" not in (r.label, r.verdict)]
    for name, right in (("accuracy_without_ties", exact), ("accuracy_decided", decided)):
        assert table[name] == (pytest.approx(np.mean(right)) if right else None)
    both = [(a.verdict, b.verdict) for a, b in zip(records[::2], records[1::2], strict=True)]
    judged = [(side[a], side[swapped(b, DEGREES)]) for a, b in both if a and b]
    flips = [a != b for a, b in judged]
    assert table["flip_rate"] == (pytest.approx(np.mean(flips)) if flips else None)


def test_draws_and_tests_know_the_sides() -> None:
    """A judge that is right about the side alone, and one that is never right."""
    labels = ["A>>B", "B>>A"] * 30
    weaker = {"A>>B": "A>B", "B>>A": "B>A"}
    weak = [Record(label, weaker[label]) for label in labels]
    wrong = [Record(label, swapped(label, DEGREES)) for label in labels]
    panel = panel_of("t", [weak, wrong], range(60), DEGREES)
    names = (*TIE_RATES, *STRENGTH_RATES)
    (draws,) = draw_rates([panel], [{name: RATES[name] for name in names}], resamples=200)
    side_B_M = draws["accuracy_side"]
    weak_B, wrong_B = side_B_M.T
    assert weak_B.mean() > 0.9
    assert wrong_B.mean() < 0.1
    assert draws["accuracy_decided"].mean() < 0.1
    p_value = randomization_p_value([panel], RATES["accuracy_side"], resamples=999)
    assert p_value == pytest.approx(0.001)
    assert randomization_p_value([panel], RATES["accuracy"], resamples=999) == 1


def test_probabilities_of_both_orders_are_of_the_same_candidates() -> None:
    straight = dict(zip(DEGREES, (0.5, 0.2, 0.1, 0.1, 0.1), strict=True))
    mirrored = {str(swapped(verdict, DEGREES)): p for verdict, p in straight.items()}
    assert average_orders(straight, mirrored, DEGREES) == pytest.approx(straight)
