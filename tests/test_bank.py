"""The bank: its images are those of its z, and retrieval agrees with NumPy."""

import jax
import numpy as np
import pytest
import reference
from conftest import generate

from anogan_jax import draw_bank, make_features, make_index, make_neighbours, retrieve

SPACES = ("structure", "pixels")


@pytest.fixture(scope="module")
def bank(gan, weights):
    return draw_bank(gan, weights, jax.random.key(0), 600)


@pytest.mark.parametrize("size", [1, 256, 300])
def test_bank_holds_as_many_images_as_asked_for(gan, weights, size):
    bank = draw_bank(gan, weights, jax.random.key(0), size)
    assert bank.z.shape == (size, gan.latent_size)
    assert (bank.images.shape, bank.images.dtype) == ((size, 16, 16, 1), np.float16)


def test_images_are_generated_from_z(gan, weights, bank):
    generated = generate(gan, weights.generator, bank.z[::50])
    np.testing.assert_allclose(bank.images[::50], generated, atol=1e-3)
    assert np.linalg.norm(bank.z, axis=1).max() <= gan.latent_size**0.5 * (1 + 1e-5)


def test_bank_is_a_function_of_the_key(gan, weights, bank):
    np.testing.assert_array_equal(draw_bank(gan, weights, jax.random.key(0), 600).images, bank.images)
    assert (draw_bank(gan, weights, jax.random.key(1), 600).z != bank.z).any()


def test_index_describes_every_image(bank):
    pixels, structure = (make_index(bank, make_features(space, 16, 1)) for space in ("pixels", "structure"))
    images = bank.images.astype(np.float32)
    np.testing.assert_array_equal(pixels.images, images)
    np.testing.assert_array_equal(pixels.neighbours.features, images.reshape(600, -1))
    np.testing.assert_allclose(
        pixels.neighbours.squares, np.square(images.astype(np.float64)).sum((1, 2, 3)), rtol=1e-5
    )
    expected = [reference.structure(image) for image in images[::100]]
    np.testing.assert_allclose(structure.neighbours.features[::100], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_retrieval_agrees_with_numpy(bank, blobs, space):
    features, queries = make_features(space, 16, 1), blobs[:40]
    places = np.asarray(retrieve(make_neighbours(bank.images, features), jax.vmap(features.describe)(queries), 5))
    describe = reference.DESCRIBE[space]
    keys = np.stack([describe(image) for image in bank.images.astype(np.float32)])
    distances = np.linalg.norm(np.stack([describe(query) for query in queries])[:, None] - keys, axis=2)
    found = np.take_along_axis(distances, places, axis=1)
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :5], rtol=1e-3)  # nearest first
    assert all(len(set(row)) == 5 for row in places.tolist())


def test_small_bank_gives_all_that_it_has(bank, blobs):
    features = make_features("structure", 16, 1)
    few = bank._replace(z=bank.z[:5], images=bank.images[:5])
    places = retrieve(make_neighbours(few.images, features), jax.vmap(features.describe)(blobs[:3]), 8)
    np.testing.assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(5), (3, 1)))
