"""The layouts of folders: which images are normal, which are anomalous, which files are masks.

Folders are interpreted by their names, in any case and with or without a number before them (``0.normal``). ``_ROLES``
lists the names that have a role; every other folder is a class. The first rule that applies says which classes are
normal:
  1. ``data.normal`` or ``data.anomalous``;
  2. a class is called good, ok or normal;
  3. masks of the images to train on: an image with a mask that is not all black is anomalous;
  4. there is one class, or none: it is normal, unless it is called bad, defect or the like.
Classes lie in the splits (``train/good``). Splits lie in the classes (``good/train``) if these splits hold no further
folders, and a class that holds them is called good, ok or normal, or ``data.normal`` or ``data.anomalous`` is given.
A class called bad, defect or the like that lies next to the splits is scored. Data with a folder called good or bad
inside another class are refused.
A CSV of labels, the user's or that of VisA, is used instead of the folders' names.

Masks are matched to images by path, without suffixes, without folders of the roles mask and wrapper, and without the
endings of ``_OF_MASK``, such as ``_mask``: the mask's path must equal the image's path or its last parts. A mask may
also lie next to its image, and a folder with the image's name may hold several masks of it. These rules cover MVTec AD,
MVTec LOCO, BTAD, VisA, KolektorSDD, class folders and plain folders.
"""

import csv
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from anogan_jax.config import DataConfig
from anogan_jax.data.classes import chosen_normal, is_called_anomalous, is_called_normal, plain, shown
from anogan_jax.data.image_files import contents_of, list_images, read_mask, without_suffix
from anogan_jax.data.images import Row
from anogan_jax.data.volumes import series_of
from anogan_jax.errors import UserError

log = logging.getLogger(__name__)
_ROLES = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("ground_truth", "groundtruth", "gt", "mask", "masks", "label", "labels"), "mask"),
    **dict.fromkeys(("data", "images", "img", "imgs"), "wrapper"),
}
_OF_MASK = re.compile(r"(?<=.)[-_ ](mask|label|gt|seg|segmentation|annotation)$", re.IGNORECASE)
_COLUMNS = {  # columns of a CSV, and the names that they may have
    "file": ("file", "filename", "file_name", "image", "path", "name"),
    "label": ("label", "class", "target"),
    "split": ("split", "set"),
    "mask": ("mask", "ground_truth"),
    "object": ("object",),  # VisA has one CSV for all its objects
}
_TOLD = 12  # folders that the log lists
_TEST_EVERY = 5  # without a split, every fifth image of a normal class is in the test split
GOOD, _DEFECT = "good", "defect"  # kinds: of normal images, and of anomalous ones without a class


class File(NamedTuple):
    """An image file of a data set."""

    name: str  # its path in the data set's folder
    split: str  # train or test; empty: the layout has none
    kind: str  # its class; empty: the layout has none
    place: str  # the folder or the label by which it was classified
    masks: tuple[Path, ...] = ()


class Layout(NamedTuple):
    """The images of a folder, by split and kind; the kind of a normal image is "good"."""

    train: list[File]
    test: list[File] | None  # None: there is nothing to score
    has_labels: bool  # False: nothing says which test images are normal
    table: Path | None  # the CSV that labels them


def read_layout(folder: Path, data: DataConfig) -> Layout:
    """Classify a folder's images by its layout, and log how each part of the folder is interpreted.

    Raises:
      UserError: there is no image, or nothing says which images are normal.
    """
    table = _table(folder, data)
    listing = list_images(folder, [Path(data.roi)] * bool(data.roi) + ([table] if table else []))
    every = [path.relative_to(folder) for path in listing.paths]
    masks = _Masks(folder, every)
    if table:
        files, where = _of_table(table, folder, every), f"without a row in {table}"
    else:
        classes_first = _has_classes_first(every, data)
        _refuse_other_layouts(folder, every, classes_first)
        files = [_parse(image, classes_first) for image in masks.images]
        if has_split := any(file.split for file in files):
            beside = [not file.split and is_called_anomalous(file.kind) for file in files]
            files = [
                file._replace(split="test") if is_bad else file for file, is_bad in zip(files, beside, strict=True)
            ]
        outside = {PurePath(file.name).parts[0] for file in files if has_split and not file.split}
        files, where = [file for file in files if bool(file.split) == has_split], f"in {shown(outside)}"
    layout, rest = _told_apart(folder, files, masks, data, table), len(masks.images) - len(files)
    _tell(folder, layout, masks.places, [*listing.told(), *([f"{rest} images {where}"] if rest > 0 else [])])
    return layout


def read_masks(file: File, shape: tuple[int, int], row: Row) -> np.ndarray | None:
    """Return the defective pixels (H, W) bool of an image of this shape; None if it is anomalous and has no mask.

    Raises:
      UserError: a mask cannot be read, has another size than the image, or is all black; a slice's mask may be.
    """
    if file.kind == GOOD:
        return np.zeros(shape, bool)
    if not file.masks:
        return None
    found = np.zeros(shape, bool)
    for path in file.masks:
        mask = _read_mask(path, row)
        if mask.shape != shape:
            size = f"{mask.shape[1]}x{mask.shape[0]}"
            raise UserError(f"{path}: {size} pixels, but its image {file.name} has {shape[1]}x{shape[0]}")
        found |= mask
    if not found.any() and row.depth == 1:
        raise UserError(f"{file.masks[0]}: is all black, but its image {file.name} is said to have a defect")
    return found


@cache
def role_of(name: str) -> str | None:
    """Return the role that a folder of this name has, or None for a class."""
    return _ROLES.get(plain(name))


def _read_mask(path: Path, of: Row | None = None) -> np.ndarray:
    return read_mask(path, "/data/masks/" in path.as_posix().lower(), of)  # VisA numbers its kinds of defects


def _is_black(mask: Path) -> bool:
    """Return whether all pictures of a mask file are black."""
    depth = contents_of(mask).depth
    return not any(_read_mask(mask, Row(mask, number, depth, "")).any() for number in range(depth))


def _names(image: PurePath) -> list[str]:
    """Return the folders above an image that name splits or classes, down to the first one of masks."""
    names = [part for part in image.parts[:-1] if role_of(part) != "wrapper"]
    return names[: next((i for i, name in enumerate(names) if role_of(name) == "mask"), len(names))]


def _is_split(name: str) -> bool:
    return role_of(name) in ("train", "test")


def _has_classes_first(images: Iterable[PurePath], data: DataConfig) -> bool:
    """Return whether the folders of classes hold the splits, see the module."""
    split = [names for names in map(_names, images) if any(map(_is_split, names))]
    is_named = data.normal is not None or data.anomalous is not None or any(is_called_normal(top) for top, *_ in split)
    return bool(split) and is_named and all(len(names) == 2 and not _is_split(names[0]) for names in split)


def _is_mixed(names: Iterable[str]) -> bool:
    """Return whether a folder called good or bad lies below a class that is not called the same."""
    called = [(is_called_normal(name), is_called_anomalous(name)) for name in names if not _is_split(name)]
    return any(any(each) and each != called[0] for each in called)


def _refuse_other_layouts(folder: Path, images: Iterable[PurePath], classes_first: bool) -> None:
    """Raise UserError if a folder holds several data sets, images to test but none to train on, or unclear classes."""
    splits, sets, trainable, mixed = set[str](), set[str](), set[str](), set[str]()
    for image in images:
        splits.add(_parse(image, classes_first).split)
        top, *below = _names(image) or [""]
        is_wrapped = [role_of(part) for part in image.parts[1:3]] == ["wrapper", "wrapper"]  # VisA
        if not top or _is_split(top):
            mixed |= {image.parent.as_posix()} if _is_mixed(below) else set()
        elif any(map(_is_split, below)) or is_wrapped or _is_mixed([top, *below]):
            place = "/".join(image.parts[: image.parts.index(top) + 1])
            sets.add(place)
            trainable |= {place} if not below or role_of(below[0]) != "test" else set()
    if sets and not {"train", "test"} & splits:
        one = folder / min(trainable or sets)
        raise UserError(f"{folder}: holds several data sets; give one, such as --config.data.dir={one}")
    if mixed:
        raise UserError(
            f"{folder / min(mixed)}: lies in the folder of another class, so the class of its images is not known; "
            "move it, or say what each image is by --config.data.labels=FILE.csv"
        )
    if "test" in splits and "train" not in splits:
        raise UserError(f"{folder}: has test/ but no train/, where the normal images to train on belong")


def _parse(image: PurePath, classes_first: bool) -> File:
    """Return an image with the split and the class that its folders name."""
    split, kind, place = "", "", []
    for part in image.parts[:-1]:
        if _is_split(part) and not split:
            split = role_of(part) or ""
        elif role_of(part) != "wrapper" and not kind:
            kind = part
        place.append(part)
        if kind and (split or not classes_first):
            break
    return File(image.as_posix(), split, kind, "/".join(place) or "the folder itself")


class _Masks:
    """The masks among image files, by the images that they may belong to; ``images`` are the other files."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self.folder, self.images = folder, list[Path]()
        self.places = Counter[str]()  # the folders that hold masks, and how many
        self._by_name: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        self._by_folder: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        self._beside: dict[PurePath, list[Path]] = defaultdict(list)
        stems = {without_suffix(file) for file in files}
        for file in files:
            whole = without_suffix(file).name
            stem = _OF_MASK.sub("", whole)
            roles = [role_of(part) for part in file.parts[:-1]]
            if "mask" in roles:
                self.places["/".join(file.parts[: roles.index("mask") + 1])] += 1
                *above, _ = key = _key(file)
                self._by_folder[tuple(above)].append(folder / file)
                for name in {key[-1], stem.lower()}:
                    self._by_name[*above, name].append(folder / file)
            elif stem != whole and file.with_name(stem) in stems:
                self.places["beside the images"] += 1
                self._beside[file.with_name(stem)].append(folder / file)
            else:
                self.images.append(file)

    def of(self, name: str, whole_path: bool = False) -> tuple[Path, ...]:
        """Return the masks of an image; with ``whole_path`` only those at the image's path, apart from the roles."""
        image = PurePath(name)
        key = _key(image)
        ends = [key[i:] for i in range(1 if whole_path else len(key))]
        found = [self._beside.get(without_suffix(image))]
        found += [where.get(end) for where in (self._by_name, self._by_folder) for end in ends]
        return tuple(next(filter(None, found), ()))


def _key(file: PurePath) -> tuple[str, ...]:
    """Return the path that an image and its mask have in common, in lower case, with the split first."""
    above = [part for part in file.parts[:-1] if role_of(part) not in ("mask", "wrapper")]
    above.sort(key=_is_split, reverse=True)
    return tuple(part.lower() for part in (*above, without_suffix(file).name))


def _told_apart(folder: Path, files: list[File], masks: _Masks, data: DataConfig, table: Path | None) -> Layout:
    """Divide images into normal and anomalous ones, to train on and to score, by the rules above."""
    classes = {file.kind for file in files if file.kind}
    trained = {file.kind for file in files if file.split != "test"}
    called = {name for name in classes if is_called_normal(name)}
    if not trained:
        raise UserError(f"{table or folder}: holds no image to train on")
    normal = chosen_normal(classes, data)
    if normal is None and not (table or called & trained) and (labelled := _by_masks(files, masks)):
        files, normal, trained = labelled, {GOOD}, {GOOD}
    for kinds in (trained, {file.kind for file in files if file.split == "test"}):
        if "" in kinds and len(kinds) > 1:
            raise UserError(
                f"{folder}: has images next to the folders {shown(kinds - {''})}, so their class is not known; move "
                "them into one of these, or say what each image is by --config.data.labels=FILE.csv"
            )
    if normal is not None and trained == {""}:
        normal |= trained  # only the images to score have classes
    elif normal is None and called & trained:
        normal = called
    elif normal is None and table and classes <= {"0", "1"}:
        normal = {"0"}
    elif normal is None and len(trained) == 1 and not any(map(is_called_anomalous, trained)):
        normal = trained | called
    if normal is None:
        raise UserError(
            f"{table or folder}: has the classes {shown(trained)}; say which is normal by --config.data.normal=NAME, "
            "several by NAME,NAME, or all by '*'"
        )
    tested = [file for file in files if file.split == "test"]
    if not tested and {file.kind for file in files} - normal:
        tested = _without_split(folder, files, normal)
    names = {file.name for file in tested}
    train = [_named(file, normal) for file in files if file.name not in names]
    if not tested:
        return Layout(train, None, False, table)
    has_labels = any(file.kind for file in tested)
    return Layout(train, _with_masks([_named(file, normal) for file in tested], masks), has_labels, table)


def _without_split(folder: Path, files: Iterable[File], normal: set[str]) -> list[File]:
    """Return the images to score if there is no split: the anomalous ones, and every fifth of a normal class.

    A DICOM series in one folder counts as one image, because its slices resemble each other.
    """
    numbers, found = defaultdict[str, dict[Any, int]](dict), []  # of the images and series of each class
    for file in files:
        series = series_of(folder / file.name)
        unit = (PurePath(file.name).parent, series) if series else file.name
        number = numbers[file.kind].setdefault(unit, len(numbers[file.kind]))
        if file.kind not in normal or number % _TEST_EVERY == _TEST_EVERY - 1:
            found.append(file)
    return found


def _named(file: File, normal: set[str]) -> File:
    """Return an image of the kind "good" if its class is normal, and of another kind if not."""
    if file.kind in normal:
        return file._replace(kind=GOOD)
    return file._replace(kind=f"{GOOD} (anomalous)" if file.kind == GOOD else file.kind or _DEFECT)


def _by_masks(files: list[File], masks: _Masks) -> list[File]:
    """Return the images as normal or defective, by their masks; nothing if the images to train on have no masks.

    Raises:
      UserError: a mask cannot be read, or may belong to several images.
    """
    found = [file._replace(masks=masks.of(file.name, whole_path=file.split == "train")) for file in files]
    if not any(file.masks for file in found if file.split != "test"):
        return []
    for mask, names in _shared(found).items():
        raise UserError(f"{mask}: may be the mask of {names[0]} or of {names[1]}; give masks their images' paths")
    if without := [file.name for file in found if not file.masks]:
        shares = f"{len(without)} of {len(found)}"
        log.warning("%s: %s images have no mask, such as %s, and count as normal", masks.folder, shares, without[0])
    is_black = {mask: _is_black(mask) for file in found for mask in file.masks}
    kinds = [GOOD if all(is_black[mask] for mask in file.masks) else _DEFECT for file in found]
    places = [f"{file.split or 'images'} by their masks" for file in found]
    return [file._replace(kind=k, place=place) for file, k, place in zip(found, kinds, places, strict=True)]


def _with_masks(files: list[File], masks: _Masks) -> list[File]:
    """Return images to score, the anomalous ones with their masks; a mask that fits several images is not used."""
    lacking = [file for file in files if file.kind != GOOD and not file.masks]
    found = [file._replace(masks=masks.of(file.name)) for file in lacking]
    shared = _shared(found)
    of_name = {file.name: file.masks for file in found if not shared.keys() & set(file.masks)}
    return [file._replace(masks=of_name.get(file.name, file.masks)) for file in files]


def _shared(files: Iterable[File]) -> dict[Path, list[str]]:
    """Return the masks that several images have, with the names of these."""
    names = defaultdict[Path, list[str]](list)
    for file in files:
        for mask in file.masks:
            names[mask].append(file.name)
    return {mask: of for mask, of in names.items() if len(of) > 1}


def _tell(folder: Path, layout: Layout, masks: Counter[str], left_out: Sequence[str]) -> None:
    """Log how a layout's parts were interpreted, and what is missing."""
    groups = Counter[str]()
    for file in layout.train:
        use = "normal images to train on" if file.kind == GOOD else "anomalous images, not trained on"
        groups[f"{file.place}: {use}"] += 1
    for file in layout.test or ():
        kind = ("normal " if file.kind == GOOD else "anomalous ") if layout.has_labels else ""
        groups[f"{file.place}: {kind}images to score{', with masks' if file.masks else ''}"] += 1
    groups.update({f"{place}: masks": count for place, count in masks.items()})
    lines = [f"{group}: {count:,}" for group, count in groups.items()]
    if len(lines) > _TOLD:
        lines[_TOLD:] = [f"{len(lines) - _TOLD} further folders: {sum(list(groups.values())[_TOLD:]):,}"]
    if left_out:
        lines.append(f"left out: {', '.join(left_out)}")
    for line in lines:
        log.info("%s: %s", folder, line)
    anomalous = [file for file in layout.test or () if file.kind != GOOD]
    if not layout.has_labels or not anomalous:
        return
    if len(anomalous) == len(layout.test or ()):
        log.warning("%s: no test image is normal; all count as anomalous", folder)
    if masks and (without := [file.name for file in anomalous if not file.masks]):
        shares = f"{len(without)} of {len(anomalous)}"
        log.warning(
            "%s: %s anomalous images have no mask, such as %s; the pixel metrics leave them out",
            *(folder, shares, without[0]),
        )


def _table(folder: Path, data: DataConfig) -> Path | None:
    """Return the CSV that labels a folder's images: the user's, or one of VisA that has rows of this folder's object.

    Raises:
      UserError: the user's CSV does not exist.
    """
    if data.labels:
        places = (Path(data.labels), folder / data.labels)
        if found := next((path for path in places if path.is_file()), None):
            return found
        raise UserError(f"data.labels={data.labels}: no such file, nor in {folder}")
    of_visa = folder.parent / "split_csv" / "1cls.csv"
    if of_visa.is_file() and any(row.get("object") == folder.name for _, row in _rows(of_visa, lambda text: False)):
        return of_visa
    return None


def _of_table(table: Path, folder: Path, images: Sequence[Path]) -> list[File]:
    """Return the images that a CSV labels.

    Raises:
      UserError: the CSV cannot be read, names a file that is not there, or gives a file two labels.
    """
    known = {image.as_posix(): image.as_posix() for image in images}
    by_end = defaultdict[str, list[str]](list)  # by the file's name without folders, with and without its suffix
    for image in images:
        for end in {image.name, without_suffix(image).name}:
            by_end[end].append(image.as_posix())

    def find(text: str) -> str | None:
        path = text.replace("\\", "/")
        places = (os.path.relpath(base / path, folder) for base in (folder, table.parent, table.parent.parent))
        found = next((known[place] for place in places if place in known), None)
        given, alone = PurePath(path), by_end.get(PurePath(path).name, ())
        moved = [name for name in alone if _may_be(given, PurePath(name))]  # the data set may have been moved
        return found or (moved[0] if len(alone) == len(moved) == 1 else None)

    rows = list(_rows(table, lambda text: find(text) is not None))
    objects = {row.get("object") for _, row in rows}
    files: dict[str, File] = {}
    lacking: list[str] = []
    for line, row in rows:
        if folder.name in objects and row["object"] != folder.name:
            continue
        name, split = find(row["file"]), role_of(row.get("split", "")) or ""
        if name is None:
            raise UserError(f"{table}, line {line}: {row['file']} matches no image in {folder}, or several")
        if row.get("split") and split not in ("train", "test"):
            raise UserError(f"{table}, line {line}: the split {row['split']!r} is neither train nor test")
        if not row["label"]:
            raise UserError(f"{table}, line {line}: {row['file']} has no label")
        mask = find(row.get("mask", "")) if row.get("mask") else None
        if row.get("mask") and mask in (None, name):
            lacking.append(f"{row['mask']} in line {line}")
            mask = None
        file = File(name, split, row["label"], f"{row['label']} in {table}", (folder / mask,) if mask else ())
        if files.setdefault(name, file) != file:
            raise UserError(f"{table}, line {line}: {row['file']} has an earlier row with another label, split or mask")
    if lacking:
        log.warning("%s: %d masks do not exist in %s, such as %s", table, len(lacking), folder, lacking[0])
    return [files[name] for name in sorted(files, key=PurePath)]


def _may_be(given: PurePath, image: PurePath) -> bool:
    """Return whether a path and an image's path agree in their folders, as far as both name them."""
    return all(one == other for one, other in zip(given.parts[-2::-1], image.parts[-2::-1], strict=False))


def _rows(table: Path, is_image: Callable[[str], bool]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each line of a CSV and its cells by the names of ``_COLUMNS``.

    Raises:
      UserError: it cannot be read, or has no header and its first cell is not an image.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            lines = list(csv.reader(file, delimiter=max(",;\t", key=first.count)))
    except UnicodeError as error:
        raise UserError(f"{table}: is not in UTF-8; save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read as CSV: {error}") from error
    rows = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(lines, start=1) if any(cells)]
    heads = [cell.lower() for cell in rows[0][1]] if rows else []
    columns = {
        column: next((heads.index(name) for name in names if name in heads), -1) for column, names in _COLUMNS.items()
    }
    has_header = min(columns["file"], columns["label"]) >= 0 and not is_image(rows[0][1][columns["file"]])
    if not has_header:
        if not rows or len(rows[0][1]) < 2 or not is_image(rows[0][1][0]):
            found = f"its first line is {', '.join(rows[0][1])}" if rows else "it is empty"
            raise UserError(
                f"{table}: needs a header with the columns file, label and, if wanted, split and mask; {found}"
            )
        is_split = all(role_of(cells[2]) in ("train", "test") for _, cells in rows if len(cells) > 2 and cells[2])
        columns = {name: i for i, name in enumerate(("file", "label", *(["split"] if is_split else []), "mask"))}
    for number, cells in rows[has_header:]:
        row = {name: cells[i] if 0 <= i < len(cells) else "" for name, i in columns.items()}
        yield number, row
