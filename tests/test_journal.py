"""The journal: entries on disk are the entries that were added, after an interruption too."""

import sqlite3

import numpy as np
import pytest

from anogan_jax.errors import UserError
from anogan_jax.journal import Entry, Journal

RNG = np.random.default_rng(0)


def entry(i):
    return Entry(
        f"crack/{i}.png",
        i % 3 - 1,
        "crack" if i % 2 else "good",
        i / 7,
        0.5,
        "detail",
        i / 3,
        0.0,
        i / 5,
        i / 9,
        np.full(3, i, np.float32).tobytes(),
        bytes([1 + i % 200]) * i,
    )


def test_entries_are_read_back_as_they_were_added(tmp_path):
    """From a journal that was opened twice, with pictures of any length and sums of pixel counts."""
    entries = [entry(i) for i in range(1, 600)]
    counts = RNG.integers(0, 5, (599, 3, 4)).astype(float)
    for first, last in ((0, 300), (300, 599)):
        journal = Journal(tmp_path / "journal", "a")
        assert journal.count == first
        for each, count in zip(entries[first:last], counts[first:last], strict=True):
            journal.add(each, count)
        journal.flush()
    assert list(journal.entries()) == entries
    odd = np.array([each.kind == "crack" for each in entries])
    np.testing.assert_array_equal(journal.pixels["crack"], counts[odd].sum(axis=0))
    np.testing.assert_array_equal(journal.pixels["good"], counts[~odd].sum(axis=0))


def test_unreadable_query_has_nan_and_no_picture(tmp_path):
    journal, nan = Journal(tmp_path / "journal", "a"), float("nan")
    journal.add(Entry("broken.png", -1, "", nan, nan, "", nan, nan, nan, nan, b"", b""))
    journal.flush()
    (found,) = journal.entries()
    assert np.isnan([found.score, found.residual, found.discrimination]).all()
    assert not found.is_readable


def test_entries_that_were_not_flushed_are_lost_and_no_others(tmp_path):
    """A flush happens after every 256 entries; counts of pixels are those of the entries on disk."""
    journal = Journal(tmp_path / "journal", "a")
    for i in range(1, 260):
        journal.add(entry(i), np.ones((3, 4)))
    again = Journal(tmp_path / "journal", "a")
    assert list(again.entries()) == [entry(i) for i in range(1, 257)]
    assert sum(counts[0, 0] for counts in again.pixels.values()) == 256


def test_journal_of_another_run_is_started_anew(tmp_path):
    journal = Journal(tmp_path / "journal", "a")
    journal.add(entry(1), np.ones((3, 4)))
    journal.flush()
    other = Journal(tmp_path / "journal", "b")
    assert (other.count, list(other.entries()), other.pixels) == (0, [], {})
    assert Journal(tmp_path / "journal", "a").count == 0


def test_journal_of_an_earlier_version_is_started_anew(tmp_path):
    """The journal of the earlier version has other columns and lacks a table."""
    database = sqlite3.connect(tmp_path / "journal")
    database.executescript("CREATE TABLE anogan_jax_run (made_with); CREATE TABLE entries (name, score);")
    database.execute("INSERT INTO entries VALUES ('a', 1)")
    database.commit()
    database.close()
    journal = Journal(tmp_path / "journal", "a", ["0", "1"])
    journal.add(entry(1))
    journal.flush()
    assert list(journal.entries()) == [entry(1)]
    assert Journal(tmp_path / "journal", "b").earlier == ["0", "1"]


def test_removed_journal_leaves_no_file(tmp_path):
    journal = Journal(tmp_path / "journal", "a")
    journal.add(entry(1))
    journal.flush()
    journal.remove()
    assert not list(tmp_path.iterdir())


def test_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="file/journal"):
        Journal(tmp_path / "file" / "journal", "a")
