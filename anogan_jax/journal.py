"""The entries of a scoring run in a database file, so that a run that was killed resumes."""

import contextlib
import os
import sqlite3
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anogan_jax.errors import UserError

_ENTRIES, _SECONDS = 256, 10.0  # entries are committed after this number or time


class Entry(NamedTuple):
    """The report's record of a query; an unreadable one has NaN, no z and an empty picture."""

    name: str
    label: int  # 0 normal, 1 anomalous, -1 unknown
    kind: str
    score: float
    appearance: float
    term: str
    residual: float
    discrimination: float
    damage: float
    rotation: float
    z: bytes  # the bytes of ``z`` of the finding, float32; empty if there is none
    picture: bytes  # a ``strip``

    @property
    def is_readable(self) -> bool:
        """True if the query was read and scored."""
        return bool(self.picture)


_TABLES = {
    "anogan_jax_run": "made_with TEXT",
    "queries": "name",  # of all that the run scores: a run that is killed leaves pictures without an entry
    "entries": ", ".join(Entry._fields),
    "pixels": "kind TEXT PRIMARY KEY, counts BLOB",
}


class Journal:
    """Entries in order, committed to an SQLite file some at a time."""

    def __init__(self, path: Path, made_with: str, names: Iterable[str] = ()) -> None:
        """Resume from the file's entries if they were made with the same settings (a text); otherwise start anew.

        In that case ``earlier`` holds the names of the queries of the earlier run.

        Args:
          path: the file.
          made_with: the settings.
          names: the names of all queries.

        Raises:
          UserError: the file cannot be written, or is not a journal.
        """
        self._path = path
        self.pixels: dict[str, np.ndarray] = {}  # sums of ``count_pixels`` (3, 2^15) by kind
        self.earlier: list[str] = []
        self._pending: list[Entry] = []
        self._committed = time.monotonic()
        with self._user_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path)
            weakref.finalize(self, self._database.close)  # Python 3.13 warns of a connection that nobody closed
            if self._select("SELECT made_with FROM anogan_jax_run") != [(made_with,)]:
                self.earlier = [os.fsdecode(name) for (name,) in self._select("SELECT name FROM queries")]
                for table, columns in _TABLES.items():
                    self._database.execute(f"DROP TABLE IF EXISTS {table}")
                    self._database.execute(f"CREATE TABLE {table} ({columns})")
                self._database.executemany("INSERT INTO queries VALUES (?)", ((os.fsencode(name),) for name in names))
                self._database.execute("INSERT INTO anogan_jax_run VALUES (?)", (made_with,))
                self._database.commit()
            self.count = int(self._database.execute("SELECT COUNT(*) FROM entries").fetchone()[0])  # committed
            for kind, counts in self._database.execute("SELECT kind, counts FROM pixels"):
                self.pixels[kind] = np.frombuffer(counts).reshape(3, -1)

    def add(self, entry: Entry, pixels: np.ndarray | None = None) -> None:
        """Add the next entry, and its ``count_pixels`` if it has a mask."""
        self._pending.append(entry)
        if pixels is not None:
            self.pixels[entry.kind] = self.pixels.get(entry.kind, 0.0) + pixels
        if len(self._pending) == _ENTRIES or time.monotonic() - self._committed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Commit the entries that are not on disk yet."""
        with self._user_errors(), self._database:
            self._database.executemany(
                f"INSERT INTO entries VALUES ({', '.join('?' * len(Entry._fields))})",
                [(os.fsencode(entry.name), *entry[1:]) for entry in self._pending],
            )
            sums = [(kind, counts.astype(np.float64).tobytes()) for kind, counts in self.pixels.items()]
            self._database.executemany("INSERT OR REPLACE INTO pixels VALUES (?, ?)", sums)
        self.count += len(self._pending)
        self._pending, self._committed = [], time.monotonic()

    def entries(self) -> Iterator[Entry]:
        """Yield all committed entries, with few in memory at a time."""
        for row in self._database.execute("SELECT * FROM entries ORDER BY rowid"):
            entry = Entry._make(np.nan if value is None else value for value in row)  # SQLite keeps NaN as NULL
            yield entry._replace(name=os.fsdecode(entry.name))

    def _select(self, query: str) -> list[Any]:
        """Return the rows that a query finds; none if its table does not exist yet."""
        try:
            return self._database.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such" in str(error):  # table or column
                return []
            raise

    def remove(self) -> None:
        """Close and delete the file."""
        self._database.close()
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _user_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"{self._path}: cannot be written: {error}; remove it, or give another --output") from error
