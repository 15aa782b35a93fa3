"""Reading image files with Pillow; on request, pixels of more than 8 bits keep their exact values or are refused."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from anogan_jax.data.pixels import check_size, too_large
from anogan_jax.data.volumes import read_by_itk
from anogan_jax.errors import UserError

log = logging.getLogger(__name__)
PAGED = (".tif", ".tiff", ".gif", ".png", ".webp", ".avif")  # suffixes of formats that may hold several pictures
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 262, 274, 339  # tags of TIFF
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2  # values of these tags
_RESCALED = ("JPEG2000", "AVIF")  # formats whose values of 9 to 16 bits Pillow scales or reduces


def count_pictures(path: Path) -> int:
    """Return the number of pictures in an image file: the pages of a TIFF, the frames of an animation.

    A photo with previews (MPO) counts as one picture, and so does an unreadable file. In a damaged file only the
    pictures before the damage count, and a warning says so.
    """
    if not path.name.lower().endswith(PAGED):
        return 1
    try:
        with Image.open(path) as opened:
            count = 1
            if opened.format == "MPO":
                return count
            try:
                return getattr(opened, "n_frames", 1)
            except Exception as error:
                log.warning("%s: damaged (%s); pages after the damage are left out", path, error)
                with contextlib.suppress(Exception):
                    while True:
                        opened.seek(count)
                        count += 1
            return count
    except Exception:  # a damaged file makes Pillow raise many types; reading it says which
        return 1


def write_pages(path: Path, pages: Iterable[np.ndarray]) -> None:
    """Write images (H, W) float32 as the pages of a TIFF."""
    first, *others = map(Image.fromarray, pages)
    first.save(path, format="TIFF", save_all=True, append_images=others)


def read_picture(path: Path, exactly: bool, number: int | None = None) -> np.ndarray:
    """Read a picture of an image file: (H, W) of the type that its pixels have, or (H, W, 3) uint8.

    Palettes, CMYK and other colour spaces become RGB, transparency is composited over black, and the camera's
    orientation tag is applied.

    Args:
      path: the file, which exists.
      exactly: whether the values must be those in the file. Otherwise the upper 8 of the 16 bits of a colour are read,
        and values are scaled to the range of their type if the format says which value is white (PNM, JPEG 2000).
      number: of the picture in the file; None: the only one.

    Raises:
      UserError: the file cannot be read, is too large, or holds several pictures without a number; or ``exactly`` is
        asked for and Pillow cannot read the exact values.
    """
    try:
        with path.open("rb") as file, Image.open(file) as opened:  # Pillow misorients files that it maps by path
            check_size(path, opened.width, opened.height)
            if number is None and opened.format != "MPO" and (count := getattr(opened, "n_frames", 1)) > 1:
                raise UserError(f"{path}: holds {count} pictures, but only one can be used here")
            if number:
                opened.seek(number)
                check_size(path, opened.width, opened.height)
            if exactly and (opened.format in _RESCALED or _has_deep_colours(opened)):
                coding, is_turned = str(_coding(opened)[0]), opened.getexif().get(_ORIENTATION, 1) != 1
                if coding.startswith(("RGB;16", "RGBA;16")) and not is_turned:
                    return read_by_itk(path, number or 0)
                raise UserError(
                    f"{path}: not all of its bits can be read, as data.window needs; save it as PNG or TIFF"
                )
            return from_pillow(opened, exactly)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise many types; it must cost this file only
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            count = next(iter(re.findall(r"\((\d+) pixels", str(error))), "N")
            raise too_large(path, count, count) from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a readable image"
        raise UserError(f"{path}: {reason} ({type(error).__name__})") from error


def from_pillow(picture: Image.Image, exactly: bool = False) -> np.ndarray:
    """Return the pixels of a picture that Pillow has opened or made; see ``read_picture``."""
    correct = _make_correction(picture, exactly)
    return correct(_pixels(ImageOps.exif_transpose(picture)))


def _pixels(opened: Image.Image) -> np.ndarray:
    if opened.mode in ("I", "F") or opened.mode.startswith("I;16"):
        return np.asarray(opened)
    if opened.has_transparency_data:
        black = Image.new("RGBA", opened.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, opened.convert("RGBA")).convert("RGB"))
    return np.asarray(opened if opened.mode in ("L", "RGB") else opened.convert("RGB"))


def _coding(opened: Any) -> tuple[Any, ...]:
    """Return how the pixels are coded: Pillow's raw mode first; for a PNM its largest value second."""
    args = opened.tile[0].args if opened.tile else ""
    return args if isinstance(args, tuple) else (args,)


def _has_deep_colours(opened: ImageFile.ImageFile) -> bool:
    """Return whether Pillow reduces these pixels to 8 bits."""
    is_pnm_of_16_bits = opened.format == "PPM" and opened.mode == "RGB" and (*_coding(opened), 0)[1] > 255
    return is_pnm_of_16_bits or (opened.mode[0] not in "IF" and ";16" in str(_coding(opened)[0]))


def _make_correction(opened: Image.Image, exactly: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that converts the values that Pillow reads to those in the file, if they differ."""
    tags = getattr(opened, "tag_v2", {})
    stored = opened.mode, *(tags.get(tag, (1,))[0] for tag in (_BITS, _SAMPLE_FORMAT))
    if stored == ("I", 32, _UNSIGNED):
        return lambda array: array.view(np.uint32)
    if stored == ("L", 8, _SIGNED):
        return lambda array: array.view(np.int8)
    if opened.mode == "I;16" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return lambda array: 65_535 - array
    if opened.format == "PPM" and opened.mode in ("I", "L"):
        of, top = (np.uint16, 65_535) if opened.mode == "I" else (np.uint8, 255)
        largest = (*_coding(opened), top)[1] if exactly else top
        return lambda array: np.rint(array * (largest / top)).astype(of)
    return lambda array: array
