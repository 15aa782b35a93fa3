"""Every loss agrees with float64 NumPy, written from the formulas alone."""

import numpy as np

from anogan_jax import (
    critic_generator_loss,
    critic_loss,
    cross_entropy_loss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(size=(2, 64)) * 8
X, G = RNG.uniform(-1, 1, (2, 16, 16, 3))


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def agree(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def f32(array):
    return array.astype(np.float32)


def test_discriminator_loss():
    expected = -np.mean(np.log(sigmoid(REAL))) - np.mean(np.log(1 - sigmoid(FAKE)))
    agree(discriminator_loss(f32(REAL), f32(FAKE)), expected)


def test_generator_loss():
    agree(generator_loss(f32(FAKE)), -np.mean(np.log(sigmoid(FAKE))))


def test_critic_losses():
    agree(critic_loss(f32(REAL), f32(FAKE)), FAKE.mean() - REAL.mean())
    agree(critic_generator_loss(f32(FAKE)), -FAKE.mean())


def test_feature_matching_loss():
    agree(feature_matching_loss(f32(X), f32(G)), np.abs(X - G).sum())


def test_cross_entropy_loss():
    for logit in FAKE:
        agree(cross_entropy_loss(f32(logit)), -np.log(sigmoid(logit)))


def test_extreme_logits_stay_finite():
    assert np.isfinite(discriminator_loss(f32(np.array([-1e4])), f32(np.array([1e4]))))
    agree(cross_entropy_loss(np.float32(-1e4)), 1e4)
