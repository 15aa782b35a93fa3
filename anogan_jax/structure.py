"""What of an image is compared: its pixels, or its structure, the strength of its edges by direction and place."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

YARDSTICKS = ("pixels", "structure")
_DIRECTIONS = 8
_SHARPNESS = 8  # how sharply a direction is told from its neighbours: the power of the cosine
_BLUR = 2.0  # standard deviation in pixels
_STRIDE = 4  # pixels
_FLOOR = 1e-4  # beside an edge's strength: keeps the root's gradient finite


def describe(image: Array, yardstick: str) -> Array:
    """An image as the vector that is compared; image is (S, S, C) in [-1, 1].

    "pixels" are those themselves. "structure" is (S / 4 * S / 4 * C * 8), of length 1: the gradient's
    strength in eight directions, blurred, and its cube root, so that a faint edge counts nearly as
    much as a bold one. A stroke moved by a pixel stays almost what it was; one that is missing does
    not. Akin to histograms of oriented gradients (Dalal & Triggs 2005), with the image as one block.

    Raises:
      ValueError: an unknown yardstick.
    """
    if yardstick not in YARDSTICKS:
        raise ValueError(f"yardstick must be one of {YARDSTICKS}, not {yardstick!r}")
    if yardstick == "pixels":
        return image.ravel()
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    strength = jnp.sqrt(across**2 + down**2 + 1e-8)
    angles = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    towards = jnp.einsum("ijc,d->ijcd", across, np.cos(angles)) + jnp.einsum("ijc,d->ijcd", down, np.sin(angles))
    edges = strength[..., None] * jax.nn.relu(towards / strength[..., None]) ** _SHARPNESS
    blur = _blur(image.shape[0])
    blurred = jnp.einsum("ip,jq,pqcd->ijcd", blur, blur, edges)
    structure = jnp.cbrt(blurred + _FLOOR).ravel()
    return structure / jnp.linalg.norm(structure)


def difference_map(difference: Array, image_size: int, channels: int, yardstick: str) -> Array:
    """Where two images differ: the difference of their descriptions (see ``describe``) as a map (S, S).

    Of "pixels" the mean over channels of |x - G(z)|; of "structure" the length of each place's part,
    of all directions and channels together, interpolated between the places.
    """
    if yardstick == "pixels":
        return jnp.mean(jnp.abs(difference.reshape(image_size, image_size, channels)), axis=-1)
    places = difference.reshape(image_size // _STRIDE, image_size // _STRIDE, -1)
    return jax.image.resize(jnp.linalg.norm(places, axis=-1), (image_size, image_size), "linear")


def structure_loss(image: Array, generated: Array) -> Array:
    """|s(x) - s(G(z))|, the distance between the structures of two images."""
    squared = jnp.sum((describe(image, "structure") - describe(generated, "structure")) ** 2)
    return jnp.sqrt(squared + 1e-12)


def _blur(size: int) -> np.ndarray:
    """(size / 4, size) weights: a Gaussian at every fourth pixel, the border's outside being its mirror image."""
    reach = round(3 * _BLUR)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / _BLUR) ** 2)
    pixels = np.pad(np.arange(size), reach, mode="symmetric")
    blur = np.zeros((size // _STRIDE, size), np.float32)
    for row, centre in enumerate(range(_STRIDE // 2, size, _STRIDE)):
        np.add.at(blur[row], pixels[centre + offsets + reach], weights / weights.sum())
    return blur
