"""Images larger than the model: cut into overlapping tiles, whose maps are blended into one."""

from collections.abc import Iterator

import numpy as np

_POOLED = 2**18  # pixels at a time, which takes less memory


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
    """Blends overlapping tiles into one image: a weighted mean, in which a tile's weight falls towards its edges.

    There a tile sees least of a pixel's surroundings, and no seams show. Tiles are added in the order of ``cut_tiles``,
    so rows above the last tile are final; the sums of a strip of ``size`` rows are all that is kept beside the result.
    """

    def __init__(self, height: int, width: int, channels: int, size: int) -> None:
        self._reconstruction = np.zeros((height, width, channels), np.uint8)
        self._anomaly_map = np.zeros((height, width), np.float32)
        self._first = 0  # row of the image at which the strip begins
        self._sums = np.zeros((channels + 1, size, width), np.float32)  # of reconstruction and map
        self._weights = np.zeros((size, width), np.float32)
        ramp = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float32)
        self._tile_weights = np.outer(ramp, ramp)

    def add(self, reconstruction: np.ndarray, anomaly_map: np.ndarray, row: int, column: int) -> None:
        """Add a tile, (S, S, C) and (S, S), with its upper left corner at this row, none above the last, and column."""
        self._finish_above(row)
        columns = slice(column, column + len(anomaly_map))
        self._sums[:-1, :, columns] += self._tile_weights * np.moveaxis(reconstruction, -1, 0)
        self._sums[-1, :, columns] += self._tile_weights * anomaly_map
        self._weights[:, columns] += self._tile_weights

    def blended(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the reconstruction (H, W, C) uint8 and the map (H, W) float32, zero where no tile was added.

        No tile may be added after.
        """
        self._finish_above(len(self._anomaly_map))
        return self._reconstruction, self._anomaly_map

    def _finish_above(self, row: int) -> None:
        """Blend the rows of the strip above this row, and move the strip down to it."""
        if row == self._first:
            return
        count = min(row - self._first, len(self._weights))
        rows = slice(self._first, self._first + count)
        means = self._sums[:, :count] / np.maximum(self._weights[:count], 1)
        self._reconstruction[rows] = np.rint(np.moveaxis(means[:-1], 0, -1))
        self._anomaly_map[rows] = means[-1]
        for strip in (self._sums, self._weights):
            strip[..., : strip.shape[-2] - count, :] = strip[..., count:, :].copy()
            strip[..., strip.shape[-2] - count :, :] = 0
        self._first = row


def pool(anomaly_map: np.ndarray, share: float) -> float:
    """Return an image's score from its anomaly map of any shape: the mean of its highest values, a share of the pixels.

    At least one pixel is taken.

    >>> pool(np.array([0.0, 1.0, 2.0, 3.0]), share=0.5)
    2.5
    """
    count = max(1, round(share * anomaly_map.size))
    highest = np.zeros(0, anomaly_map.dtype)
    for part in np.array_split(anomaly_map.ravel(), 1 + anomaly_map.size // _POOLED):
        candidates = np.concatenate([highest, part])
        highest = np.partition(candidates, max(0, len(candidates) - count))[-count:]
    return float(highest.mean(dtype=np.float64))


def _places(length: int, size: int, stride: int) -> list[int]:
    if length < size:
        raise ValueError(f"an image of {length} pixels holds no tile of {size}")
    count = -(-(length - size) // stride) + 1
    return np.rint(np.linspace(0, length - size, count)).astype(int).tolist()
