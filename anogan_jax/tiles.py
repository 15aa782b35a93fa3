"""Images larger than the model: cut into overlapping tiles, whose maps are blended into one."""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

Pooling = Literal["max", "quantile", "top"]


def tile_corners(height: int, width: int, size: int, stride: int) -> np.ndarray:
    """Return the upper left corners (n, 2) of tiles that cover every pixel, evenly spaced, at most ``stride`` apart.

    Raises:
      ValueError: the image is smaller than a tile.
    """
    rows, columns = _places(height, size, stride), _places(width, size, stride)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def cut_tiles(image: np.ndarray, corners: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield the tiles (size, size, C) of an image (H, W, C) at these corners."""
    for row, column in corners:
        yield image[row : row + size, column : column + size]


class Mosaic:
    """Overlapping tiles blended into one map: a weighted mean, in which a tile's weight falls towards its edges.

    There a tile sees least of a pixel's surroundings, and no seams show.
    """

    def __init__(self, height: int, width: int, channels: int, size: int) -> None:
        self._sum = np.zeros((height, width, channels), np.float32)
        self._weights = np.zeros((height, width, 1), np.float32)
        ramp = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float32)
        self._tile_weights = np.outer(ramp, ramp)[..., None]

    def add(self, tile: np.ndarray, row: int, column: int) -> None:
        """Add a tile (size, size, C) with its upper left corner at this row and column."""
        size = len(tile)
        self._sum[row : row + size, column : column + size] += self._tile_weights * tile
        self._weights[row : row + size, column : column + size] += self._tile_weights

    def blended(self) -> np.ndarray:
        """Return the blended map (H, W, C) float32; zero where no tile was added."""
        return self._sum / np.maximum(self._weights, 1)


def pool(anomaly_map: np.ndarray, method: Pooling, share: float) -> float:
    """Return an image's score from its anomaly map.

    Args:
      anomaly_map: of any shape.
      method: "max"; "quantile", the value that a ``share`` of the pixels reaches; or "top", the mean of those pixels.
      share: of the pixels; at least one pixel is taken.

    Raises:
      ValueError: an unknown method.

    >>> pool(np.array([0.0, 1.0, 2.0, 3.0]), "top", share=0.5)
    2.5
    """
    if method not in get_args(Pooling):
        raise ValueError(f"{method!r}: must be one of {', '.join(get_args(Pooling))}")
    count = 1 if method == "max" else max(1, round(share * anomaly_map.size))
    top = np.partition(anomaly_map.ravel(), -count)[-count:]
    return float(top.min() if method == "quantile" else top.mean(dtype=np.float64))


def _places(length: int, size: int, stride: int) -> np.ndarray:
    if length < size:
        raise ValueError(f"an image of {length} pixels holds no tile of {size}")
    count = -(-(length - size) // stride) + 1
    return np.rint(np.linspace(0, length - size, count)).astype(int)
