"""The latent search: the z whose G(z) is closest to a query, by gradient descent on z alone."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from anogan_jax.losses import cross_entropy_loss, feature_matching_loss, residual_loss
from anogan_jax.models import GAN, Weights
from anogan_jax.soap import soap, turned

DISCRIMINATIONS = ("feature_matching", "cross_entropy")
# Of ``make_search``: the paper's 500 steps, from a random z; it names no optimiser and no rate.
PAPER_SETTINGS = {"steps": 500, "learning_rate": 0.1, "plain": True, "tolerance": 0.0}
_ROUND = 8  # steps between two tests of convergence, and two turns of the directions they follow


class SearchResult(NamedTuple):
    """Where one image's search ended; vmapped, each field gains a leading axis."""

    z: Array  # (latent,) the best point visited
    generated: Array  # (S, S, C) G(z), in [-1, 1]
    loss: Array  # () (1 - lambda) residual + lambda discrimination
    residual: Array  # () R(z)
    discrimination: Array  # () D(z)


class Descent(NamedTuple):
    """One image's search under way; vmapped, each field gains a leading axis."""

    image: Array  # (S, S, C) the query
    features: Array  # (H, H, F) its features in the discriminator
    z: Array  # (latent,) to be evaluated next
    moments: optax.OptState
    best: SearchResult  # of all points visited
    lowest: Array  # () what was minimised, there
    steps: Array  # () int32 evaluations done
    done: Array  # () bool


class Search(NamedTuple):
    """The search of one image in pieces, pure functions to vmap; ``latent_search`` is the whole of it."""

    begin: Callable[[Weights, Array, Array], Descent]  # of weights, image, the z to start at
    advance: Callable[[Weights, Descent], Descent]  # a round of steps on


def latent_search(gan: GAN, weights: Weights, image: Array, z: Array, **settings: Any) -> SearchResult:
    """Searches the z that explains one image, a pure function of its arguments; vmap it over images and z.

    Args:
      gan: the model.
      weights: its trained weights.
      image: the query, (S, S, C) in [-1, 1].
      z: where it starts, (latent,), such as the ``nearest`` of a bank.
      settings: as ``make_search`` takes them.
    """
    search = make_search(gan, **settings)
    descent = search.begin(weights, image, z)
    return lax.while_loop(lambda descent: ~descent.done, partial(search.advance, weights), descent).best


def make_search(
    gan: GAN,
    *,
    steps: int = 64,
    learning_rate: float = 1.0,
    plain: bool = False,
    tolerance: float = 1e-4,
    discrimination: str = "feature_matching",
    discrimination_weight: float = 0.1,
    feature_layer: int = -1,
    residual: Callable[[Array, Array], Array] = residual_loss,
    prior_weight: float = 0.0,
) -> Search:
    """Binds the model and the settings of a search.

    It minimises L(z) = (1 - lambda) R(z) + lambda D(z) (Schlegl et al. 2017, eq. 6); G and D are
    frozen, in inference mode. Deviations from the paper, which names no optimiser: z is moved by ``soap``, at a
    rate that rises over the first sixth of the steps, so as not to lose a good start, and falls to zero; each step is
    projected to where the prior has its mass (see ``project``); and of all points visited the best counts, not the
    last.

    Args:
      gan: the model.
      steps: at most so many evaluations of the loss and its gradient.
      learning_rate: at its height.
      plain: Adam at a constant rate instead.
      tolerance: past half of its steps, the search ends once eight of them lower the loss by less than this
        share of it; with 0 it takes all.
      discrimination: "feature_matching" (eq. 5), or "cross_entropy" (eq. 4, after Yeh et al. 2016).
      discrimination_weight: lambda.
      feature_layer: the discriminator's hidden layer that feature matching compares.
      residual: R of x and G(z), such as ``structure_loss``.
      prior_weight: of |z|^2 / 2, which is minus the normal prior's log density, beside L(z) in what is minimised.

    Raises:
      ValueError: an unknown discrimination loss.
    """
    if discrimination not in DISCRIMINATIONS:
        raise ValueError(f"discrimination must be one of {DISCRIMINATIONS}, not {discrimination!r}")
    rise = max(1, steps // 6)
    rate = optax.warmup_cosine_decay_schedule(learning_rate / rise, learning_rate, rise, max(steps, rise + 1))
    optimizer = optax.adam(learning_rate) if plain else soap(rate)

    def discriminate(weights: Weights, image: Array) -> tuple[Array, Array]:
        outputs: Any = gan.discriminator.apply(weights.discriminator, image[None], train=False)
        logits, features = outputs
        return logits[0], features[feature_layer][0]

    def evaluate(z: Array, weights: Weights, image: Array, image_features: Array) -> tuple[Array, SearchResult]:
        images: Any = gan.generator.apply(weights.generator, z[None], train=False)
        generated = images[0]
        logit, features = discriminate(weights, generated)
        distance = residual(image, generated)
        if discrimination == "cross_entropy":
            second = cross_entropy_loss(logit)
        else:
            second = feature_matching_loss(image_features, features)
        loss = (1.0 - discrimination_weight) * distance + discrimination_weight * second
        found = SearchResult(z, generated, loss, distance, second)
        return loss + prior_weight * 0.5 * jnp.sum(z**2), found

    def begin(weights: Weights, image: Array, z: Array) -> Descent:
        _, features = discriminate(weights, image)
        z = project(gan, z)
        unknown = jnp.float32(jnp.inf)
        best = SearchResult(z, jnp.zeros_like(image), unknown, unknown, unknown)
        return Descent(image, features, z, optimizer.init(z), best, unknown, jnp.int32(0), jnp.bool_(False))

    def step(weights: Weights, descent: Descent) -> Descent:
        (objective, found), gradient = jax.value_and_grad(evaluate, has_aux=True)(
            descent.z, weights, descent.image, descent.features
        )
        best, lowest = _where(objective < descent.lowest, (found, objective), (descent.best, descent.lowest))
        update, moments = optimizer.update(gradient, descent.moments)
        z = project(gan, descent.z + update)
        moved = descent._replace(z=z, moments=moments, best=best, lowest=lowest, steps=descent.steps + 1)
        return _where(descent.steps < steps, moved, descent)

    def advance(weights: Weights, descent: Descent) -> Descent:
        before = descent.lowest
        descent, _ = lax.scan(lambda descent, _: (step(weights, descent), None), descent, length=_ROUND)
        settled = (descent.steps > steps // 2) & (before - descent.lowest < tolerance * before)
        moments = descent.moments if plain else turned(descent.moments)
        return descent._replace(moments=moments, done=settled | (descent.steps >= steps))

    return Search(begin, advance)


def project(gan: GAN, z: Array) -> Array:
    """The nearest point of the region that holds the prior's mass; z is (latent,).

    For the uniform prior that is the box [-1, 1]; for the normal prior the ball of radius
    sqrt(latent), the typical length of a draw. Outside it the generator was never trained, and a
    search left free finds images there that resemble anything, anomalies too.
    """
    if gan.latent_prior == "uniform":
        return jnp.clip(z, -1.0, 1.0)
    radius = jnp.sqrt(float(gan.latent_size))
    return z * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(z), 1e-12))


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
