"""From the pixels of a file or an array, of any type, to the grey levels of a model: uint8.

Pixels become grey levels by ``data.window``, (low, high): low and lower values become 0, high and higher values 255.
Without a window the type of the pixels decides: uint16 is divided by 257, bool and floats in [0, 1] are multiplied by
255, and other integers must lie in 0..255. Nothing wraps around; pixels that fit no rule are refused.
"""

import logging
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from anogan_jax import runtime
from anogan_jax.config import DataConfig, Window
from anogan_jax.errors import UserError

log = logging.getLogger(__name__)
_max_pixels = DataConfig.max_pixels
_TAILS = (0.001, 0.999)  # quantiles that data.window=auto takes
_PER_IMAGE = 4_096  # random pixels of an image that auto uses
_HINT = (
    "save the image as uint8 or uint16, or train with --config.data.window=LOW,HIGH or auto, which says which values "
    "become black and white"
)


def limit_pixels(count: int) -> None:
    """Set the largest number of pixels of an image file that is read; raise Pillow's own limit to it if lower."""
    global _max_pixels
    _max_pixels = count
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, count)


def check_size(path: Path, width: int, height: int) -> None:
    """Raise UserError if an image has more pixels than the limit."""
    if width * height > _max_pixels:
        raise too_large(path, f"{width}x{height}", width * height)


def too_large(path: Path, size: str, count: int | str) -> UserError:
    """Return the error of an image file with too many pixels: it shows their size and proposes their count as limit."""
    return UserError(
        f"{path}: {size} pixels, more than data.max_pixels={_max_pixels}; give --config.data.max_pixels={count} if "
        "there is memory for them"
    )


def to_grey_levels(array: np.ndarray, where: str, channels: int, window: Window) -> np.ndarray:
    """Convert an image (H, W, any) of any type to (H, W, channels) uint8.

    Transparency is composited over black; colours become grey by their luma, grey becomes colours, as the model needs.

    Raises:
      UserError: the pixels have no grey level, or the channels do not fit; the message begins with ``where``.
    """
    assert window != "auto", "read before the window is known"
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    try:
        runtime.check_numbers(array)
        return runtime.to_grey_levels(_by_type(array, where) if window is None else array, channels, window)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def find_window(images: Iterable[np.ndarray], seed: int) -> tuple[float, float]:
    """Return the window that ``auto`` stands for: from the 0.1 % to the 99.9 % quantile of the images' pixels.

    Args:
      images: each (H, W, C) of any type; 4,096 random pixels of each are used. Those with pixels that are not finite
        numbers, which cannot be read, are left out.
      seed: the seed of the random pixels.

    Raises:
      UserError: no image can be read, or nearly all pixels have the same value.
    """
    rng, drawn, reason = np.random.default_rng([seed, 4]), list[np.ndarray](), "no file can be read"
    for image in images:
        try:
            runtime.check_numbers(image)
        except ValueError as error:
            reason = str(error)
            continue
        pixels = image.ravel()
        chosen = pixels if pixels.size <= _PER_IMAGE else pixels[rng.integers(pixels.size, size=_PER_IMAGE)]
        drawn.append(chosen.astype(np.float64))
    if not drawn:
        raise UserError(f"data.window=auto: needs readable training images, but there are none: {reason}")
    low, high = np.quantile(np.concatenate(drawn), _TAILS).tolist()
    if not low < high:
        raise UserError(f"data.window=auto: nearly all pixels of the training images are {low:g}; give LOW,HIGH")
    return low, high


def _by_type(array: np.ndarray, where: str) -> np.ndarray:
    """Convert pixels to uint8 by the range of their type, see the module."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * 255
    lowest, highest = array.min(), array.max()
    top = runtime.opaque_of(array.dtype)
    if lowest < 0 or highest > top:
        raise UserError(
            f"{where}: {array.dtype} pixels must lie in [0, {top}], found {lowest:g} to {highest:g}; {_HINT}"
        )
    if top != 255 and float(highest) - float(lowest) < top / 8:
        source = where.partition(", image ")[0]
        _warn_of_few_levels(os.path.dirname(source) or source, array.dtype.name)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.rint(array * (255 // top)).astype(np.uint8)


@cache
def _warn_of_few_levels(where: str, of: str) -> None:
    """Warn once for each folder or file."""
    log.warning("%s: uses less than an eighth of the range of %s, so few grey levels are left; %s", where, of, _HINT)
