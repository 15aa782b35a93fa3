"""Training an encoder for a trained GAN: images to the z that make them (f-AnoGAN, Schlegl et al. 2019)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from anogan_jax.devices import make_mesh, rows, whole
from anogan_jax.losses import encoding_loss
from anogan_jax.models import GAN, Encoder, Variables, Weights
from anogan_jax.search import project


class EncoderState(NamedTuple):
    """All that the encoder's training carries from one step to the next."""

    step: Array  # () int32, updates done
    key: Array  # () PRNG key it began with
    encoder: Variables
    optimizer: optax.OptState


class EncoderMetrics(NamedTuple):
    """One step's; each () float32."""

    encoder_loss: Array
    gradient_norm: Array


def make_encoder(gan: GAN) -> Encoder:
    """Of the discriminator's size."""
    of = gan.discriminator
    return Encoder(of.image_size, gan.latent_size, of.width, of.kernel_size, of.dtype)


def init_encoder_state(gan: GAN, optimizer: optax.GradientTransformation, key: Array, channels: int) -> EncoderState:
    """A fresh state, a function of the key alone."""
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
    """Binds the frozen GAN and returns the compiled ``step(state, images) -> (state, metrics)``.

    Args:
      gan: the model.
      weights: its trained weights.
      optimizer: of the encoder.
      feature_weight: kappa of izif; 0 is izi.
      feature_layer: the discriminator's hidden layer that is compared.
      mesh: the batch is divided over its devices. The state given is donated.
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
            loss = encoding_loss(
                images, generated, features(weights, images), features(weights, generated), feature_weight
            )
            return loss, updates["batch_stats"]

        (loss, statistics), gradients = jax.value_and_grad(loss_e, has_aux=True)(state.encoder["params"])
        updates, moments = optimizer.update(gradients, state.optimizer)
        params = optax.apply_updates(state.encoder["params"], updates)
        new_state = EncoderState(state.step + 1, state.key, {"params": params, "batch_stats": statistics}, moments)
        return new_state, EncoderMetrics(loss, optax.tree.norm(gradients))

    shardings = (whole(mesh), whole(mesh), rows(mesh))
    compiled = jax.jit(step, donate_argnums=1, in_shardings=shardings, out_shardings=whole(mesh))
    return partial(compiled, jax.device_put(weights, whole(mesh)))
