"""Queries of any size through a scorer, and what is kept of them on disk."""

import numpy as np
import pytest

from anogan_jax.config import Config, ModelConfig, PatchConfig
from anogan_jax.data import Images
from anogan_jax.errors import UserError
from anogan_jax.journal import Entry, Journal
from anogan_jax.queries import score_queries
from anogan_jax.scoring import Score

RNG = np.random.default_rng(0)


def brightness(tiles):
    """Stands for a model: whatever is bright is anomalous, and the closest image is black."""
    for tile in tiles:
        residual = (tile[..., 0] + 1) / 2
        total = residual.sum()
        yield Score(total, total, np.float32(0), np.full_like(tile, -1), residual)


def config(**patches):
    return Config(model=ModelConfig(image_size=8), patches=PatchConfig(enabled=bool(patches), **patches))


def images(*arrays):
    def read(i):
        if arrays[i] is None:
            raise UserError(f"{i} is broken")
        return arrays[i][..., None]

    return Images([str(i) for i in range(len(arrays))], None, read)


def grey(height, width):
    return RNG.integers(0, 256, (height, width), np.uint8)


def test_maps_have_the_size_of_their_query():
    shapes = ((8, 8), (30, 11), (5, 40), (16, 16), (3, 3))
    arrays = [grey(*shape) for shape in shapes]
    for settings in (config(), config(stride=3), config(scale=0.5), config(scale=2.0)):
        for scored, array in zip(score_queries(brightness, images(*arrays), settings, ""), arrays, strict=True):
            assert scored.found.anomaly_map.shape == scored.found.generated.shape[:2] == array.shape
            np.testing.assert_array_equal(scored.found.image[..., 0], array)


def test_by_patches_the_map_shows_every_pixel_of_the_query():
    array = grey(30, 21)
    (scored,) = score_queries(brightness, images(array), config(stride=3, pooling="max"), "")
    np.testing.assert_allclose(scored.found.anomaly_map, array / 255, atol=1e-6)
    assert scored.found.score == pytest.approx(array.max() / 255)
    assert not scored.found.generated.any()


def test_empty_patches_are_not_scored():
    array = np.full((8, 16), 255, np.uint8)  # bright, but without contrast
    array[:, 8:] = grey(8, 8)
    (scored,) = score_queries(brightness, images(array), config(stride=8, min_contrast=5.0), "")
    assert not scored.found.anomaly_map[:, :8].any()
    assert scored.found.anomaly_map[:, 8:].any()
    (scored,) = score_queries(brightness, images(np.full((20, 20), 9, np.uint8)), config(min_contrast=5.0), "")
    assert scored.found.score == 0


def test_unreadable_queries_keep_their_place(caplog):
    arrays = [None, grey(9, 9), None, None, grey(20, 8), None]
    found = list(score_queries(brightness, images(*arrays), config(stride=4), ""))
    assert [scored.name for scored in found] == list("012345")
    assert [scored.found is None for scored in found] == [array is None for array in arrays]
    assert caplog.text.count("skipped") == 4


def test_scoring_can_begin_anywhere():
    arrays = [grey(9, 9) for _ in range(5)]
    every = list(score_queries(brightness, images(*arrays), config(), ""))
    rest = list(score_queries(brightness, images(*arrays), config(), "", first=3))
    assert [scored.name for scored in rest] == ["3", "4"]
    assert [scored.found.score for scored in rest] == [scored.found.score for scored in every[3:]]


def entry(i):
    return Entry(f"crack/{i}.png", i % 3 - 1, "crack" if i % 2 else "good", i / 7, i / 3, 0.0, bytes([1 + i % 200]) * i)


def test_a_journal_gives_back_what_it_took(tmp_path):
    """After being opened anew, in several parts, pictures of any length and sums of counts."""
    entries = [entry(i) for i in range(1, 600)]
    counts = RNG.integers(0, 5, (599, 3, 4))
    journal = Journal(tmp_path / "journal", "a")
    for each, count in zip(entries[:300], counts[:300], strict=True):
        journal.add(each, count)
    journal.flush()
    journal = Journal(tmp_path / "journal", "a")
    assert journal.count == 300
    for each, count in zip(entries[300:], counts[300:], strict=True):
        journal.add(each, count)
    journal.flush()
    assert list(journal.entries()) == entries
    odd = np.array([each.kind == "crack" for each in entries])
    np.testing.assert_array_equal(journal.pixels()["crack"], counts[odd].sum(axis=0))
    np.testing.assert_array_equal(journal.pixels()["good"], counts[~odd].sum(axis=0))


def test_what_was_not_written_is_lost_and_no_more(tmp_path):
    journal = Journal(tmp_path / "journal", "a")
    for i in range(1, 260):
        journal.add(entry(i))
    (tmp_path / "journal" / ".000000256-x.npz").write_bytes(b"a part that was being written")
    assert list(Journal(tmp_path / "journal", "a").entries()) == [entry(i) for i in range(1, 257)]


def test_a_journal_of_another_run_is_begun_anew(tmp_path):
    journal = Journal(tmp_path / "journal", "a")
    journal.add(entry(1))
    journal.flush()
    assert Journal(tmp_path / "journal", "b").count == 0
    assert Journal(tmp_path / "journal", "a").count == 0
