"""The networks: generator and discriminator, encoder, segmenter, rotation network.

Generator and discriminator are those of DCGAN (Radford et al. 2015, arXiv 1511.06434).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.typing import DTypeLike

from anogan_jax.config import Objective, Precision, Prior, hidden_layers
from anogan_jax.layers import StridedConv

Variables = Mapping[str, Any]  # variables of a Flax module: {"params", "batch_stats"}
# DCGAN code uses 0.9, about the last ten batches; inference needs a steadier estimate.
STATISTICS_MOMENTUM = 0.99
_EPSILON = 1e-5
_dense = partial(nn.DenseGeneral, kernel_init=nn.initializers.normal(0.02))


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) as one multiplication and one addition per channel.

    It equals ``nn.BatchNorm``, including the names of its variables, with fewer passes over memory.
    """

    dtype: DTypeLike  # data type of the result; statistics are float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalise x (N, H, W, C); with ``train`` by the batch, updating ``batch_stats``."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), channels)
        bias = self.param("bias", nn.initializers.zeros_init(), channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels)
        mean, variance = running_mean.value, running_variance.value
        if train:
            exact = x.astype(jnp.float32)
            mean = jnp.mean(exact, axis=(0, 1, 2))
            variance = nn.relu(jnp.mean(exact**2, axis=(0, 1, 2)) - mean**2)  # rounding can make it negative
            for running, of_batch in ((running_mean, mean), (running_variance, variance)):
                running.value = STATISTICS_MOMENTUM * running.value + (1 - STATISTICS_MOMENTUM) * of_batch
        factor = scale * lax.rsqrt(variance + _EPSILON)
        factor, shift = (jnp.broadcast_to(leaf, x.shape) for leaf in (factor, bias - mean * factor))
        return (x * factor + shift).astype(self.dtype)


class Generator(nn.Module):
    """Map latent vectors to images: a projection to 4x4, then transposed convolutions that double the size.

    There are ``width * image_size / 8`` features at 4x4, halved at each doubling, down to ``width``.
    """

    image_size: int  # 4 * 2^k, k >= 1
    channels: int
    width: int
    kernel_size: int  # 4 or 5
    dtype: DTypeLike = jnp.float32  # data type of the computation; weights, statistics and images are float32

    @nn.compact
    def __call__(self, z: Array, train: bool) -> Array:
        """Return images (N, S, S, C) in [-1, 1] of z (N, latent); with ``train``, normalise by the batch."""
        widths = self.width * self.image_size // 8
        x = _dense((4, 4, widths), use_bias=False, dtype=self.dtype, name="project")(z)
        x = nn.relu(BatchNorm(self.dtype)(x, train))
        while widths > self.width:
            widths //= 2
            x = StridedConv(widths, self.kernel_size, up=True, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(BatchNorm(self.dtype)(x, train))
        x = StridedConv(self.channels, self.kernel_size, up=True, use_bias=True, dtype=self.dtype)(x)
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Map images to logits (positive: real) and the features of every hidden layer."""

    image_size: int  # 4 * 2^k, k >= 1
    width: int
    kernel_size: int  # 4 or 5
    dtype: DTypeLike = jnp.float32  # data type of the computation; weights, statistics, logits, features are float32
    batch_norm: bool = True  # False for a critic, whose gradient is penalised for each image

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, tuple[Array, ...]]:
        """Return logits (N,) of x (N, S, S, C) in [-1, 1], and (N, H, H, features) per hidden layer, H = S/2, ..., 4.

        With ``train``, normalise by the batch.
        """
        features = []
        for layer in range(hidden_layers(self.image_size)):
            normalised = self.batch_norm and layer > 0  # DCGAN leaves the layer that sees the image unnormalised
            width = self.width * 2**layer
            x = StridedConv(width, self.kernel_size, up=False, use_bias=not normalised, dtype=self.dtype)(x)
            if normalised:
                x = BatchNorm(self.dtype)(x, train)
            x = nn.leaky_relu(x, 0.2)
            features.append(x.astype(jnp.float32))
        logit = _dense(1, axis=(-3, -2, -1), dtype=self.dtype, name="logit")(x)
        return logit[:, 0].astype(jnp.float32), tuple(features)


class Encoder(nn.Module):
    """Map images to latent vectors with the discriminator's convolutions (f-AnoGAN, Schlegl et al. 2019)."""

    image_size: int  # 4 * 2^k, k >= 1
    latent_size: int
    width: int
    kernel_size: int  # 4 or 5
    dtype: DTypeLike = jnp.float32  # data type of the computation; weights, statistics and z are float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Return z (N, latent) of x (N, S, S, C) in [-1, 1]; with ``train``, normalise by the batch."""
        x = _convolved(self, x, train)
        return _dense(self.latent_size, axis=(-3, -2, -1), dtype=self.dtype, name="latent")(x).astype(jnp.float32)


class RotationNetwork(nn.Module):
    """Classify images by their rotation (Gidaris et al. 2018) with the discriminator's convolutions."""

    image_size: int  # 4 * 2^k, k >= 1
    width: int
    kernel_size: int  # 4 or 5
    dtype: DTypeLike = jnp.float32  # data type of the computation; weights, statistics, logits, features are float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Return logits (N, 4) of x (N, S, S, C) in [-1, 1], and features (N, F): the last hidden layer's means.

        See Encoder for ``train``.
        """
        x = _convolved(self, x, train)
        logits = _dense(4, axis=(-3, -2, -1), dtype=self.dtype, name="logits")(x)
        return logits.astype(jnp.float32), jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class Segmenter(nn.Module):
    """Mark damage: a U-Net (Ronneberger et al. 2015) of the discriminator's convolutions and their transposes."""

    image_size: int  # 4 * 2^k, k >= 1
    width: int
    kernel_size: int  # 4 or 5
    dtype: DTypeLike = jnp.float32  # data type of the computation; weights, statistics and logits are float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Return logits (N, S/2, S/2) of x (N, S, S, C) in [-1, 1], positive for damage; see Encoder for ``train``."""

        def convolve(x: Array, layer: int, up: bool) -> Array:
            width = self.width * 2**layer
            x = StridedConv(width, self.kernel_size, up=up, use_bias=False, dtype=self.dtype)(x)
            return nn.leaky_relu(BatchNorm(self.dtype)(x, train), 0.2)

        seen = []
        for layer in range(hidden_layers(self.image_size)):
            x = convolve(x, layer, up=False)
            seen.append(x)
        for layer in reversed(range(len(seen) - 1)):
            x = jnp.concatenate([convolve(x, layer, up=True), seen[layer]], axis=-1)
        x = nn.leaky_relu(nn.Dense(self.width, dtype=self.dtype)(x), 0.2)
        return nn.Dense(1, dtype=self.dtype, name="logit")(x)[..., 0].astype(jnp.float32)


def _convolved(module: Encoder | RotationNetwork, x: Array, train: bool) -> Array:
    """Return the last hidden layer (N, 4, 4, F) of a module for x (N, S, S, C); called in its ``__call__``."""
    for layer in range(hidden_layers(module.image_size)):
        width = module.width * 2**layer
        x = StridedConv(width, module.kernel_size, up=False, use_bias=False, dtype=module.dtype)(x)
        x = nn.leaky_relu(BatchNorm(module.dtype)(x, train), 0.2)
    return x


class GAN(NamedTuple):
    """The static part of a model: its two modules and its latent space; hashable."""

    generator: Generator
    discriminator: Discriminator
    latent_size: int
    latent_prior: Prior


class Weights(NamedTuple):
    """The variables of both modules of a trained model, for inference."""

    generator: Variables
    discriminator: Variables


def make_gan(
    image_size: int,
    channels: int,
    width: int = 64,
    kernel_size: int = 4,
    latent_size: int = 100,
    latent_prior: Prior = "normal",
    precision: Precision = "float32",
    objective: Objective = "gan",
) -> GAN:
    """Return a generator and a discriminator for square images of 4 * 2^k pixels a side, k >= 1.

    Args:
      image_size: S, the side in pixels.
      channels: C, the channels of the images.
      width: features of the layer next to the image, doubled at each halving of the size.
      kernel_size: side of the convolution kernels, 4 or 5.
      latent_size: dimensions of z.
      latent_prior: distribution of z.
      precision: dtype of the computation; weights, statistics, losses and scores are always float32.
      objective: "wgan_gp" makes the discriminator a critic without batch normalisation (Gulrajani et al. 2017, sec. 4).

    Raises:
      ValueError: image_size is not 4 * 2^k, or the prior, precision or objective is unknown.
    """
    for value, allowed in ((latent_prior, Prior), (precision, Precision), (objective, Objective)):
        if value not in get_args(allowed):
            raise ValueError(f"{value!r}: must be one of {', '.join(get_args(allowed))}")
    if image_size < 8 or image_size & (image_size - 1):
        raise ValueError(f"image_size must be 8, 16, 32, 64, ... (4 * 2^k), not {image_size}")
    return GAN(
        Generator(image_size, channels, width, kernel_size, jnp.dtype(precision)),
        Discriminator(image_size, width, kernel_size, jnp.dtype(precision), batch_norm=objective == "gan"),
        latent_size,
        latent_prior,
    )


def make_encoder(gan: GAN) -> Encoder:
    """Return an encoder with the convolutions of the model's discriminator."""
    like = gan.discriminator
    return Encoder(like.image_size, gan.latent_size, like.width, like.kernel_size, like.dtype)


def make_segmenter(gan: GAN) -> Segmenter:
    """Return a segmenter with the convolutions of the model's discriminator."""
    like = gan.discriminator
    return Segmenter(like.image_size, like.width, like.kernel_size, like.dtype)


def make_rotation_network(gan: GAN) -> RotationNetwork:
    """Return a rotation network with the convolutions of the model's discriminator."""
    like = gan.discriminator
    return RotationNetwork(like.image_size, like.width, like.kernel_size, like.dtype)


def quarter_turns(images: Array) -> Array:
    """Return images (N, S, S, C) rotated by 0, 1, 2 and 3 quarter turns, (4, N, S, S, C)."""
    return jnp.stack([jnp.rot90(images, turn, axes=(1, 2)) for turn in range(4)])


def sample_latent(gan: GAN, key: Array, shape: tuple[int, ...] = ()) -> Array:
    """Draw z (*shape, latent) from the prior: N(0, I), or uniform on [-1, 1]."""
    shape = (*shape, gan.latent_size)
    if gan.latent_prior == "uniform":
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    return jax.random.normal(key, shape)


def project(gan: GAN, z: Array) -> Array:
    """Return the nearest point to z (latent,) of the region that holds the prior's mass.

    The region is the box [-1, 1] for the uniform prior, and for the normal prior the ball of radius sqrt(latent), the
    typical norm of a draw. Outside it the generator was never trained, and an unconstrained search finds images there
    that resemble anything, including anomalies.
    """
    if gan.latent_prior == "uniform":
        return jnp.clip(z, -1.0, 1.0)
    radius = jnp.sqrt(float(gan.latent_size))
    return z * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(z), 1e-12))
