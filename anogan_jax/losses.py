"""The losses of the GAN and of the latent search, for one image or a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array


def discriminator_loss(real_logits: Array, fake_logits: Array) -> Array:
    """Return -log D(x) - log(1 - D(G(z))), averaged over the batch (Goodfellow et al. 2014, eq. 1)."""
    real = optax.sigmoid_binary_cross_entropy(real_logits, jnp.ones_like(real_logits))
    fake = optax.sigmoid_binary_cross_entropy(fake_logits, jnp.zeros_like(fake_logits))
    return jnp.mean(real) + jnp.mean(fake)


def generator_loss(fake_logits: Array) -> Array:
    """Return -log D(G(z)), averaged over the batch: the non-saturating loss."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(fake_logits, jnp.ones_like(fake_logits)))


def critic_loss(real_values: Array, fake_values: Array) -> Array:
    """Return C(G(z)) - C(x), averaged over the batch: the Wasserstein critic's loss (Arjovsky et al. 2017, eq. 2)."""
    return jnp.mean(fake_values) - jnp.mean(real_values)


def critic_generator_loss(fake_values: Array) -> Array:
    """Return -C(G(z)), averaged over the batch (Gulrajani et al. 2017, algorithm 1)."""
    return -jnp.mean(fake_values)


def gradient_penalty(critic: Callable[[Array], Array], images: Array) -> Array:
    """Return (|dC/dx| - 1)^2, averaged over images (N, S, S, C) (Gulrajani et al. 2017, eq. 3)."""
    gradients = jax.grad(lambda images: jnp.sum(critic(images)))(images)
    norms = jnp.sqrt(jnp.sum(gradients**2, axis=(1, 2, 3)) + 1e-12)
    return jnp.mean((norms - 1.0) ** 2)


def feature_matching_loss(image_features: Array, generated_features: Array) -> Array:
    """Return D(z) = sum |f(x) - f(G(z))| over one layer's features (Schlegl et al. 2017, eq. 5)."""
    return jnp.sum(jnp.abs(image_features - generated_features))


def cross_entropy_loss(generated_logit: Array) -> Array:
    """Return D(z) = -log D(G(z)), which is low for realistic G(z) (Schlegl et al. 2017, eq. 4; Yeh et al. 2016)."""
    return optax.sigmoid_binary_cross_entropy(generated_logit, jnp.ones_like(generated_logit))


def encoding_loss(
    images: Array, generated: Array, image_features: Array, generated_features: Array, weight: float
) -> Array:
    """Return the izif loss (Schlegl et al. 2019, eq. 4 and 6); with weight 0 it is izi.

    It is the mean squared residual of images (N, S, S, C) + weight * the mean squared difference of one layer's
    features.
    """
    residual = jnp.mean((images - generated) ** 2)
    return residual + weight * jnp.mean((image_features - generated_features) ** 2)


def rotation_loss(logits: Array) -> Array:
    """Return -log p(k | x rotated by k quarter turns) (N,), averaged over k (Gidaris et al. 2018, eq. 2 and 3).

    Args:
      logits: (4, N, 4), for k = 0, 1, 2, 3 quarter turns of N images the logits of the four classes.
    """
    turns = jnp.broadcast_to(jnp.arange(4)[:, None], logits.shape[:2])
    return optax.softmax_cross_entropy_with_integer_labels(logits, turns).mean(axis=0)


def segmentation_loss(logits: Array, masks: Array) -> Array:
    """Return the cross entropy of logits (N, S/2, S/2) with the share of each 2x2 pixels of masks (N, S, S) in [0, 1].

    It is averaged over places and images.
    """
    count, height, width = logits.shape
    shares = masks.reshape(count, height, 2, width, 2).mean(axis=(2, 4))
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, shares))
