"""The latent search: it finds generated images, stays where the prior has its mass and returns its best point."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from conftest import discriminate, generate

from anogan_jax import draw_bank, feature_matching_loss, make_features, make_gan, make_index, make_search, retrieve
from anogan_jax.models import project, sample_latent

PIXELS = make_features("pixels", 16, 1)


def search_all(gan, weights, images, features=PIXELS, starts=None, learning_rate=1.0, **settings):
    """Search from one random start for each image, always the same."""
    starts = sample_latent(gan, jax.random.key(0), (len(images),)) if starts is None else starts
    run = make_search(gan, features, learning_rate=learning_rate, **settings).run
    return jax.jit(jax.vmap(run, in_axes=(None, 0, 0)))(weights, images, starts)


def test_generated_images_are_found_again(gan, weights):
    """Queries G(z*): nine in ten end with under 5 % of the residual that a random image leaves."""
    queries = generate(
        gan, weights.generator, jax.vmap(lambda z: project(gan, z))(sample_latent(gan, jax.random.key(1), (32,)))
    )
    others = generate(gan, weights.generator, sample_latent(gan, jax.random.key(2), (32,)))
    random = jnp.abs(queries - others).sum(axis=(1, 2, 3)).mean()
    index = make_index(draw_bank(gan, weights, jax.random.key(3), 1024), PIXELS)
    places = retrieve(index.neighbours, jax.vmap(PIXELS.describe)(queries), 1)[:, 0]
    found = search_all(gan, weights, queries, starts=index.z[places], steps=64)
    assert np.mean(found.residual < 0.05 * random) >= 0.9


@pytest.mark.parametrize("space", ["pixels", "structure"])
def test_terms_agree_with_numpy(space, gan, weights, blobs):
    images, features = blobs[:4], make_features(space, 16, 1)
    found = search_all(
        gan, weights, images, features, steps=5, learning_rate=0.1, discrimination_weight=0.3, feature_layer=0
    )
    np.testing.assert_allclose(found.image, generate(gan, weights.generator, found.z), atol=1e-5)
    describe = reference.DESCRIBE[space]
    pairs = zip(images, np.asarray(found.image), strict=True)
    residual = [reference.distance(space, describe(one), describe(other)) for one, other in pairs]
    np.testing.assert_allclose(found.residual, residual, rtol=1e-4)
    layers = [discriminate(gan, weights.discriminator, each)[1][0] for each in (images, found.image)]
    np.testing.assert_allclose(found.discrimination, jax.vmap(feature_matching_loss)(*layers), rtol=1e-4)
    np.testing.assert_allclose(found.loss, 0.7 * found.residual + 0.3 * found.discrimination, rtol=1e-5)


def test_cross_entropy_is_of_the_generated_image(gan, weights, blobs):
    found = search_all(gan, weights, blobs[:4], steps=5, discrimination="cross_entropy", discrimination_weight=0.1)
    logits, _ = discriminate(gan, weights.discriminator, found.image)
    np.testing.assert_allclose(found.discrimination, np.log1p(np.exp(-np.asarray(logits))), rtol=1e-4)


def test_adam_search_is_optax_adam_with_projection(gan, weights, blobs):
    """Against a loop that is not compiled as one: the best of all visited points."""
    image = jnp.asarray(blobs[0])

    @jax.jit
    @jax.value_and_grad
    def loss(z):
        return jnp.abs(image - generate(gan, weights.generator, z[None])[0]).sum()

    z = project(gan, sample_latent(gan, jax.random.key(0), (1,))[0])
    optimizer = optax.adam(0.1)
    state, visited = optimizer.init(z), []
    for _ in range(6):
        value, gradient = loss(z)
        visited.append((float(value), z))
        update, state = optimizer.update(gradient, state)
        z = project(gan, z + update)
    visited.append((float(loss(z)[0]), z))
    value, best = min(visited, key=lambda pair: pair[0])
    found = search_all(gan, weights, blobs[:1], steps=6, optimizer="adam", learning_rate=0.1)
    np.testing.assert_allclose(found.loss[0], value, rtol=1e-4)
    np.testing.assert_allclose(found.z[0], best, atol=1e-3)


def test_more_steps_never_end_higher(gan, weights, blobs):
    short, long = (
        search_all(gan, weights, blobs[:32], steps=steps, optimizer="adam", learning_rate=0.1).loss
        for steps in (3, 100)
    )
    assert np.all(long <= short * (1 + 1e-5))
    assert long.mean() < 0.8 * short.mean()


def test_best_point_visited_is_returned(gan, weights, blobs):
    """With far too high a learning rate no result is worse than its start, and a start that is the solution is kept."""
    starts = jax.vmap(lambda z: project(gan, z))(sample_latent(gan, jax.random.key(0), (32,)))
    images = jnp.concatenate([blobs[:16], generate(gan, weights.generator, starts)[16:]])
    at_start = search_all(gan, weights, images, starts=starts, steps=0)
    np.testing.assert_allclose(at_start.z, starts, rtol=1e-6)
    found = search_all(gan, weights, images, starts=starts, steps=5, learning_rate=50.0)
    assert np.all(found.loss <= at_start.loss * (1 + 1e-5) + 1e-3)
    np.testing.assert_array_equal(found.z[16:], at_start.z[16:])


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_z_stays_where_the_prior_has_its_mass(prior, gan, weights, blobs):
    gan = gan._replace(latent_prior=prior)
    z = np.asarray(search_all(gan, weights, -blobs[:32], steps=30, learning_rate=5.0).z)
    if prior == "uniform":
        assert 0.99 < np.abs(z).max() <= 1
    else:
        radius = gan.latent_size**0.5
        assert 0.99 * radius < np.linalg.norm(z, axis=1).max() <= radius * (1 + 1e-5)


def test_projection_leaves_points_inside_as_they_are():
    gan = make_gan(8, 1, latent_size=9)
    np.testing.assert_array_equal(project(gan, jnp.full(9, 0.5)), jnp.full(9, 0.5))
    assert float(jnp.linalg.norm(project(gan, jnp.full(9, 7.0)))) == pytest.approx(3.0)
    assert np.isfinite(project(gan, jnp.zeros(9))).all()


def test_image_that_is_met_exactly_gives_a_finite_result(gan, weights):
    """The start is the solution: there every residual's gradient is degenerate."""
    z = jax.vmap(lambda z: project(gan, z))(sample_latent(gan, jax.random.key(4), (4,)))
    features = make_features("structure", 16, 1)
    found = search_all(
        gan, weights, generate(gan, weights.generator, z), features, starts=z, steps=9, learning_rate=0.1
    )
    assert np.isfinite(found.z).all()
    assert np.all(found.loss < 1e-3)


@pytest.mark.parametrize("settings", [{"discrimination": "sigmoid"}, {"optimizer": "sgd"}])
def test_unknown_settings_are_refused(gan, settings):
    with pytest.raises(KeyError, match=r"sigmoid|sgd"):
        make_search(gan, PIXELS, steps=1, **settings)
