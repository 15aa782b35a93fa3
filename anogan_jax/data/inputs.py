"""Images that a user gives: arrays, lists of images, paths, patterns."""

import glob
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anogan_jax.config import Window
from anogan_jax.data.image_files import (
    OF_ARRAYS,
    SUFFIXES,
    check_is_file,
    from_paths,
    is_image,
    list_images,
    read_arrays,
    stamp_of,
)
from anogan_jax.data.images import Images, check_layout, from_array, from_list
from anogan_jax.data.pictures import from_pillow
from anogan_jax.errors import UserError
from anogan_jax.files import given_path
from anogan_jax.runtime import to_pixels

log = logging.getLogger(__name__)


def from_user(images: Any, channels: int, window: Window = None) -> Images:
    """Return the images passed by a Python caller.

    Args:
      images: a path or paths, as for ``read_inputs``; an array (N, H, W) or (N, H, W, C); or a list of arrays (H, W)
        or (H, W, C) of any sizes, or of Pillow's images. Without a window floats in a file lie in [0, 1], and those in
        arrays in [-1, 1]; without a value below 0 their scale seems wrong, so give bright images alone as uint8.
      channels: number of channels of the model.
      window: as ``data.window``.

    Raises:
      UserError: another type or shape, no image at all, or floats outside [-1, 1].
    """
    given = [images] if isinstance(images, str | Path) else images
    if isinstance(given, list | tuple) and given and all(isinstance(each, str | Path) for each in given):
        return read_inputs([given_path(each, "images") for each in given], channels, window, once=False)
    is_list = isinstance(images, list | tuple)
    arrays = [as_plain_array(image) for image in (images if is_list else [images])]
    if not is_list and arrays[0].ndim and arrays[0].dtype.kind not in "biuf":
        raise UserError(
            f"images: pixels of type {arrays[0].dtype}; integers, floats (16 to 64 bits) or bool are needed. Give "
            "paths, or images of several sizes, as a list: list(images)"
        )
    if not arrays or not (is_list or arrays[0].size):
        raise UserError("images: empty; give at least one")
    if not is_list and not arrays[0].ndim:
        raise UserError(f"images: {type(images).__name__}; give an array (N, H, W[, C]), a list of images, or a path")
    try:
        if is_list:
            return from_list(_from_model_range(arrays, window), channels, "images", window)
        check_layout(arrays[0].shape, "images")
        return from_array(_from_model_range(arrays, window)[0], channels, "images", window=window)
    except ValueError as error:
        raise UserError(f"images: {str(error).removeprefix('images ')}; other values need data.window") from error


def read_inputs(paths: Sequence[Path], channels: int, window: Window = None, once: bool = True) -> Images:
    """Find the images of files and folders, or of one .npy, or .npz with the key "images"; none is read yet.

    The images of one folder are named by their paths in it, those of several paths by their paths in the innermost
    folder that holds all. With ``once`` a file counts once, however often it is given.

    Raises:
      UserError: a path is missing, a folder holds no image, or there is an array among several paths.
    """
    files: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            files += _images_in(path)
            continue
        check_is_file(path)
        if path.suffix.lower() not in OF_ARRAYS:
            files.append(path)
        elif len(paths) > 1:
            raise UserError(f"{path}: an array is scored by itself; give only this file")
        else:
            images = from_array(read_arrays(path, ("images",))["images"], channels, str(path), window=window)
            return images._replace(stamp=stamp_of(paths))
    if len(paths) == 1:
        return from_paths(files, paths[0] if paths[0].is_dir() else paths[0].parent, channels, window)
    files = [Path(os.path.abspath(file)) for file in files]
    files = list(dict.fromkeys(files)) if once else files
    return from_paths(files, folder_of(files), channels, window)


def find_inputs(given: Iterable[str]) -> list[Path]:
    """Return the paths that texts name: files and folders, or patterns such as ``parts/*.png`` and ``**`` for folders.

    A pattern finds images and folders; other files are left out. Raise UserError if it finds nothing.
    """
    found: list[Path] = []
    for text in given:
        if os.path.lexists(text) or not glob.has_magic(text):
            found.append(Path(text))
            continue
        paths = [Path(path) for path in sorted(glob.glob(text, recursive=True))]
        images = [path for path in paths if is_image(path) or (path.is_dir() and "**" not in text)]
        if not images:
            raise UserError(f"{text}: finds no image ({', '.join(SUFFIXES)})")
        if others := [path for path in paths if path not in images and path.is_file()]:
            log.info("%s: left out: %d other files (such as %s)", text, len(others), others[0])
        found += images
    return found


def folder_of(paths: Sequence[Path]) -> Path:
    """Return the innermost folder that holds all of these files and folders."""
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))


def check_model_range(images: np.ndarray) -> None:
    """Raise ValueError unless images are finite floats in [-1, 1]; if all are in [0, 1], the scale seems wrong."""
    if images.dtype.kind != "f":
        raise ValueError(f"images must be floats in [-1, 1], not {images.dtype}; to_model_range converts uint8")
    if not images.size or not np.isfinite(images).all():
        raise ValueError("images must be finite floats in [-1, 1], and at least one")
    low, high = float(images.min()), float(images.max())
    if low < -1 or high > 1:
        raise ValueError(f"images must be floats in [-1, 1]; found {low:g} to {high:g}")
    if low >= 0:
        raise ValueError(
            f"images must be floats in [-1, 1]; these lie in [{low:g}, {high:g}] and seem to be scaled to [0, 1]: "
            "give 2 * images - 1, or uint8"
        )


def as_plain_array(image: Any) -> np.ndarray:
    """Return an image of Pillow, or anything else that NumPy can convert, as an array; raise UserError otherwise."""
    if isinstance(image, Image.Image):
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
            raise UserError(f"images: an image of Pillow has {frames} frames; give its path, or a copy of each frame")
        try:
            return from_pillow(image)
        except Exception as error:  # a damaged file makes Pillow raise many types
            raise UserError(f"images: an image of Pillow cannot be read ({type(error).__name__}: {error})") from error
    try:
        return np.asarray(image)
    except ValueError as error:  # nested lists of different lengths
        raise UserError("images: an image has rows of different lengths; give arrays, or a list of arrays") from error


def _images_in(folder: Path) -> list[Path]:
    """Return the images below a folder, and log what is left out; raise UserError if there are none."""
    found = list_images(folder)
    if told := found.told():
        log.info("%s: left out: %s", folder, ", ".join(told))
    return found.paths


def _from_model_range(arrays: list[np.ndarray], window: Window) -> list[np.ndarray]:
    """Return floats in [-1, 1] as uint8 unless a window says what they are, other dtypes unchanged.

    Raise ValueError if all floats together are not in this range: one bright image says nothing about their scale.
    """
    ends = [[array.min(), array.max()] for array in arrays if array.dtype.kind == "f" and array.size]
    if window is not None or not ends:
        return arrays
    check_model_range(np.array(ends))
    return [to_pixels(array, array) if array.dtype.kind == "f" else array for array in arrays]
