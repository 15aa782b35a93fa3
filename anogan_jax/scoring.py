"""From images of the model's size to anomaly scores, by one compiled program of fixed shape."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from anogan_jax.bank import Index, Neighbours, retrieve
from anogan_jax.config import Start
from anogan_jax.data import check_model_range
from anogan_jax.devices import REPLICATED, SHARDED, make_mesh, replicated, sharded
from anogan_jax.errors import UserError
from anogan_jax.features import Features
from anogan_jax.losses import cross_entropy_loss
from anogan_jax.models import GAN, Encoder, RotationNetwork, Segmenter, Variables, Weights, project, sample_latent
from anogan_jax.rotation import Rotation, rotation_term
from anogan_jax.runtime import Score, blocks, one_at_a_time
from anogan_jax.search import Found, Search

_NEAREST = 8  # number of references that a query is compared with


class Model(NamedTuple):
    """The arrays of a trained model that scoring reads."""

    weights: Weights
    encoder: Variables | None = None  # for start "encoder"
    bank_index: Index | None = None  # for start "bank"
    references: Neighbours | None = None  # training images to compare with, if any are kept
    segmenter: Variables | None = None  # if one was trained
    rotation: Rotation | None = None  # the rotation network with its statistics, if one was trained


class Segmentation(NamedTuple):
    """The contribution of a segmenter to score and map; its variables are in ``Model``."""

    segmenter: Segmenter
    weight: float  # s, its share
    mirrored: bool = False  # whether its logits are averaged over the four reflections of an image
    share: float = 0.01  # S(x) is the mean of its map's highest values; this is their share


Program = Callable[[Model, Array], tuple[Array, ...]]  # images (n, S, S, C) in [-1, 1] -> fields of Score
Scorer = Callable[[Model, Iterable[np.ndarray]], Iterator[Score]]  # images (S, S, C) in [-1, 1], in order


def slots_of(mesh: Mesh) -> int:
    """Return how many images a device scores at a time, however many there are.

    Matrix products of another shape may round differently; a fixed shape makes a score independent of the other images.
    An accelerator needs more images at a time than a CPU to be busy.
    """
    return 64 if mesh.devices.flat[0].platform == "cpu" else 512


def make_program(
    gan: GAN,
    search: Search,
    start: Start,
    starts: int = 1,
    *,
    reference_weight: float = 0.0,
    encoder: Encoder | None = None,
    segmentation: Segmentation | None = None,
    rotation: RotationNetwork | None = None,
    seed: int = 0,
) -> Program:
    """Bind ``program(model, images)``, a pure function: start, search, reconstruct and compare.

    Each image's z is optimised independently from each of its starts. A(x) = (1 - lambda) R(x) + lambda D(x) (Schlegl
    et al. 2017, eq. 7), where D is the mean of the discrimination losses of the images found from all starts. With r,
    the reference weight, R = (1 - r) |f(x) - f(G)| + r |f(x) - f(T)|: f(x) are the query's features, f(G) the mean
    features of the images found, f(T) those of the eight nearest references. With one start and r = 0 this is
    the paper's A(x). With s, the segmenter's weight, the score is (1 - s) A(x) + s S(x); the segmenter's map is
    log(1 + e^logit), and S(x) the mean of that map's highest values. Maps are mixed as scores are. The reconstruction
    that is shown is the image of the search that ended with the smallest loss.

    Args:
      gan: the model.
      search: the search from one start.
      start: "bank", the nearest neighbours in the index; "random", draws of the prior, whose key is made from the
        image's pixels; or "encoder", E(x) (f-AnoGAN, Schlegl et al. 2019).
      starts: number of starts for each image; an encoder gives one.
      reference_weight: r, the share of the model's references, if it has any.
      encoder: the network of start "encoder".
      segmentation: a network that marks damage, and its weight; None: there is none.
      rotation: a network that classifies quarter turns, for T(x), see ``rotation_term``; None: there is none.
      seed: the seed of random starts.
    """
    features, weight = search.features, search.discrimination_weight
    find_starts = _make_starts(gan, start, starts, features, encoder, seed)
    reconstruct = _make_reconstruct(search)

    def score_block(model: Model, images: Array) -> tuple[Array, ...]:
        reconstruction, described, discrimination, z = reconstruct(model, images, *find_starts(model, images))
        nothing = jnp.zeros(images.shape[0])  # not len(images), here and below: in an export it is a symbol
        queries, damage = _describe(features, model, images), nothing
        residual, anomaly_map = _compare(features, queries, described)
        if reference_weight and model.references is not None:
            nearest = model.references.features[retrieve(model.references, queries, _NEAREST)]
            compared = _compare(features, queries, nearest.mean(axis=1))
            residual, anomaly_map = _mixed((residual, anomaly_map), compared, reference_weight)
        score = _mixed(residual, discrimination, weight)
        if segmentation:
            damage, damage_map = _find_damage(segmentation, model, images)
            score, anomaly_map = _mixed((score, anomaly_map), (damage, damage_map), segmentation.weight)
        turns = nothing
        if rotation:
            assert model.rotation is not None
            turns = rotation_term(rotation, model.rotation, images)
        return score, residual, discrimination, damage, turns, reconstruction, anomaly_map, z

    return score_block


@lru_cache(maxsize=16)
def make_scorer(
    gan: GAN, search: Search, start: Start, starts: int = 1, *, mesh: Mesh | None = None, **others: Any
) -> Scorer:
    """Bind ``score(model, images)``: the program of ``make_program``, compiled once.

    Args:
      gan: the model.
      search: the search from one start.
      start: where searches start, see ``make_program``.
      starts: number of starts for each image.
      mesh: the devices of this process to score on, by default one; scores are the same up to rounding.
      others: further arguments of ``make_program``, such as ``reference_weight``.
    """
    return _compile(make_program(gan, search, start, starts, **others), mesh or make_mesh())


def make_discriminator_scorer(gan: GAN, mesh: Mesh | None = None) -> Scorer:
    """Bind a scorer by P_D of the paper's table, -log D(x), without a search; its maps have one value each."""

    def score_block(model: Model, images: Array) -> tuple[Array, ...]:
        logits, _ = gan.discriminator.apply(model.weights.discriminator, images, train=False)
        losses = jax.vmap(cross_entropy_loss)(logits)
        nothing, maps = jnp.zeros_like(losses), jnp.broadcast_to(losses[:, None, None], images.shape[:3])
        no_z = jnp.zeros((len(images), 1, 0))
        return losses, nothing, losses, nothing, nothing, jnp.zeros_like(images), maps, no_z

    return _compile(score_block, mesh or make_mesh())


def _compile(program: Program, mesh: Mesh) -> Scorer:
    """Return the scorer by a program, which is compiled once for the devices of a mesh."""
    in_specs = (REPLICATED, SHARDED)
    score_block = jax.jit(jax.shard_map(program, mesh=mesh, in_specs=in_specs, out_specs=SHARDED, check_vma=False))

    def score(model: Model, images: Iterable[np.ndarray]) -> Iterator[Score]:
        model = jax.device_put(model, replicated(mesh))
        for block, padded in blocks(images, slots_of(mesh) * mesh.size):
            placed = jax.block_until_ready(jax.device_put(padded, sharded(mesh)))  # see cli.keep_memory
            with one_at_a_time:
                found = Score(*jax.device_get(score_block(model, placed)))
            _check_finite(found.score, found.rotation, found.anomaly_map)
            for i in range(len(block)):
                yield Score(*(field[i] for field in found))

    return score


def score_images(scorer: Scorer, model: Model, images: np.ndarray) -> Score:
    """Score each of N images; all fields gain a leading axis.

    Args:
      scorer: as ``make_scorer`` returns it.
      model: the trained model's arrays.
      images: (N, S, S, C) floats in [-1, 1], N at least 1.

    Raises:
      ValueError: the images are not floats in [-1, 1].
    """
    check_model_range(images)
    return Score(*(np.stack(field) for field in zip(*scorer(model, images), strict=True)))


def _make_starts(
    gan: GAN, start: Start, starts: int, features: Features, encoder: Encoder | None, seed: int
) -> Callable[[Model, Array], tuple[Array, Array | None]]:
    """Return ``find_starts(model, images)``: z (n, starts, latent), and their places (n, starts) if in the bank."""

    def find_starts(model: Model, images: Array) -> tuple[Array, Array | None]:
        if start == "bank":
            assert model.bank_index is not None
            places = retrieve(model.bank_index.neighbours, _describe(features, model, images), starts)
            return model.bank_index.z[places], places
        if start == "encoder":
            assert encoder is not None
            assert model.encoder is not None
            z: Any = encoder.apply(model.encoder, images, train=False)
            return jax.vmap(partial(project, gan))(z)[:, None], None
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(_digests(images))
        return jax.vmap(partial(sample_latent, gan, shape=(starts,)))(keys), None

    return find_starts


def _make_reconstruct(search: Search) -> Callable[..., tuple[Array, Array, Array, Array]]:
    """Return ``reconstruct(model, images, z, places)``, which searches from each start.

    It returns the best image (n, S, S, C), mean features (n, F) and mean discrimination (n,) of each query, and z
    (n, starts, latent), with the best first. Without steps and with lambda 0 the bank's own images are taken, the
    nearest is the best, and nothing is generated.
    """

    def reconstruct(model: Model, images: Array, z: Array, places: Array | None) -> tuple[Array, Array, Array, Array]:
        if places is not None and not search.steps and not search.discrimination_weight:
            assert model.bank_index is not None
            nearest, described = model.bank_index.images[places[:, 0]], model.bank_index.neighbours.features[places]
            return nearest, described.mean(axis=1), jnp.zeros(images.shape[0]), z

        count, each = z.shape[:2]
        pairs = (jnp.repeat(images, each, axis=0), z.reshape(count * each, -1))
        rounds = jax.tree.map(lambda part: part.reshape(each, count, *part.shape[1:]), pairs)  # each of n pairs

        def run(pair: tuple[Array, Array]) -> tuple[Found, Array]:
            found = jax.vmap(partial(search.run, model.weights))(*pair)
            return found, _describe(search.features, model, found.image)

        of_pairs = jax.tree.map(lambda part: part.reshape(count, each, *part.shape[2:]), lax.map(run, rounds))
        found, described = of_pairs  # (n, starts, ...)
        order = jnp.argsort(found.loss, axis=1)
        best = jnp.take_along_axis(found.image, order[:, :1, None, None, None], axis=1)[:, 0]
        z = jnp.take_along_axis(found.z, order[..., None], axis=1)
        return best, described.mean(axis=1), found.discrimination.mean(axis=1), z

    return reconstruct


def _describe(features: Features, model: Model, images: Array) -> Array:
    """Return the features (n, F) of images (n, S, S, C)."""
    return jax.vmap(features.describe, (0, None))(images, model.weights)


def _compare(features: Features, queries: Array, described: Array) -> tuple[Array, Array]:
    """Return the distances (n,) and difference maps (n, S, S) between features (n, F) of queries and of others."""
    differences = queries - described
    return jax.vmap(features.distance)(differences), jax.vmap(features.difference_map)(differences)


def _find_damage(segmentation: Segmentation, model: Model, images: Array) -> tuple[Array, Array]:
    """Return S(x) (n,) and the segmenter's maps (n, S, S) of images (n, S, S, C)."""

    def segment(axes: tuple[int, ...]) -> Array:
        assert model.segmenter is not None
        logits: Any = segmentation.segmenter.apply(model.segmenter, jnp.flip(images, axes), train=False)
        return jnp.flip(logits, axes)

    reflections: list[tuple[int, ...]] = [(), (1,), (2,), (1, 2)] if segmentation.mirrored else [()]
    maps = jax.nn.softplus(jnp.mean(jnp.stack([segment(axes) for axes in reflections]), axis=0))
    values = maps.reshape(images.shape[0], -1)
    highest, _ = lax.top_k(values, max(1, round(segmentation.share * values.shape[1])))
    return highest.mean(axis=1), jax.image.resize(maps, images.shape[:3], "linear")


def _mixed(first: Any, second: Any, share: float) -> Any:
    """Return (1 - share) of the first and that share of the second."""
    return jax.tree.map(lambda one, other: (1.0 - share) * one + share * other, first, second)


def _check_finite(*arrays: np.ndarray) -> None:
    """Raise UserError unless every value is finite: the weights of a diverged model give no scores."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise UserError("the scores are not finite: the model is damaged, untrained or has diverged; train again")


def _digests(images: Array) -> Array:
    """Return a number (n,) uint32 for each image (n, S, S, C), made of all its pixels."""
    bits = lax.bitcast_convert_type(images, jnp.uint32).reshape(images.shape[0], -1)
    factors = np.random.default_rng(0).integers(0, 2**31, bits.shape[1], np.uint32) * np.uint32(2) + np.uint32(1)
    return jnp.sum((bits ^ (bits >> 15)) * factors[None], axis=1, dtype=jnp.uint32)
