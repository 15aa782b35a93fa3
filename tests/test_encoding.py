"""The encoder: it learns to invert the frozen generator, and resumes exactly."""

import jax
import numpy as np
import optax
import pytest

from anogan_jax import (
    Model,
    encoding_loss,
    init_network_state,
    make_encoder,
    make_encoder_loss,
    make_features,
    make_network_step,
    make_scorer,
    make_search,
    score_images,
)
from anogan_jax.checkpoint import restore_state, save_state


@pytest.fixture(scope="module")
def training(gan, weights):
    optimizer = optax.adam(1e-3)
    state = init_network_state(make_encoder(gan), optimizer, jax.random.key(0), channels=1)
    return state, make_network_step(make_encoder_loss(gan, weights), optimizer)


@pytest.fixture(scope="module")
def trained(training, blobs, weights):
    """The weights with an encoder trained for 300 steps."""
    state, step = training
    state, rng = jax.tree.map(jax.numpy.copy, state), np.random.default_rng(0)
    for _ in range(300):
        state, metrics = step(state, blobs[rng.integers(0, len(blobs), 32)])
    assert metrics.loss < 0.05
    return Model(weights, state.network)


def bind(gan, steps):
    pixels = make_features("pixels", 16, 1)
    search = make_search(gan, pixels, steps=steps, learning_rate=1.0)
    return make_scorer(gan, search, start="encoder", encoder=make_encoder(gan))


def test_reconstruction_distinguishes_normal_from_anomalous_images(gan, trained, blobs):
    scores = score_images(bind(gan, 0), trained, np.concatenate([blobs[:20], -blobs[:20]])).score
    assert scores[:20].max() < scores[20:].min()


def test_search_that_starts_at_the_encoders_z_ends_below_it(gan, trained, blobs):
    before, after = (score_images(bind(gan, steps), trained, blobs[:8]).residual for steps in (0, 60))
    assert (after <= before * (1 + 1e-5)).all()
    assert after.mean() < 0.8 * before.mean()


def test_training_resumes_exactly(training, blobs, tmp_path):
    state, step = training
    straight = jax.tree.map(jax.numpy.copy, state)
    for _ in range(3):
        straight, _ = step(straight, blobs[:32])
    resumed = jax.tree.map(jax.numpy.copy, state)
    resumed, _ = step(resumed, blobs[:32])
    save_state(tmp_path, resumed)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), resumed)
    resumed = restore_state(tmp_path, like)
    for _ in range(2):
        resumed, _ = step(resumed, blobs[:32])
    for a, b in zip(jax.tree.leaves(straight.network), jax.tree.leaves(resumed.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loss_agrees_with_numpy(blobs):
    features = np.random.default_rng(0).normal(size=(2, 4, 2, 2, 3))
    loss = encoding_loss(blobs[:4], blobs[4:8], features[0], features[1], 0.5)
    expected = np.square(blobs[:4] - blobs[4:8]).mean() + 0.5 * np.square(features[0] - features[1]).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
