"""Tiles: they cover the image and blend into it; pooled scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anogan_jax.tiles import Mosaic, cut_tiles, pool

RNG = np.random.default_rng(0)


@settings(max_examples=50, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 8))
def test_blended_tiles_are_the_image(height, width, stride):
    """Tiles cover every pixel, and blending divides by the sum of their weights."""
    image = np.random.default_rng(height).integers(0, 256, (height, width, 2)).astype(np.float32)
    mosaic, tiles = Mosaic(height, width, 2, 8), list(cut_tiles(image, 8, stride))
    for row, column, tile in tiles:
        mosaic.add(tile, tile[..., 0] / 100, row, column)
    reconstruction, anomaly_map = mosaic.blended()
    np.testing.assert_array_equal(reconstruction, image)
    np.testing.assert_allclose(anomaly_map, image[..., 0] / 100, atol=1e-5)
    rows = np.unique([row for row, _, _ in tiles])
    assert (rows[0], rows[-1]) == (0, height - 8)
    assert np.diff(rows).max(initial=0) <= stride


def test_weight_of_a_tile_falls_towards_its_edge():
    mosaic = Mosaic(8, 12, 1, 8)
    mosaic.add(np.zeros((8, 8, 1)), np.zeros((8, 8)), 0, 0)
    mosaic.add(np.zeros((8, 8, 1)), np.ones((8, 8)), 0, 4)
    blended = mosaic.blended()[1][3]
    np.testing.assert_allclose(blended[4:8], [1 / 5, 2 / 5, 3 / 5, 4 / 5], rtol=1e-6)
    assert not blended[:4].any()
    assert (blended[8:] == 1).all()


def test_map_without_tiles_is_zero():
    assert not any(blended.any() for blended in Mosaic(8, 8, 1, 8).blended())


def test_rows_that_no_tile_covers_are_zero():
    """Tiles without content are not scored, so whole rows of tiles may be missing, also the first and the last."""
    mosaic = Mosaic(40, 8, 1, 8)
    for row in (4, 30):
        mosaic.add(np.full((8, 8, 1), 9), np.ones((8, 8)), row, 0)
    covered = np.isin(np.arange(40), [*range(4, 12), *range(30, 38)])
    for blended, value in zip(mosaic.blended(), (9, 1), strict=True):
        np.testing.assert_array_equal(blended.reshape(40, 8), np.where(covered, value, 0)[:, None].repeat(8, axis=1))


def test_pooling_averages_the_highest_values():
    values = RNG.permutation(1000).reshape(20, 50).astype(np.float32)
    assert pool(values, 0.01) == np.arange(990, 1000).mean()
    assert pool(values, 1.0) == values.mean()
    assert pool(values, 1e-9) == 999
    many = RNG.normal(size=2**21 + 7).astype(np.float32)
    assert pool(many, 0.3) == pytest.approx(np.sort(many)[-round(0.3 * many.size) :].mean(dtype=np.float64), rel=1e-12)


def test_image_smaller_than_a_tile_is_refused():
    with pytest.raises(ValueError, match="7 pixels"):
        list(cut_tiles(np.zeros((7, 20, 1)), 8, 4))
