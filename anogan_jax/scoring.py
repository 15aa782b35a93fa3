"""Images to anomaly scores, in batches of one fixed width."""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from anogan_jax.data.images import to_model_range
from anogan_jax.models import GAN, Weights
from anogan_jax.search import LatentSearch, SearchResult


class Scores(NamedTuple):
    """The scores of N images; higher is more anomalous."""

    score: np.ndarray  # (N,) A(x) = (1 - lambda) R + lambda D
    residual: np.ndarray  # (N,) R(x), 0 to 2 per pixel value
    discrimination: np.ndarray  # (N,) D(x)
    generated: np.ndarray  # (N, S, S, C) G(z), in [-1, 1]


BatchScore = Callable[[Weights, Array, Array], Scores]


def make_search_score(search: LatentSearch, seed: int = 0) -> BatchScore:
    """Compiles A(x) (Schlegl et al. 2017, eq. 7) for a batch: the search of one image, vmapped.

    The start of an image's search is drawn with a key made from its pixels, so its score depends
    on nothing but the image and the model.
    """

    def score(weights: Weights, image: Array, digest: Array) -> Scores:
        found: SearchResult = search(weights, image, jax.random.fold_in(jax.random.key(seed), digest))
        return Scores(found.loss, found.residual, found.discrimination, found.generated)

    return jax.jit(jax.vmap(score, in_axes=(None, 0, 0)))


def make_discriminator_score(gan: GAN) -> BatchScore:
    """Compiles P_D for a batch: -log D(x), the discriminator's output alone, no search.

    Residual and ``generated`` are zero.
    """

    def score(weights: Weights, images: Array, digests: Array) -> Scores:
        logits, _ = gan.discriminator.apply(weights.discriminator, images, train=False)
        unreal = jax.nn.softplus(-logits)
        return Scores(unreal, jnp.zeros_like(unreal), unreal, jnp.zeros_like(images))

    return jax.jit(score)


def score_images(batch_score: BatchScore, weights: Weights, images: np.ndarray, batch_size: int = 128) -> Scores:
    """Scores every image once.

    Args:
      batch_score: from ``make_search_score`` or ``make_discriminator_score``.
      weights: of the trained model.
      images: (N, S, S, C) uint8, N >= 1.
      batch_size: how many images are searched side by side.
    """
    parts = list(score_batches(batch_score, weights, images, batch_size))
    return Scores(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def score_batches(batch_score: BatchScore, weights: Weights, images: np.ndarray, batch_size: int) -> Iterator[Scores]:
    """As ``score_images``, a batch at a time.

    The last batch is filled up with copies of its first image, so that all have one width and the
    program is compiled once; the copies' scores are dropped.
    """
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        fill = batch_size - len(batch)
        padded = np.concatenate([batch, np.repeat(batch[:1], fill, axis=0)])
        digests = np.array([zlib.crc32(image.tobytes()) for image in padded], np.uint32)
        scores = batch_score(weights, to_model_range(padded), digests)
        yield Scores(*(np.asarray(field)[: len(batch)] for field in scores))
