"""Appearance: brightness, contrast, noise and colour of an image, compared with those of normal images.

Reconstructions are compared by edge structure, which ignores all of these: a blank frame has the structure of an
average texture. Two terms measure what structure ignores. The term "appearance" is the Mahalanobis distance of grey
level statistics of the whole image, on a 4x4 grid. The term "detail" is the largest distance of a window of 6x6 pixels
to its nearest neighbour among windows of normal images. This module fits them to normal images; ``make_judge`` of
runtime.py computes them for others. (Related, with a pretrained network's features instead of statistics: PaDiM, Defard
et al. 2020; PatchCore, Roth et al. 2022.)
"""

from collections.abc import Iterable

import numpy as np

from anogan_jax.runtime import Appearance, Farthest, cells_of, centres_of, describe, windows_of

_FLOOR = 0.02  # added to each statistic's standard deviation, so that changes of one or two grey levels do not count
_PIXELS = 2**25  # after this number of pixels no further images are read
_FOLDS = 5
_LEAST, _LEAST_DETAIL = 1.0, 0.01  # smallest limits, for normal images that are all alike
_MARGIN, _DETAIL_MARGIN = 1.5, 2.0  # limit / value that one in a hundred normal images exceeds


def fit_appearance(images: Iterable[np.ndarray], seed: int) -> Appearance:
    """Fit the statistics of normal images; the result depends only on the images and the seed.

    The limits come from distances between images of different folds (cross-validation), so they hold for new images.

    Args:
      images: (H, W, C) uint8, 8x8 or larger, at least two; those after the first 2^25 pixels are not read.
      seed: the seed of the random choices.
    """
    described, windows, pixels = [], [], 0
    for image in images:
        of_image, blocks = describe(image[None])
        described.append(of_image[0])
        windows.append(windows_of(blocks)[0])
        pixels += image.size
        if pixels > _PIXELS and len(described) >= _FOLDS:
            break
    rng = np.random.default_rng([seed, 2])
    fold = rng.permutation(len(described)) % _FOLDS
    statistics = np.stack(described)
    whole, detail = np.zeros(len(described)), np.zeros(len(described))
    for number in np.unique(fold):
        others = np.flatnonzero(fold != number)
        center, whitening = _whitening(statistics[others])
        farthest = [tree_of(points) for points in _cover([windows[i] for i in others])]
        for i in np.flatnonzero(fold == number):
            whole[i] = np.linalg.norm((statistics[i] - center) @ whitening)
            detail[i] = max(of(each[None])[0] for of, each in zip(farthest, windows[i], strict=True))
    limit = np.maximum(_MARGIN * np.quantile(whole, 0.99), _LEAST)
    window_limit = np.maximum(_DETAIL_MARGIN * np.quantile(detail, 0.99), _LEAST_DETAIL)
    cover = _cover(windows)
    counts = np.array([len(each) for each in cover])
    return Appearance(*_whitening(statistics), limit, window_limit, np.concatenate(cover), counts)


def tree_of(points: np.ndarray) -> Farthest:
    """Return ``farthest(windows)`` for points (K, 3), faster than ``farthest_of`` of runtime.py, by a k-d tree."""
    from scipy.spatial import KDTree  # slow to import

    tree = KDTree(points)
    return lambda windows: tree.query(windows.reshape(-1, 3))[0].reshape(len(windows), -1).max(axis=1)


def _whitening(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (F,), and a matrix (F, F) that whitens differences from it, with a shrunk covariance."""
    from sklearn.covariance import ledoit_wolf  # slow to import, and scoring does not need it

    center, scale = statistics.mean(axis=0), statistics.std(axis=0) + _FLOOR
    covariance = np.eye(len(center))
    if len(statistics) > 1:
        covariance *= 1e-3  # positive definite even if all images are the same
        covariance += ledoit_wolf((statistics - center) / scale, assume_centered=True)[0]
    return center, np.linalg.cholesky(np.linalg.inv(covariance)) / scale[:, None]


def _cover(windows: list[np.ndarray]) -> list[np.ndarray]:
    """Return for each channel the points (K, 3) of a fine grid that are nearest to the windows of all images."""
    return [centres_of(np.unique(cells_of(each))) for each in np.concatenate(windows, axis=1)]
