"""Feature spaces in which images are compared: pixels, edge structure, or the discriminator's features."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from anogan_jax.config import FeatureSpace, hidden_layers
from anogan_jax.models import Discriminator, Weights

_DIRECTIONS = 8
_SHARPNESS = 8  # power of the cosine: how sharply a direction is separated from its neighbours
_BLUR = 2.0  # standard deviation in pixels
_STRIDE = 4  # pixels between two places
_FLOOR = 1e-4  # added to an edge's strength: keeps the cube root's gradient finite


class Features(NamedTuple):
    """A feature space: pure functions of one image, to be vmapped over many."""

    describe: Callable[..., Array]  # image (S, S, C) in [-1, 1], and Weights of the GAN if it needs them -> (F,)
    distance: Callable[[Array], Array]  # difference of two images' features (F,) -> residual ()
    difference_map: Callable[[Array], Array]  # difference of two images' features (F,) -> map (S, S), at least 0


@cache
def make_features(
    name: FeatureSpace, image_size: int, channels: int, discriminator: Discriminator | None = None, layer: int = -1
) -> Features:
    """Return the feature space of this name for images (S, S, C).

    "pixels": the image itself; the distance is the L1 norm, the residual loss R(z) = sum |x - G(z)| of Schlegl et al.
    2017, eq. 3; the map is |x - G(z)|, averaged over channels.

    "structure": (S/4 * S/4 * C * 8,) values, a vector of length 1. They are the gradient's strength in eight
    directions, blurred and sampled at every fourth pixel; its cube root is taken, so that a faint edge counts nearly as
    much as a bold one. This space ignores brightness, contrast and even noise, and tolerates shifts of about a pixel.
    The distance is Euclidean; the map is the norm of the difference at each place, interpolated. Related to histograms
    of oriented gradients (Dalal & Triggs 2005) with the whole image as one block.

    "discriminator": the features of one of its hidden layers, of Schlegl et al. 2017, eq. 5, as a vector of length 1.
    ``describe`` needs the GAN's weights. Distance and map are as for structure.

    Args:
      name: the name.
      image_size: S.
      channels: C.
      discriminator: the network of the space "discriminator".
      layer: its hidden layer; -1 is the last.

    Raises:
      ValueError: no feature space has this name, or its discriminator is missing.

    >>> features = make_features("structure", image_size=32, channels=1)
    >>> features.describe(jnp.zeros((32, 32, 1))).shape
    (512,)
    """
    if name == "pixels":
        return _pixels(image_size, channels)
    if name == "structure":
        return _structure(image_size)
    if name != "discriminator":
        raise ValueError(f"no feature space is called {name!r}; there are structure, pixels and discriminator")
    if discriminator is None:
        raise ValueError("the feature space 'discriminator' needs a discriminator; give gan.discriminator")
    return _discriminator(discriminator, layer)


def _pixels(image_size: int, channels: int) -> Features:
    def difference_map(difference: Array) -> Array:
        return jnp.mean(jnp.abs(difference.reshape(image_size, image_size, channels)), axis=-1)

    def describe(image: Array, _: Weights | None = None) -> Array:
        return jnp.ravel(image)

    return Features(describe, lambda difference: jnp.sum(jnp.abs(difference)), difference_map)


def _discriminator(discriminator: Discriminator, layer: int) -> Features:
    size = discriminator.image_size
    places = size >> (layer % hidden_layers(size) + 1)

    def describe(image: Array, weights: Weights) -> Array:
        found: Any = discriminator.apply(weights.discriminator, image[None], train=False)
        features = found[1][layer].ravel()
        return features / jnp.sqrt(jnp.sum(features**2) + 1e-12)

    return _euclidean(describe, size, places)


def _structure(image_size: int) -> Features:
    blur, differences = _blur(image_size), _differences(image_size)
    angles = (2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS).tolist()

    def describe(image: Array, _: Weights | None = None) -> Array:
        channels = jnp.moveaxis(image, -1, 0)[None]
        across = jnp.einsum("jq,dcpq->dcpj", differences, channels)
        down = jnp.einsum("ip,dcpj->dcij", differences, channels)
        strength = jnp.sqrt(across**2 + down**2 + 1e-8)
        right, below = across / strength, down / strength
        # Unrolled over directions: as one array, the gradient's sum over them takes eight times as long on a CPU.
        cosines = [right * math.cos(angle) + below * math.sin(angle) for angle in angles]
        edges = jnp.concatenate([strength * jax.nn.relu(cosine) ** _SHARPNESS for cosine in cosines])
        blurred = jnp.einsum("ip,dcpj->dcij", blur, jnp.einsum("jq,dcpq->dcpj", blur, edges))
        structure = jnp.cbrt(jnp.transpose(blurred, (2, 3, 1, 0)) + _FLOOR).ravel()
        return structure / jnp.linalg.norm(structure)

    return _euclidean(describe, image_size, image_size // _STRIDE)


def _euclidean(describe: Callable[..., Array], image_size: int, places: int) -> Features:
    """Return a space with the Euclidean distance, of features at ``places`` times ``places`` places of an image."""

    def distance(difference: Array) -> Array:
        return jnp.sqrt(jnp.sum(difference**2) + 1e-12)  # the gradient is finite at zero

    def difference_map(difference: Array) -> Array:
        at_places = jnp.linalg.norm(difference.reshape(places, places, -1), axis=-1)
        return jax.image.resize(at_places, (image_size, image_size), "linear")

    return Features(describe, distance, difference_map)


def _differences(size: int) -> np.ndarray:
    """Return (size, size) weights: the central difference at each pixel, the image's edge replicated."""
    steps = np.clip(np.arange(size)[:, None] + [-1, 1], 0, size - 1)
    identity = np.eye(size, dtype=np.float32)
    return (identity[steps[:, 1]] - identity[steps[:, 0]]) / 2


def _blur(size: int) -> np.ndarray:
    """Return (size / 4, size) weights: a Gaussian at every fourth pixel, the image mirrored at its border."""
    reach = round(3 * _BLUR)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / _BLUR) ** 2)
    pixels = np.pad(np.arange(size), reach, mode="symmetric")
    blur = np.zeros((size // _STRIDE, size), np.float32)
    for row, centre in enumerate(range(_STRIDE // 2, size, _STRIDE)):
        np.add.at(blur[row], pixels[centre + offsets + reach], weights / weights.sum())
    return blur
