"""The latent search: it finds, it stays, it remembers nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anogan_jax import feature_matching_loss, latent_search, make_gan, sample_latent
from anogan_jax.search import project


def generate(gan, weights, z):
    return gan.generator.apply(weights.generator, z, train=False)


def searched(gan, weights, images, key=0, **settings):
    keys = jax.random.split(jax.random.key(key), len(images))
    search = jax.jit(jax.vmap(partial(latent_search, gan, **settings), in_axes=(None, 0, 0)))
    return search(weights, images, keys)


def test_a_generated_image_is_found_again(gan, weights):
    """Queries G(z*): the residual ends under 5 % of what a random z leaves, for at least 9 of 10."""
    queries = generate(gan, weights, jax.vmap(partial(project, gan))(sample_latent(gan, jax.random.key(1), (40,))))
    others = generate(gan, weights, sample_latent(gan, jax.random.key(2), (40,)))
    start = jnp.abs(queries - others).sum(axis=(1, 2, 3)).mean()
    found = searched(gan, weights, queries, steps=300, restarts=4)
    assert np.mean(found.residual < 0.05 * start) >= 0.9


def test_the_terms_are_those_of_the_paper(gan, weights, blobs):
    found = searched(gan, weights, blobs[:4], steps=5, discrimination_weight=0.3, feature_layer=0)
    np.testing.assert_allclose(found.generated, generate(gan, weights, found.z), atol=1e-5)
    np.testing.assert_allclose(found.residual, np.abs(blobs[:4] - found.generated).sum((1, 2, 3)), rtol=1e-5)
    features = [
        gan.discriminator.apply(weights.discriminator, x, train=False)[1][0] for x in (blobs[:4], found.generated)
    ]
    expected = jax.vmap(feature_matching_loss)(*features)
    np.testing.assert_allclose(found.discrimination, expected, rtol=1e-4)
    np.testing.assert_allclose(found.loss, 0.7 * found.residual + 0.3 * found.discrimination, rtol=1e-5)


def test_cross_entropy_is_of_the_generated_image(gan, weights, blobs):
    found = searched(gan, weights, blobs[:4], steps=5, discrimination="cross_entropy")
    logits, _ = gan.discriminator.apply(weights.discriminator, found.generated, train=False)
    np.testing.assert_allclose(found.discrimination, np.log1p(np.exp(-np.asarray(logits))), rtol=1e-4)


def test_more_steps_and_more_restarts_never_end_higher(gan, weights, blobs):
    """The first start is among the restarts' keys only by chance, so compare means."""
    few, many = (searched(gan, weights, blobs[:32], steps=30, restarts=n).loss.mean() for n in (1, 6))
    assert many < few
    short, long = (searched(gan, weights, blobs[:32], steps=n).loss.mean() for n in (3, 100))
    assert long < 0.7 * short


def test_the_best_point_visited_is_returned(gan, weights, blobs):
    """Under a rate that throws z about, the last point is rarely the best: the result is no worse than the start."""
    starts = searched(gan, weights, blobs[:32], steps=1, learning_rate=1e-9).loss
    thrown = searched(gan, weights, blobs[:32], steps=2, learning_rate=50.0).loss
    assert np.all(thrown <= starts * (1 + 1e-5))


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_z_stays_where_the_prior_has_its_mass(prior, gan, weights, blobs):
    gan = gan._replace(latent_prior=prior)
    z = np.asarray(searched(gan, weights, -blobs[:16], steps=60, learning_rate=1.0).z)
    if prior == "uniform":
        assert np.abs(z).max() <= 1
    else:
        assert np.linalg.norm(z, axis=1).max() <= gan.latent_size**0.5 * (1 + 1e-5)


def test_the_default_search_can_cross_the_prior():
    """Reach: under a constant gradient Adam moves z farther than the prior is wide."""
    import inspect

    import optax

    defaults = {name: p.default for name, p in inspect.signature(latent_search).parameters.items()}
    schedule = optax.cosine_decay_schedule(defaults["learning_rate"], defaults["steps"])
    assert sum(float(schedule(i)) for i in range(0, defaults["steps"], 10)) * 10 > 5


def test_an_unknown_discrimination_is_refused(gan, weights, blobs):
    with pytest.raises(ValueError, match="discrimination must be"):
        latent_search(gan, weights, blobs[0], jax.random.key(0), discrimination="sigmoid")


def test_projection_keeps_what_is_inside():
    gan = make_gan(8, 1, latent_size=9)
    np.testing.assert_array_equal(project(gan, jnp.full(9, 0.5)), jnp.full(9, 0.5))
    assert float(jnp.linalg.norm(project(gan, jnp.full(9, 7.0)))) == pytest.approx(3.0)
