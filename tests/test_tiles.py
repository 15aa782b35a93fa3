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
    image = np.random.default_rng(height).normal(size=(height, width, 2)).astype(np.float32)
    mosaic, tiles = Mosaic(height, width, 2, 8), list(cut_tiles(image, 8, stride))
    for row, column, tile in tiles:
        mosaic.add(np.moveaxis(tile, -1, 0), row, column)
    np.testing.assert_allclose(np.moveaxis(mosaic.blended(), 0, -1), image, atol=1e-5)
    rows = np.unique([row for row, _, _ in tiles])
    assert (rows[0], rows[-1]) == (0, height - 8)
    assert np.diff(rows).max(initial=0) <= stride


def test_weight_of_a_tile_falls_towards_its_edge():
    mosaic = Mosaic(8, 12, 1, 8)
    mosaic.add(np.zeros((1, 8, 8)), 0, 0)
    mosaic.add(np.ones((1, 8, 8)), 0, 4)
    blended = mosaic.blended()[0, 3]
    np.testing.assert_allclose(blended[4:8], [1 / 5, 2 / 5, 3 / 5, 4 / 5], rtol=1e-6)
    assert not blended[:4].any()
    assert (blended[8:] == 1).all()


def test_map_without_tiles_is_zero():
    assert not Mosaic(8, 8, 1, 8).blended().any()


def test_pooling_averages_the_highest_values():
    values = RNG.permutation(1000).reshape(20, 50).astype(np.float32)
    assert pool(values, 0.01) == np.arange(990, 1000).mean()
    assert pool(values, 1.0) == values.mean()
    assert pool(values, 1e-9) == 999


def test_image_smaller_than_a_tile_is_refused():
    with pytest.raises(ValueError, match="7 pixels"):
        list(cut_tiles(np.zeros((7, 20, 1)), 8, 4))
