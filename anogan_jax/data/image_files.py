"""Image files: finding them in folders, reading and writing them; ``.npy`` and ``.npz`` files of arrays."""

import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import features

from anogan_jax.config import Window
from anogan_jax.data import volumes
from anogan_jax.data.images import Images, Row
from anogan_jax.data.pictures import PAGED, count_pictures, read_picture, write_pages
from anogan_jax.data.pixels import to_grey_levels
from anogan_jax.data.volumes import Contents
from anogan_jax.errors import UserError

log = logging.getLogger(__name__)
AnyPath = TypeVar("AnyPath", bound=PurePath)
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".avif", ".webp")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".pgm", ".ppm", ".pnm"),
    *([".jp2"] if features.check("jpg_2000") else []),
    *([".avif"] if features.check("avif") else []),
    *volumes.SUFFIXES,
)
OF_ARRAYS = (".npy", ".npz")
_SUFFIX = re.compile(f"(?<=[^.])({'|'.join(map(re.escape, SUFFIXES + OF_ARRAYS))})$", re.IGNORECASE)


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
    check_is_file(path)
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
    check_is_file(path)
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


def _is_hidden(folder: Path) -> bool:
    """Return whether a folder is hidden: its name begins with a dot, or macOS put it into an archive."""
    return folder.name.startswith(".") or folder.name == "__MACOSX"


def _is_loop(top: Path, link: Path) -> bool:
    """Return whether a link to a folder below ``top`` leads to one of the folders that it lies in."""
    outer = link.parents[: len(link.relative_to(top).parts)]
    return link.resolve() in {folder.resolve() for folder in outer}


def check_is_file(path: Path) -> None:
    """Raise UserError unless this is a regular file; reading a pipe would wait for ever."""
    if not os.path.isfile(path):  # unlike Path's methods, those of os.path raise nothing for an impossible name
        raise UserError(f"{path}: {'not a regular file' if os.path.exists(path) else 'no such file or folder'}")
