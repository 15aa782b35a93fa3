"""The bank: latent vectors with their generated images, among which a query's nearest neighbours are retrieved."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from anogan_jax.features import Features
from anogan_jax.models import GAN, Weights, sample_latent
from anogan_jax.search import project

_BATCH = 256  # images generated or described at a time: a fixed shape, whatever the size of the bank


class Bank(NamedTuple):
    """B latent vectors and the images that the generator makes of them."""

    z: np.ndarray  # (B, latent) float32
    images: np.ndarray  # (B, S, S, C) float16 G(z), in [-1, 1]


class Index(NamedTuple):
    """A bank prepared for retrieval: everything that does not depend on the query."""

    z: Array  # (B, latent)
    images: Array  # (B, S, S, C) float32
    features: Array  # (B, F)
    squares: Array  # (B,) squared norms of the features


def draw_bank(gan: GAN, weights: Weights, key: Array, size: int) -> Bank:
    """Draw ``size`` latent vectors from the prior, projected to where the search may go, with their images."""

    @jax.jit
    def draw(weights: Weights, key: Array) -> tuple[Array, Array]:
        z = jax.vmap(partial(project, gan))(sample_latent(gan, key, (_BATCH,)))
        images: Any = gan.generator.apply(weights.generator, z, train=False)
        return z, images.astype(jnp.float16)

    drawn = [draw(weights, each) for each in jax.random.split(key, -(-size // _BATCH))]
    z, images = (np.concatenate(parts)[:size] for parts in zip(*jax.device_get(drawn), strict=True))
    return Bank(z, images)


def make_index(bank: Bank, features: Features) -> Index:
    """Describe a bank in a feature space."""
    images = jnp.asarray(bank.images, jnp.float32)
    described = jax.jit(lambda images: lax.map(features.describe, images, batch_size=_BATCH))(images)
    return Index(jnp.asarray(bank.z), images, described, jnp.sum(described**2, axis=1))


def retrieve(index: Index, described: Array, count: int) -> Array:
    """Return the places (N, count) in the bank of the nearest neighbours of N queries, nearest first.

    Args:
      index: of B images.
      described: (N, F) the queries' features; the distance is Euclidean.
      count: how many; a smaller bank gives all it has.
    """
    nearness = 2.0 * described @ index.features.T - index.squares[None]
    return lax.top_k(nearness, min(count, len(index.squares)))[1]
