"""The latent search: the z whose G(z) is closest to a query, by gradient descent on z alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from anogan_jax.losses import cross_entropy_loss, feature_matching_loss, residual_loss
from anogan_jax.models import GAN, Weights, sample_latent

DISCRIMINATIONS = ("feature_matching", "cross_entropy")


class SearchResult(NamedTuple):
    """Where one image's search ended; vmapped, each field gains a leading axis."""

    z: Array  # (latent,) the best point visited
    generated: Array  # (S, S, C) G(z), in [-1, 1]
    loss: Array  # () (1 - lambda) residual + lambda discrimination
    residual: Array  # () R(z)
    discrimination: Array  # () D(z)


def latent_search(
    gan: GAN,
    weights: Weights,
    image: Array,
    key: Array,
    *,
    steps: int = 500,
    learning_rate: float = 0.1,
    restarts: int = 1,
    discrimination: str = "feature_matching",
    discrimination_weight: float = 0.1,
    feature_layer: int = -1,
) -> SearchResult:
    """Searches the z that explains one image, a pure function of its arguments; vmap it over images and keys.

    Minimises L(z) = (1 - lambda) R(z) + lambda D(z) (Schlegl et al. 2017, eq. 6) with Adam, from
    fresh draws of the prior and with fresh moments; G and D are frozen, in inference mode.

    Deviations from the paper, which names neither optimiser nor rate: the learning rate falls along
    a cosine to zero, so that the search settles; each step is projected to where the prior has its
    mass (see ``project``); of all points visited, the best is returned, not the last.

    Args:
      gan: the model.
      weights: its trained weights.
      image: the query, (S, S, C) in [-1, 1].
      key: draws the starts.
      steps: gradient steps from each start.
      learning_rate: Adam's at the first step. About half of ``learning_rate * steps`` is how far
        each coordinate of z can travel; the prior's width is 1.
      restarts: independent starts, of which the best counts.
      discrimination: "feature_matching" (eq. 5), or "cross_entropy" (eq. 4, after Yeh et al. 2016).
      discrimination_weight: lambda.
      feature_layer: the discriminator's hidden layer that feature matching compares.

    Raises:
      ValueError: an unknown discrimination loss.
    """
    if discrimination not in DISCRIMINATIONS:
        raise ValueError(f"discrimination must be one of {DISCRIMINATIONS}, not {discrimination!r}")

    def generate(z: Array) -> Array:
        return gan.generator.apply(weights.generator, z[None], train=False)[0]

    def discriminate(image: Array) -> tuple[Array, Array]:
        outputs: Any = gan.discriminator.apply(weights.discriminator, image[None], train=False)
        logits, features = outputs
        return logits[0], features[feature_layer][0]

    _, image_features = discriminate(image)

    def evaluate(z: Array) -> SearchResult:
        generated = generate(z)
        logit, features = discriminate(generated)
        residual = residual_loss(image, generated)
        if discrimination == "cross_entropy":
            second = cross_entropy_loss(logit)
        else:
            second = feature_matching_loss(image_features, features)
        loss = (1.0 - discrimination_weight) * residual + discrimination_weight * second
        return SearchResult(z, generated, loss, residual, second)

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    loss_and_gradient = jax.value_and_grad(lambda z: evaluate(z).loss)

    def descend(key: Array) -> tuple[Array, Array]:
        """One start: the lowest loss on its way, and the z there."""

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            z, moments, best_loss, best_z = carry
            loss, gradient = loss_and_gradient(z)
            best_z = jnp.where(loss < best_loss, z, best_z)
            best_loss = jnp.minimum(loss, best_loss)
            update, moments = optimizer.update(gradient, moments)
            return (project(gan, z + update), moments, best_loss, best_z), None

        z = project(gan, sample_latent(gan, key))
        (z, _, best_loss, best_z), _ = lax.scan(step, (z, optimizer.init(z), jnp.inf, z), length=steps)
        loss = evaluate(z).loss
        return jnp.minimum(loss, best_loss), jnp.where(loss < best_loss, z, best_z)

    losses, zs = jax.vmap(descend)(jax.random.split(key, restarts))
    return evaluate(zs[jnp.argmin(losses)])


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
