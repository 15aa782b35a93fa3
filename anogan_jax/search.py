"""The latent search: gradient descent on z alone towards the image G(z) closest to a query (Schlegl et al. 2017)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from anogan_jax.features import Features
from anogan_jax.losses import cross_entropy_loss, feature_matching_loss
from anogan_jax.models import GAN, Weights
from anogan_jax.soap import rotate, soap

Start = Literal["bank", "random", "encoder"]
Discrimination = Literal["feature_matching", "cross_entropy"]
Optimizer = Literal["soap", "adam"]
_ROTATE_EVERY = 8  # steps between two rotations of SOAP's basis


class Found(NamedTuple):
    """The best point that one search visited; vmapped, each field gains a leading axis."""

    z: Array  # (latent,)
    image: Array  # (S, S, C) G(z), in [-1, 1]
    loss: Array  # () (1 - lambda) residual + lambda discrimination
    residual: Array  # () R(z)
    discrimination: Array  # () D(z); 0 where lambda is 0


Search = Callable[[Weights, Array, Array], Found]  # of weights, the query (S, S, C), the z it starts at (latent,)


def make_search(
    gan: GAN,
    features: Features,
    *,
    steps: int,
    optimizer: Optimizer = "soap",
    learning_rate: float = 1.0,
    discrimination: Discrimination = "feature_matching",
    discrimination_weight: float = 0.0,
    feature_layer: int = -1,
) -> Search:
    """Return ``search(weights, image, z)``, a pure function for one image, to be vmapped.

    It minimises L(z) = (1 - lambda) R(z) + lambda D(z) (Schlegl et al. 2017, eq. 6) over z, with G and D frozen and
    in inference mode. Deviations from the paper: R is the distance in a feature space ("pixels" is the paper's); z is
    projected after each step to where the prior has its mass (see ``project``); and of all points visited the best
    counts, not the last.

    Args:
      gan: the model.
      features: the feature space of R.
      steps: gradient steps; 0 evaluates the start alone.
      optimizer: "soap" with a warm-up over the first sixth of the steps and a cosine decay to zero; or "adam" at a
        constant rate, as AnoGANs use it (the paper names no optimiser).
      learning_rate: its highest value.
      discrimination: D, "feature_matching" (eq. 5) or "cross_entropy" (eq. 4, after Yeh et al. 2016).
      discrimination_weight: lambda; with 0 the discriminator is not evaluated.
      feature_layer: the discriminator's hidden layer whose features are matched.

    Raises:
      ValueError: an unknown optimizer or discrimination.
    """
    if optimizer not in ("soap", "adam") or discrimination not in ("feature_matching", "cross_entropy"):
        raise ValueError(f"no such optimizer or discrimination: {optimizer!r}, {discrimination!r}")
    warm_up = max(1, steps // 6)
    schedule = optax.warmup_cosine_decay_schedule(
        learning_rate / warm_up, learning_rate, warm_up, max(steps, warm_up + 1)
    )
    transformation = soap(schedule) if optimizer == "soap" else optax.adam(learning_rate)

    def discriminate(weights: Weights, image: Array) -> tuple[Array, Array]:
        outputs: Any = gan.discriminator.apply(weights.discriminator, image[None], train=False)
        logits, layers = outputs
        return logits[0], layers[feature_layer][0]

    def search(weights: Weights, image: Array, z: Array) -> Found:
        described = features.describe(image)
        matched = discriminate(weights, image)[1] if discrimination_weight else described  # unused where lambda is 0

        def evaluate(z: Array) -> tuple[Array, Found]:
            images: Any = gan.generator.apply(weights.generator, z[None], train=False)
            generated = images[0]
            residual = features.distance(described - features.describe(generated))
            second = jnp.float32(0.0)
            if discrimination_weight:
                logit, layer = discriminate(weights, generated)
                is_matching = discrimination == "feature_matching"
                second = feature_matching_loss(matched, layer) if is_matching else cross_entropy_loss(logit)
            loss = (1.0 - discrimination_weight) * residual + discrimination_weight * second
            return loss, Found(z, generated, loss, residual, second)

        def step(state: tuple[Array, optax.OptState, Found], number: Array) -> tuple[Any, None]:
            z, moments, best = state
            (_, found), gradient = jax.value_and_grad(evaluate, has_aux=True)(z)
            update, moments = transformation.update(gradient, moments)
            if optimizer == "soap":
                is_due = (number + 1) % _ROTATE_EVERY == 0
                moments = lax.cond(is_due, rotate, lambda moments: moments, moments)
            return (project(gan, z + update), moments, _better(found, best)), None

        z = project(gan, z)
        if not steps:
            return evaluate(z)[1]
        unknown = jnp.float32(jnp.inf)
        first = Found(z, jnp.zeros_like(image), unknown, unknown, unknown)
        (z, _, best), _ = lax.scan(step, (z, transformation.init(z), first), jnp.arange(steps))
        return _better(evaluate(z)[1], best)

    return search


def project(gan: GAN, z: Array) -> Array:
    """Return the nearest point to z (latent,) of the region that holds the prior's mass.

    The box [-1, 1] for the uniform prior; for the normal prior the ball of radius sqrt(latent), the typical norm of a
    draw. Outside it the generator was never trained, and an unconstrained search finds images there that resemble
    anything, anomalies too.
    """
    if gan.latent_prior == "uniform":
        return jnp.clip(z, -1.0, 1.0)
    radius = jnp.sqrt(float(gan.latent_size))
    return z * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(z), 1e-12))


def _better(new: Found, old: Found) -> Found:
    return jax.tree.map(lambda a, b: jnp.where(new.loss < old.loss, a, b), new, old)
