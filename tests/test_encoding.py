"""The encoder: learns to invert the generator that it must leave alone, and goes on exactly where it was."""

import jax
import numpy as np
import optax
import pytest

from anogan_jax import (
    encoding_loss,
    from_encoder,
    make_encoder,
    make_encoder_scorer,
    make_encoder_step,
    make_search,
    make_search_scorer,
    score_images,
)
from anogan_jax.checkpoint import restore_state, save_state
from anogan_jax.encoding import init_encoder_state


@pytest.fixture(scope="module")
def training(gan, weights):
    optimizer = optax.adam(1e-3)
    state = init_encoder_state(gan, optimizer, jax.random.key(0), channels=1)
    return state, make_encoder_step(gan, weights, optimizer)


@pytest.fixture(scope="module")
def encoder(training, blobs):
    state, step = training
    state, rng = jax.tree.map(jax.numpy.copy, state), np.random.default_rng(0)
    for _ in range(300):
        state, metrics = step(state, blobs[rng.integers(0, len(blobs), 32)])
    assert metrics.encoder_loss < 0.05
    return state.encoder


def test_one_pass_tells_normal_from_anomalous(gan, weights, encoder, blobs):
    scorer = make_encoder_scorer(gan, make_encoder(gan), encoder, "pixels")
    queries = np.concatenate([blobs[:20], -blobs[:20]])
    scores = score_images(scorer, weights, queries)
    assert scores.score[:20].max() < scores.score[20:].min()
    np.testing.assert_allclose(
        scores.score, np.linalg.norm((queries - scores.generated).reshape(40, -1), axis=1), rtol=1e-5
    )
    assert score_images(scorer, weights, queries[3:4]).score[0] == scores.score[3]


def test_a_search_from_it_ends_below_it(gan, weights, encoder, blobs):
    before = score_images(make_encoder_scorer(gan, make_encoder(gan), encoder, "pixels"), weights, blobs[:8])
    starts = from_encoder(make_encoder(gan), encoder)
    after = score_images(make_search_scorer(make_search(gan, discrimination_weight=0.0), starts), weights, blobs[:8])
    residual = np.abs(blobs[:8] - before.generated).sum(axis=(1, 2, 3))
    assert (after.residual <= residual + 1e-4).all()
    assert after.residual.mean() < 0.8 * residual.mean()


def test_goes_on_where_it_was_saved(training, blobs, tmp_path):
    state, step = training
    straight = jax.tree.map(jax.numpy.copy, state)
    for _ in range(3):
        straight, _ = step(straight, blobs[:16])
    resumed = jax.tree.map(jax.numpy.copy, state)
    resumed, _ = step(resumed, blobs[:16])
    save_state(tmp_path, resumed)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), resumed)
    resumed = restore_state(tmp_path, like)
    for _ in range(2):
        resumed, _ = step(resumed, blobs[:16])
    for a, b in zip(jax.tree.leaves(straight.encoder), jax.tree.leaves(resumed.encoder), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_loss_is_that_of_izif(blobs):
    features = np.random.default_rng(0).normal(size=(2, 4, 2, 2, 3))
    loss = encoding_loss(blobs[:4], blobs[4:8], features[0], features[1], 0.5)
    expected = np.square(blobs[:4] - blobs[4:8]).mean() + 0.5 * np.square(features[0] - features[1]).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
