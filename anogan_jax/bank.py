"""A bank of generated images: the nearest is a better start than hundreds of steps from a random z, or the answer."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from anogan_jax.devices import AXIS, ROWS, WHOLE, make_mesh, rows, whole
from anogan_jax.losses import residual_loss
from anogan_jax.models import GAN, Weights, sample_latent
from anogan_jax.search import project
from anogan_jax.structure import describe

# Products are always of so many images and so many queries, whatever the number of devices: their last bits stay.
_CHUNK = 4096
_QUERIES = 32
_SHORTLIST = 64  # at least so many of a chunk, by squared distance
_DRAWN = 256  # images generated at a time


class Bank(NamedTuple):
    """B generated images with the z that made them, divided over the devices of a mesh."""

    z: Array  # (B, latent)
    images: Array  # (B, S, S, C) float32 in [-1, 1], whose values fit into float16, as which they are saved
    squares: Array  # (B,) their squared norms; infinite for the rows that only fill the last chunk


def make_bank(gan: GAN, weights: Weights, key: Array, size: int, mesh: Mesh | None = None) -> Bank:
    """Draws ``size`` images, the z where the search may go (see ``project``); the same on any mesh."""
    mesh = mesh or make_mesh()
    draws = _filled(size, mesh) // _DRAWN
    z, images = _draw(gan, mesh, jax.device_put(weights, whole(mesh)), jax.random.split(key, draws))
    return place_bank(np.asarray(z)[:size], np.asarray(images)[:size], mesh)


def place_bank(z: np.ndarray, images: np.ndarray, mesh: Mesh | None = None) -> Bank:
    """Divides z (B, latent) and images (B, S, S, C) over the devices of a mesh."""
    mesh = mesh or make_mesh()
    size = _filled(len(images), mesh)
    squares = np.array([np.square(image, dtype=np.float64).sum() for image in images])
    filled = (_lengthened(z, size, 0), _lengthened(images, size, 0), _lengthened(squares, size, np.inf))
    return Bank(*jax.device_put(filled, rows(mesh)))


def nearest(blocks: Iterable[Bank], images: Array, count: int, mesh: Mesh | None = None) -> Array:
    """The z of the ``count`` images closest to each query in residual loss: (N, count, latent), closest first.

    Squared distance, which is a product of matrices, chooses a few of every chunk of the bank, and
    the residual loss among those.

    Args:
      blocks: the bank; in several parts where one would not fit into the devices' memory.
      images: queries (N, S, S, C).
      count: how many.
      mesh: the one that the bank is divided over.
    """
    mesh = mesh or make_mesh()
    found = None
    for block in blocks:
        if found is None:
            none = _none_found(count, block.z.shape[-1])
            found = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(images), axis=0), none)
        found = _closer(mesh, found, block, images)
    if found is None:
        raise ValueError("an empty bank has no nearest image")
    return found.z


class Described(NamedTuple):
    """Generated images as yardsticks see them, divided over the devices of a mesh."""

    images: Array  # (B, S, S, C)
    keys: Array  # (B, K) by which the nearest are found
    squares: Array  # (B,) their squared norms; infinite for the rows that only fill the last chunk
    features: Array  # (B, F) what is compared


class Neighbours(NamedTuple):
    """The images of a bank closest to a query, closest first; of N, each field gains a leading axis."""

    distance: Array  # (count,) |k(x) - k(G(z))|, k being the keys
    images: Array  # (count, S, S, C)
    features: Array  # (count, F)


def describe_bank(
    images: Array | np.ndarray, yardstick: str, nearest_by: str | None = None, mesh: Mesh | None = None
) -> Described:
    """What is compared of a bank; once for its images, not for each query.

    Args:
      images: (B, S, S, C).
      yardstick: what is compared, see ``describe``.
      nearest_by: the yardstick by which the nearest are found; None: the same.
      mesh: the one to divide the bank over.
    """
    mesh, nearest_by = mesh or make_mesh(), nearest_by or yardstick
    size = _filled(len(images), mesh)
    placed, real = jax.device_put((_lengthened(images, size, 0), np.arange(size) < len(images)), rows(mesh))
    features = _describe(mesh, yardstick, placed)
    keys = features if nearest_by == yardstick else _describe(mesh, nearest_by, placed)
    return Described(placed, keys, _squares(keys, real), features)


def neighbours(
    blocks: Iterable[Described], images: Array, count: int, nearest_by: str, mesh: Mesh | None = None
) -> Neighbours:
    """The ``count`` images of a bank closest to each query, by the distance between their keys.

    Args:
      blocks: the described bank, in several parts where one would not fit into the devices' memory.
      images: queries (N, S, S, C).
      count: how many; where the bank holds fewer, the rest have an infinite distance.
      nearest_by: the yardstick by which the bank's nearest are found.
      mesh: the one that the bank is divided over.
    """
    mesh = mesh or make_mesh()
    keys = _describe_queries(nearest_by, images)
    found = None
    for block in blocks:
        if found is None:
            kept = (block.squares, block.images, block.features)
            found = Neighbours(*(jnp.empty((len(images), 0, *leaf.shape[1:]), leaf.dtype) for leaf in kept))
        found = _nearer(mesh, count, found, block, keys)
    if found is None:
        raise ValueError("an empty bank has no nearest image")
    return found


class _Found(NamedTuple):
    """The closest images to a query so far; of N, each field gains a leading axis."""

    residual: Array  # (count,) ascending
    z: Array  # (count, latent)


def _none_found(count: int, latent: int) -> _Found:
    return _Found(jnp.full(count, jnp.inf), jnp.zeros((count, latent)))


@partial(jax.jit, static_argnums=0)
def _closer(mesh: Mesh, found: _Found, block: Bank, images: Array) -> _Found:
    """Merges a block of the bank, divided over the mesh, into what was found."""
    block = block._replace(images=block.images.reshape(len(block.images), -1))

    def in_chunk(found: _Found, chunk: Bank, image: Array) -> _Found:
        distances = chunk.squares - 2 * chunk.images @ image
        _, places = lax.top_k(-distances, min(max(_SHORTLIST, len(found.z)), _CHUNK))
        residuals = jax.vmap(residual_loss, in_axes=(None, 0))(image, chunk.images[places])
        return _merge(found, _Found(jnp.where(jnp.isinf(chunk.squares[places]), jnp.inf, residuals), chunk.z[places]))

    @partial(jax.shard_map, mesh=mesh, in_specs=(WHOLE, ROWS, WHOLE), out_specs=WHOLE, check_vma=False)
    def in_block(found: _Found, block: Bank, images: Array) -> _Found:
        chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, _CHUNK, *leaf.shape[1:]), block)
        images = images.reshape(len(images), -1)

        def of_query(image: Array) -> _Found:
            none = _none_found(*found.z.shape[1:])
            return lax.scan(lambda found, chunk: (in_chunk(found, chunk, image), None), none, chunks)[0]

        here = lax.map(of_query, images, batch_size=_QUERIES)
        everywhere = jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, axis=1, tiled=True), here)
        return jax.vmap(_merge)(found, everywhere)

    return in_block(found, block, images)


def _merge(found: _Found, more: _Found) -> _Found:
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), found, more)
    _, order = lax.top_k(-both.residual, len(found.residual))
    return jax.tree.map(lambda leaf: leaf[order], both)


@partial(jax.jit, static_argnums=(0, 1))
def _describe(mesh: Mesh, yardstick: str, images: Array) -> Array:
    @partial(jax.shard_map, mesh=mesh, in_specs=ROWS, out_specs=ROWS, check_vma=False)
    def of_block(images: Array) -> Array:
        return lax.map(partial(describe, yardstick=yardstick), images, batch_size=_DRAWN)

    return of_block(images)


@jax.jit
def _squares(keys: Array, real: Array) -> Array:
    return jnp.where(real, jnp.sum(keys**2, axis=1), jnp.inf)


@partial(jax.jit, static_argnums=0)
def _describe_queries(yardstick: str, images: Array) -> Array:
    return lax.map(partial(describe, yardstick=yardstick), images, batch_size=_QUERIES)


@partial(jax.jit, static_argnums=(0, 1))
def _nearer(mesh: Mesh, count: int, found: Neighbours, block: Described, keys: Array) -> Neighbours:
    """Merges a block of the bank, divided over the mesh, into what was found."""

    @partial(jax.shard_map, mesh=mesh, in_specs=(ROWS, WHOLE), out_specs=WHOLE, check_vma=False)
    def in_block(block: Described, keys: Array) -> Neighbours:
        chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, _CHUNK, *leaf.shape[1:]), (block.keys, block.squares))

        def of_query(key: Array) -> tuple[Array, Array]:
            def in_chunk(first: Array, chunk: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
                least, places = lax.top_k(2 * chunk[0] @ key - chunk[1], min(count, _CHUNK))
                return first + _CHUNK, (-least, places + first)

            _, (distances, places) = lax.scan(in_chunk, jnp.int32(0), chunks)
            least, order = lax.top_k(-distances.ravel(), min(count, distances.size))
            return -least, places.ravel()[order]

        distances, places = lax.map(of_query, keys, batch_size=_QUERIES)
        squared = distances + jnp.sum(keys**2, axis=1, keepdims=True)
        here = Neighbours(jnp.sqrt(jnp.maximum(squared, 0.0)), block.images[places], block.features[places])
        return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, axis=1, tiled=True), here)

    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), found, in_block(block, keys))
    _, order = lax.top_k(-both.distance, min(count, both.distance.shape[1]))
    return jax.tree.map(lambda leaf: jax.vmap(lambda row, at: row[at])(leaf, order), both)


@partial(jax.jit, static_argnums=(0, 1))
def _draw(gan: GAN, mesh: Mesh, weights: Weights, keys: Array) -> tuple[Array, Array]:
    """z and images of half precision, _DRAWN for each key."""

    def generate(weights: Weights, key: Array) -> tuple[Array, Array]:
        z = jax.vmap(partial(project, gan))(sample_latent(gan, key, (_DRAWN,)))
        images: Any = gan.generator.apply(weights.generator, z, train=False)
        return z, images.astype(jnp.float16)

    @partial(jax.shard_map, mesh=mesh, in_specs=(WHOLE, ROWS), out_specs=ROWS, check_vma=False)
    def draw(weights: Weights, keys: Array) -> tuple[Array, Array]:
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lax.map(partial(generate, weights), keys))

    return draw(weights, keys)


def _lengthened(given: Array | np.ndarray, size: int, fill: float) -> np.ndarray:
    """So many rows, those missing filled in; float32. A bank is large: it is copied this once.

    JAX takes on the CPU what begins at a multiple of 64 bytes as it is, and copies all else.
    """
    values = size * math.prod(given.shape[1:])
    memory = np.empty(values + 16, np.float32)
    first = -memory.ctypes.data % 64 // memory.itemsize
    lengthened = memory[first : first + values].reshape(size, *given.shape[1:])
    lengthened[: len(given)] = given
    lengthened[len(given) :] = fill
    return lengthened


def _filled(size: int, mesh: Mesh) -> int:
    """The least multiple of a chunk on each device that holds so many."""
    return -(-size // (_CHUNK * mesh.size)) * _CHUNK * mesh.size
