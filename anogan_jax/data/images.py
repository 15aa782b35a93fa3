"""Images with their metadata, each read on demand as uint8.

The pixels of every source are converted alike:
  - ``data.window`` says which values become black and white; without it the pixels' type does (``pixels.py``).
  - A file of several pictures (pages, frames, slices) is a volume: each is an image, ``scan.tif#017``, counted from 0.
  - Palettes, CMYK and other colour spaces become RGB; transparency is composited over black.
  - A one-channel model sees colours as grey (ITU-R 601 luma); a three-channel model sees grey as RGB.
  - The camera's orientation tag is applied.
  - Resizing is bilinear, with antialiasing when it shrinks.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cachetools
import numpy as np
from PIL import Image

from anogan_jax.config import Window
from anogan_jax.data.pixels import to_grey_levels
from anogan_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
_THREADS = min(8, os.cpu_count() or 1)


class Row(NamedTuple):
    """Where an image in a file is."""

    path: Path
    number: int  # number of the picture in the file, from 0
    depth: int  # number of pictures in the file
    volume: str  # name of the volume (a file or a series of files) that it is a slice of; empty: no slice


class Images(NamedTuple):
    """Images with their metadata, each read on demand: there may be more than fit into memory."""

    names: Sequence[str]  # file names, or indices in the data set
    labels: np.ndarray | None  # (N,) int, or None where unknown
    read: Callable[[int], np.ndarray]  # image i, (H, W, C) uint8 of its own size; UserError if unreadable
    kinds: Sequence[str] | None = None  # kind of defect of each, such as "crack"; "good" for a normal image
    mask: Callable[[int], np.ndarray | None] | None = None  # mask i, (H, W) bool, True where anomalous; None: unknown
    stamp: str = ""  # changes when a file changes: digest of sizes and times of modification
    region: Callable[[int], np.ndarray] | None = None  # region of interest i, (H, W) bool; UserError if unreadable
    folder: str | None = None  # of the names in the data set, such as "train"; None: names are numbers
    raw: Callable[[int], tuple[np.ndarray, str]] | None = None  # image i, (H, W, any) of any type, and its place
    rows: Sequence[Row] | None = None  # where each image is; None: not in image files

    def take(self, indices: np.ndarray) -> "Images":
        """Return the images at these indices."""

        def pick(values: Sequence[Any] | None) -> Any:
            return None if values is None else [values[i] for i in indices]

        def at(find: Callable[[int], Any] | None) -> Callable[[int], Any] | None:
            return None if find is None else lambda i: find(indices[i])

        values: dict[str, Any] = {name: pick(getattr(self, name)) for name in ("names", "kinds", "rows")}
        values |= {name: at(getattr(self, name)) for name in ("read", "mask", "region", "raw")}
        return self._replace(labels=None if self.labels is None else self.labels[indices], **values)


def read_as(images: Images, channels: int, window: Window) -> Images:
    """Return images, which have the field ``raw``, with pixels converted to these channels by this window."""
    assert images.raw is not None
    raw = images.raw
    return images._replace(read=lambda i: to_grey_levels(*raw(i), channels, window))


def from_array(
    array: np.ndarray, channels: int, where: str, labels: np.ndarray | None = None, window: Window = None
) -> Images:
    """Return the images of an array (N, H, W) or (N, H, W, C), or of one colour image (H, W, 3).

    Raise UserError if it has another shape or the number of labels differs; pixels are checked when they are read.
    """
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.shape[1] > 4:
        array = array[None]
    check_layout(array.shape, where)
    if not array.size:
        raise UserError(f"{where}: shape {array.shape} holds no pixel")
    if labels is not None and labels.shape != (len(array),):
        raise UserError(f"{where}: {len(array)} images but labels of shape {labels.shape}; (N,) is needed")
    return from_function(len(array), array.__getitem__, channels, where, labels, window)


def from_list(arrays: Sequence[np.ndarray], channels: int, where: str, window: Window = None) -> Images:
    """Return the images of arrays (H, W) or (H, W, C) of any sizes; raise UserError if one has another shape."""
    for i, array in enumerate(arrays):
        if array.ndim not in (2, 3) or not array.size:
            raise UserError(f"{where}, image {i}: shape {array.shape} is not (H, W) or (H, W, C)")
        check_layout((1, *array.shape), f"{where}, image {i}")
    return from_function(len(arrays), arrays.__getitem__, channels, where, window=window)


def from_function(
    count: int,
    get: Callable[[int], np.ndarray],
    channels: int,
    where: str,
    labels: np.ndarray | None = None,
    window: Window = None,
) -> Images:
    """Return the images (H, W) or (H, W, C) of any types that a function returns by their numbers, on demand."""

    def raw(i: int) -> tuple[np.ndarray, str]:
        return np.atleast_3d(get(i)), f"{where}, image {i}"

    names = [str(i) for i in range(count)]
    return Images(names, labels, lambda i: to_grey_levels(*raw(i), channels, window), raw=raw)


def any_readable(images: Images, where: str) -> Images:
    """Return the images; raise UserError, which says where they are, if none of them can be read."""
    count, reason = len(images.names), ""
    for i in range(count):
        try:
            images.read(i)
            return images
        except UserError as error:
            if count == 1:
                raise
            reason = reason or str(error)
    raise UserError(f"{where}: none of its {count} images can be read; the first: {reason}")


def is_readable(images: Images, i: int) -> bool:
    """Return whether image i can be read."""
    try:
        return images.read(i) is not None
    except UserError:
        return False


def cached(read: Callable[[int], Result], max_bytes: int = 2**30) -> Callable[[int], Result]:
    """Return the function with a thread-safe cache of its most recently used arrays, of ``max_bytes`` at most."""
    cache = cachetools.LRUCache[Any, Result](max_bytes, getsizeof=lambda array: getattr(array, "nbytes", 1))
    return cachetools.cached(cache, lock=threading.Lock())(read)


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result | UserError]:
    """Yield ``read(item)`` for each item, in order, while threads read up to ``ahead`` further items.

    A UserError is yielded instead of its item's result.
    """

    def attempt(item: Item) -> Result | UserError:
        try:
            return read(item)
        except UserError as error:
            return error

    pool = ThreadPoolExecutor(min(ahead, _THREADS))
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(attempt, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (H, W, C), uint8 or float32, to (height, width, C), each channel separately.

    Rows are resized first, then columns, as in ``resize`` of runtime.py. The order can change the last bit, and Pillow,
    if it resizes both at once, chooses the order by version and size.
    """
    if image.shape[:2] == (height, width):
        return image

    def resized(plane: np.ndarray) -> np.ndarray:
        rows = Image.fromarray(plane).resize((width, len(plane)), Image.Resampling.BILINEAR)
        return np.asarray(rows.resize((width, height), Image.Resampling.BILINEAR))

    return np.stack([resized(plane) for plane in np.moveaxis(image, -1, 0)], axis=-1)


def check_layout(shape: tuple[int, ...], where: str) -> None:
    """Raise UserError unless this is the shape of images (N, H, W) or (N, H, W, C); say what it seems to be."""
    if len(shape) == 2:
        raise UserError(
            f"{where}: shape {shape} is not (N, H, W); give images.reshape(N, H, W) for flattened images, image[None] "
            "for a single one"
        )
    if len(shape) not in (3, 4):
        raise UserError(f"{where}: shape {shape} is not (N, H, W) or (N, H, W, C)")
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] > 4:
        seems = ", ".join(map(str, shape[1:]))
        raise UserError(f"{where}: ({seems}) seems to be (C, H, W), channels first; give np.moveaxis(images, -3, -1)")
