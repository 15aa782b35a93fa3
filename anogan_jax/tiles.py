"""Images larger than the model: cut into overlapping tiles, whose maps are blended into one."""

from collections.abc import Iterator

import numpy as np


def cut_tiles(image: np.ndarray, size: int, stride: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield row, column and pixels (size, size, C) of tiles that cover an image (H, W, C).

    They are evenly spaced, at most ``stride`` apart.

    Raises:
      ValueError: the image is smaller than a tile.
    """
    for row in _places(image.shape[0], size, stride):
        for column in _places(image.shape[1], size, stride):
            yield row, column, image[row : row + size, column : column + size]


class Mosaic:
    """Overlapping tiles blended into one map: a weighted mean, in which a tile's weight falls towards its edges.

    There a tile sees least of a pixel's surroundings, and no seams show.
    """

    def __init__(self, height: int, width: int, channels: int, size: int) -> None:
        self._sum = np.zeros((channels, height, width), np.float32)
        self._weights = np.zeros((height, width), np.float32)
        ramp = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float32)
        self._tile_weights = np.outer(ramp, ramp)

    def add(self, tile: np.ndarray, row: int, column: int) -> None:
        """Add a tile (C, size, size) with its upper left corner at this row and column."""
        rows, columns = (slice(first, first + tile.shape[-1]) for first in (row, column))
        self._sum[:, rows, columns] += self._tile_weights * tile
        self._weights[rows, columns] += self._tile_weights

    def blended(self) -> np.ndarray:
        """Return the blended map (C, H, W) float32, zero where no tile was added; no tile may be added after."""
        self._sum /= np.maximum(self._weights, 1, out=self._weights)
        return self._sum


def pool(anomaly_map: np.ndarray, share: float) -> float:
    """Return an image's score from its anomaly map of any shape: the mean of its highest values, a share of the pixels.

    At least one pixel is taken.

    >>> pool(np.array([0.0, 1.0, 2.0, 3.0]), share=0.5)
    2.5
    """
    count = max(1, round(share * anomaly_map.size))
    return float(np.partition(anomaly_map, -count, axis=None)[-count:].mean(dtype=np.float64))


def _places(length: int, size: int, stride: int) -> list[int]:
    if length < size:
        raise ValueError(f"an image of {length} pixels holds no tile of {size}")
    count = -(-(length - size) // stride) + 1
    return np.rint(np.linspace(0, length - size, count)).astype(int).tolist()
