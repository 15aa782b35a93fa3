"""Appearance: brightness, contrast, noise and colour of an image, compared with those of normal images.

Reconstructions are compared by edge structure, which ignores all of these: a blank frame has the structure of an
average texture. Two terms see what structure ignores. The term "appearance" is of the whole image: the Mahalanobis
distance of grey level statistics on a 4x4 grid. The term "detail" is of windows of 6x6 pixels: the largest distance of
one to its nearest neighbour among windows of normal images. (Related, with a pretrained network's features in the place
of statistics: PaDiM, Defard et al. 2020; PatchCore, Roth et al. 2022.)
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_BLOCK = 3  # side of a block in pixels; two by two are a window
_GRID = 4
_STRIP = 96  # rows of pixels at a time, which takes less memory; a multiple of the block's
_QUANTILES = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
_FLOOR = 0.02  # added to each statistic's standard deviation: changes of a grey level or two do not count
_RESOLUTION = 64  # points of a unit, to which windows are rounded
_PIXELS = 2**25  # of images, whose windows are compared in fitting
_FOLDS = 5
_LEAST, _LEAST_DETAIL = 1.0, 0.01  # limits if the normal images are all alike
_MARGIN, _DETAIL_MARGIN = 1.5, 2.0  # a limit is so many times what one in a hundred normal images exceeds
Judge = Callable[[Sequence[np.ndarray]], list[tuple[float, str]]]


class Appearance(NamedTuple):
    """The statistics of normal images with C channels, and what they seldom exceed."""

    center: np.ndarray  # (F,) mean statistics of whole images
    whitening: np.ndarray  # (F, F) a difference times this has the Mahalanobis distance as its norm
    limit: np.ndarray  # () of that distance
    window_limit: np.ndarray  # () of a window's distance to its nearest neighbour among ``windows``
    windows: list[np.ndarray]  # for each channel (K, 3) statistics of windows


def make_judge(appearance: Appearance) -> Judge:
    """Return ``judge(images)`` for images (H, W, C) uint8, 8x8 or larger: of each the larger term, and its name.

    A term is in units of its limit: above 1 it is beyond what normal images reach. Images of one size take less time.
    """
    trees = _trees(appearance.windows)

    def judge(images: Sequence[np.ndarray]) -> list[tuple[float, str]]:
        if len({image.shape for image in images}) != 1:
            return [judged for image in images for judged in judge([image])]
        statistics, blocks = describe(images[0][None] if len(images) == 1 else np.stack(images))
        rows, step = blocks.shape[2] - 1, _STRIP // _BLOCK  # of windows
        parts = (windows_of(blocks[:, :, row : row + step + 1]) for row in range(0, rows, step))
        detail = np.max([_farthest(trees, windows) for windows in parts], axis=0) / appearance.window_limit
        found = []
        for each, of_detail in zip(statistics - appearance.center, detail.tolist(), strict=True):
            whole = np.linalg.norm(each @ appearance.whitening) / appearance.limit  # one by one: else rounding varies
            found.append(max((float(whole), "appearance"), (of_detail, "detail")))
        return found

    return judge


def fit_appearance(images: Iterable[np.ndarray], seed: int) -> Appearance:
    """Fit the statistics of normal images; a function of the images and the seed alone.

    The limits come from distances of images to those of other folds (cross-validation), so they hold for new images.

    Args:
      images: (H, W, C) uint8, 8x8 or larger, at least two; those after the first 2^25 pixels are not read.
      seed: of the random choices.
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
        trees = _trees(_cover([windows[i] for i in others]))
        for i in np.flatnonzero(fold == number):
            whole[i] = np.linalg.norm((statistics[i] - center) @ whitening)
            detail[i] = _farthest(trees, windows[i][None])[0]
    limit = np.maximum(_MARGIN * np.quantile(whole, 0.99), _LEAST)
    window_limit = np.maximum(_DETAIL_MARGIN * np.quantile(detail, 0.99), _LEAST_DETAIL)
    return Appearance(*_whitening(statistics), limit, window_limit, _cover(windows))


def combine(score: ArrayLike, excess: ArrayLike, level: float) -> np.ndarray:
    """Return the scores (N,), raised where a term is beyond its limit.

    Args:
      score: A(x), (N,).
      excess: (N,) the largest of the terms, in units of their limits.
      level: the score that a term at its limit stands for, see ``Calibration``.
    """
    return np.where(np.greater(excess, 1), np.maximum(score, np.multiply(level, excess)), score)


def describe(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistics (N, F) of images (N, H, W, C) uint8, 8x8 or larger, and the sums of their blocks.

    Of each cell of a grid: mean, logarithm of the standard deviation, and logarithm of the roughness, the mean
    magnitude of the discrete Laplacian. Of the whole: quantiles of grey levels and of the Laplacian. The image's
    outermost pixels, which lack neighbours, are left out. The sums are for ``windows_of``.
    """
    count, *lengths, channels = images.shape
    blocks = np.empty((3, count, *((length - 2) // _BLOCK for length in lengths), channels), np.int32)
    histograms: Any = 0  # (2, N, C, 1021), of levels and of the Laplacian
    for row in range(0, lengths[0] - 2, _STRIP):
        of_strip, counts = _measure(images[:, row : row + _STRIP + 2])
        first = row // _BLOCK
        blocks[:, :, first : first + of_strip.shape[2]] = of_strip
        histograms = histograms + counts
    cells = []
    for top, bottom in _cells(blocks.shape[2]):
        for left, right in _cells(blocks.shape[3]):
            sums = blocks[:, :, top:bottom, left:right].sum(axis=(2, 3), dtype=np.int64)
            cells.append(_moments(sums, _BLOCK**2 * (bottom - top) * (right - left)))  # (3, N, C)
    levels, rough = (_quantiles(each) / 255 for each in histograms)
    whole = [np.stack(cells).transpose(2, 1, 0, 3).reshape(count, -1), levels, _logarithm(rough)]
    return np.concatenate(whole, axis=1), blocks


def windows_of(blocks: np.ndarray) -> np.ndarray:
    """Return mean, log deviation and log roughness (N, C, n, 3) float32 of every window: two by two blocks.

    Args:
      blocks: (3, N, h, w, C) the sums of blocks, as ``describe`` returns them.
    """
    pairs = blocks[:, :, :-1] + blocks[:, :, 1:]
    sums = pairs[..., :-1, :] + pairs[..., 1:, :]
    windows = _moments(np.moveaxis(sums, -1, 2), 4 * _BLOCK**2).astype(np.float32)  # (3, N, C, h - 1, w - 1)
    return np.moveaxis(windows.reshape(*windows.shape[:3], -1), 0, -1)


def _cells(length: int) -> list[tuple[int, int]]:
    """Return where each of four parts of a length begins and ends, at least one long, so that few blocks suffice."""
    edges = [number * length // _GRID for number in range(_GRID + 1)]
    return [(first, max(last, first + 1)) for first, last in pairwise(edges)]


def _measure(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of strips (N, H, W, C), without outermost pixels, block sums, and histograms of levels and Laplacian.

    The block sums (3, N, H / 3, W / 3, C) are of the levels, of their squares, and of the Laplacian's magnitude.
    """
    levels = strip.astype(np.int16)
    inner = levels[:, 1:-1, 1:-1]
    around = levels[:, :-2, 1:-1] + levels[:, 2:, 1:-1] + levels[:, 1:-1, :-2] + levels[:, 1:-1, 2:]
    rough = np.abs(4 * inner - around)
    blocks = np.stack([_block_sums(each) for each in (inner, np.square(inner, dtype=np.int32), rough)])
    return blocks, np.stack([_histograms(inner), _histograms(rough)])


def _block_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums (N, H / 3, W / 3, C) of blocks of 3x3 values."""
    count, *lengths, channels = values.shape
    rows, columns = (length // _BLOCK for length in lengths)
    trimmed = values[:, : rows * _BLOCK, : columns * _BLOCK]
    return trimmed.reshape(count, rows, _BLOCK, columns, _BLOCK, channels).sum(axis=(2, 4), dtype=np.int32)


def _moments(sums: np.ndarray, count: int) -> np.ndarray:
    """Return mean, logarithm of the deviation, and of the roughness, each about 0 to 1, of ``count`` pixels."""
    mean, square, rough = sums / (255.0 * count)
    deviation = np.sqrt(np.maximum(square / 255 - mean**2, 0))
    return np.stack([mean, _logarithm(deviation), _logarithm(rough)])


def _histograms(values: np.ndarray) -> np.ndarray:
    """Return how often each value occurs in each image and channel, (N, C, 1021)."""
    count, channels, most = len(values), values.shape[-1], 4 * 255 + 1
    places = most * np.arange(count * channels).reshape(count, 1, 1, channels)
    return np.bincount((values + places).ravel(), minlength=count * channels * most).reshape(count, channels, most)


def _quantiles(histograms: np.ndarray) -> np.ndarray:
    """Return the quantiles of the values of each image, (N, 7 C), one channel after the other."""
    reached = histograms.cumsum(axis=-1)
    found = [(reached < share * reached[..., -1:]).sum(axis=-1) for share in _QUANTILES]
    return np.stack(found, axis=-1).reshape(len(histograms), -1)


def _logarithm(values: np.ndarray) -> np.ndarray:
    """Map 0 to 1 onto 0 to 1, so that equal ratios above a grey level are about equally far."""
    return np.log1p(255 * values) / np.log(256)


def _whitening(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (F,), and (F, F) that whitens differences to it, with a shrunk covariance."""
    from sklearn.covariance import ledoit_wolf  # slow to import, and scoring does not need it

    center, scale = statistics.mean(axis=0), statistics.std(axis=0) + _FLOOR
    covariance = np.eye(len(center))
    if len(statistics) > 1:
        covariance *= 1e-3  # positive definite even if all images are the same
        covariance += ledoit_wolf((statistics - center) / scale, assume_centered=True)[0]
    return center, np.linalg.cholesky(np.linalg.inv(covariance)) / scale[:, None]


def _cover(windows: list[np.ndarray]) -> list[np.ndarray]:
    """Return for each channel the points (K, 3) of a fine grid that are next to the windows of all images."""
    every = np.rint(np.concatenate(windows, axis=1) * _RESOLUTION).astype(np.int64)  # (C, n, 3), below 128
    codes = [np.unique(each @ (1 << 14, 1 << 7, 1)) for each in every]  # one number a point sorts faster
    return [np.stack([of >> 14, of >> 7 & 127, of & 127], axis=1) / _RESOLUTION for of in codes]


def _trees(windows: list[np.ndarray]) -> list[Any]:
    """Return a k-d tree of the windows of each channel."""
    from scipy.spatial import KDTree  # slow to import

    return [KDTree(of_channel) for of_channel in windows]


def _farthest(trees: list[Any], windows: np.ndarray) -> np.ndarray:
    """Return for each of N images the largest distance of a window (N, C, n, 3) to its nearest neighbour."""
    count = len(windows)
    distances = [
        tree.query(windows[:, channel].reshape(-1, 3))[0].reshape(count, -1).max(axis=1)
        for channel, tree in enumerate(trees)
    ]
    return np.max(distances, axis=0)
