"""The rotation network's term of the score: how much the network's outputs for an image differ from normal.

The network classifies by which quarter turn an image is rotated. Two values are large for an image that differs from
the training images: the network's loss on the image's rotations (Golan & El-Yaniv 2018), and the Mahalanobis distance
of the image's features from those of training images (Lee et al. 2018). Which detects better depends on the data.
"""

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from anogan_jax.losses import rotation_loss
from anogan_jax.models import RotationNetwork, Variables, quarter_turns
from anogan_jax.runtime import blocks

log = logging.getLogger(__name__)
_BATCH = 64  # images that are described at a time
_MOST_KAPPA = 20.0  # reached at an accuracy of 27/28
_RIDGE = 0.01  # share of the mean variance that is added to each principal axis' variance


class Rotation(NamedTuple):
    """A trained rotation network, and statistics of normal images under it."""

    network: Variables
    center: np.ndarray  # (4 F,) mean features of training images, for each of the four rotations
    whitening: np.ndarray  # (4 F, 4 F) the norm of a difference times this matrix is the Mahalanobis distance
    scale: np.ndarray  # (2,) factors of loss and distance in T(x)


def rotation_term(network: RotationNetwork, rotation: Rotation, images: Array) -> Array:
    """Return T(x) (n,) = kappa L(x) / sigma(L) + M(x) / sigma(M) of images (n, S, S, C) in [-1, 1].

    L is ``rotation_loss`` and M the Mahalanobis distance of the features of the four rotations; both are averaged over
    the image and its mirror image. The sigmas are standard deviations over held-out images, and kappa grows with the
    network's accuracy, see ``kappa_of``.
    """
    loss, _, features = _describe(network, rotation.network, images)
    distance = jnp.linalg.norm((features - rotation.center[None]) @ rotation.whitening, axis=1)
    return rotation.scale[0] * loss + rotation.scale[1] * distance


def fit_rotation(
    network: RotationNetwork, variables: Variables, images: Iterable[np.ndarray], held_out: Iterable[np.ndarray]
) -> Rotation:
    """Fit the statistics of a trained network.

    Args:
      network: the network.
      variables: its variables.
      images: training images, each (S, S, C) in [-1, 1]; the statistics of the features are theirs.
      held_out: normal images that training never saw; kappa and both sigmas are theirs.
    """

    def described(given: Iterable[np.ndarray]) -> list[np.ndarray]:
        parts = [
            [part[: len(block)] for part in jax.device_get(_describe(network, variables, padded))]
            for block, padded in blocks(given, _BATCH)
        ]
        return [np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True)]

    features = described(images)[-1]
    center = features.mean(axis=0)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(features - center, rowvar=False, bias=True)))
    variances = np.maximum(variances, 0)
    whitening = axes / np.sqrt(variances + _RIDGE * variances.mean() + 1e-12)
    loss, accuracy, of_held_out = described(held_out)
    distance = np.linalg.norm((of_held_out - center) @ whitening, axis=1)
    scale = np.array([kappa_of(accuracy.mean()), 1.0]) * [_inverse_deviation(loss), _inverse_deviation(distance)]
    log.info(
        "the rotation network classifies %.1f %% of the rotations of %d held-out images correctly",
        *(100 * accuracy.mean(), len(loss)),
    )
    if not scale.any():
        log.warning("the rotation network is ignored: it needs at least two held-out images that differ")
    return Rotation(variables, *(each.astype(np.float32) for each in (center, whitening, scale)))


def kappa_of(accuracy: float) -> float:
    """Return kappa = (accuracy - 1/4) / (1 - accuracy), between 0 and 20: 0 at chance, and 2 at an accuracy of 3/4.

    >>> kappa_of(0.75)
    2.0
    """
    return float(np.clip((accuracy - 1 / 4) / max(1 - accuracy, 1e-9), 0, _MOST_KAPPA))


@partial(jax.jit, static_argnums=0)
def _describe(network: RotationNetwork, variables: Variables, images: Array) -> tuple[Array, Array, Array]:
    """Return loss (n,), accuracy (n,) and features (n, 4 F) of the four rotations of images (n, S, S, C).

    Each is the mean over the image and its mirror image.
    """
    views = jnp.concatenate([quarter_turns(images), quarter_turns(jnp.flip(images, axis=2))])
    found: Any = lax.map(lambda view: network.apply(variables, view, train=False), views)
    logits, features = (part.reshape(2, 4, *part.shape[1:]) for part in found)  # of view, turn, image
    is_correct = jnp.argmax(logits, axis=-1) == jnp.arange(4)[None, :, None]
    features = jnp.moveaxis(features.mean(axis=0), 0, 1)
    return (
        jax.vmap(rotation_loss)(logits).mean(axis=0),
        jnp.mean(is_correct.astype(jnp.float32), axis=(0, 1)),
        features.reshape(features.shape[0], -1),
    )


def _inverse_deviation(values: np.ndarray) -> float:
    """Return 1 / the standard deviation of values, or 0 if all are equal."""
    return 0.0 if np.ptp(values) == 0 else float(1 / values.std())
