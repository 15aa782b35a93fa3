"""Calibration: from scores to p-values, which say how unusual a score is among normal images."""

import math
from typing import NamedTuple

import numpy as np

_ALPHA = 0.05  # the alpha at which an appearance beyond its limit is an anomaly


class Calibration(NamedTuple):
    """Scores of M held-out normal images, which training never saw."""

    scores: np.ndarray  # (M,) float64
    map_levels: np.ndarray  # (M,) float64 the value that one percent of each image's map exceeds
    level: np.ndarray  # () the score of an appearance at its limit, see ``appearance_level``
    rotation_factor: np.ndarray  # () factor of T(x), which is added to A(x); 0 without a rotation network


def appearance_level(scores: np.ndarray, appearance: np.ndarray) -> float:
    """Return the score that corresponds to an appearance at its limit; beyond it an image is an anomaly (p <= 0.05).

    Two kinds of held-out images have a higher score than this level: those with a higher A(x), and those whose own
    appearance is beyond its limit. The level is so high that both together are few enough for a p-value of 0.05. It is
    never above the largest A(x), so with fewer than 19 held-out images, or too many beyond the limit, the p-value is
    larger.

    Args:
      scores: A(x) of held-out images, (M,).
      appearance: their appearance, (M,), divided by its limit.

    >>> appearance_level(np.arange(40.0), np.full(40, 0.5))  # only 39 is higher: (1 + 1) / 41 <= 0.05
    38.0
    """
    may_lie_above = int(_ALPHA * (1 + len(scores)) + 1e-9) - 1 - int((appearance > 1).sum())
    return float(np.sort(scores)[::-1][max(may_lie_above, 0)])


def threshold(held_out: np.ndarray, alpha: float) -> float:
    """Return the score above which an image is called an anomaly, that is, has a p-value <= alpha.

    It is infinite if there are too few held-out images; see ``alpha_obstacle``.
    """
    attainable = np.arange(1, len(held_out) + 2) / (1 + len(held_out))
    may_lie_above = np.count_nonzero(attainable <= alpha) - 1
    return np.inf if may_lie_above < 0 else float(np.sort(held_out)[::-1][may_lie_above])


def map_level(calibration: Calibration, alpha: float) -> float:
    """Return the value of a map that normal images seldom exceed; infinite without held-out images.

    It is the 1 - alpha quantile, over the held-out images, of each map's 99th percentile.
    """
    levels = calibration.map_levels
    return max(float(np.quantile(levels, 1 - alpha)), 1e-6) if len(levels) else math.inf


def alpha_obstacle(count: int, alpha: float) -> str:
    """Return why no p-value can reach alpha with ``count`` held-out images, or an empty string if one can.

    >>> alpha_obstacle(19, alpha=0.05)
    ''
    """
    needed = math.ceil(1 / alpha - 1e-9) - 1
    if count >= needed:
        return ""
    return (
        f"alpha={alpha:g}: too low for {count} held-out images, so nothing can be called an anomaly; {needed} are "
        "needed: train with more images or a larger data.held_out, or give "
        f"--config.alpha={math.ceil(1000 / (count + 1)) / 1000:g}"
    )
