"""The runtime beside independent computations: tiles, pooling, resizing, nearest neighbours, connected parts."""

import ast
import sys

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anogan_jax.appearance import tree_of
from anogan_jax.data import images as library
from anogan_jax.runtime import Mosaic, centres_of, cut_tiles, farthest_of, largest_parts, pool, resize

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


def test_it_imports_nothing_but_jax_and_numpy():
    names = set()
    for node in ast.walk(ast.parse((ROOT / "anogan_jax/runtime.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            names.add(node.module.partition(".")[0])
    assert names - sys.stdlib_module_names == {"jax", "numpy", "flatbuffers"}  # that one to say that JAX needs it


lengths = st.integers(1, 70)


@settings(max_examples=200, deadline=None)
@given(lengths, lengths, lengths, lengths, st.sampled_from([np.uint8, np.float32]), st.integers(0, 2**31))
def test_resizing_is_pillows_bit_for_bit(height, width, new_height, new_width, dtype, seed):
    """The library resizes with Pillow. Extreme pixels reach every rounding and clipping."""
    rng = np.random.default_rng(seed)
    image = rng.choice([0, 255], (height, width, 2)) if seed % 2 else rng.integers(0, 256, (height, width, 2))
    image = image.astype(dtype) / dtype(1 if dtype is np.uint8 else 7)
    resized = resize(image.astype(dtype), new_height, new_width)
    np.testing.assert_array_equal(resized, library.resize(image.astype(dtype), new_height, new_width), strict=True)


@pytest.mark.parametrize(("size", "new"), [((701, 999), (64, 64)), ((64, 64), (701, 999)), ((1500, 3), (32, 700))])
def test_large_images_are_resized_as_by_pillow(size, new):
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_array_equal(resize(image, *new), library.resize(image, *new))


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.1, 1.0])
def test_farthest_window_is_that_of_a_tree(spread):
    """The windows lie on points, near points, or anywhere."""
    points = centres_of(np.unique(RNG.integers(0, 60, (3000, 3)) @ (1 << 14, 1 << 7, 1)))
    windows = np.clip(points[RNG.integers(0, len(points), 5000)] + spread * RNG.normal(size=(5000, 3)), 0, 1.3)
    windows = windows.astype(np.float32)
    for some in (points, points[:1]):
        of_images = farthest_of(some)(windows.reshape(10, 500, 3))
        np.testing.assert_array_equal(of_images, tree_of(some)(windows.reshape(10, 500, 3)))
        alone = [farthest_of(some)(each.reshape(1, 500, 3))[0] for each in windows.reshape(10, 500, 3)]
        np.testing.assert_array_equal(of_images, alone)


def parts_of_scipy(image, level, count):
    labels, number = ndimage.label(image[..., 0] > level)
    order = np.argsort(-np.bincount(labels.ravel(), minlength=number + 1)[1:], kind="stable")
    return ndimage.binary_fill_holes(np.isin(labels, 1 + order[:count]))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**31))
def test_largest_parts_are_those_of_scipy(height, width, count, seed):
    """Small parts are often equally large, and winding where half of the pixels are bright."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8)
    level = (100, 128, 200)[seed % 3]
    np.testing.assert_array_equal(largest_parts(image, level, count), parts_of_scipy(image, level, count))


@pytest.mark.parametrize("of", ["spiral", "comb", "nothing", "everything"])
def test_winding_parts_are_those_of_scipy(of):
    image = np.full((41, 41, 1), 255 * (of == "everything"), np.uint8)
    if of == "comb":
        image[:, ::2] = image[-1] = 255
    if of == "spiral":
        row, column, step, image[0, 0] = 0, 0, (0, 1), 255
        for length in [40, *np.repeat(np.arange(40, 0, -2), 2)]:
            for _ in range(length):
                row, column = row + step[0], column + step[1]
                image[row, column] = 255
            step = (step[1], -step[0])
    np.testing.assert_array_equal(largest_parts(image, 128, 1), parts_of_scipy(image, 128, 1))
