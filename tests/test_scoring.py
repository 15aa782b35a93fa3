"""An image's score depends on nothing but the image and the model."""

from functools import partial

import jax
import numpy as np
import pytest

from anogan_jax import cross_entropy_loss, latent_search, make_discriminator_score, make_search_score, score_images


@pytest.fixture(scope="module")
def batch_score(gan):
    return make_search_score(partial(latent_search, gan, steps=60))


@pytest.fixture(scope="module")
def queries(blobs):
    return np.concatenate([blobs[:20], -blobs[:17]])


def test_alone_or_in_any_batch_order_or_position(batch_score, weights, queries):
    """Bit for bit."""
    together = score_images(batch_score, weights, queries, batch_size=16)
    order = np.random.default_rng(0).permutation(len(queries))
    shuffled = score_images(batch_score, weights, queries[order], batch_size=16)
    for ours, theirs in zip(together, shuffled, strict=True):
        np.testing.assert_array_equal(ours[order], theirs)
    for i in (0, 7, 36):
        alone = score_images(batch_score, weights, queries[i : i + 1], batch_size=16)
        assert alone.score[0] == together.score[i]


def test_nothing_is_carried_from_one_query_to_the_next(batch_score, weights, queries):
    """The same query gives the same bits whatever was scored before it."""
    before = score_images(batch_score, weights, queries[:1], batch_size=16)
    for start in (1, 17):
        score_images(batch_score, weights, queries[start : start + 16], batch_size=16)
    after = score_images(batch_score, weights, queries[:1], batch_size=16)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_batch_size_does_not_matter(batch_score, weights, queries):
    reference = score_images(batch_score, weights, queries, batch_size=16).score
    for batch_size in (1, 5, 64):
        scores = score_images(batch_score, weights, queries, batch_size=batch_size).score
        np.testing.assert_allclose(scores, reference, rtol=1e-6)  # 1e-4 is promised


def test_every_image_is_scored_exactly_once_and_the_search_compiles_once(gan, weights, queries):
    batch_score = make_search_score(partial(latent_search, gan, steps=2))
    many = np.tile(queries, (4, 1, 1, 1))
    for count in (1, 32, 33, 64, 65, 148):
        scores = score_images(batch_score, weights, many[:count], batch_size=64)
        assert all(len(field) == count for field in scores)
    assert batch_score._cache_size() == 1


def test_anomalies_score_higher(batch_score, weights, queries):
    scores = score_images(batch_score, weights, queries, batch_size=16).score
    assert scores[:20].max() < scores[20:].min()


def test_discriminator_score_is_its_cross_entropy(gan, weights, queries):
    scores = score_images(make_discriminator_score(gan), weights, queries, batch_size=16)
    logits, _ = gan.discriminator.apply(weights.discriminator, queries, train=False)
    np.testing.assert_allclose(scores.score, jax.vmap(cross_entropy_loss)(logits), rtol=1e-4)


def test_integer_images_are_refused(batch_score, weights, queries):
    with pytest.raises(ValueError, match="floats"):
        score_images(batch_score, weights, np.zeros((2, 16, 16, 1), np.uint8))
