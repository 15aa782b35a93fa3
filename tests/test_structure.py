"""What the structure of an image does and does not notice, and that it is what its definition says."""

import jax
import numpy as np
import pytest

from anogan_jax import describe, difference_map, structure_loss


def test_an_edge_fills_its_own_direction():
    """Brightness that grows to the right is all in the first of the eight directions; downwards, in the third."""
    ramp = np.broadcast_to(np.linspace(-1, 1, 16, dtype=np.float32)[None, :, None], (16, 16, 1))
    for image, direction in ((ramp, 0), (ramp.swapaxes(0, 1), 2), (-ramp, 4), (-ramp.swapaxes(0, 1), 6)):
        by_direction = np.asarray(describe(image, "structure")).reshape(-1, 8)
        assert (by_direction.argmax(axis=1) == direction).all()


def test_agrees_with_the_definition_written_in_loops():
    image = np.random.default_rng(0).uniform(-1, 1, (8, 8, 2))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    weights = {offset: np.exp(-0.5 * (offset / 2) ** 2) for offset in range(-6, 7)}
    total = sum(weights.values())
    mirror = np.pad(np.arange(8), 6, mode="symmetric")
    expected = np.zeros((2, 2, 2, 8))
    for row, column, channel, direction in np.ndindex(expected.shape):
        for down, across in np.ndindex(13, 13):
            i, j = mirror[4 * row + 2 + down], mirror[4 * column + 2 + across]
            dx = (padded[i + 1, j + 2, channel] - padded[i + 1, j, channel]) / 2
            dy = (padded[i + 2, j + 1, channel] - padded[i, j + 1, channel]) / 2
            angle = 2 * np.pi * direction / 8
            towards = max(0.0, dx * np.cos(angle) + dy * np.sin(angle))
            strength = towards**8 / (dx**2 + dy**2 + 1e-8) ** 3.5
            expected[row, column, channel, direction] += weights[down - 6] * weights[across - 6] / total**2 * strength
    found = np.asarray(describe(image.astype(np.float32), "structure")).reshape(expected.shape)
    expected = np.cbrt(expected + 1e-4)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-4)


def test_brightness_is_not_structure_and_a_shift_by_a_pixel_is_little(blobs):
    image = blobs[0]
    moved, missing = np.roll(image, 1, axis=1), np.full_like(image, -1.0)
    assert structure_loss(image, image + 0.5) < 1e-3
    assert structure_loss(image, moved) < structure_loss(image, missing) / 3


def test_the_map_of_a_missing_stroke_is_high_where_the_stroke_was():
    one_bar = np.full((32, 32, 1), -1, np.float32)
    one_bar[4:28, 6:10] = 1.0
    two_bars = one_bar.copy()
    two_bars[4:12, 20:24] = 1.0
    difference = describe(two_bars, "structure") - describe(one_bar, "structure")
    found = np.asarray(difference_map(difference, 32, 1, "structure"))
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 2 <= row < 14
    assert 18 <= column < 26
    assert found[20:].max() < found.max() / 3


def test_the_gradient_is_finite_where_there_is_nothing():
    flat = np.zeros((16, 16, 1), np.float32)
    assert np.isfinite(jax.grad(structure_loss)(flat, flat)).all()


def test_an_unknown_yardstick_is_refused():
    with pytest.raises(ValueError, match="yardstick"):
        describe(np.zeros((8, 8, 1)), "miles")
