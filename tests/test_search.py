"""The latent search: it finds, it stays, it remembers nothing."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anogan_jax import (
    feature_matching_loss,
    latent_search,
    make_bank,
    make_gan,
    make_search,
    nearest,
    sample_latent,
)
from anogan_jax.bank import _lengthened, place_bank
from anogan_jax.search import project


def generate(gan, weights, z):
    return gan.generator.apply(weights.generator, z, train=False)


def searched(gan, weights, images, key=0, **settings):
    starts = sample_latent(gan, jax.random.key(key), (len(images),))
    search = jax.jit(jax.vmap(partial(latent_search, gan, **settings), in_axes=(None, 0, 0)))
    return search(weights, images, starts)


def test_a_generated_image_is_found_again(gan, weights):
    """Queries G(z*), from the nearest of 1,024: the residual ends under 5 % of what a random z leaves, for 9 of 10."""
    queries = generate(gan, weights, jax.vmap(partial(project, gan))(sample_latent(gan, jax.random.key(1), (40,))))
    others = generate(gan, weights, sample_latent(gan, jax.random.key(2), (40,)))
    start = jnp.abs(queries - others).sum(axis=(1, 2, 3)).mean()
    z = nearest([make_bank(gan, weights, jax.random.key(3), 1024)], queries, 1)[:, 0]
    search = jax.jit(jax.vmap(partial(latent_search, gan), in_axes=(None, 0, 0)))
    assert np.mean(search(weights, queries, z).residual < 0.05 * start) >= 0.9


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


def test_more_steps_never_end_higher(gan, weights, blobs):
    short, long = (searched(gan, weights, blobs[:32], steps=n, tolerance=0, plain=True).loss for n in (3, 100))
    assert np.all(long <= short * (1 + 1e-5))
    assert long.mean() < 0.7 * short.mean()


def test_the_best_point_visited_is_returned(gan, weights, blobs):
    """Under a rate that throws z about, the last point is rarely the best: the result is no worse than the start."""
    starts = searched(gan, weights, blobs[:32], steps=1).loss
    thrown = searched(gan, weights, blobs[:32], steps=2, learning_rate=50.0).loss
    assert np.all(thrown <= starts * (1 + 1e-5))


def test_it_stops_where_eight_steps_gain_too_little(gan, weights, blobs):
    """The looser the tolerance the sooner, and never at the cost of more than it allows."""
    whole = searched(gan, weights, blobs[:32], steps=400, tolerance=0).loss
    loose = searched(gan, weights, blobs[:32], steps=400, tolerance=0.05).loss
    assert np.any(loose > whole)
    assert loose.mean() < 1.3 * whole.mean()


def test_it_never_stops_in_the_first_half(gan, weights, blobs):
    """While the rate is high, eight steps without gain say little: not even where no gain would be enough."""
    search = make_search(gan, steps=40, tolerance=1e9)
    descent = search.begin(weights, blobs[0], jnp.zeros(gan.latent_size))
    advance = jax.jit(search.advance)
    while not descent.done:
        descent = advance(weights, descent)
    assert int(descent.steps) == 24


def test_a_round_turns_the_directions_that_the_next_follows(gan, weights, blobs):
    search = make_search(gan)
    descent = jax.jit(search.advance)(weights, search.begin(weights, blobs[0], jnp.ones(gan.latent_size)))
    basis = np.asarray(descent.moments.basis)
    np.testing.assert_allclose(basis.T @ basis, np.eye(gan.latent_size), atol=1e-5)
    assert np.abs(np.abs(basis) - np.eye(gan.latent_size)).max() > 0.1


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_z_stays_where_the_prior_has_its_mass(prior, gan, weights, blobs):
    gan = gan._replace(latent_prior=prior)
    z = np.asarray(searched(gan, weights, -blobs[:16], steps=60, learning_rate=1.0).z)
    if prior == "uniform":
        assert np.abs(z).max() <= 1
    else:
        assert np.linalg.norm(z, axis=1).max() <= gan.latent_size**0.5 * (1 + 1e-5)


def test_an_unknown_discrimination_is_refused(gan, weights, blobs):
    with pytest.raises(ValueError, match="discrimination must be"):
        latent_search(gan, weights, blobs[0], jnp.zeros(4), discrimination="sigmoid")


def test_projection_keeps_what_is_inside():
    gan = make_gan(8, 1, latent_size=9)
    np.testing.assert_array_equal(project(gan, jnp.full(9, 0.5)), jnp.full(9, 0.5))
    assert float(jnp.linalg.norm(project(gan, jnp.full(9, 7.0)))) == pytest.approx(3.0)


def test_the_nearest_of_the_bank_are_the_nearest(gan, weights, blobs):
    """Against NumPy, in one block or in several of unequal size, closest first."""
    bank = make_bank(gan, weights, jax.random.key(0), 5000)
    z, images = np.asarray(bank.z)[:5000], np.asarray(bank.images)[:5000]
    differences = images[None] - blobs[:5, None]
    residuals, squares = np.abs(differences).sum(axis=(2, 3, 4)), np.square(differences).sum(axis=(2, 3, 4))
    for edges in ((0, 5000), (0, 4000, 4002, 5000)):
        parts = list(pairwise(edges))
        # Of every chunk of a block the 64 closest in squared distance are looked at.
        chunks = [(a, min(a + 4096, end)) for start, end in parts for a in range(start, end, 4096)]
        expected = []
        for i in range(5):
            short = np.concatenate([a + np.argsort(squares[i, a:b])[:64] for a, b in chunks])
            expected.append(z[short[np.argsort(residuals[i, short])[:3]]])
        found = nearest([place_bank(z[a:b], images[a:b]) for a, b in parts], blobs[:5], 3)
        np.testing.assert_array_equal(found, expected)


def test_a_bank_holds_what_its_z_generate(gan, weights):
    bank = make_bank(gan, weights, jax.random.key(0), 300)
    assert np.isfinite(bank.squares).sum() == 300
    np.testing.assert_allclose(bank.images[:300:50], generate(gan, weights, bank.z[:300:50]), atol=1e-3)
    np.testing.assert_allclose(bank.squares[:300], np.square(bank.images[:300]).sum((1, 2, 3)), rtol=1e-5)
    assert np.linalg.norm(bank.z, axis=1).max() <= gan.latent_size**0.5 * (1 + 1e-5)


def test_a_bank_begins_where_jax_need_not_copy_it():
    for rows in range(1, 20):
        bank = _lengthened(np.ones((rows, 3)), rows + 2, 7.0)
        assert bank.ctypes.data % 64 == 0
        np.testing.assert_array_equal(bank, np.r_[np.ones((rows, 3)), np.full((2, 3), 7.0)])


def test_a_prior_keeps_z_nearer_to_where_it_is_likely(gan, weights, blobs):
    start = sample_latent(gan, jax.random.key(0))
    free, kept = (
        jax.jit(partial(latent_search, gan, steps=60, prior_weight=weight))(weights, -blobs[0], start)
        for weight in (0.0, 50.0)
    )
    assert np.linalg.norm(kept.z) < 0.7 * np.linalg.norm(free.z)
    assert kept.loss >= free.loss
