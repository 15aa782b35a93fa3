"""Calibration: from scores to p-values, how unusual a score is among normal images."""

import math
from typing import NamedTuple

import numpy as np

_ALPHA = 0.05  # at which an appearance beyond its limit is an anomaly
_MOST_KAPPA = 20.0  # reached where all but one in 28 turns are told


class Calibration(NamedTuple):
    """Scores of M held-out normal images, which training never saw."""

    scores: np.ndarray  # (M,) float64
    map_levels: np.ndarray  # (M,) float64 the value that one percent of each image's map reaches
    level: np.ndarray  # () the score of an appearance at its limit, see ``appearance_level``
    rotation_factor: np.ndarray  # () what T(x) is multiplied by before it is added to A(x); 0 without it


def appearance_level(scores: np.ndarray, appearance: np.ndarray) -> float:
    """Return the score of an appearance at its limit; an image above it is an anomaly at alpha = 0.05.

    Held-out images score higher either by A(x) or because their own appearance is beyond its limit. The level is so
    high that both together are few enough for a p-value of 0.05. It is at most the largest A(x), so with fewer than 19
    held-out images, or too many of them beyond the limit, p-values are larger.

    Args:
      scores: A(x) of held-out images, (M,).
      appearance: theirs, (M,), in units of the limit.

    >>> appearance_level(np.arange(40.0), np.full(40, 0.5))  # 39 alone is higher: (1 + 1) / 41 <= 0.05
    38.0
    """
    may_lie_above = int(_ALPHA * (1 + len(scores)) + 1e-9) - 1 - int((appearance > 1).sum())
    return float(np.sort(scores)[::-1][max(may_lie_above, 0)])


def rotation_scale(scores: np.ndarray, rotation: np.ndarray, accuracy: float) -> float:
    """Return kappa * sigma(A) / sigma(T): how much of A(x) one of T(x) is worth; more, the better turns are told.

    kappa = (accuracy - 1/4) / (1 - accuracy), between 0 and 20: 0 where turns are told by chance, 2 where three in four
    are. The result is also 0 if the images do not differ in A(x) or in T(x).

    Args:
      scores: A(x) of held-out images, (M,).
      rotation: T(x) of the same, (M,).
      accuracy: share of their quarter turns that are told.

    >>> rotation_scale(np.array([1.0, 3.0]), np.array([0.25, 0.75]), accuracy=0.75)
    8.0
    """
    if np.ptp(scores) == 0 or np.ptp(rotation) == 0:
        return 0.0
    kappa = np.clip((accuracy - 1 / 4) / max(1 - accuracy, 1e-9), 0, _MOST_KAPPA)
    return float(kappa * scores.std() / rotation.std())


def threshold(held_out: np.ndarray, alpha: float) -> float:
    """Return the score above which an image is called an anomaly, that is, has a p-value <= alpha.

    Infinite if the held-out images are too few; see ``alpha_obstacle``.
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
        f"alpha={alpha:g}: too low for {count} held-out images, nothing can be called an anomaly; it takes {needed}: "
        "train with more images or a larger data.held_out, or give "
        f"--config.alpha={math.ceil(1000 / (count + 1)) / 1000:g}"
    )
