"""The losses of the GAN and of the latent search, for one image or a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array


def discriminator_loss(real_logits: Array, fake_logits: Array) -> Array:
    """-log D(x) - log(1 - D(G(z))), averaged over the batch (Goodfellow et al. 2014, eq. 1)."""
    real = optax.sigmoid_binary_cross_entropy(real_logits, jnp.ones_like(real_logits))
    fake = optax.sigmoid_binary_cross_entropy(fake_logits, jnp.zeros_like(fake_logits))
    return jnp.mean(real) + jnp.mean(fake)


def generator_loss(fake_logits: Array) -> Array:
    """-log D(G(z)), averaged over the batch: the non-saturating loss."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(fake_logits, jnp.ones_like(fake_logits)))


def critic_loss(real_values: Array, fake_values: Array) -> Array:
    """C(G(z)) - C(x), averaged over the batch: what the Wasserstein critic minimises (Arjovsky et al. 2017, eq. 2)."""
    return jnp.mean(fake_values) - jnp.mean(real_values)


def critic_generator_loss(fake_values: Array) -> Array:
    """-C(G(z)), averaged over the batch (Gulrajani et al. 2017, algorithm 1)."""
    return -jnp.mean(fake_values)


def gradient_penalty(critic: Callable[[Array], Array], images: Array) -> Array:
    """(|dC/dx| - 1)^2, averaged over images (N, S, S, C) between real and generated (Gulrajani et al. 2017, eq. 3)."""
    gradients = jax.grad(lambda images: jnp.sum(critic(images)))(images)
    norms = jnp.sqrt(jnp.sum(gradients**2, axis=(1, 2, 3)) + 1e-12)
    return jnp.mean((norms - 1.0) ** 2)


def residual_loss(image: Array, generated: Array) -> Array:
    """R(z) = sum |x - G(z)| over one image (Schlegl et al. 2017, eq. 3)."""
    return jnp.sum(jnp.abs(image - generated))


def feature_matching_loss(image_features: Array, generated_features: Array) -> Array:
    """D(z) = sum |f(x) - f(G(z))| over one layer's features (Schlegl et al. 2017, eq. 5)."""
    return jnp.sum(jnp.abs(image_features - generated_features))


def cross_entropy_loss(generated_logit: Array) -> Array:
    """D(z) = -log D(G(z)), how unreal G(z) looks (Schlegl et al. 2017, eq. 4, after Yeh et al. 2016)."""
    return optax.sigmoid_binary_cross_entropy(generated_logit, jnp.ones_like(generated_logit))


def encoding_loss(
    images: Array, generated: Array, image_features: Array, generated_features: Array, weight: float
) -> Array:
    """izif: mean squared residual + weight * mean squared difference of features; izi with weight 0.

    (Schlegl et al. 2019, eq. 4 and 6.) ``images`` are (N, S, S, C), features one layer's.
    """
    residual = jnp.mean((images - generated) ** 2)
    return residual + weight * jnp.mean((image_features - generated_features) ** 2)
