"""The latent search: gradient descent on z only, towards the image G(z) closest to a query (Schlegl et al. 2017)."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from anogan_jax.config import Discrimination, Optimizer
from anogan_jax.features import Features
from anogan_jax.losses import cross_entropy_loss, feature_matching_loss
from anogan_jax.models import GAN, Weights, project
from anogan_jax.soap import rotate, soap

_ROTATE_EVERY = 8  # steps between two rotations of SOAP's basis


class Found(NamedTuple):
    """The best point that one search visited; vmapped, each field gains a leading axis."""

    z: Array  # (latent,)
    image: Array  # (S, S, C) G(z), in [-1, 1]
    loss: Array  # () (1 - lambda) residual + lambda discrimination
    residual: Array  # () R(z)
    discrimination: Array  # () D(z); 0 where lambda is 0


class Search(NamedTuple):
    """A latent search from one start, with the settings that scoring shares with it."""

    run: Callable[[Weights, Array, Array], Found]  # weights, query (S, S, C), start z (latent,) -> Found; pure
    features: Features  # the feature space of R
    steps: int
    discrimination_weight: float  # lambda


@lru_cache(maxsize=16)
def make_search(
    gan: GAN,
    features: Features,
    *,
    steps: int,
    optimizer: Optimizer = "soap",
    learning_rate: float = 0.01,
    discrimination: Discrimination = "feature_matching",
    discrimination_weight: float = 0.0,
    feature_layer: int = -1,
) -> Search:
    """Return a search for one image, to be vmapped.

    It minimises L(z) = (1 - lambda) R(z) + lambda D(z) (Schlegl et al. 2017, eq. 6) over z, with G and D frozen and
    in inference mode. Deviations from the paper: R is the distance in a feature space ("pixels" is the paper's); z is
    projected after each step to where the prior has its mass (see ``project``); and the result is the best point
    visited, not the last.

    Args:
      gan: the model.
      features: the feature space of R.
      steps: gradient steps; 0 evaluates only the start.
      optimizer: "soap" with a warm-up over the first sixth of the steps and a cosine decay to zero; or "adam" at a
        constant rate, as AnoGANs use it (the paper names no optimiser).
      learning_rate: the highest learning rate.
      discrimination: D, "feature_matching" (eq. 5) or "cross_entropy" (eq. 4, after Yeh et al. 2016).
      discrimination_weight: lambda; with 0 the discriminator is not evaluated.
      feature_layer: the discriminator's hidden layer whose features are matched.
    """
    bind_loss = _make_loss(gan, features, discrimination, discrimination_weight, feature_layer)
    warm_up = max(1, steps // 6)
    decay = optax.warmup_cosine_decay_schedule(learning_rate / warm_up, learning_rate, warm_up, max(steps, warm_up + 1))
    transformation = {"soap": soap(decay), "adam": optax.adam(learning_rate)}[optimizer]

    def run(weights: Weights, image: Array, z: Array) -> Found:
        loss = bind_loss(weights, image)

        def step(state: tuple[Array, optax.OptState, Found], number: Array) -> tuple[Any, None]:
            z, moments, best = state
            (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(z)
            update, moments = transformation.update(gradient, moments)
            if optimizer == "soap":
                moments = lax.cond((number + 1) % _ROTATE_EVERY == 0, rotate, lambda moments: moments, moments)
            return (project(gan, z + update), moments, _better(found, best)), None

        z = project(gan, z)
        if not steps:
            return loss(z)[1]
        unknown = jnp.float32(jnp.inf)
        first = Found(z, jnp.zeros_like(image), unknown, unknown, unknown)
        (z, _, best), _ = lax.scan(step, (z, transformation.init(z), first), jnp.arange(steps))
        return _better(loss(z)[1], best)

    return Search(run, features, steps, discrimination_weight)


def _make_loss(
    gan: GAN, features: Features, discrimination: Discrimination, weight: float, layer: int
) -> Callable[[Weights, Array], Callable[[Array], tuple[Array, Found]]]:
    """Return ``bind(weights, query)``, which returns ``loss(z)``: L(z), and the ``Found`` at z."""
    second_term = {
        "feature_matching": lambda query, generated: feature_matching_loss(query[1][layer], generated[1][layer]),
        "cross_entropy": lambda query, generated: cross_entropy_loss(generated[0][0]),
    }[discrimination]

    def discriminate(weights: Weights, image: Array) -> Any:
        return gan.discriminator.apply(weights.discriminator, image[None], train=False)

    def bind(weights: Weights, image: Array) -> Callable[[Array], tuple[Array, Found]]:
        described = features.describe(image, weights)
        seen = discriminate(weights, image) if weight else None

        def loss(z: Array) -> tuple[Array, Found]:
            images: Any = gan.generator.apply(weights.generator, z[None], train=False)
            residual = features.distance(described - features.describe(images[0], weights))
            second = second_term(seen, discriminate(weights, images[0])) if weight else jnp.float32(0.0)
            total = (1.0 - weight) * residual + weight * second
            return total, Found(z, images[0], total, residual, second)

        return loss

    return bind


def _better(new: Found, old: Found) -> Found:
    return jax.tree.map(lambda a, b: jnp.where(new.loss < old.loss, a, b), new, old)
