"""Adversarial training: the state, one compiled step, and the weights for inference."""

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh

from anogan_jax.config import Objective
from anogan_jax.devices import replicated, sharded
from anogan_jax.layers import materialize
from anogan_jax.losses import critic_generator_loss, critic_loss, discriminator_loss, generator_loss, gradient_penalty
from anogan_jax.models import GAN, STATISTICS_MOMENTUM, Variables, Weights, sample_latent

_STATISTICS_STREAM = 2**32 - 1  # a number for fold_in that no training step reaches
_PENALTY = 10.0  # weight of WGAN-GP's gradient penalty, as in the paper
_CRITIC_STEPS = 5  # updates of WGAN-GP's critic for each update of the generator, as in the paper


class TrainState(NamedTuple):
    """The state of training between two steps."""

    step: Array  # () int32, updates done
    key: Array  # () PRNG key, constant: step s draws from fold_in(key, s)
    generator: Variables
    discriminator: Variables
    generator_ema: Mapping[str, Any]  # moving average of the generator's params
    generator_optimizer: optax.OptState
    discriminator_optimizer: optax.OptState


class Metrics(NamedTuple):
    """One step's losses; each () float32."""

    discriminator_loss: Array
    generator_loss: Array
    real_probability: Array  # mean D(x)
    fake_probability: Array  # mean D(G(z))
    gradient_norm: Array  # norm for both networks together


@cache
def make_optimizer(learning_rate: float = 2e-4, beta1: float = 0.5) -> optax.GradientTransformation:
    """Return Adam with the settings of the DCGAN paper."""
    return optax.adam(learning_rate, b1=beta1)


@partial(jax.jit, static_argnames=("gan", "optimizer", "channels"))
def init_state(gan: GAN, optimizer: optax.GradientTransformation, key: Array, channels: int) -> TrainState:
    """Return the initial state for images with ``channels`` channels; it depends only on the key."""
    generator_key, discriminator_key, train_key = jax.random.split(key, 3)
    size = gan.generator.image_size
    generator = gan.generator.init(generator_key, jnp.zeros((1, gan.latent_size)), train=False)
    discriminator = gan.discriminator.init(discriminator_key, jnp.zeros((1, size, size, channels)), train=False)
    # Flax initialises running variances to 1, thousands of times those of newly initialised layers. From zero, the bias
    # of the moving average is known; ``inference_weights`` divides it out.
    zeros = jax.tree.map(jnp.zeros_like, discriminator.get("batch_stats", {}))  # none for 8x8 images
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=train_key,
        generator=generator,
        discriminator={"params": discriminator["params"], "batch_stats": zeros},
        generator_ema=jax.tree.map(jnp.copy, generator["params"]),  # own buffers: the state is donated
        generator_optimizer=optimizer.init(generator["params"]),
        discriminator_optimizer=optimizer.init(discriminator["params"]),
    )


@lru_cache(maxsize=16)
def make_train_step(
    gan: GAN,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.999,
    mesh: Mesh | None = None,
    objective: Objective = "gan",
) -> Callable[[TrainState, Array], tuple[TrainState, Metrics]]:
    """Return the compiled ``step(state, images) -> (state, metrics)``.

    One step updates the discriminator, then the generator through the updated discriminator (DCGAN's order), on the
    same generated batch, so that the generator runs forward once. Real and generated batches are normalised
    separately. Images are (N, S, S, C) in [-1, 1]; the state is donated and must not be used again.

    Args:
      gan: the model, made for the same objective.
      optimizer: the optimizer of both networks.
      ema_decay: the decay of the generator's moving average.
      mesh: the devices that divide the batch, by default one; N must be a multiple of their number. Averages are over
        the whole batch, so the step is the same on any number of devices, up to rounding.
      objective: "gan", or "wgan_gp", which updates the generator only in every fifth step and needs beta1 = 0 of Adam
        (Gulrajani et al. 2017, algorithm 1).
    """
    is_critic = objective == "wgan_gp"
    discriminator_gradient = _make_discriminator_gradient(gan, is_critic)
    loss_of_generator = critic_generator_loss if is_critic else generator_loss

    def update(network: Variables, gradients: dict, moments: optax.OptState) -> tuple[Any, optax.OptState]:
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(network["params"], updates), moments

    def step(state: TrainState, images: Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        z = sample_latent(gan, key, (images.shape[0],))
        generate = partial(_generate, gan, state.generator, z)
        fake, pull_back, generator_statistics = jax.vjp(generate, state.generator["params"], has_aux=True)
        (d_loss, (statistics, *logits)), d_grads = discriminator_gradient(state.discriminator, images, fake, key)
        d_grads = jax.tree.map(materialize, d_grads)
        d_params, d_optimizer = update(state.discriminator, d_grads, state.discriminator_optimizer)
        discriminator = {"params": d_params, "batch_stats": statistics}
        loss_g = jax.value_and_grad(lambda fake: loss_of_generator(_discriminate(gan, discriminator, fake)[0]))
        g_loss, fake_grads = loss_g(fake)
        g_grads = jax.tree.map(materialize, *pull_back(fake_grads))
        g_params, g_optimizer = update(state.generator, g_grads, state.generator_optimizer)
        if is_critic:  # the generator waits until the critic has converged
            waits = (state.step + 1) % _CRITIC_STEPS != 0
            old, new = (state.generator["params"], state.generator_optimizer), (g_params, g_optimizer)
            g_params, g_optimizer = jax.tree.map(partial(jnp.where, waits), old, new)
        # The decay is small at first, so that the average forgets the initial parameters.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        averaged = optax.incremental_update(g_params, state.generator_ema, 1.0 - decay)
        generator = {"params": g_params, "batch_stats": generator_statistics}
        real_probability, fake_probability = (jnp.mean(jax.nn.sigmoid(each)) for each in logits)
        metrics = Metrics(d_loss, g_loss, real_probability, fake_probability, optax.tree.norm((d_grads, g_grads)))
        new_state = TrainState(state.step + 1, state.key, generator, discriminator, averaged, g_optimizer, d_optimizer)
        return new_state, metrics

    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    everywhere = replicated(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(everywhere, sharded(mesh)), out_shardings=everywhere)


def _make_discriminator_gradient(gan: GAN, is_critic: bool) -> Callable[..., Any]:
    """Return ``gradient(discriminator, images, fake, key)``: (loss, (statistics, real and fake logits)), gradients."""

    def gradient(discriminator: Variables, images: Array, fake: Array, key: Array) -> Any:
        def loss_d(params: dict) -> tuple[Array, tuple[dict, Array, Array]]:
            real_logits, statistics = _discriminate(gan, {**discriminator, "params": params}, images)
            fake_logits, statistics = _discriminate(gan, {"params": params, "batch_stats": statistics}, fake)
            if not is_critic:
                return discriminator_loss(real_logits, fake_logits), (statistics, real_logits, fake_logits)
            share = jax.random.uniform(jax.random.fold_in(key, 1), (images.shape[0], 1, 1, 1))
            variables = {"params": params, "batch_stats": statistics}
            between = share * images + (1.0 - share) * fake
            penalty = gradient_penalty(lambda x: _discriminate(gan, variables, x)[0], between)
            return critic_loss(real_logits, fake_logits) + _PENALTY * penalty, (statistics, real_logits, fake_logits)

        return jax.value_and_grad(loss_d, has_aux=True)(discriminator["params"])

    return gradient


def _generate(gan: GAN, generator: Variables, z: Array, params: Any) -> tuple[Array, dict]:
    """Return the images of a batch that normalises itself, with these parameters, and the updated statistics."""
    fake, updates = gan.generator.apply({**generator, "params": params}, z, train=True, mutable=["batch_stats"])
    return fake, updates["batch_stats"]


def _discriminate(gan: GAN, variables: Variables, images: Array) -> tuple[Array, dict]:
    """Return the logits (N,) of a batch that normalises itself, and the updated statistics."""
    (logits, _), updates = gan.discriminator.apply(variables, images, train=True, mutable=["batch_stats"])
    return logits, updates.get("batch_stats", {})


def inference_weights(gan: GAN, state: TrainState, batches: int = 16, batch_size: int = 128) -> Weights:
    """Return the weights for inference, with matching batch statistics; they depend only on the state.

    The generator has the averaged parameters. Its running statistics belong to the latest ones, so they are measured
    here, on ``batches * batch_size`` latent vectors. The discriminator keeps its running statistics, of real and
    generated batches alike, with the bias of their start at zero divided out.
    """
    zeros = jax.tree.map(jnp.zeros_like, state.generator["batch_stats"])
    averaged = {"params": state.generator_ema, "batch_stats": zeros}

    def measure(total: dict, key: Array) -> tuple[dict, None]:
        z = sample_latent(gan, key, (batch_size,))
        _, updates = gan.generator.apply(averaged, z, train=True, mutable=["batch_stats"])
        return jax.tree.map(jnp.add, total, updates["batch_stats"]), None

    keys = jax.random.split(jax.random.fold_in(state.key, _STATISTICS_STREAM), batches)
    total, _ = lax.scan(measure, zeros, keys)
    # Each update from zero holds (1 - momentum) of its batch's statistics.
    statistics = jax.tree.map(lambda leaf: leaf / batches / (1 - STATISTICS_MOMENTUM), total)
    updates = 2 * state.step  # a real and a generated batch in each step
    memory = 1 - STATISTICS_MOMENTUM ** updates.astype(jnp.float32)
    running = jax.tree.map(lambda leaf: leaf / jnp.maximum(memory, 1e-6), state.discriminator["batch_stats"])
    return Weights(
        {"params": state.generator_ema, "batch_stats": statistics},
        {"params": state.discriminator["params"], "batch_stats": running},
    )
