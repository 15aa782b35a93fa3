"""Training of a segmenter, a network that marks damage, on pseudo-anomalies (compare DRAEM, Zavrtanik et al. 2021)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from anogan_jax.devices import make_mesh, replicated, sharded
from anogan_jax.losses import segmentation_loss
from anogan_jax.models import GAN, Variables, make_segmenter


class SegmenterState(NamedTuple):
    """The state of the segmenter's training between two steps."""

    step: Array  # () int32, updates done
    key: Array  # () PRNG key of the initialisation
    segmenter: Variables
    optimizer: optax.OptState


class SegmenterMetrics(NamedTuple):
    """Metrics of one step; each () float32."""

    segmenter_loss: Array
    gradient_norm: Array


def init_segmenter_state(
    gan: GAN, optimizer: optax.GradientTransformation, key: Array, channels: int
) -> SegmenterState:
    """Return the initial state for images with ``channels`` channels; it depends on the key alone."""
    size = gan.discriminator.image_size
    segmenter = make_segmenter(gan).init(key, jnp.zeros((1, size, size, channels)), train=False)
    return SegmenterState(jnp.zeros((), jnp.int32), key, segmenter, optimizer.init(segmenter["params"]))


def make_segmenter_step(
    gan: GAN, optimizer: optax.GradientTransformation, mesh: Mesh | None = None
) -> Callable[[SegmenterState, Array], tuple[SegmenterState, SegmenterMetrics]]:
    """Return the compiled ``step(state, examples) -> (state, metrics)``, which minimises ``segmentation_loss``.

    Examples are (N, S, S, C + 1): images in [-1, 1], and as the last channel their masks, 1 where damaged and else 0.
    The state is donated.

    Args:
      gan: the model whose convolutions the segmenter shares in shape; its weights are not used.
      optimizer: the optimizer of the segmenter.
      mesh: the devices over which the batch is divided, by default all.
    """
    segmenter, mesh = make_segmenter(gan), mesh or make_mesh()

    def step(state: SegmenterState, examples: Array) -> tuple[SegmenterState, SegmenterMetrics]:
        images, masks = examples[..., :-1], examples[..., -1]

        def loss_s(params: dict) -> tuple[Array, dict]:
            variables = {"params": params, "batch_stats": state.segmenter["batch_stats"]}
            logits, updates = segmenter.apply(variables, images, train=True, mutable=["batch_stats"])
            return segmentation_loss(logits, masks), updates["batch_stats"]

        (loss, statistics), gradients = jax.value_and_grad(loss_s, has_aux=True)(state.segmenter["params"])
        params: Any = state.segmenter["params"]
        updates, moments = optimizer.update(gradients, state.optimizer, params)
        segmenter_now = {"params": optax.apply_updates(params, updates), "batch_stats": statistics}
        new_state = SegmenterState(state.step + 1, state.key, segmenter_now, moments)
        return new_state, SegmenterMetrics(loss, optax.tree.norm(gradients))

    everywhere = replicated(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(everywhere, sharded(mesh)), out_shardings=everywhere)
