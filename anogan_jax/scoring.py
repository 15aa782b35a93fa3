"""Images to anomaly scores, in batches of one fixed width."""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from anogan_jax.losses import cross_entropy_loss
from anogan_jax.models import GAN, Weights
from anogan_jax.search import SearchResult

# Images searched side by side, whatever the batch: convolutions of another width may round differently, and a search
# of hundreds of steps makes a relative difference of 1e-3 of that.
LANES = 32


class Scores(NamedTuple):
    """The scores of N images; higher is more anomalous."""

    score: np.ndarray  # (N,) A(x) = (1 - lambda) R + lambda D
    residual: np.ndarray  # (N,) R(x), 0 to 2 per pixel value
    discrimination: np.ndarray  # (N,) D(x)
    generated: np.ndarray  # (N, S, S, C) G(z), in [-1, 1]


LatentSearch = Callable[[Weights, Array, Array], SearchResult]  # of one image: weights, image, key
BatchScore = Callable[[Weights, ArrayLike, ArrayLike], SearchResult]  # of a batch: images, digests


def make_search_score(search: LatentSearch, seed: int = 0) -> BatchScore:
    """Compiles A(x) (Schlegl et al. 2017, eq. 7) for a batch: the search of one image, vmapped over LANES.

    ``search`` is ``partial(latent_search, gan, ...)``. The start of an image's search is drawn with
    a key made from its pixels, so its score depends on nothing but the image and the model.
    """

    def score(weights: Weights, image: Array, digest: Array) -> SearchResult:
        return search(weights, image, jax.random.fold_in(jax.random.key(seed), digest))

    def score_batch(weights: Weights, images: Array, digests: Array) -> SearchResult:
        blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, LANES, *leaf.shape[1:]), (images, digests))
        found = lax.map(lambda block: jax.vmap(score, in_axes=(None, 0, 0))(weights, *block), blocks)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    return jax.jit(score_batch)


def make_discriminator_score(gan: GAN) -> BatchScore:
    """Compiles P_D for a batch: -log D(x), the discriminator's output alone; no search, no residual."""

    def score(weights: Weights, images: Array, digests: Array) -> SearchResult:
        logits, _ = gan.discriminator.apply(weights.discriminator, images, train=False)
        unreal = cross_entropy_loss(logits)
        none = jnp.zeros_like(unreal)
        return SearchResult(jnp.zeros((len(images), gan.latent_size)), jnp.zeros_like(images), unreal, none, unreal)

    return jax.jit(score)


def score_images(batch_score: BatchScore, weights: Weights, images: np.ndarray, batch_size: int = LANES) -> Scores:
    """Scores every image once.

    Args:
      batch_score: from ``make_search_score`` or ``make_discriminator_score``.
      weights: of the trained model.
      images: (N, S, S, C) float32 in [-1, 1], N >= 1.
      batch_size: how many images one call of the compiled program takes; the scores don't depend on it.

    Raises:
      ValueError: the images are integers, so not in [-1, 1]; see ``to_model_range``.
    """
    parts = list(score_batches(batch_score, weights, images, batch_size))
    return Scores(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def score_batches(batch_score: BatchScore, weights: Weights, images: np.ndarray, batch_size: int) -> Iterator[Scores]:
    """As ``score_images``, a batch at a time.

    Each batch is filled up with copies of its first image to one width, the next multiple of LANES,
    so that the program is compiled once; the copies' scores are dropped.
    """
    width = -(-batch_size // LANES) * LANES
    if images.dtype.kind != "f":
        raise ValueError(f"images must be floats in [-1, 1], not {images.dtype}")
    images = images.astype(np.float32)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        fill = width - len(batch)
        padded = np.concatenate([batch, np.repeat(batch[:1], fill, axis=0)])
        digests = np.array([zlib.crc32(image.tobytes()) for image in padded], np.uint32)
        found = batch_score(weights, padded, digests)
        fields = (found.loss, found.residual, found.discrimination, found.generated)
        yield Scores(*(np.asarray(field)[: len(batch)] for field in fields))
