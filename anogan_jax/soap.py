"""SOAP for one vector: Adam in the eigenbasis of the gradient's covariance (Vyas et al. 2024, arXiv 2409.11321)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

_DECAY = 0.9  # of both averages; with a longer or shorter memory a search of 64 steps ends at a higher loss
_EPSILON = 1e-8


class SoapState(NamedTuple):
    """Statistics of the gradient, a vector of n components."""

    updates: Array  # () int32, number of updates so far
    mean: Array  # (n,)
    covariance: Array  # (n, n) second moments, about zero
    basis: Array  # (n, n) columns are the directions
    squares: Array  # (n,) the covariance's diagonal in the basis


def soap(rate: optax.Schedule) -> optax.GradientTransformation:
    """Return the optimiser. Its basis starts as the identity, which is Adam, and changes only in ``rotate``.

    Args:
      rate: the learning rate by the number of updates.
    """

    def init(z: Array) -> SoapState:
        nothing = jnp.zeros_like(z)
        return SoapState(jnp.int32(0), nothing, jnp.zeros((len(z), len(z))), jnp.eye(len(z)), nothing)

    def update(gradient: Array, state: SoapState, _: Array | None = None) -> tuple[Array, SoapState]:
        mean = _DECAY * state.mean + (1 - _DECAY) * gradient
        covariance = _DECAY * state.covariance + (1 - _DECAY) * jnp.outer(gradient, gradient)
        squares = _DECAY * state.squares + (1 - _DECAY) * (gradient @ state.basis) ** 2
        step = state.basis @ (mean @ state.basis / (jnp.sqrt(squares) + _EPSILON))
        updates = state.updates + 1
        begun = jnp.sqrt(1 - _DECAY**updates)  # bias correction of both averages together
        return -rate(state.updates) / begun * step, SoapState(updates, mean, covariance, state.basis, squares)

    return optax.GradientTransformation(init, update)


def rotate(state: SoapState) -> SoapState:
    """Rotate the basis towards the covariance's eigenvectors, by one step of the power iteration."""
    basis, _ = jnp.linalg.qr(state.covariance @ state.basis)
    squares = jnp.sum(basis * (state.covariance @ basis), axis=0)
    return state._replace(basis=basis, squares=jax.nn.relu(squares))  # rounding can make it negative
