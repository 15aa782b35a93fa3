"""Training of an encoder from images to z for a trained GAN (f-AnoGAN, Schlegl et al. 2019)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from anogan_jax.devices import make_mesh, replicated, sharded
from anogan_jax.losses import encoding_loss
from anogan_jax.models import GAN, Variables, Weights, make_encoder
from anogan_jax.search import project


class EncoderState(NamedTuple):
    """The state of the encoder's training between two steps."""

    step: Array  # () int32, updates done
    key: Array  # () PRNG key of the initialisation
    encoder: Variables
    optimizer: optax.OptState


class EncoderMetrics(NamedTuple):
    """Metrics of one step; each () float32."""

    encoder_loss: Array
    gradient_norm: Array


def init_encoder_state(gan: GAN, optimizer: optax.GradientTransformation, key: Array, channels: int) -> EncoderState:
    """Return the initial state for images with ``channels`` channels; it depends on the key alone."""
    size = gan.discriminator.image_size
    encoder = make_encoder(gan).init(key, jnp.zeros((1, size, size, channels)), train=False)
    return EncoderState(jnp.zeros((), jnp.int32), key, encoder, optimizer.init(encoder["params"]))


def make_encoder_step(
    gan: GAN,
    weights: Weights,
    optimizer: optax.GradientTransformation,
    feature_weight: float = 1.0,
    feature_layer: int = -1,
    mesh: Mesh | None = None,
) -> Callable[[EncoderState, Array], tuple[EncoderState, EncoderMetrics]]:
    """Return the compiled ``step(state, images) -> (state, metrics)``, which trains the encoder of a frozen GAN.

    It minimises ``encoding_loss``. Images are (N, S, S, C) in [-1, 1]; the state is donated.

    Args:
      gan: the model.
      weights: its trained weights.
      optimizer: the optimizer of the encoder.
      feature_weight: kappa of izif; 0 is izi.
      feature_layer: the discriminator's hidden layer whose features are compared.
      mesh: the devices over which the batch is divided, by default all.
    """
    encoder, mesh = make_encoder(gan), mesh or make_mesh()

    def features(weights: Weights, images: Array) -> Array:
        outputs: Any = gan.discriminator.apply(weights.discriminator, images, train=False)
        return outputs[1][feature_layer]

    def step(weights: Weights, state: EncoderState, images: Array) -> tuple[EncoderState, EncoderMetrics]:
        def loss_e(params: dict) -> tuple[Array, dict]:
            variables = {"params": params, "batch_stats": state.encoder["batch_stats"]}
            z, updates = encoder.apply(variables, images, train=True, mutable=["batch_stats"])
            generated: Any = gan.generator.apply(weights.generator, jax.vmap(partial(project, gan))(z), train=False)
            compared = features(weights, images), features(weights, generated)
            return encoding_loss(images, generated, *compared, feature_weight), updates["batch_stats"]

        (loss, statistics), gradients = jax.value_and_grad(loss_e, has_aux=True)(state.encoder["params"])
        updates, moments = optimizer.update(gradients, state.optimizer)
        params = optax.apply_updates(state.encoder["params"], updates)
        new_state = EncoderState(state.step + 1, state.key, {"params": params, "batch_stats": statistics}, moments)
        return new_state, EncoderMetrics(loss, optax.tree.norm(gradients))

    everywhere = replicated(mesh)
    shardings = (everywhere, everywhere, sharded(mesh))
    compiled = jax.jit(step, donate_argnums=1, in_shardings=shardings, out_shardings=everywhere)
    return partial(compiled, jax.device_put(weights, everywhere))
