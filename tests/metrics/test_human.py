"""Agreement with people's ratings, against scipy, scikit-learn, statsmodels and brute force."""

from __future__ import annotations

from itertools import combinations
from random import Random

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.weightstats import DescrStatsW

from mtrl_judge.metrics import human
from mtrl_judge.metrics.bootstrap import interval
from mtrl_judge.metrics.drawn import Drawn
from mtrl_judge.metrics.human import (
    HUMAN_RATES,
    HumanRating,
    RatedRow,
    human_agreement,
    interval_p_value,
)

CLASSES = ("Yes", "No")


def rows_of(
    seed: int, n: int = 120, *, noise: float = 1.0, steps: int = 5, prompts: int = 24
) -> list[RatedRow]:
    """Items of prompts, with many ties in ratings and scores; some have no rating or no score."""
    draw = Random(seed)
    rows = []
    for number in range(n):
        quality = draw.gauss(0, 1)
        rating = float(min(7, max(1, round(4 + 1.5 * quality))))
        score = round((quality + draw.gauss(0, noise)) * steps / 4) / steps
        rated = HumanRating(rating, f"prompt {number % prompts}") if number % 17 else None
        label = "Yes" if rating >= 5 else "No"
        known = None if number % 19 == 3 else score
        rows.append(RatedRow(known, rated, label, f"prompt {number % prompts}"))
    return rows


def agreement(rows: list[RatedRow], **keys: int) -> dict[str, Drawn]:
    return human_agreement([rows], [CLASSES], ["t"], **keys)[0]


def known(rows: list[RatedRow]) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Scores, ratings, labels and groups of the rows that count."""
    kept = [row for row in rows if row.human and row.score is not None]
    return (
        np.array([row.score for row in kept]),
        np.array([row.human.rating for row in kept if row.human]),
        [str(row.label) for row in kept],
        [str(row.human.group) for row in kept if row.human],
    )


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_scipy_and_scikit_learn(seed: int) -> None:
    rows = rows_of(seed)
    scores, ratings, labels, groups = known(rows)
    found = {name: each.value for name, each in agreement(rows).items()}
    assert found["spearman_human"] == pytest.approx(stats.spearmanr(scores, ratings).statistic)
    assert found["pearson_human"] == pytest.approx(stats.pearsonr(scores, ratings).statistic)
    assert found["kendall_human"] == pytest.approx(stats.kendalltau(scores, ratings).statistic)
    is_yes = np.array(labels) == "Yes"
    assert found["auc_human"] == pytest.approx(roc_auc_score(is_yes, scores))
    own = [np.array([g == group for g in groups]) for group in set(groups)]
    areas = [roc_auc_score(is_yes[of], scores[of]) for of in own if 0 < is_yes[of].mean() < 1]
    assert found["auc_human_group_mean"] == pytest.approx(np.mean(areas))
    assert found["pairwise_human"] == pytest.approx(brute_pairwise(scores, ratings, groups))


def brute_pairwise(scores: np.ndarray, ratings: np.ndarray, groups: list[str]) -> float:
    points = []
    for i, j in combinations(range(len(scores)), 2):
        if groups[i] == groups[j] and ratings[i] != ratings[j]:
            product = (scores[i] - scores[j]) * (ratings[i] - ratings[j])
            points.append(1.0 if product > 0 else 0.5 if product == 0 else 0.0)
    return float(np.mean(points))


def test_pairs_follow_the_ranks_of_a_group_as_in_imagereward() -> None:
    """`acc` in test.py of github.com/THUDM/ImageReward: of the pairs of a prompt
    with unequal ranks, the share whose better image has the higher score. (There, equal scores are
    wrong; here they count half, so that always saying the same gains nothing and loses nothing.)"""
    ranks = {"p": [1, 2, 2, 3], "q": [2, 1, 3]}
    scores = {"p": [0.9, 0.5, 0.1, 0.5], "q": [0.9, 0.4, 0.1]}
    rows = [
        # The ratings say nothing.
        RatedRow(score, HumanRating(4.0 + number % 2, prompt, rank), None, prompt)
        for prompt in ranks
        for number, (rank, score) in enumerate(zip(ranks[prompt], scores[prompt], strict=True))
    ]
    # p: 1>2, 1>2, 1>3 right; 2>3 tied; 2>3 wrong. q: 2>1 wrong, 1>3 and 2>3 right.
    assert agreement(rows)["pairwise_human"].value == pytest.approx((3 + 0.5 + 2) / 8)


def test_the_area_per_source_as_seetrue_publishes_it() -> None:
    """Yarom et al., arXiv 2305.10400: ROC-AUC for each source. Pairs of different sources
    do not count: here every score of one source is above all of the other's."""
    rows = []
    for source, offset in (("drawbench", 0.0), ("editbench", 10.0)):
        for label, score in ((1, 0.9), (1, 0.4), (0, 0.5), (0, 0.1)):
            rated = HumanRating(float(label), source)
            rows.append(RatedRow(score + offset, rated, CLASSES[1 - label], len(rows)))
    found = agreement(rows)
    assert found["auc_human_group_mean"].value == pytest.approx(3 / 4)
    assert found["auc_human"].value == pytest.approx((3 + 3 + 4) / 16)


@pytest.mark.parametrize("groups_are_clusters", [True, False])
def test_draws_are_the_statistics_of_weighted_clusters(
    groups_are_clusters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whole weights, a draw is the statistic of the rows repeated so often; correlations
    against statsmodels with any weights."""
    rows = rows_of(5, 60, prompts=6)
    if not groups_are_clusters:  # two sources, each in every cluster
        rows = [
            row._replace(human=row.human and row.human._replace(group=f"source {number % 2}"))
            for number, row in enumerate(rows)
        ]
    kept = [row for row in rows if row.human and row.score is not None]
    kept.sort(key=lambda row: str(row.cluster))
    names = list(dict.fromkeys(row.cluster for row in rows))
    weights = {cluster: 1.0 + number for number, cluster in enumerate(names)}

    class Fixed:
        def standard_exponential(self, shape: tuple[int, int]) -> np.ndarray:
            return np.tile([weights[name] for name in names], (shape[0], 1))

        def standard_gamma(self, _: float, shape: tuple[int, int]) -> np.ndarray:
            return np.zeros(shape)

    monkeypatch.setattr(np.random, "default_rng", lambda _: Fixed())
    drawn = {
        name: float(each.draws_B[0])
        for name, each in agreement(rows, resamples=3).items()
        if each.draws_B is not None
    }
    assert drawn.keys() == set(HUMAN_RATES)
    weight = np.array([weights[row.cluster] for row in kept])
    scores, ratings, labels, groups = known(kept)
    weighted = DescrStatsW(np.column_stack([scores, ratings]), weight).corrcoef[0, 1]
    assert drawn["pearson_human"] == pytest.approx(weighted)
    times = weight.astype(int)
    again = [np.repeat(values, times) for values in (scores, ratings)]
    assert drawn["spearman_human"] == pytest.approx(stats.spearmanr(*again).statistic, rel=1e-5)
    assert drawn["kendall_human"] == pytest.approx(stats.kendalltau(*again).statistic, rel=1e-5)
    is_yes = np.array(labels) == "Yes"
    area = roc_auc_score(is_yes, scores, sample_weight=weight)
    assert drawn["auc_human"] == pytest.approx(area, rel=1e-5)
    own = [np.array([g == group for g in groups]) for group in dict.fromkeys(groups)]
    own = [of for of in own if 0 < is_yes[of].mean() < 1]
    areas = [roc_auc_score(is_yes[of], scores[of], sample_weight=weight[of]) for of in own]
    # A group within one cluster is drawn as often as the cluster; others are always there.
    of_group = [weight[of][0] if groups_are_clusters else 1.0 for of in own]
    assert drawn["auc_human_group_mean"] == pytest.approx(
        np.average(areas, weights=of_group), rel=1e-5
    )


def test_a_perfect_judge_has_an_interval_that_ends_at_one() -> None:
    """As for the other rates: resampling alone would give [1, 1]."""
    rows = [
        RatedRow(float(number), HumanRating(float(number)), CLASSES[number < 25], number)
        for number in range(50)
    ]
    area = agreement(rows)["auc_human"]
    assert area.draws_B is not None
    ends = interval(area.draws_B, area.clusters)
    assert ends is not None
    assert (area.value, round(ends.high, 2)) == (1.0, 1.0)
    assert 0.85 < ends.low < 0.97
    # A correlation of 1 in every draw has no interval.
    assert not agreement(rows)["spearman_human"].varies


def test_what_is_undefined_is_none() -> None:
    flat = [
        RatedRow(0.5, HumanRating(float(number), "g"), CLASSES[number % 2], number)
        for number in range(8)
    ]
    found = {name: each.value for name, each in agreement(flat).items()}
    assert found == {
        **dict.fromkeys(("spearman_human", "pearson_human", "kendall_human")),
        **dict.fromkeys(("pairwise_human", "auc_human", "auc_human_group_mean"), 0.5),
    }
    assert agreement([row._replace(human=None) for row in flat]) == {}
    unlabeled = [row._replace(label=None) for row in flat]
    assert not {"auc_human", "auc_human_group_mean"} & agreement(unlabeled).keys()
    one_label = [row._replace(label="Yes") for row in flat]
    assert agreement(one_label)["auc_human"].value is None


def test_too_many_clusters_have_values_and_no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(1)
    expected = {name: each.value for name, each in agreement(rows).items()}
    monkeypatch.setattr(human, "MAX_CLUSTERS", 10)
    found = agreement(rows)
    assert {name: each.value for name, each in found.items()} == pytest.approx(expected)
    assert all(each.draws_B is None for each in found.values())


def test_judges_of_the_same_clusters_share_their_draws() -> None:
    """The same judge twice has no difference, another task's judge other draws."""
    rows = rows_of(2)
    first, again, other = human_agreement(
        [rows, rows, [row._replace(cluster=f"x {row.cluster}") for row in rows]],
        [CLASSES] * 3,
        ["t", "t", "u"],
    )
    for name in ("spearman_human", "pearson_human", "kendall_human"):
        draws = [each[name].draws_B for each in (first, again, other)]
        assert draws[0] == pytest.approx(draws[1])
        assert np.corrcoef(draws[0], draws[2])[0, 1] < 0.2


def test_p_values_agree_with_the_interval_of_the_difference() -> None:
    draws = np.random.default_rng(0).normal(0.2, 0.1, 2_000)
    for clusters in (12.0, 200.0):
        for shift in (0.0, -0.02, 0.1):
            p_value = interval_p_value(draws - shift, clusters)
            ends = interval(draws - shift, clusters)
            assert ends is not None
            assert (p_value < 0.05) == (ends.low > 0)
    assert interval_p_value(draws, 200, one_sided=True) > 0.9
    assert interval_p_value(-draws, 200, one_sided=True) == pytest.approx(
        interval_p_value(draws, 200) / 2
    )
