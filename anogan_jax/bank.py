"""A bank of generated images: the nearest to a query is a better start than hundreds of steps from a random z."""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from anogan_jax.models import GAN, Weights, sample_latent
from anogan_jax.search import project

_BLOCK = 256  # images generated at a time


class Bank(NamedTuple):
    """B generated images with the z that made them."""

    z: Array  # (B, latent)
    images: Array  # (B, S, S, C) float32 in [-1, 1], of half precision, to be kept in half the space


@partial(jax.jit, static_argnums=(0, 3))
def make_bank(gan: GAN, weights: Weights, key: Array, size: int) -> Bank:
    """Draws ``size`` images, the z where the search may go (see ``project``)."""

    def generate(key: Array) -> Bank:
        z = jax.vmap(partial(project, gan))(sample_latent(gan, key, (_BLOCK,)))
        images: Any = gan.generator.apply(weights.generator, z, train=False)
        return Bank(z, images.astype(jnp.float16).astype(jnp.float32))

    blocks = lax.map(generate, jax.random.split(key, -(-size // _BLOCK)))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], blocks)


def nearest(blocks: Iterable[Bank], images: Array, count: int) -> Array:
    """The z of the ``count`` images closest to each query, in squared distance: (N, count, latent), closest first.

    Args:
      blocks: the bank; in several parts where one would not fit into memory.
      images: queries (N, S, S, C).
    """
    latent = None
    for block in blocks:
        if latent is None:
            empty = jnp.full((len(images), count), jnp.inf)
            latent = (empty, jnp.zeros((len(images), count, block.z.shape[-1])))
        latent = _closest(latent, block, images)
    if latent is None:
        raise ValueError("an empty bank has no nearest image")
    return latent[1]


@jax.jit
def _closest(best: tuple[Array, Array], block: Bank, images: Array) -> tuple[Array, Array]:
    """Merges a block into the distances (N, count), short of the query's own norm, and the z (N, count, latent)."""
    distances, zs = best
    bank, queries = block.images.reshape(len(block.images), -1), images.reshape(len(images), -1)
    squared = jnp.sum(bank**2, axis=1)[None] - 2 * queries @ bank.T
    negative, places = lax.top_k(-squared, min(distances.shape[1], len(bank)))
    distances = jnp.concatenate([distances, -negative], axis=1)
    zs = jnp.concatenate([zs, block.z[places]], axis=1)
    _, order = lax.top_k(-distances, best[0].shape[1])
    return jnp.take_along_axis(distances, order, axis=1), jnp.take_along_axis(zs, order[..., None], axis=1)
