"""The region of interest: the pixels of an image that are trained on, scored and drawn.

``data.roi`` is one of:
  - the path of one mask for all images: its pixels that are not black are the region;
  - the path of a folder of masks, each with its image's name; the suffix may differ, and "_mask" may be added;
  - ``threshold:LEVEL:PARTS``: the PARTS (by default 1) largest connected parts of the pixels whose mean grey level is
    above LEVEL, their holes filled.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from anogan_jax.data.image_files import SUFFIXES, file_of, is_image, read_grey, stamp_of, without_suffix
from anogan_jax.data.images import Images, Row, cached
from anogan_jax.errors import UserError
from anogan_jax.runtime import fill_outside, largest_parts, middle, resize_region

THRESHOLD = "threshold:"
_CACHED = 2**26  # bytes of images that are read once for their pixels and their regions


def within(images: Images, roi: str, mask: np.ndarray | None = None) -> Images:
    """Return images with the field ``region``, and with the region's mean colour outside their regions of interest.

    Black surroundings would add an edge and a contrast that are stronger than the region's own. Images that have the
    field already are returned unchanged, as are all if ``roi`` is empty. An image whose mask is missing or empty cannot
    be read.

    Args:
      images: of any sizes.
      roi: as ``data.roi``.
      mask: (H, W) bool, the one region for all, if ``read_roi`` has read it before.

    Raises:
      UserError: the threshold is malformed, ``roi`` does not exist, or it is a folder but the images have no names.
    """
    if not roi or images.region:
        return images
    if roi.startswith(THRESHOLD):
        find = _above(*parse_threshold(roi), images.names)
    elif mask is not None or (mask := read_roi(roi)) is not None:
        find = _one_for_all(mask)
    else:
        paths = _paths(images, Path(roi))
        found = [path for path in paths if isinstance(path, Path)]
        images = images._replace(stamp=hashlib.sha256(f"{images.stamp}{stamp_of(found)}".encode()).hexdigest())
        find = _one_for_each(paths, images.rows)

    whole = cached(images.read, _CACHED)  # the pixels and the region of an image are read one after the other

    def region(i: int) -> np.ndarray:
        return find(i, whole(i))

    return images._replace(read=lambda i: fill_outside(whole(i), region(i)), region=region)


def cropped(images: Images, size: int | None) -> Images:
    """Crop images, masks and regions to their middle (size, size); shorter sides stay as they are.

    An image whose region lies outside of the middle cannot be read.
    """
    if size is None:
        return images
    read, mask, region = images.read, images.mask, images.region

    def crop_mask(i: int) -> np.ndarray | None:
        found = mask(i) if mask else None
        return None if found is None else middle(found, size)

    def crop_region(i: int) -> np.ndarray:
        assert region is not None
        found = middle(region(i), size)
        if not found.any():
            raise UserError(f"{images.names[i]}: its region of interest lies outside of data.crop={size}")
        return found

    def crop(i: int) -> np.ndarray:
        image = read(i)
        if region:
            crop_region(i)
        return middle(image, size)

    return images._replace(read=crop, mask=crop_mask if mask else None, region=crop_region if region else None)


def read_roi(roi: str) -> np.ndarray | None:
    """Return the one region (H, W) bool for all images, or None if ``data.roi`` is not the path of one mask.

    Raises:
      UserError: the mask cannot be read, or is all black.
    """
    if not roi or roi.startswith(THRESHOLD) or Path(roi).is_dir():
        return None
    if not Path(roi).exists():
        raise UserError(f"data.roi={roi}: no such file or folder; give a mask, or the folder of these images' masks")
    return _read(Path(roi))


def is_folder_of_masks(roi: str, mask: np.ndarray | None) -> bool:
    """Return whether ``data.roi`` is a folder with a mask for each image; ``mask`` is the result of ``read_roi``."""
    return bool(roi) and mask is None and not roi.startswith(THRESHOLD)


def parse_threshold(roi: str) -> tuple[float, int]:
    """Return level and number of parts of ``threshold:LEVEL:PARTS``; raise UserError if it is malformed."""
    level, _, parts = roi.removeprefix(THRESHOLD).partition(":")
    try:
        found = float(level), int(parts or 1)
    except ValueError:
        found = math.nan, 0
    if not (0 <= found[0] < 255 and found[1] >= 1):
        raise UserError(
            f"data.roi={roi}: must be threshold:LEVEL or threshold:LEVEL:PARTS, a grey level of 0 to 254 and the "
            "number of largest parts, such as threshold:20:2"
        )
    return found


def _above(level: float, parts: int, names: Sequence[str]) -> Callable[[int, np.ndarray], np.ndarray]:
    def find(i: int, image: np.ndarray) -> np.ndarray:
        region = largest_parts(image, level, parts)
        if not region.any():
            raise UserError(f"{names[i]}: has no pixel above the grey level {level:g} of data.roi")
        return region

    return find


def _one_for_all(mask: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    return lambda _, image: resize_region(mask, *image.shape[:2])


def _one_for_each(paths: list[Path | str], rows: Sequence[Row] | None) -> Callable[[int, np.ndarray], np.ndarray]:
    """Return the regions in these files; a text instead of a path says why there is none."""

    def find(i: int, image: np.ndarray) -> np.ndarray:
        path = paths[i]
        if isinstance(path, str):
            raise UserError(path)
        return resize_region(_read(path, rows[i] if rows else None), *image.shape[:2])

    return find


def _paths(images: Images, folder: Path) -> list[Path | str]:
    """Return the path of each image's mask in a folder or its subfolder for the split, or why there is none."""
    if images.folder is None:
        raise UserError(f"data.roi={folder}: images of an array have no names to find their masks by; give one mask")
    known: dict[Path, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and is_image(path)):
        if (other := known.setdefault(without_suffix(path.relative_to(folder)), path)) != path:
            raise UserError(f"{path}: is a mask of the same images as {other.name}; remove one of them")
    found: list[Path | str] = []
    for name in (without_suffix(Path(file_of(images, i))) for i in range(len(images.names))):
        places = [base / each for base in (Path(images.folder), Path()) for each in (name, Path(f"{name}_mask"))]
        missing = f"{folder / name}: no mask of this name ({', '.join(SUFFIXES)}); every image needs its own"
        found.append(next((known[place] for place in places if place in known), missing))
    return found


def _read(path: Path, of: Row | None = None) -> np.ndarray:
    region = read_grey(path, of) > 0
    if not region.any():
        raise UserError(f"{path}: is all black; a region of interest needs pixels that are not")
    return region
