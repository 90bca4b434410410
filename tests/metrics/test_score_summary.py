"""Metrics of ratings, against scipy, scikit-learn and brute force."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from mtrl_judge.metrics.bootstrap import interval
from mtrl_judge.metrics.score_summary import (
    SCORE_METRICS,
    Ratings,
    drawn_scores,
    median_error,
    score_metrics,
)

LEVELS = np.arange(1.0, 11.0)


def ratings_of(seed: int, n: int = 80, *, skill: float = 0.7, per_cluster: int = 1) -> Ratings:
    """Mean opinion scores and ratings with ties; a correlation of `skill` before rounding."""
    rng = np.random.default_rng(seed)
    clusters = np.arange(n) // per_cluster
    shared_N = np.repeat(rng.standard_normal(-(-n // per_cluster)), per_cluster)[:n]
    truth_N = (shared_N + rng.standard_normal(n)) / np.sqrt(2)
    seen_N = skill * truth_N + np.sqrt(1 - skill**2) * rng.standard_normal(n)
    return Ratings(
        "t",
        np.clip(5.5 + 1.5 * truth_N, 1, 10).round(2),
        np.clip((5.5 + 1.5 * seen_N).round(), 1, 10),
        [f"cluster {number}" for number in clusters],
        [None] * n,
        LEVELS,
    )


def without(ratings: Ratings, rows: list[int]) -> Ratings:
    """Some rows have no rating."""
    ratings_N = ratings.ratings_N.copy()
    ratings_N[rows] = np.nan
    return ratings._replace(ratings_N=ratings_N)


def brute_pairwise(labels: Any, ratings: Any, groups: list[str | None]) -> float:
    points = [
        (1 + np.sign((labels[i] - labels[j]) * (ratings[i] - ratings[j]))) / 2
        for i, j in combinations(range(len(labels)), 2)
        if groups[i] == groups[j] and labels[i] != labels[j]
    ]
    return float(np.mean(points))


def brute_calibrated(labels: Any, ratings: Any, groups: list[str | None]) -> float:
    """The best of all margins, as `KendallVariants` with `acc23` computes one of them."""
    pairs = [
        (labels[i] - labels[j], ratings[i] - ratings[j])
        for i, j in combinations(range(len(labels)), 2)
        if groups[i] == groups[j]
    ]
    truth, apart = np.round(pairs, 9).T
    shares = [
        np.mean(np.where(np.abs(apart) <= margin, truth == 0, np.sign(truth) == np.sign(apart)))
        for margin in {0.0, *np.abs(apart)}
    ]
    return float(max(shares))


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_scipy_and_scikit_learn(seed: int) -> None:
    given = ratings_of(seed)
    labels_N, ratings_N = given.labels_N, given.ratings_N
    found = score_metrics(given)
    assert tuple(found) == SCORE_METRICS
    assert found["spearman"] == pytest.approx(stats.spearmanr(labels_N, ratings_N).statistic)
    assert found["pearson"] == pytest.approx(stats.pearsonr(labels_N, ratings_N).statistic)
    assert found["kendall"] == pytest.approx(stats.kendalltau(labels_N, ratings_N).statistic)
    assert found["mae"] == pytest.approx(np.abs(labels_N - ratings_N).mean())
    levels_N = np.abs(labels_N[:, None] - LEVELS).argmin(axis=1)
    kappa = cohen_kappa_score(levels_N, ratings_N - 1, weights="quadratic")
    assert found["weighted_kappa"] == pytest.approx(kappa)
    assert found["spearman_answered"] == found["spearman"]
    assert found["pairwise_accuracy"] == pytest.approx(
        brute_pairwise(labels_N, ratings_N, given.groups)
    )
    assert found["tie_calibrated_accuracy"] == pytest.approx(
        brute_calibrated(labels_N, ratings_N, given.groups)
    )
    groups = [f"group {number % 7}" if number % 11 else None for number in range(len(labels_N))]
    kept = [row for row, group in enumerate(groups) if group is not None]
    within = brute_pairwise(labels_N[kept], ratings_N[kept], [groups[row] for row in kept])
    assert score_metrics(given._replace(groups=groups))["pairwise_accuracy"] == pytest.approx(
        within
    )


@pytest.mark.parametrize("decimals", [0, 1, 3])
def test_a_margin_makes_ties_of_scores_that_are_never_equal(decimals: int) -> None:
    given = ratings_of(5)
    noise_N = np.random.default_rng(5).normal(0, 0.4, 80)
    ratings_N = np.round(np.clip(given.ratings_N + noise_N, 1, 10), decimals)
    labels_N = np.round(given.labels_N)
    for groups in (given.groups, [f"{row % 9}" for row in range(80)]):
        judge = given._replace(ratings_N=ratings_N, labels_N=labels_N, groups=groups)
        assert score_metrics(judge)["tie_calibrated_accuracy"] == pytest.approx(
            brute_calibrated(labels_N, ratings_N, groups)
        )
        (drawn,) = drawn_scores([judge], resamples=9)  # from the pairs of clusters
        assert drawn["tie_calibrated_accuracy"].value == pytest.approx(
            brute_calibrated(labels_N, ratings_N, groups)
        )


def test_rows_without_a_rating_stay_in_all_but_one_metric() -> None:
    """A judge cannot gain by answering only what is easy."""
    given = ratings_of(1, n=400)
    errors_N = np.abs(given.labels_N - given.ratings_N)
    hard = np.argsort(-errors_N)[:100].tolist()
    all_rated, easy_only = score_metrics(given), score_metrics(without(given, hard))
    labels_N = given.labels_N
    filled_N = given.ratings_N.copy()
    filled_N[hard] = 5.5
    errors_N[hard] = np.maximum(labels_N - 1, 10 - labels_N)[hard]
    assert easy_only["spearman"] == pytest.approx(stats.spearmanr(labels_N, filled_N).statistic)
    assert easy_only["mae"] == pytest.approx(errors_N[:].mean())
    assert easy_only["mae"] > all_rated["mae"]
    assert easy_only["spearman_answered"] > all_rated["spearman"] + 0.05
    random = np.random.default_rng(0).choice(400, 200, replace=False).tolist()
    assert score_metrics(without(given, random))["spearman"] < all_rated["spearman"] - 0.1


def test_a_constant_judge_has_no_correlation_and_the_median_is_its_best_rating() -> None:
    given = ratings_of(2)
    found = score_metrics(given._replace(ratings_N=np.full(80, 6.0)))
    undefined = ("spearman", "pearson", "kendall", "spearman_answered")
    assert [found[name] for name in undefined] == [None] * 4
    assert (found["pairwise_accuracy"], found["weighted_kappa"]) == (
        0.5,
        pytest.approx(0, abs=0.05),
    )
    constants = np.arange(1, 10.01, 0.01)
    errors = np.abs(given.labels_N[:, None] - constants).mean(axis=0)
    assert median_error(given.labels_N.tolist()) == pytest.approx(errors.min(), abs=1e-3)
    nothing = given._replace(labels_N=np.empty(0), ratings_N=np.empty(0), clusters=[], groups=[])
    assert score_metrics(nothing) == dict.fromkeys(SCORE_METRICS)


def test_a_draw_is_the_metric_of_rows_repeated_as_often_as_their_cluster_weighs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = without(ratings_of(3, 60, per_cluster=4), [5, 17, 30])
    names = list(dict.fromkeys(given.clusters))
    weights = {name: 1 + number % 3 for number, name in enumerate(names)}

    class Fixed:
        def standard_exponential(self, shape: tuple[int, int]) -> np.ndarray:
            drawn = np.tile([float(weights[name]) for name in names], (shape[0], 1))
            drawn[1:] += 0.001  # draws that do not vary are none
            drawn[1:, 0] += 0.5
            return drawn

        def standard_gamma(self, _: float, shape: tuple[int, int]) -> np.ndarray:
            return np.zeros(shape)

    monkeypatch.setattr(np.random, "default_rng", lambda _: Fixed())
    shuffled = [*range(1, 60, 2), *range(0, 60, 2)]
    part: Any = {
        "labels_N": given.labels_N[shuffled],
        "ratings_N": given.ratings_N[shuffled],
        "clusters": [given.clusters[row] for row in shuffled],
    }
    # The first cluster that is met is the first of the rows as they are given.
    names = list(dict.fromkeys(part["clusters"]))
    (found,) = drawn_scores([given._replace(**part)], resamples=3)
    repeated = [row for row, name in enumerate(given.clusters) for _ in range(weights[name])]
    expected = score_metrics(
        given._replace(
            labels_N=given.labels_N[repeated],
            ratings_N=given.ratings_N[repeated],
            clusters=[given.clusters[row] for row in repeated],
            groups=[None] * len(repeated),
        )
    )
    for name in SCORE_METRICS:
        if name.endswith("_accuracy"):  # a repeated row makes no pair with itself
            continue
        draws_B = found[name].draws_B
        assert draws_B is not None
        assert draws_B[0] == pytest.approx(expected[name], abs=1e-5), name
        assert draws_B[1] != pytest.approx(draws_B[0], abs=1e-5)


@pytest.mark.parametrize("per_cluster", [1, 3])
def test_intervals_cover_the_truth(per_cluster: int) -> None:
    """Of 150 samples about 95 %; a binomial has fewer than 131 with a probability of 1e-4."""
    many = ratings_of(999, 60_000, per_cluster=per_cluster)
    # Comparing all pairs of so many rows would take long.
    truth = score_metrics(many._replace(groups=[f"{row // 4}" for row in range(60_000)]))
    covered = dict.fromkeys(("spearman", "pearson", "kendall", "mae", "weighted_kappa"), 0)
    samples = 150
    for seed in range(samples):
        given = ratings_of(seed, 90, per_cluster=per_cluster)
        (found,) = drawn_scores([given], resamples=400, seed=seed)
        for name in covered:
            metric = found[name]
            assert metric.draws_B is not None
            ends = interval(metric.draws_B, metric.clusters)
            covered[name] += ends is not None and ends.low <= truth[name] <= ends.high
    assert min(covered.values()) >= 131, covered


def test_judges_of_the_same_rows_share_their_draws() -> None:
    """The difference of two judges that hardly differ varies little."""
    given = ratings_of(4)
    ratings_N = given.ratings_N.copy()
    ratings_N[0] += 1
    draws = drawn_scores([given, given._replace(ratings_N=ratings_N)], resamples=200)
    first_B, second_B = (found["spearman"].draws_B for found in draws)
    assert first_B is not None
    assert second_B is not None
    assert 0 < np.std(first_B - second_B) < 0.2 * np.std(first_B)
