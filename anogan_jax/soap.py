"""Adam along the directions in which a gradient's components are uncorrelated: SOAP, for one vector.

Vyas et al. 2024, arXiv 2409.11321; Adam is it with the coordinates' own directions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

_DECAY = 0.9  # of both averages; with a longer or shorter memory of squares a latent search of 64 steps ends higher
_EPSILON = 1e-8


class SoapState(NamedTuple):
    """What was learnt about the gradient, a vector of n components."""

    updates: Array  # () int32, done so far
    mean: Array  # (n,)
    covariance: Array  # (n, n), about zero
    basis: Array  # (n, n) columns are the directions
    squares: Array  # (n,) the covariance's diagonal in the basis


def soap(rate: optax.Schedule) -> optax.GradientTransformation:
    """Steps in the basis of the state, which stays until it is ``turned``."""

    def init(z: Array) -> SoapState:
        nothing = jnp.zeros_like(z)
        return SoapState(jnp.int32(0), nothing, jnp.zeros((len(z), len(z))), jnp.eye(len(z)), nothing)

    def update(gradient: Array, state: SoapState, _: Array | None = None) -> tuple[Array, SoapState]:
        mean = _DECAY * state.mean + (1 - _DECAY) * gradient
        covariance = _DECAY * state.covariance + (1 - _DECAY) * jnp.outer(gradient, gradient)
        squares = _DECAY * state.squares + (1 - _DECAY) * (gradient @ state.basis) ** 2
        step = state.basis @ (mean @ state.basis / (jnp.sqrt(squares) + _EPSILON))
        updates = state.updates + 1
        begun = jnp.sqrt(1 - _DECAY**updates)  # what both averages' start at zero leaves of their ratio
        return -rate(state.updates) / begun * step, SoapState(updates, mean, covariance, state.basis, squares)

    return optax.GradientTransformation(init, update)


def turned(state: SoapState) -> SoapState:
    """The basis turned towards the covariance's eigenvectors, by one step of the power iteration."""
    basis, _ = jnp.linalg.qr(state.covariance @ state.basis)
    squares = jnp.sum(basis * (state.covariance @ basis), axis=0)
    return state._replace(basis=basis, squares=jax.nn.relu(squares))  # rounding may leave less than nothing
