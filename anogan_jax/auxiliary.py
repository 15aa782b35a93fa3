"""Training of the networks other than the GAN, each with its own loss: encoder, segmenter, rotation network."""

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.tree_util import Partial

from anogan_jax.devices import make_mesh, replicated, sharded
from anogan_jax.losses import encoding_loss, rotation_loss, segmentation_loss
from anogan_jax.models import (
    GAN,
    Encoder,
    RotationNetwork,
    Segmenter,
    Variables,
    Weights,
    make_encoder,
    make_rotation_network,
    make_segmenter,
    project,
    quarter_turns,
)


class NetworkState(NamedTuple):
    """The state of a network's training between two steps."""

    step: Array  # () int32, updates done
    key: Array  # () PRNG key, constant: step s draws from fold_in(key, s)
    network: Variables
    optimizer: optax.OptState


class NetworkMetrics(NamedTuple):
    """Metrics of one step; each () float32."""

    loss: Array
    gradient_norm: Array


def init_network_state(
    network: Encoder | RotationNetwork | Segmenter,
    optimizer: optax.GradientTransformation,
    key: Array,
    channels: int,
) -> NetworkState:
    """Return the initial state for images with ``channels`` channels; it depends only on the key."""
    size = network.image_size
    variables = network.init(key, jnp.zeros((1, size, size, channels)), train=False)
    return NetworkState(jnp.zeros((), jnp.int32), key, variables, optimizer.init(variables["params"]))


def make_network_step(
    loss: Partial, optimizer: optax.GradientTransformation, mesh: Mesh | None = None
) -> Callable[[NetworkState, Array], tuple[NetworkState, NetworkMetrics]]:
    """Return the compiled ``step(state, batch) -> (state, metrics)``, which minimises a loss; the state is donated.

    Args:
      loss: ``loss(params, statistics, batch, key)``, which returns the loss () and the updated batch statistics. Arrays
        that are bound to it are arguments of the compiled step, not constants in it.
      optimizer: the optimizer of the network.
      mesh: the devices over which the batch is divided, by default one.
    """
    mesh = mesh or make_mesh()
    return partial(_compiled_step(optimizer, mesh), jax.device_put(loss, replicated(mesh)))


@lru_cache(maxsize=16)
def _compiled_step(optimizer: optax.GradientTransformation, mesh: Mesh) -> Callable[..., tuple[Any, NetworkMetrics]]:
    """Return the compiled ``step(loss, state, batch)``, the same one for all losses."""

    def step(loss: Partial, state: NetworkState, batch: Array) -> tuple[NetworkState, NetworkMetrics]:
        params, statistics = state.network["params"], state.network["batch_stats"]
        key = jax.random.fold_in(state.key, state.step)
        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(params, statistics, batch, key)
        updates, moments = optimizer.update(gradients, state.optimizer, params)
        network = {"params": optax.apply_updates(params, updates), "batch_stats": statistics}
        metrics = NetworkMetrics(value, optax.tree.norm(gradients))
        return NetworkState(state.step + 1, state.key, network, moments), metrics

    everywhere = replicated(mesh)
    shardings = (everywhere, everywhere, sharded(mesh))
    return jax.jit(step, donate_argnums=1, in_shardings=shardings, out_shardings=everywhere)


def make_encoder_loss(gan: GAN, weights: Weights, feature_weight: float = 1.0, feature_layer: int = -1) -> Partial:
    """Return the loss of an encoder from images to z for a trained GAN (f-AnoGAN, Schlegl et al. 2019).

    It is ``encoding_loss`` of images (N, S, S, C) in [-1, 1].

    Args:
      gan: the model.
      weights: its trained weights, which do not change.
      feature_weight: kappa of izif; 0 is izi.
      feature_layer: the discriminator's hidden layer whose features are compared.
    """
    return Partial(_encoder_loss(gan, feature_weight, feature_layer), weights)


@cache
def _encoder_loss(gan: GAN, feature_weight: float, feature_layer: int) -> Callable[..., tuple[Array, dict]]:
    encoder = make_encoder(gan)

    def loss(weights: Weights, params: dict, statistics: dict, images: Array, key: Array) -> tuple[Array, dict]:
        def features(images: Array) -> Array:
            outputs: Any = gan.discriminator.apply(weights.discriminator, images, train=False)
            return outputs[1][feature_layer]

        z, updated = _apply(encoder, params, statistics, images)
        generated: Any = gan.generator.apply(weights.generator, jax.vmap(partial(project, gan))(z), train=False)
        return encoding_loss(images, generated, features(images), features(generated), feature_weight), updated

    return loss


@cache
def make_segmenter_loss(gan: GAN) -> Partial:
    """Return the loss of a network that marks damage, on pseudo-anomalies (compare DRAEM, Zavrtanik et al. 2021).

    It is ``segmentation_loss`` of examples (N, S, S, C + 1): images in [-1, 1], and as the last channel their masks, 1
    where damaged and 0 elsewhere. Only the shapes of the GAN's convolutions matter.
    """
    segmenter = make_segmenter(gan)

    def loss(params: dict, statistics: dict, examples: Array, key: Array) -> tuple[Array, dict]:
        logits, updated = _apply(segmenter, params, statistics, examples[..., :-1])
        return segmentation_loss(logits, examples[..., -1]), updated

    return Partial(loss)


@cache
def make_rotation_loss(gan: GAN) -> Partial:
    """Return the loss of a network that classifies by which quarter turn an image is rotated (Gidaris et al. 2018).

    It is the mean of ``rotation_loss`` over images (N, S, S, C) in [-1, 1], which are first shifted and mirrored at
    random. Only the shapes of the GAN's convolutions matter.
    """
    network = make_rotation_network(gan)

    def loss(params: dict, statistics: dict, images: Array, key: Array) -> tuple[Array, dict]:
        turned = quarter_turns(shift_and_mirror(images, key))
        (logits, _), updated = _apply(network, params, statistics, turned.reshape(-1, *images.shape[1:]))
        return jnp.mean(rotation_loss(logits.reshape(4, -1, 4))), updated

    return Partial(loss)


def shift_and_mirror(images: Array, key: Array) -> Array:
    """Return images (N, S, S, C), shifted by up to an eighth of S with the edge repeated, and half of them mirrored."""
    count, most = len(images), images.shape[1] // 8
    shift_key, mirror_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    corners = jax.random.randint(shift_key, (count, 2), 0, 2 * most + 1)

    def crop(image: Array, corner: Array) -> Array:
        return lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    shifted, is_mirrored = jax.vmap(crop)(padded, corners), jax.random.bernoulli(mirror_key, shape=(count, 1, 1, 1))
    return jnp.where(is_mirrored, jnp.flip(shifted, axis=2), shifted)


def _apply(
    network: Encoder | RotationNetwork | Segmenter, params: dict, statistics: dict, images: Array
) -> tuple[Any, dict]:
    """Return the outputs for a batch that normalises itself, and the updated statistics."""
    variables = {"params": params, "batch_stats": statistics}
    outputs, updates = network.apply(variables, images, train=True, mutable=["batch_stats"])
    return outputs, updates["batch_stats"]
