"""Folders of arrays: .npz files and a description, detector.json, which has a digest of each file and of itself."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anogan_jax.data.image_files import read_arrays
from anogan_jax.errors import UserError
from anogan_jax.files import digest

_FORMAT = 4  # version of the format
_DESCRIPTION = "detector.json"


def write_folder(target: Path, files: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write arrays and their description to a new folder, complete or not at all.

    Args:
      target: the folder, which must not exist.
      files: the arrays of each .npz file, by their names.
      facts: values for JSON; "format", "files" and "digest" are added.

    Raises:
      UserError: the folder exists, or cannot be written.
    """
    if target.exists():
        raise UserError(f"{target}: exists already; give another folder, or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".detector-", dir=target.parent) as temporary:
            unfinished = Path(temporary) / target.name
            unfinished.mkdir()
            for name, arrays in files.items():
                with (unfinished / name).open("wb") as file:
                    np.savez(file, **arrays)
                    file.flush()
                    os.fsync(file.fileno())
            whole = {"format": _FORMAT, **facts, "files": {name: digest(unfinished / name) for name in files}}
            text = json.dumps(whole | {"digest": _digest(whole)}, indent=2)
            (unfinished / _DESCRIPTION).write_text(text + "\n")
            unfinished.rename(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from error


def is_folder_of_arrays(folder: Path) -> bool:
    """Return whether ``write_folder`` seems to have written a folder."""
    return os.path.isfile(folder / _DESCRIPTION)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Return the facts and the arrays that ``write_folder`` wrote, the arrays by the names of their files.

    Raises:
      UserError: a file is damaged or missing, or the folder has another format.
    """
    facts = _facts(folder / _DESCRIPTION)
    for name, known in facts["files"].items():
        if not (folder / name).is_file() or digest(folder / name) != known:
            raise UserError(f"{folder / name}: damaged or missing; copy the folder again, or train again")
    return facts, {name: read_arrays(folder / name) for name in facts["files"]}


def joined(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Join arrays of one type and of different shapes into two arrays; ``parted`` is the inverse."""
    shapes = np.array([array.shape for array in arrays])
    return {"pixels": np.concatenate([array.ravel() for array in arrays]), "shapes": shapes}


def parted(found: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the arrays that ``joined`` joined."""
    parts = np.split(found["pixels"], np.cumsum(found["shapes"].prod(axis=1))[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, found["shapes"], strict=True)]


def _facts(path: Path) -> dict[str, Any]:
    """Return the description of a saved detector; raise UserError if it is damaged or of another format."""
    try:
        facts = json.loads(path.read_text())
        is_intact = facts.pop("digest") == _digest(facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_intact = False
    if not is_intact:
        raise UserError(f"{path}: damaged; copy the folder again, or train again")
    if facts["format"] != _FORMAT:
        raise UserError(f"{path}: has format {facts['format']}, but this version reads {_FORMAT}; train again")
    return facts


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
