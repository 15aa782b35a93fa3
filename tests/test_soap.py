"""The optimiser of the latent search, against Adam and where Adam is slow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anogan_jax.soap import soap, turned


def test_without_a_turn_it_is_adam():
    """The basis is at first the coordinates' own."""
    ours, adam = soap(lambda _: 0.1), optax.adam(0.1, b1=0.9, b2=0.9)
    z = jnp.arange(1.0, 6.0)
    states = [ours.init(z), adam.init(z)]
    for key in jax.random.split(jax.random.key(0), 10):
        gradient = jax.random.normal(key, z.shape)
        steps = []
        for i, optimizer in enumerate((ours, adam)):
            step, states[i] = optimizer.update(gradient, states[i])
            steps.append(step)
        np.testing.assert_allclose(*steps, rtol=1e-4)


def test_the_basis_turns_to_the_eigenvectors():
    """Against NumPy, of a covariance that stays; the squares are its eigenvalues, and the basis stays orthonormal."""
    scales = np.array([4.0, 2.0, 1.0, 0.5])
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    state = soap(lambda _: 0.1).init(jnp.zeros(4))._replace(covariance=jnp.asarray(rotation * scales @ rotation.T))
    for _ in range(60):
        state = turned(state)
    np.testing.assert_allclose(np.abs(rotation.T @ state.basis), np.eye(4), atol=1e-4)
    np.testing.assert_allclose(state.squares, scales, rtol=1e-4)
    np.testing.assert_allclose(state.basis.T @ state.basis, np.eye(4), atol=1e-5)


def test_nothing_learnt_is_no_reason_to_turn():
    """A gradient of zero so far, as of a query that is met exactly."""
    state = turned(soap(lambda _: 0.1).init(jnp.zeros(3)))
    np.testing.assert_array_equal(np.abs(state.basis), np.eye(3))


def test_a_narrow_valley_askew_is_descended_faster_than_by_adam():
    """The sum of absolute values that a search minimises, in coordinates that are mixed and of unequal scale."""
    keys = jax.random.split(jax.random.key(0))
    mixed = jax.random.normal(keys[0], (200, 8)) @ jnp.diag(jnp.logspace(0, -2, 8))
    mixed = mixed @ jax.random.orthogonal(keys[1], 8)
    gradient = jax.grad(lambda z: jnp.abs(mixed @ (z - 1)).sum())

    def lost(optimizer, after_eight):
        z, state = jnp.zeros(8), optimizer.init(jnp.zeros(8))
        for i in range(64):
            step, state = optimizer.update(gradient(z), state)
            z = z + step
            if i % 8 == 7:
                state = after_eight(state)
        return float(jnp.abs(mixed @ (z - 1)).sum())

    rate = optax.cosine_decay_schedule(0.5, 64)
    assert lost(soap(rate), turned) < 0.5 * lost(optax.adam(rate), lambda state: state)
