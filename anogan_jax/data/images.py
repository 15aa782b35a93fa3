"""Images of any kind to uint8 squares.

How pixels are converted, whatever the source:
  - 16-bit grey is divided by 257; other integers must lie in 0..255; floats in [0, 1] are times 255.
  - palette, CMYK and other colour spaces become RGB; transparency is laid over black.
  - a one-channel model sees colours as grey (ITU-R 601 luma); a three-channel model sees grey as RGB.
  - everything is resized to the model's square, bilinear, antialiased where it shrinks.
  - the camera's orientation tag is obeyed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from anogan_jax.errors import UserError

_CONTRASTS_IN_RANGE = np.float32(8)  # a pixel this many mean deviations from the mean is at the end of the range
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")


class ImageSet(NamedTuple):
    """Images with what is known of them."""

    images: np.ndarray  # (N, S, S, C) uint8
    labels: np.ndarray | None  # (N,) int, or None where unknown
    names: list[str]  # file names, or indices in the data set
    unreadable: Mapping[str, str] = MappingProxyType({})  # names of files left out, and why

    def take(self, indices: np.ndarray) -> "ImageSet":
        """The images at these indices."""
        labels = None if self.labels is None else self.labels[indices]
        return ImageSet(self.images[indices], labels, [self.names[i] for i in indices], self.unreadable)

    def as_queries(self) -> "Queries":
        """The same images, for the asking."""
        return Queries(self.names, self.labels, self.images.__getitem__)


class Queries(NamedTuple):
    """Images to score, each read when its turn comes: there may be more than fit into memory."""

    names: Sequence[str]
    labels: np.ndarray | None  # (N,) 0 normal, 1 anomalous, or None where unknown
    read: Callable[[int], np.ndarray]  # (S, S, C) uint8 by number; raises UserError where it cannot be read


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


def from_array(array: np.ndarray, size: int, channels: int, where: str, labels: np.ndarray | None = None) -> ImageSet:
    """Images (N, H, W) or (N, H, W, C) of any dtype; a single (H, W) image too.

    Raises:
      UserError: not images, pixels out of range or not finite, a channel count without meaning.
    """
    array = _with_axes(array, where)
    if labels is not None and (labels.ndim != 1 or len(labels) != len(array)):
        raise UserError(f"{where}: {len(array)} images but labels of shape {labels.shape}")
    images = _square(_set_channels(_to_uint8(array, where), channels, where), size)
    return ImageSet(images, labels, [str(i) for i in range(len(images))])


def read_image(path: Path, size: int, channels: int) -> np.ndarray:
    """One image file as (S, S, C) uint8.

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
    return from_array(array[None], size, channels, str(path)).images[0]


def read_folder(folder: Path, size: int, channels: int) -> ImageSet:
    """All images below a folder, named by their path in it; the unreadable ones are left out and named.

    Raises:
      UserError: no such folder, no image in it, or none readable.
    """
    paths = _image_files(folder)
    images, names, unreadable = [], [], {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            images.append(read_image(path, size, channels))
            names.append(name)
        except UserError as error:
            unreadable[name] = str(error)
    if not images:
        first = unreadable[min(unreadable)]
        raise UserError(f"{folder}: none of its {len(paths)} images can be read; the first: {first}")
    return ImageSet(np.stack(images), None, names, unreadable)


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


def read_input(path: Path, size: int, channels: int) -> Queries:
    """What a user wants scored: an image, a folder of images, an .npy, or an .npz with the key "images".

    Raises:
      UserError: there is nothing to score there, or nothing that can be read.
    """
    if path.is_dir():
        files = _image_files(path)
        names = [file.relative_to(path).as_posix() for file in files]
        queries = Queries(names, None, lambda i: read_image(files[i], size, channels))
    elif path.suffix.lower() in (".npy", ".npz"):
        arrays = read_arrays(path)
        if "images" not in arrays:
            raise UserError(f"{path}: has no array 'images' (it has: {', '.join(arrays) or 'none'})")
        array = _with_axes(arrays["images"], str(path))

        def read(i: int) -> np.ndarray:
            return from_array(array[i : i + 1], size, channels, f"{path}, image {i}").images[0]

        queries = Queries([str(i) for i in range(len(array))], None, read)
    elif path.exists():
        queries = Queries([path.name], None, lambda _: read_image(path, size, channels))
    else:
        raise UserError(f"{path}: no such file or folder")
    _refuse_if_all_unreadable(queries, path)
    return queries


def _refuse_if_all_unreadable(queries: Queries, path: Path) -> None:
    first: UserError | None = None
    for i in range(len(queries.names)):
        try:
            queries.read(i)
            return
        except UserError as error:
            first = first or error
    if len(queries.names) == 1 and first:
        raise first
    raise UserError(f"{path}: none of its {len(queries.names)} images can be read; the first: {first}")


def _image_files(folder: Path) -> list[Path]:
    """All images below a folder, sorted."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
    return paths


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


def _square(array: np.ndarray, size: int) -> np.ndarray:
    if array.shape[1:3] == (size, size):
        return array

    def resize(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))

    planes = [[resize(image[..., c]) for c in range(array.shape[-1])] for image in array]
    return np.stack([np.stack(image, axis=-1) for image in planes])
