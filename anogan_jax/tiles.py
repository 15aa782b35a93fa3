"""Images larger than the model: cut into overlapping tiles, what is found in each laid together again."""

from collections.abc import Iterator

import numpy as np

POOLINGS = ("max", "quantile", "top")


def tile_corners(height: int, width: int, size: int, stride: int) -> np.ndarray:
    """Upper left corners (n, 2) of tiles, evenly spaced and at most ``stride`` apart, that cover every pixel.

    Raises:
      ValueError: the image is smaller than a tile.
    """
    rows, columns = _places(height, size, stride), _places(width, size, stride)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def cut_tiles(image: np.ndarray, corners: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The tiles (size, size, C) of an image (H, W, C) at these corners."""
    for row, column in corners:
        yield image[row : row + size, column : column + size]


class Mosaic:
    """Overlapping tiles blended into one map: the mean, in which a tile counts for less towards its edges.

    At its edges a tile shows the least of what surrounds a pixel, and the seams do not show.
    """

    def __init__(self, height: int, width: int, channels: int, size: int) -> None:
        self._sum = np.zeros((height, width, channels), np.float32)
        self._weights = np.zeros((height, width, 1), np.float32)
        ramp = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float32)
        self._tile_weights = np.outer(ramp, ramp)[..., None]

    def add(self, tile: np.ndarray, row: int, column: int) -> None:
        """Lays a tile (size, size, C) with its upper left corner there."""
        size = len(tile)
        self._sum[row : row + size, column : column + size] += self._tile_weights * tile
        self._weights[row : row + size, column : column + size] += self._tile_weights

    def blended(self) -> np.ndarray:
        """(H, W, C) float32; zero where no tile was laid."""
        return self._sum / np.maximum(self._weights, 1)


def pool(anomaly_map: np.ndarray, how: str, share: float) -> float:
    """An image's score, from its map.

    Args:
      anomaly_map: any shape.
      how: "max"; "quantile", the value that a ``share`` of the pixels reaches; or "top", the mean of those.
      share: of the pixels, at least one.

    Raises:
      ValueError: an unknown way.
    """
    if how not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}, not {how!r}")
    count = 1 if how == "max" else max(1, round(share * anomaly_map.size))
    top = np.partition(anomaly_map.ravel(), -count)[-count:]
    return float(top.min() if how == "quantile" else top.mean(dtype=np.float64))


def _places(length: int, size: int, stride: int) -> np.ndarray:
    if length < size:
        raise ValueError(f"an image of {length} pixels holds no tile of {size}")
    count = -(-(length - size) // stride) + 1
    return np.rint(np.linspace(0, length - size, count)).astype(int)
