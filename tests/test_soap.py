"""The optimiser SOAP: it starts as Adam, finds the eigenvectors, and is faster in an oblique valley."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anogan_jax.soap import rotate, soap


def test_soap_without_rotation_is_adam():
    """The initial basis is the identity."""
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


def test_basis_converges_to_the_eigenvectors():
    """For a constant covariance; the squares become its eigenvalues, and the basis stays orthonormal."""
    scales = np.array([4.0, 2.0, 1.0, 0.5])
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    state = soap(lambda _: 0.1).init(jnp.zeros(4))._replace(covariance=jnp.asarray(rotation * scales @ rotation.T))
    for _ in range(60):
        state = rotate(state)
    np.testing.assert_allclose(np.abs(rotation.T @ state.basis), np.eye(4), atol=1e-4)
    np.testing.assert_allclose(state.squares, scales, rtol=1e-4)
    np.testing.assert_allclose(state.basis.T @ state.basis, np.eye(4), atol=1e-5)


def test_zero_gradients_leave_the_basis_as_it_is():
    """As for an image that the generator makes exactly."""
    state = rotate(soap(lambda _: 0.1).init(jnp.zeros(3)))
    np.testing.assert_array_equal(np.abs(state.basis), np.eye(3))


def test_oblique_valley_is_descended_faster_than_by_adam():
    """A sum of absolute values, as a search minimises it, in mixed coordinates of unequal scale."""
    keys = jax.random.split(jax.random.key(0))
    mixed = jax.random.normal(keys[0], (200, 8)) @ jnp.diag(jnp.logspace(0, -2, 8))
    mixed = mixed @ jax.random.orthogonal(keys[1], 8)
    gradient = jax.jit(jax.grad(lambda z: jnp.abs(mixed @ (z - 1)).sum()))

    def loss_after_64_steps(optimizer, every_eighth):
        z, state, update = jnp.zeros(8), optimizer.init(jnp.zeros(8)), jax.jit(optimizer.update)
        for i in range(64):
            step, state = update(gradient(z), state)
            z = z + step
            if i % 8 == 7:
                state = every_eighth(state)
        return float(jnp.abs(mixed @ (z - 1)).sum())

    rate = optax.cosine_decay_schedule(0.5, 64)
    adam = loss_after_64_steps(optax.adam(rate), lambda state: state)
    assert loss_after_64_steps(soap(rate), rotate) < 0.5 * adam
