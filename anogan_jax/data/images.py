"""Images of any kind, each read when it is asked for, as uint8.

How pixels are converted, whatever the source:
  - 16-bit grey is divided by 257; other integers must lie in 0..255; floats in [0, 1] are times 255.
  - palette, CMYK and other colour spaces become RGB; transparency is laid over black.
  - a one-channel model sees colours as grey (ITU-R 601 luma); a three-channel model sees grey as RGB.
  - the camera's orientation tag is obeyed.
  - what is resized is resized bilinear, antialiased where it shrinks.
"""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from anogan_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
_CONTRASTS_IN_RANGE = np.float32(8)  # a pixel this many mean deviations from the mean is at the end of the range
_THREADS = min(8, os.cpu_count() or 1)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")


class Images(NamedTuple):
    """Images with what is known of them, each read when asked for: there may be more than fit into memory."""

    names: Sequence[str]  # file names, or indices in the data set
    labels: np.ndarray | None  # (N,) int, or None where unknown
    read: Callable[[int], np.ndarray]  # (H, W, C) uint8 by number, each of its own size; UserError where unreadable
    kinds: Sequence[str] | None = None  # what is wrong with each, such as "crack"; "good" where nothing is
    mask: Callable[[int], np.ndarray] | None = None  # (H, W) bool by number, True where it is anomalous

    def take(self, indices: np.ndarray) -> "Images":
        """The images at these indices."""

        def of(sequence: Sequence[str]) -> list[str]:
            return [sequence[i] for i in indices]

        labels = None if self.labels is None else self.labels[indices]
        kinds = None if self.kinds is None else of(self.kinds)
        read, mask = self.read, self.mask
        return Images(
            of(self.names),
            labels,
            lambda i: read(indices[i]),
            kinds,
            None if mask is None else lambda i: mask(indices[i]),
        )


def to_model_range(images: np.ndarray, normalize_contrast: bool = False) -> np.ndarray:
    """What the networks see of images (N, S, S, C) uint8: float32 in [-1, 1], the range of tanh.

    With ``normalize_contrast``, global contrast normalisation under the L1 norm (as Ruff et al.
    2018 do for their AnoGAN): the mean is subtracted and the result divided by its mean absolute
    value, each image by its own, so that a thin stroke weighs as much as a thick one. A 1/8 of that
    is kept, cut at [-1, 1]; an image without contrast becomes zero.
    """
    if not normalize_contrast:
        return images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    mean, contrast = _contrast(images)
    return np.clip((images - mean) / (_CONTRASTS_IN_RANGE * contrast), -1, 1)


def to_pixels(generated: np.ndarray, queries: np.ndarray, normalize_contrast: bool = False) -> np.ndarray:
    """The inverse of ``to_model_range``, as uint8; ``queries`` lend their mean and contrast."""
    if normalize_contrast:
        mean, contrast = _contrast(queries)
        pixels = generated * (_CONTRASTS_IN_RANGE * contrast) + mean
    else:
        pixels = (generated + 1) * 127.5
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def from_array(array: np.ndarray, channels: int, where: str, labels: np.ndarray | None = None) -> Images:
    """Images (N, H, W) or (N, H, W, C) of any dtype; a single (H, W) image too. Pixels are checked as they are read.

    Raises:
      UserError: not images, or not as many as labels.
    """
    images = _with_axes(array, where)
    if labels is not None and (labels.ndim != 1 or len(labels) != len(images)):
        raise UserError(f"{where}: {len(images)} images but labels of shape {labels.shape}")

    def read(i: int) -> np.ndarray:
        name = f"{where}, image {i}"
        return _set_channels(_to_uint8(images[i], name), channels, name)

    return Images([str(i) for i in range(len(images))], labels, read)


def from_list(arrays: Sequence[np.ndarray], channels: int, where: str, labels: np.ndarray | None = None) -> Images:
    """Images (H, W) or (H, W, C), of one shape or of many."""
    if len({array.shape for array in arrays}) == 1:
        return from_array(np.stack(arrays), channels, where, labels)

    def read(i: int) -> np.ndarray:
        return from_array(arrays[i][None], channels, f"{where}, image {i}").read(0)

    return Images([str(i) for i in range(len(arrays))], labels, read)


def from_files(files: Sequence[Path], folder: Path, channels: int) -> Images:
    """Image files, named by their path in the folder."""
    names = [file.relative_to(folder).as_posix() for file in files]
    return Images(names, None, lambda i: read_image(files[i], channels))


def read_image(path: Path, channels: int) -> np.ndarray:
    """One image file as (H, W, C) uint8.

    Raises:
      UserError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
                deep = np.asarray(image)
                array = deep if image.mode == "F" else deep.astype(np.uint16)
            elif image.mode == "L":
                array = np.asarray(image)
            else:
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                array = np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a readable image"
        raise UserError(f"{path}: {reason} ({type(error).__name__})") from error
    array = array if array.ndim == 3 else array[..., None]
    return _set_channels(_to_uint8(array, str(path)), channels, str(path))


def read_mask(path: Path) -> np.ndarray:
    """A mask file as (H, W) bool: black is normal, the one other value is anomalous.

    Raises:
      UserError: the file cannot be read, or has more than two values.
    """
    pixels = read_image(path, 1)[..., 0]
    values = np.unique(pixels)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        shown = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
        raise UserError(f"{path}: has the values {shown}; a mask has two, 0 and one other")
    return pixels > 0


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, sorted.

    Raises:
      UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
    return paths


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by their keys, or of an .npy under the key "images", which stays on disk.

    Raises:
      UserError: the file cannot be read as such.
    """
    try:
        if path.suffix.lower() == ".npy":
            return {"images": np.lib.format.open_memmap(path, mode="r")}
        with path.open("rb") as file:
            return dict(np.load(file, allow_pickle=False))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'not a NumPy file'}") from error
    except Exception as error:  # a damaged file raises anything from zipfile's or NumPy's parser
        raise UserError(f"{path}: not a readable .npy or .npz file ({type(error).__name__})") from error


def read_input(path: Path, channels: int) -> Images:
    """What a user wants scored: an image, a folder of images, an .npy, or an .npz with the key "images".

    Raises:
      UserError: there is nothing to score there, or nothing that can be read.
    """
    if path.is_dir():
        images = from_files(image_files(path), path, channels)
    elif path.suffix.lower() in (".npy", ".npz"):
        arrays = read_arrays(path)
        if "images" not in arrays:
            raise UserError(f"{path}: has no array 'images' (it has: {', '.join(arrays) or 'none'})")
        images = from_array(arrays["images"], channels, str(path))
    elif path.exists():
        images = from_files([path], path.parent, channels)
    else:
        raise UserError(f"{path}: no such file or folder")
    _refuse_if_all_unreadable(images, path)
    return images


def is_readable(images: Images, i: int) -> bool:
    """Whether the image of this number can be read."""
    try:
        images.read(i)
    except UserError:
        return False
    return True


def cached(read: Callable[[int], np.ndarray], max_bytes: int = 2**30) -> Callable[[int], np.ndarray]:
    """The same function, whose last results are kept, so many bytes of them; for several threads."""
    kept: OrderedDict[int, np.ndarray] = OrderedDict()
    lock, size = threading.Lock(), 0

    def read_cached(i: int) -> np.ndarray:
        nonlocal size
        with lock:
            if i in kept:
                kept.move_to_end(i)
                return kept[i]
        image = read(i)
        with lock:
            if i not in kept:
                kept[i] = image
                size += image.nbytes
            while size > max_bytes:
                size -= kept.popitem(last=False)[1].nbytes
        return image

    return read_cached


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result | UserError]:
    """What ``read`` makes of each item, in order, done by threads so many items ahead of whoever takes them.

    A UserError is given out in the place of its item.
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
    """(H, W, C) to (height, width, C), each channel for itself; uint8 or float32."""
    if image.shape[:2] == (height, width):
        return image
    planes = [Image.fromarray(image[..., c]) for c in range(image.shape[-1])]
    return np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes], axis=-1)


def _refuse_if_all_unreadable(images: Images, path: Path) -> None:
    if any(is_readable(images, i) for i in range(len(images.names))):
        return
    try:
        images.read(0)
    except UserError as error:
        if len(images.names) == 1:
            raise
        raise UserError(f"{path}: none of its {len(images.names)} images can be read; the first: {error}") from error


def _with_axes(array: np.ndarray, where: str) -> np.ndarray:
    """One or more grey or colour images as (N, H, W, C)."""
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.shape[1] > 4:
        array = array[None]  # one (H, W, C) colour image
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise UserError(f"{where}: shape {array.shape} is not (N, H, W) or (N, H, W, C) images")
    return array


def _contrast(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image's mean and mean absolute deviation (at least one grey level), (N, 1, 1, 1) float32."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    deviation = np.abs(images - mean).mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return mean, np.maximum(deviation, np.float32(1))


def _to_uint8(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{where}: pixels of type {array.dtype}; uint8, uint16 or float is needed")
    if not np.isfinite(array).all():
        raise UserError(f"{where}: has pixels that are not finite (NaN or infinite)")
    top = 1 if array.dtype.kind == "f" else 255
    if array.min() < 0 or array.max() > top:
        raise UserError(
            f"{where}: {array.dtype} pixels must lie in [0, {top}], found {array.min():g} to {array.max():g}; "
            "scale them, or save uint8"
        )
    return np.rint(array * (255 // top)).astype(np.uint8)


def _set_channels(array: np.ndarray, channels: int, where: str) -> np.ndarray:
    have = array.shape[-1]
    if have == channels:
        return array
    if have == 4 and channels in (1, 3):  # RGBA over black
        array = np.rint(array[..., :3] * (array[..., 3:] / 255.0)).astype(np.uint8)
        have = 3
    if (have, channels) == (3, 1):
        return np.rint(array @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
    if (have, channels) == (1, 3):
        return np.repeat(array, 3, axis=-1)
    if have == channels:
        return array
    raise UserError(f"{where}: images of {have} channels, but model.channels={channels}")
