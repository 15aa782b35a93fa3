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
    keys: Array  # (B, K) retrieval features
    squares: Array  # (B,) squared norms of the keys
    features: Array  # (B, F) features that are compared


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


def make_index(bank: Bank, retrieval: Features, features: Features) -> Index:
    """Describe a bank in the feature space of retrieval and in that of comparison."""
    images = jnp.asarray(bank.images, jnp.float32)
    keys, described = (_describe(space, images) for space in (retrieval, features))
    return Index(jnp.asarray(bank.z), images, keys, jnp.sum(keys**2, axis=1), described)


def retrieve(index: Index, keys: Array, count: int) -> Array:
    """Return the places (N, count) in the bank of the nearest neighbours of N queries, nearest first.

    Args:
      index: of B images.
      keys: (N, K) the queries' retrieval features; the distance is Euclidean.
      count: how many; a smaller bank gives all it has.
    """
    nearness = 2.0 * keys @ index.keys.T - index.squares[None]
    return lax.top_k(nearness, min(count, len(index.squares)))[1]


def _describe(features: Features, images: Array) -> Array:
    return jax.jit(lambda images: lax.map(features.describe, images, batch_size=_BATCH))(images)
