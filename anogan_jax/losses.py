"""The losses of the GAN and of the latent search, for one image or a batch."""

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


def residual_loss(image: Array, generated: Array) -> Array:
    """R(z) = sum |x - G(z)| over one image (Schlegl et al. 2017, eq. 3)."""
    return jnp.sum(jnp.abs(image - generated))


def feature_matching_loss(image_features: Array, generated_features: Array) -> Array:
    """D(z) = sum |f(x) - f(G(z))| over one layer's features (Schlegl et al. 2017, eq. 5)."""
    return jnp.sum(jnp.abs(image_features - generated_features))


def cross_entropy_loss(generated_logit: Array) -> Array:
    """D(z) = -log D(G(z)), how unreal G(z) looks (Schlegl et al. 2017, eq. 4, after Yeh et al. 2016)."""
    return optax.sigmoid_binary_cross_entropy(generated_logit, jnp.ones_like(generated_logit))
