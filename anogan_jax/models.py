"""The DCGAN generator and discriminator (Radford et al. 2015, arXiv 1511.06434)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.typing import DTypeLike

from anogan_jax.layers import StridedConv

PRIORS = ("normal", "uniform")
PRECISIONS = ("float32", "bfloat16")
OBJECTIVES = ("gan", "wgan_gp")
# Deviation: DCGAN code averages batch statistics with 0.9, about the last ten batches; inference
# needs a steadier estimate than that.
STATISTICS_MOMENTUM = 0.99
_EPSILON = 1e-5


Variables = Mapping[str, Any]  # what a Flax module is applied to: {"params", "batch_stats"}


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015), a multiplication and an addition for each channel.

    As ``nn.BatchNorm``, names of variables and all, but that makes more passes over memory, forward and backward.
    """

    dtype: DTypeLike  # of the result; statistics are float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Args: x (N, H, W, C); train: normalise by the batch (and update ``batch_stats``)."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), channels)
        bias = self.param("bias", nn.initializers.zeros_init(), channels)
        running = [
            self.variable("batch_stats", "mean", jnp.zeros, channels),
            self.variable("batch_stats", "var", jnp.ones, channels),
        ]
        mean, variance = (statistic.value for statistic in running)
        if train:
            exact = x.astype(jnp.float32)
            mean = jnp.mean(exact, axis=(0, 1, 2))
            variance = nn.relu(jnp.mean(exact**2, axis=(0, 1, 2)) - mean**2)  # rounding may leave less than nothing
            for statistic, of_batch in zip(running, (mean, variance), strict=True):
                statistic.value = STATISTICS_MOMENTUM * statistic.value + (1 - STATISTICS_MOMENTUM) * of_batch
        factor = scale * lax.rsqrt(variance + _EPSILON)
        factor, shift = (jnp.broadcast_to(leaf, x.shape) for leaf in (factor, bias - mean * factor))
        return (x * factor + shift).astype(self.dtype)


class Generator(nn.Module):
    """Latent vectors to images: a 4x4 projection, then transposed convolutions that double the size.

    No fully connected hidden layer: the projection is the transposed convolution of a 1x1 map.
    Widths go from ``width * image_size / 8`` at 4x4 down to ``width`` before the image.
    """

    image_size: int  # 4 * 2^k, k >= 1
    channels: int
    width: int
    kernel_size: int  # 4 or 5
    dtype: DTypeLike = jnp.float32  # of the computation; weights, statistics and images are float32

    @nn.compact
    def __call__(self, z: Array, train: bool) -> Array:
        """Args: z (N, latent); train: normalise by the batch (and update ``batch_stats``).

        Returns: images (N, S, S, C) in [-1, 1].
        """
        widths = self.width * self.image_size // 8
        x = _dense((4, 4, widths), self.dtype, "project", use_bias=False)(z)
        x = nn.relu(BatchNorm(self.dtype)(x, train))
        while widths > self.width:
            widths //= 2
            x = StridedConv(widths, self.kernel_size, up=True, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(BatchNorm(self.dtype)(x, train))
        x = StridedConv(self.channels, self.kernel_size, up=True, use_bias=True, dtype=self.dtype)(x)
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Images to a logit (positive: real) and the features of every hidden layer."""

    image_size: int  # 4 * 2^k, k >= 1
    width: int
    kernel_size: int  # 4 or 5
    dtype: DTypeLike = jnp.float32  # of the computation; weights, statistics, logits and features are float32
    batch_norm: bool = True  # not for a critic whose gradient is penalised image by image

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, tuple[Array, ...]]:
        """Args: x (N, S, S, C) in [-1, 1]; train: normalise by the batch (and update ``batch_stats``).

        Returns: logits (N,) and one (N, H, H, features) per hidden layer, H = S/2, S/4, ..., 4.
        """
        features = []
        for layer in range(hidden_layers(self.image_size)):
            normalised = self.batch_norm and layer > 0  # DCGAN leaves the layer that sees the image unnormalised
            features_out, bias = self.width * 2**layer, not normalised
            x = StridedConv(features_out, self.kernel_size, False, use_bias=bias, dtype=self.dtype)(x)
            if normalised:
                x = BatchNorm(self.dtype)(x, train)
            x = nn.leaky_relu(x, 0.2)
            features.append(x.astype(jnp.float32))
        logit = _dense(1, self.dtype, "logit", axis=(-3, -2, -1))(x)
        return logit[:, 0].astype(jnp.float32), tuple(features)


class Encoder(nn.Module):
    """Images to latent vectors, by the discriminator's convolutions (f-AnoGAN, Schlegl et al. 2019)."""

    image_size: int  # 4 * 2^k, k >= 1
    latent_size: int
    width: int
    kernel_size: int  # 4 or 5
    dtype: DTypeLike = jnp.float32  # of the computation; weights, statistics and z are float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Args: x (N, S, S, C) in [-1, 1]; train: normalise by the batch (and update ``batch_stats``).

        Returns: z (N, latent).
        """
        for layer in range(hidden_layers(self.image_size)):
            x = StridedConv(self.width * 2**layer, self.kernel_size, False, use_bias=False, dtype=self.dtype)(x)
            x = nn.leaky_relu(BatchNorm(self.dtype)(x, train), 0.2)
        return _dense(self.latent_size, self.dtype, "latent", axis=(-3, -2, -1))(x).astype(jnp.float32)


class GAN(NamedTuple):
    """What is static about a model: its two modules and its latent space."""

    generator: Generator
    discriminator: Discriminator
    latent_size: int
    latent_prior: str  # one of PRIORS


class Weights(NamedTuple):
    """What inference needs of a trained model: both modules' variables."""

    generator: Variables
    discriminator: Variables


def make_gan(
    image_size: int,
    channels: int,
    width: int = 64,
    kernel_size: int = 4,
    latent_size: int = 100,
    latent_prior: str = "normal",
    precision: str = "float32",
    objective: str = "gan",
) -> GAN:
    """A generator and a discriminator for square images of 4 * 2^k pixels, k >= 1.

    With ``precision`` "bfloat16" both compute in it, which is meant for accelerators; weights,
    statistics, losses and scores stay float32. With ``objective`` "wgan_gp" the discriminator is a
    critic, without batch normalisation (Gulrajani et al. 2017, section 4).

    Raises:
      ValueError: another size, an unknown prior, precision or objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {OBJECTIVES}, not {objective!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, not {precision!r}")
    if latent_prior not in PRIORS:
        raise ValueError(f"latent_prior must be one of {PRIORS}, not {latent_prior!r}")
    if image_size < 8 or image_size & (image_size - 1):
        raise ValueError(f"image_size must be 8, 16, 32, 64, ... (4 * 2^k), not {image_size}")
    return GAN(
        Generator(image_size, channels, width, kernel_size, jnp.dtype(precision)),
        Discriminator(image_size, width, kernel_size, jnp.dtype(precision), batch_norm=objective == "gan"),
        latent_size,
        latent_prior,
    )


def hidden_layers(image_size: int) -> int:
    """How many hidden layers the discriminator has: one for each halving down to 4x4."""
    return image_size.bit_length() - 3


def sample_latent(gan: GAN, key: Array, shape: tuple[int, ...] = ()) -> Array:
    """Draws z of shape (*shape, latent) from the prior: N(0, I), or uniform on [-1, 1]."""
    shape = (*shape, gan.latent_size)
    if gan.latent_prior == "uniform":
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    return jax.random.normal(key, shape)


def _dense(features: int | tuple[int, ...], dtype: DTypeLike, name: str, **how: Any) -> nn.DenseGeneral:
    return nn.DenseGeneral(features, kernel_init=nn.initializers.normal(0.02), dtype=dtype, name=name, **how)
