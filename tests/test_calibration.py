"""p-values and the threshold against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anogan_jax import p_values, threshold
from anogan_jax.calibration import alpha_obstacle, appearance_level
from anogan_jax.metrics import decision_metrics, ranking_metrics
from anogan_jax.runtime import combine

small = st.integers(0, 9).map(float)  # many ties


@given(st.lists(small, min_size=1), st.lists(small, min_size=1), st.floats(0.01, 0.99))
def test_p_values_and_threshold_by_counting(scores, held_out, alpha):
    scores, held_out = np.array(scores), np.array(held_out)
    p = p_values(scores, held_out)
    expected = [(1 + sum(h >= s for h in held_out)) / (1 + len(held_out)) for s in scores]
    np.testing.assert_array_equal(p, expected)
    np.testing.assert_array_equal(scores > threshold(held_out, alpha), p <= alpha)


def test_false_alarm_rate_is_alpha():
    rng = np.random.default_rng(0)
    alarms = [np.mean(p_values(rng.normal(size=50), rng.normal(size=99)) <= 0.1) for _ in range(400)]
    assert abs(np.mean(alarms) - 0.1) < 0.01


def test_metrics_by_counting():
    labels, scores = np.array([0, 0, 1, 1, 1]), np.array([1.0, 3.0, 2.0, 4.0, 5.0])
    pairs = [(a > n) + 0.5 * (a == n) for a in scores[labels == 1] for n in scores[labels == 0]]
    assert ranking_metrics(labels, scores)["auroc"] == pytest.approx(np.mean(pairs))
    found = decision_metrics(labels, scores > 2.5)
    assert found == {"precision": 2 / 3, "recall": 2 / 3, "sensitivity": 2 / 3, "specificity": 1 / 2}
    assert decision_metrics(labels, scores > 9)["precision"] is None


@pytest.mark.parametrize("alpha", [0.3, 0.2, 0.1, 0.05, 0.03, 0.01, 0.001])
def test_alpha_is_too_low_exactly_where_the_threshold_is_infinite(alpha):
    for count in {1, 2, *(round(1 / alpha) + offset for offset in (-2, -1, 0, 1))}:
        assert bool(alpha_obstacle(count, alpha)) == (not np.isfinite(threshold(np.arange(float(count)), alpha)))


def test_proposed_alpha_is_high_enough():
    for count in (1, 3, 7, 18, 333):
        proposed = float(alpha_obstacle(count, 1e-4).rsplit("=", 1)[1])
        assert alpha_obstacle(count, proposed) == ""


@pytest.mark.parametrize("count", [19, 40, 72, 500])
@pytest.mark.parametrize("beyond", [0, 1, 2])
def test_image_beyond_the_limit_of_its_appearance_is_an_anomaly(count, beyond):
    """However A(x) is distributed, and though some held-out images are beyond it too."""
    rng = np.random.default_rng(count)
    for scores in (rng.normal(5, 1, count), rng.exponential(1, count), rng.exponential(1, count) ** 4):
        appearance = rng.uniform(0, 1, count)
        appearance[:beyond] = rng.uniform(1.01, 3, beyond)
        level = appearance_level(scores, appearance)
        held_out = combine(scores, appearance, level)
        p = p_values(combine([0.0], [1.001], level), held_out)[0]
        assert p <= max(0.05, (1 + beyond) / (1 + count))
        assert level == scores.max() or (scores > level).sum() == int(0.05 * (1 + count)) - 1 - beyond
