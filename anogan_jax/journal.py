"""What was scored so far, kept on disk: a scoring run that was killed goes on with what is left."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anogan_jax.atomic import replacing
from anogan_jax.data.images import read_arrays

_ENTRIES, _SECONDS = 256, 10.0  # a part is written after so many entries, or so long


class Entry(NamedTuple):
    """What the report says of a query; of an unreadable one, NaN and an empty picture."""

    name: str
    label: int  # 0 normal, 1 anomalous, -1 unknown
    kind: str
    score: float
    residual: float
    discrimination: float
    picture: bytes  # WebP: query, reconstruction and heatmap side by side

    @property
    def is_readable(self) -> bool:
        return bool(self.picture)


class Journal:
    """Entries in their order, on disk in parts that appear whole or not at all."""

    def __init__(self, folder: Path, made_with: str) -> None:
        """Goes on with what the folder holds, if it was made with the same (a text); else begins anew."""
        self._folder = folder
        self._made_with = made_with
        self._entries: list[Entry] = []
        self._pixels: dict[str, np.ndarray] = {}
        self._written = time.monotonic()
        self.count = 0  # entries on disk
        for path in self._parts():
            part = read_arrays(path)
            if str(part["made_with"]) != made_with:
                self.remove()
                break
            self.count += len(part["name"])

    def add(self, entry: Entry, pixels: np.ndarray | None = None) -> None:
        """Takes the next entry, and its ``count_pixels`` where it has a mask."""
        self._entries.append(entry)
        if pixels is not None:
            self._pixels[entry.kind] = self._pixels.get(entry.kind, 0) + pixels
        if len(self._entries) == _ENTRIES or time.monotonic() - self._written > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is not on disk yet."""
        if not self._entries:
            return
        columns = dict(zip(Entry._fields, zip(*self._entries, strict=True), strict=True))
        pictures = columns.pop("picture")
        with replacing(self._folder / f"{self.count:09d}.npz") as temporary:
            arrays: dict[str, Any] = {name: np.array(column) for name, column in columns.items()}
            arrays["made_with"] = self._made_with
            arrays["pictures"] = np.frombuffer(b"".join(pictures), np.uint8)
            arrays["picture_sizes"] = np.array([len(picture) for picture in pictures])
            arrays["pixel_kinds"] = np.array(list(self._pixels), np.str_)
            arrays["pixels"] = np.array(list(self._pixels.values()))
            np.savez_compressed(temporary, **arrays)
        self.count += len(self._entries)
        self._entries, self._pixels, self._written = [], {}, time.monotonic()

    def entries(self) -> Iterator[Entry]:
        """All that are on disk, a part in memory at a time."""
        for path in self._parts():
            part = read_arrays(path)
            pictures, ends = part["pictures"].tobytes(), np.cumsum(part["picture_sizes"]).tolist()
            begins = [0, *ends[:-1]]
            columns: list[list[Any]] = [part[name].tolist() for name in Entry._fields[:-1]]
            for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
                fields = [column[i] for column in columns]
                yield Entry._make([*fields, pictures[begin:end]])

    def pixels(self) -> dict[str, np.ndarray]:
        """The sums of ``count_pixels``, by kind."""
        sums: dict[str, np.ndarray] = {}
        for path in self._parts():
            part = read_arrays(path)
            for kind, counts in zip(part["pixel_kinds"].tolist(), part["pixels"], strict=True):
                sums[kind] = sums.get(kind, 0) + counts
        return sums

    def remove(self) -> None:
        """Deletes it all."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.count = 0

    def _parts(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.npz") if path.stem.isdecimal())
