"""Reading images of any kind as uint8, on demand.

The pixels of every source are converted alike:
  - ``data.window`` says which values become black and white; without it the pixels' type does (``pixels.py``).
  - A file of several pictures (pages, frames, slices) is a volume: each is an image, ``scan.tif#017``, counted from 0.
  - Palettes, CMYK and other colour spaces become RGB; transparency is composited over black.
  - A one-channel model sees colours as grey (ITU-R 601 luma); a three-channel model sees grey as RGB.
  - The camera's orientation tag is applied.
  - Resizing is bilinear, with antialiasing when it shrinks.
"""

import glob
import hashlib
import logging
import os
import re
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar

import cachetools
import numpy as np
from PIL import Image, features

from anogan_jax.config import Window
from anogan_jax.data import volumes
from anogan_jax.data.pictures import PAGED, count_pictures, from_pillow, read_picture, write_pages
from anogan_jax.data.pixels import to_grey_levels
from anogan_jax.data.volumes import Contents
from anogan_jax.errors import UserError
from anogan_jax.runtime import to_pixels

log = logging.getLogger(__name__)
AnyPath = TypeVar("AnyPath", bound=PurePath)
Item = TypeVar("Item")
Result = TypeVar("Result")
_THREADS = min(8, os.cpu_count() or 1)
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".avif", ".webp")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".pgm", ".ppm", ".pnm"),
    *([".jp2"] if features.check("jpg_2000") else []),
    *([".avif"] if features.check("avif") else []),
    *volumes.SUFFIXES,
)
_OF_ARRAYS = (".npy", ".npz")
_SUFFIX = re.compile(f"(?<=[^.])({'|'.join(map(re.escape, SUFFIXES + _OF_ARRAYS))})$", re.IGNORECASE)


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
        if "" in given:  # Path("") would be the working directory
            raise UserError("images: an empty path; is a variable not set?")
        return read_inputs([Path(each) for each in given], channels, window, once=False)
    is_list = isinstance(images, list | tuple)
    arrays = [as_plain_array(image) for image in (images if is_list else [images])]
    if not arrays or not (is_list or arrays[0].size):
        raise UserError("images: empty; give at least one")
    if not is_list and not arrays[0].ndim:
        raise UserError(f"images: {type(images).__name__}; give an array (N, H, W[, C]), a list of images, or a path")
    try:
        if is_list:
            return from_list(_from_model_range(arrays, window), channels, "images", window)
        _check_layout(arrays[0].shape, "images")
        return from_array(_from_model_range(arrays, window)[0], channels, "images", window=window)
    except ValueError as error:
        raise UserError(f"images: {str(error).removeprefix('images ')}; other values need data.window") from error


def from_array(
    array: np.ndarray, channels: int, where: str, labels: np.ndarray | None = None, window: Window = None
) -> Images:
    """Return the images of an array (N, H, W) or (N, H, W, C), or of one colour image (H, W, 3).

    Raise UserError if it has another shape or the number of labels differs; pixels are checked when they are read.
    """
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.shape[1] > 4:
        array = array[None]
    _check_layout(array.shape, where)
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
        _check_layout((1, *array.shape), f"{where}, image {i}")
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


class Listing(NamedTuple):
    """The image files below a folder, and the other files and folders."""

    paths: list[Path]  # of the images, sorted
    left_out: dict[str, list[str]]  # why files and folders are left out, such as ".txt", and their names

    def told(self) -> list[str]:
        """Return for each reason the number of files and folders left out, with an example."""
        return [f"{len(names)} {reason} (such as {names[0]})" for reason, names in sorted(self.left_out.items())]


def list_images(folder: Path, without: Iterable[Path] = ()) -> Listing:
    """Find the images below a folder, also in linked folders; hidden files and those of ``without`` are left out.

    Raises:
      UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths: list[Path] = []
    left_out, apart = defaultdict[str, list[str]](list), {path.resolve() for path in without}

    def leave_out(path: Path, reason: str) -> None:
        left_out[reason].append(path.relative_to(folder).as_posix())

    def closed(error: OSError) -> None:
        leave_out(Path(error.filename), "unreadable")

    for where, folders, files in os.walk(folder, onerror=closed, followlinks=True):
        inner = [Path(where, name) for name in sorted(folders)]
        for path in (path for path in inner if _is_hidden(path)):
            leave_out(path, "hidden")
        seen = [path for path in inner if not (_is_hidden(path) or (apart and path.resolve() in apart))]
        folders[:] = [path.name for path in seen if not (path.is_symlink() and _is_loop(folder, path))]
        for path in (Path(where, name) for name in sorted(files)):
            if apart and path.resolve() in apart:
                continue
            if path.name.startswith("._"):
                leave_out(path, "of macOS")
            elif path.name.startswith("."):
                leave_out(path, "hidden")
            elif not is_image(path):
                leave_out(path, path.suffix.lower() or "without a suffix")
            elif not path.is_file():
                leave_out(path, "broken links or no regular files")
            else:
                paths.append(path)
    found = Listing(sorted(paths), dict(left_out))
    if not paths:
        others = f"; left out: {', '.join(found.told())}" if left_out else ""
        raise UserError(f"{folder}: holds no image ({', '.join(SUFFIXES)}){others}")
    return found


def is_image(path: Path) -> bool:
    """Return whether a file is an image, by its suffix; DICOM files need none."""
    return path.suffix.lower() in SUFFIXES or volumes.is_volume(path)


def without_suffix(path: AnyPath) -> AnyPath:
    """Return a path without the suffix of an image or an array; the last number of a DICOM file's name is none.

    >>> [without_suffix(Path(name)).as_posix() for name in ("a/scan.1.nii.gz", "1.2.840.1")]
    ['a/scan.1', '1.2.840.1']
    """
    return path.with_name(_SUFFIX.sub("", path.name))


def suffix_of(name: str) -> str:
    """Return the suffix of an image's or an array's name, empty if it has none.

    >>> [suffix_of(name) for name in ("a/scan.1.nii.gz", "1.2.840.1", "notes")]
    ['.nii.gz', '', '']
    """
    found = _SUFFIX.search(name)
    return found[0] if found else ""


def file_of(images: Images, i: int) -> str:
    """Return the name of the file that image i is in."""
    name = images.names[i]
    return name.rpartition("#")[0] if images.rows and images.rows[i].depth > 1 else name


def from_paths(paths: Sequence[Path], folder: Path, channels: int, window: Window = None) -> Images:
    """Return the images of files in a folder, named by their paths in it; each picture of a file is an image."""
    rows = _rows_of(paths, folder)
    names = []
    for row in rows:
        name, digits = row.path.relative_to(folder).as_posix(), max(3, len(str(row.depth - 1)))
        names.append(name if row.depth == 1 else f"{name}#{row.number:0{digits}}")
    if slices := [row.volume for row in rows if row.volume]:
        log.info("%s: %d volumes with %d slices", folder, len(set(slices)), len(slices))

    def raw(i: int) -> tuple[np.ndarray, str]:
        row = rows[i]
        pixels, where = read_raw(row.path, window is not None, row.number if row.depth > 1 else None)
        return pixels, where if row.depth == 1 else f"{where}#{row.number}"

    def read(i: int) -> np.ndarray:
        return to_grey_levels(*raw(i), channels, window)

    return Images(names, None, read, stamp=stamp_of(paths), folder="", raw=raw, rows=rows)


def _rows_of(paths: Sequence[Path], folder: Path) -> list[Row]:
    """Return where each picture of these files is. DICOM files of one series in a folder are a volume."""
    found = [contents_of(path) for path in paths]
    series = Counter((path.parent, each.series) for path, each in zip(paths, found, strict=True) if each.depth == 1)
    several = Counter(parent for (parent, name), count in series.items() if name and count > 1)
    rows = []
    for path, (depth, name) in zip(paths, found, strict=True):
        place = path.parent.relative_to(folder).as_posix()
        if depth > 1:
            volume = path.relative_to(folder).as_posix()
        elif name and series[path.parent, name] > 1:
            place = folder.name if place == "." else place
            volume = place if several[path.parent] == 1 else f"{place}/{name}"
        else:
            volume = ""
        rows += [Row(path, number, depth, volume) for number in range(depth)]
    return rows


def name_of_maps(name: str) -> str | None:
    """Return the name of the file with the maps of a volume of this name; None if its format has no floats.

    >>> [name_of_maps(name) for name in ("a/scan.nii.gz", "scan.tif", "moving.gif", "scan.dcm", "photo")]
    ['a/scan.nii.gz', 'scan.tif', 'moving.gif.tif', None, None]
    """
    if name.lower().endswith(PAGED):
        return name if name.lower().endswith((".tif", ".tiff")) else f"{name}.tif"
    return volumes.name_of_maps(name)


def write_maps(source: Path, target: Path, maps: Iterable[np.ndarray]) -> None:
    """Write the maps of a volume's slices, each (H, W) float32, in its format and geometry, or as pages of a TIFF.

    Args:
      source: the file of the volume.
      target: the file to write; its suffix must be that of ``name_of_maps``.
      maps: one for each slice, in order.
    """
    if volumes.is_volume(source):
        volumes.write_maps(source, target, maps)
    else:
        write_pages(target, maps)


def contents_of(path: Path) -> Contents:
    """Return how many pictures an image file holds, and its series; one picture if it cannot be read."""
    return volumes.contents_of(path) if volumes.is_volume(path) else Contents(count_pictures(path))


def stamp_of(paths: Sequence[Path]) -> str:
    """Return a digest of the files' sizes and times of modification."""
    stats = [path.stat() for path in paths]
    return hashlib.sha256(repr([(stat.st_size, stat.st_mtime_ns) for stat in stats]).encode()).hexdigest()


def read_raw(path: Path, exactly: bool, number: int | None = None) -> tuple[np.ndarray, str]:
    """Return a picture of an image file, (H, W, any) of any type, and the file's path as text; see ``read_picture``."""
    _check_is_file(path)
    if not volumes.is_volume(path):
        return np.atleast_3d(read_picture(path, exactly, number)), str(path)
    if number is None and (depth := contents_of(path).depth) > 1:
        raise UserError(f"{path}: holds {depth} slices, but only one can be used here")
    return np.atleast_3d(volumes.read_slice(path, number or 0)), str(path)


def read_grey(path: Path, of: Row | None = None) -> np.ndarray:
    """Read an image file as (H, W) of the type that its pixels have; colours become grey, uint8.

    Args:
      path: the file.
      of: for a mask, where its image is; if both files hold equally many pictures, that of the same number is read.

    Raises:
      UserError: the file cannot be read, or holds several pictures and not one for each of the image's file.
    """
    depth = contents_of(path).depth if of and of.depth > 1 else 1
    pixels, where = read_raw(path, exactly=False, number=of.number if of and depth == of.depth > 1 else None)
    return (pixels if pixels.shape[-1] == 1 else to_grey_levels(pixels, where, 1, None))[..., 0]


def read_mask(path: Path, any_value: bool = False, of: Row | None = None) -> np.ndarray:
    """Read a mask file as (H, W) bool: 0 is False, the one other value True; with ``any_value``, any other value.

    In a format that may lose detail, such as JPEG, pixels brighter than half of the range are True.
    Raise UserError if it cannot be read or has more than two values; see ``read_grey`` for ``of``.
    """
    pixels = read_grey(path, of)
    if path.suffix.lower() in _LOSSY:
        return pixels > 127  # of 255
    if any_value:
        return pixels > 0
    values = np.unique(pixels)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        shown = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
        raise UserError(f"{path}: has the values {shown}; a mask has two, 0 and one other")
    return pixels > 0


def read_arrays(path: Path, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz with these keys, by default all, or an .npy as a memory map called by the first key.

    Raises:
      UserError: the file cannot be read, or lacks the first key.
    """
    _check_is_file(path)
    first = next(iter(keys or ("images",)))
    try:
        if path.suffix.lower() == ".npy":
            return {first: np.lib.format.open_memmap(path, mode="r")}
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            names = list(found)
            arrays = {name: found[name] for name in names if keys is None or name in keys}
        if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise UserError(f"{path}: its member {others[0]} is not an array")
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'not a NumPy file'}") from error
    except Exception as error:  # zipfile and NumPy raise many types for a damaged file
        if re.match("Object arrays|.*Python objects", str(error)):
            advice = "save images of one size as one array, labels as numbers or as text, labels.astype(str)"
            raise UserError(f"{path}: holds Python objects, which are not read; {advice}") from error
        raise UserError(f"{path}: not a readable .npy or .npz file ({type(error).__name__})") from error
    if keys and first not in arrays:
        raise UserError(f"{path}: has no array {first!r} (it has: {', '.join(names) or 'none'})")
    return arrays


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
        _check_is_file(path)
        if path.suffix.lower() not in _OF_ARRAYS:
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


def _images_in(folder: Path) -> list[Path]:
    """Return the images below a folder, and log what is left out; raise UserError if there are none."""
    found = list_images(folder)
    if told := found.told():
        log.info("%s: left out: %s", folder, ", ".join(told))
    return found.paths


def _is_hidden(folder: Path) -> bool:
    """Return whether a folder is hidden: its name begins with a dot, or macOS put it into an archive."""
    return folder.name.startswith(".") or folder.name == "__MACOSX"


def _is_loop(top: Path, link: Path) -> bool:
    """Return whether a link to a folder below ``top`` leads to one of the folders that it lies in."""
    outer = link.parents[: len(link.relative_to(top).parts)]
    return link.resolve() in {folder.resolve() for folder in outer}


def _check_is_file(path: Path) -> None:
    """Raise UserError unless this is a regular file; reading a pipe would wait for ever."""
    if not os.path.isfile(path):  # unlike Path's methods, those of os.path raise nothing for an impossible name
        raise UserError(f"{path}: {'not a regular file' if os.path.exists(path) else 'no such file or folder'}")


def _check_layout(shape: tuple[int, ...], where: str) -> None:
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


def _from_model_range(arrays: list[np.ndarray], window: Window) -> list[np.ndarray]:
    """Return floats in [-1, 1] as uint8 unless a window says what they are, other dtypes unchanged.

    Raise ValueError if all floats together are not in this range: one bright image says nothing about their scale.
    """
    ends = [[array.min(), array.max()] for array in arrays if array.dtype.kind == "f" and array.size]
    if window is not None or not ends:
        return arrays
    check_model_range(np.array(ends))
    return [to_pixels(array, array) if array.dtype.kind == "f" else array for array in arrays]
