"""Feature spaces: they agree with their definitions, and structure ignores what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anogan_jax import make_features


@pytest.fixture(scope="module")
def structure():
    return make_features("structure", image_size=16, channels=1)


def test_structure_of_an_edge_is_in_the_edges_direction(structure):
    """Brightness that grows to the right is in the first of the eight directions; downwards, in the third."""
    ramp = np.broadcast_to(np.linspace(-1, 1, 16, dtype=np.float32)[None, :, None], (16, 16, 1))
    for image, direction in ((ramp, 0), (ramp.swapaxes(0, 1), 2), (-ramp, 4), (-ramp.swapaxes(0, 1), 6)):
        by_direction = np.asarray(structure.describe(image)).reshape(-1, 8)
        assert (by_direction.argmax(axis=1) == direction).all()


@pytest.mark.parametrize(("size", "channels"), [(8, 2), (16, 1), (32, 3)])
def test_structure_agrees_with_scipy(size, channels):
    image = np.random.default_rng(0).uniform(-1, 1, (size, size, channels)).astype(np.float32)
    found = make_features("structure", size, channels).describe(image)
    np.testing.assert_allclose(found, reference.structure(image), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("space", ["structure", "pixels"])
def test_distance_agrees_with_numpy(space, blobs):
    features = make_features(space, 16, 1)
    one, other = (features.describe(image) for image in blobs[:2])
    expected = reference.distance(space, *(reference.DESCRIBE[space](image) for image in blobs[:2]))
    np.testing.assert_allclose(features.distance(one - other), expected, rtol=1e-4)


def test_pixel_distance_is_the_residual_loss_and_its_map_the_absolute_difference():
    features = make_features("pixels", 8, 3)
    one, other = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    difference = features.describe(jnp.asarray(one)) - features.describe(jnp.asarray(other))
    np.testing.assert_allclose(features.distance(difference), np.abs(one - other).sum(), rtol=1e-6)
    expected = np.abs(one - other).mean(axis=-1)
    np.testing.assert_allclose(features.difference_map(difference), expected, rtol=1e-6)


def test_structure_ignores_brightness_and_tolerates_a_shift_by_a_pixel(structure, blobs):
    def distance(one, other):
        return structure.distance(structure.describe(one) - structure.describe(other))

    image = blobs[0]
    shifted, empty = np.roll(image, 1, axis=1), np.full_like(image, -1.0)
    assert distance(image, image + 0.5) < 1e-3
    assert distance(image, shifted) < distance(image, empty) / 3


def test_structure_map_is_high_where_a_stroke_is_missing():
    one_bar = np.full((32, 32, 1), -1, np.float32)
    one_bar[4:28, 6:10] = 1.0
    two_bars = one_bar.copy()
    two_bars[4:12, 20:24] = 1.0
    features = make_features("structure", 32, 1)
    found = np.asarray(features.difference_map(features.describe(two_bars) - features.describe(one_bar)))
    assert (found.shape, found.min() >= 0) == ((32, 32), True)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 2 <= row < 14
    assert 18 <= column < 26
    assert found[20:].max() < found.max() / 3


@pytest.mark.parametrize("space", ["structure", "pixels"])
def test_gradient_is_finite_between_equal_flat_images(space):
    features = make_features(space, 16, 1)
    flat = jnp.zeros((16, 16, 1))
    gradient = jax.grad(lambda image: features.distance(features.describe(flat) - features.describe(image)))(flat)
    assert np.isfinite(gradient).all()


def test_unknown_feature_space_is_refused():
    with pytest.raises(ValueError, match="'miles'"):
        make_features("miles", 8, 1)
    with pytest.raises(ValueError, match=r"gan\.discriminator"):
        make_features("discriminator", 8, 1)
