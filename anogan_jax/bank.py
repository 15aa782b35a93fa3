"""The bank, generated images with their latent vectors, and nearest neighbours among its images and references."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from anogan_jax.features import Features
from anogan_jax.models import GAN, Weights, project, sample_latent

_BATCH = 256  # images generated or described at a time: a fixed shape, whatever the size of the bank


class Bank(NamedTuple):
    """B latent vectors and the images that the generator makes from them."""

    z: np.ndarray  # (B, latent) float32
    images: np.ndarray  # (B, S, S, C) float16 G(z), in [-1, 1]


class Neighbours(NamedTuple):
    """B images prepared for retrieval in a feature space."""

    features: Array  # (B, F)
    squares: Array  # (B,) squared norms of the features


class Index(NamedTuple):
    """A bank prepared for retrieval: everything that does not depend on the query."""

    z: Array  # (B, latent)
    images: Array  # (B, S, S, C) float32
    neighbours: Neighbours


def draw_bank(gan: GAN, weights: Weights, key: Array, size: int) -> Bank:
    """Draw ``size`` latent vectors from the prior, projected to the region of the search, with their images."""

    drawn = [_draw(gan, weights, each) for each in jax.random.split(key, -(-size // _BATCH))]
    z, images = (np.concatenate(parts)[:size] for parts in zip(*jax.device_get(drawn), strict=True))
    return Bank(z, images)


def bank_of_images(images: np.ndarray, latent_size: int) -> Bank:
    """Return images (N, S, S, C) in [-1, 1] as a bank, to compare queries with them; their z are zeros."""
    return Bank(np.zeros((len(images), latent_size), np.float32), images.astype(np.float16))


@partial(jax.jit, static_argnums=1)
def make_neighbours(images: ArrayLike, features: Features, weights: Weights | None = None) -> Neighbours:
    """Describe images (B, S, S, C) in [-1, 1] in a feature space; that of a discriminator needs the weights."""
    images = jnp.asarray(images, jnp.float32)
    described = lax.map(lambda image: features.describe(image, weights), images, batch_size=_BATCH)
    return Neighbours(described, jnp.sum(described**2, axis=1))


def make_index(bank: Bank, features: Features, weights: Weights | None = None) -> Index:
    """Describe a bank in a feature space; that of a discriminator needs the weights."""
    images = jnp.asarray(bank.images, jnp.float32)
    return Index(jnp.asarray(bank.z), images, make_neighbours(images, features, weights))


def retrieve(neighbours: Neighbours, described: Array, count: int) -> Array:
    """Return the places (N, count) of the nearest neighbours of N queries, nearest first.

    Args:
      neighbours: B images in a feature space.
      described: (N, F) the queries' features; the distance is Euclidean.
      count: the number of neighbours; if there are fewer images, all of them.
    """
    nearness = 2.0 * described @ neighbours.features.T - neighbours.squares[None]
    return lax.top_k(nearness, min(count, len(neighbours.squares)))[1]


@partial(jax.jit, static_argnums=0)
def _draw(gan: GAN, weights: Weights, key: Array) -> tuple[Array, Array]:
    """Return a batch of latent vectors (n, latent), and the images (n, S, S, C) float16 made from them."""
    z = jax.vmap(partial(project, gan))(sample_latent(gan, key, (_BATCH,)))
    images: Any = gan.generator.apply(weights.generator, z, train=False)
    return z, images.astype(jnp.float16)
