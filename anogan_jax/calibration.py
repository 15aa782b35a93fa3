"""From scores to p-values: how unusual a score is among normal images."""

import math

import numpy as np


def p_values(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """The conformal p-value of each score (Vovk et al. 2005; Bates et al. 2023, eq. 1).

    (1 + the number of held-out scores at or above it) / (1 + the number of held-out scores): for a
    normal image, P(p <= alpha) <= alpha, whatever the distribution of the scores.

    Args:
      scores: (N,), higher is more anomalous.
      held_out: (M,) scores of normal images that training never saw.

    Returns:
      (N,), in [1 / (M + 1), 1].
    """
    above = len(held_out) - np.searchsorted(np.sort(held_out), scores, side="left")
    return (1 + above) / (1 + len(held_out))


def needed(alpha: float) -> int:
    """How many held-out images it takes for any score to have a p-value <= alpha."""
    return math.ceil(1 / alpha - 1e-9) - 1


def threshold(held_out: np.ndarray, alpha: float) -> float:
    """The lowest bound with: a score above it is an anomaly, that is, has a p-value <= alpha.

    Infinite where the held-out images are too few for any score to be one; see ``needed``.
    """
    attainable = np.arange(1, len(held_out) + 2) / (1 + len(held_out))
    may_lie_above = np.count_nonzero(attainable <= alpha) - 1
    return np.inf if may_lie_above < 0 else float(np.sort(held_out)[::-1][may_lie_above])
