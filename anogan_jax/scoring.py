"""Images to anomaly scores: a stream of queries through a fixed number of lanes."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, count, islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from anogan_jax.bank import Bank, Described, Neighbours, nearest, neighbours
from anogan_jax.devices import ROWS, WHOLE, make_mesh, rows, whole
from anogan_jax.losses import cross_entropy_loss
from anogan_jax.models import GAN, Encoder, Variables, Weights, sample_latent
from anogan_jax.search import Descent, Search, project
from anogan_jax.structure import describe, difference_map


class Score(NamedTuple):
    """Of one image; of N, each field gains a leading axis. Higher is more anomalous."""

    score: np.ndarray  # () of a search A(x) = (1 - lambda) R + lambda D; without one, the distance alone
    residual: np.ndarray  # () R(x); without a search the score
    discrimination: np.ndarray  # () D(x); without a search 0
    generated: np.ndarray  # (S, S, C) G(z), or the mean of some, in [-1, 1]
    anomaly_map: np.ndarray  # (S, S) where x differs: |x - G(z)|, the mean over channels, or see ``difference_map``


MakeStarts = Callable[[Array], Array]  # of images (n, S, S, C): z (n, restarts, latent)
Scorer = Callable[[Weights, Iterable[np.ndarray]], Iterator[Score]]  # of images (S, S, C), in their order


def lanes_on(mesh: Mesh) -> int:
    """How many images each device searches side by side, however many there are.

    Products of another width may round differently, and a search makes much of a last bit. An
    accelerator needs more at once than a CPU to have enough to do.
    """
    return 64 if mesh.devices.flat[0].platform == "cpu" else 512


def from_bank(blocks: Iterable[Bank], restarts: int = 1, mesh: Mesh | None = None) -> MakeStarts:
    """Starts at the nearest images of a bank.

    Args:
      blocks: the bank; in several parts where one would not fit into memory.
      restarts: starts for each image.
      mesh: the one that the bank is divided over.
    """
    return lambda images: nearest(blocks, images, restarts, mesh)


def from_encoder(encoder: Encoder, variables: Variables) -> MakeStarts:
    """One start for each image, at its encoder's z.

    Args:
      encoder: of images to z.
      variables: the trained encoder's.
    """

    @jax.jit
    def starts(images: Array) -> Array:
        z: Any = encoder.apply(variables, images, train=False)
        return z[:, None]

    return starts


def from_prior(gan: GAN, seed: int = 0, restarts: int = 1) -> MakeStarts:
    """Starts at random, with a key made from the image's pixels: its score depends on nothing but image and model."""

    @jax.jit
    def draw(digests: Array) -> Array:
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(digests)
        return jax.vmap(partial(sample_latent, gan, shape=(restarts,)))(keys)

    return lambda images: draw(np.array([zlib.crc32(np.asarray(x).tobytes()) for x in images], np.uint32))


def make_search_scorer(
    search: Search,
    make_starts: MakeStarts,
    mesh: Mesh | None = None,
    on_turn: Callable[[int], None] | None = None,
) -> Scorer:
    """Scores by A(x) (Schlegl et al. 2017, eq. 7), searches side by side in the lanes of one compiled program.

    A lane whose search is done takes the next query at once, so that none idles while one hard
    image goes on. Memory does not grow with the number of images. Every device has its own lanes;
    on any number of them the scores are the same.

    Args:
      search: of one image.
      make_starts: where each image's searches start.
      mesh: the devices of this process to search on, by default one.
      on_turn: called each time before the program runs, with the number of lanes in use.
    """
    mesh = mesh or make_mesh()
    width = lanes_on(mesh) * mesh.size
    begin = jax.jit(jax.vmap(search.begin, in_axes=(None, 0, 0)))  # compiled only in turn; traced once for its shapes

    @partial(jax.jit, donate_argnums=1)
    @partial(jax.shard_map, mesh=mesh, in_specs=(WHOLE, *[ROWS] * 4), out_specs=ROWS, check_vma=False)
    def turn(weights: Weights, lanes: Descent, fresh: Array, images: Array, starts: Array) -> Descent:
        def choose(new: Array, old: Array) -> Array:
            return jnp.where(fresh.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        def fill(lanes: Descent) -> Descent:
            return jax.tree.map(choose, begin(weights, images, starts), lanes)

        lanes = lax.cond(fresh.any(), fill, lambda lanes: lanes, lanes)  # at the end none waits, and few are done
        return jax.vmap(search.advance, in_axes=(None, 0))(weights, lanes)

    def score(weights: Weights, images: Iterable[np.ndarray]) -> Iterator[Score]:
        weights = jax.device_put(weights, whole(mesh))
        waiting = _queries(make_starts, images, width)
        first = next(waiting, None)
        if first is None:
            return
        waiting = chain([first], waiting)
        batch, started = (np.repeat(leaf[None], width, axis=0) for leaf in (first.image, first.start))
        empty = jax.eval_shape(begin, weights, batch, started)
        lanes = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=rows(mesh)), empty)
        occupants: list[_Query | None] = [None] * width
        found: dict[int, list[Score]] = {}  # by the number of the image, until its turn to be given out
        due = 0
        while True:
            fresh = np.array([occupant is None for occupant in occupants])
            for lane in np.flatnonzero(fresh):
                query = occupants[lane] = next(waiting, None)
                if query is None:
                    fresh[lane] = False
                else:
                    batch[lane], started[lane] = query.image, query.start
            if not any(occupants):
                return
            if on_turn:
                on_turn(sum(occupant is not None for occupant in occupants))
            given = jax.block_until_ready(jax.device_put((fresh, batch, started), rows(mesh)))  # see cli.keep_memory
            lanes = turn(weights, lanes, *given)
            best = None
            for lane in np.flatnonzero(lanes.done):
                if (query := occupants[lane]) is not None:
                    best = best or jax.tree.map(np.array, lanes.best)  # copies: the lanes' memory is used again
                    image, generated = query.image, best.generated[lane]
                    terms = (best.loss[lane], best.residual[lane], best.discrimination[lane])
                    score = Score(*terms, generated, np.abs(image - generated).mean(axis=-1))
                    found.setdefault(query.number, []).append(score)
                    occupants[lane] = None
            while len(found.get(due, ())) == first.restarts:
                yield min(found.pop(due), key=lambda score: float(score.score))
                due += 1

    return score


def make_nearest_scorer(
    blocks: Iterable[Described],
    count: int,
    yardstick: str,
    nearest_by: str | None = None,
    mesh: Mesh | None = None,
) -> Scorer:
    """Scores by the distance to the mean of the nearest images of a bank; no gradient, no step off the manifold.

    One generated image differs from the query by what is accidental in both; of the mean of a few
    only what they share remains, which is what a normal image at this place looks like.

    Args:
      blocks: the described bank; in several parts where one would not fit into memory.
      count: how many images the mean is of; of all, where there are fewer.
      yardstick: that of the bank, see ``describe``.
      nearest_by: the yardstick by which its nearest are found; None: the same.
      mesh: the one that the bank is divided over.
    """
    mesh = mesh or make_mesh()

    def reconstruct(weights: Weights, images: Array) -> tuple[Array, Array]:
        found = neighbours(blocks, images, count, nearest_by or yardstick, mesh)
        return _mean_found(found)

    return _make_reconstruction_scorer(reconstruct, yardstick, lanes_on(mesh) * mesh.size)


@jax.jit
def _mean_found(found: Neighbours) -> tuple[Array, Array]:
    """The mean of images and of features, of those that there are."""
    weights = jnp.isfinite(found.distance) / jnp.isfinite(found.distance).sum(axis=1, keepdims=True)
    return jnp.einsum("nk,nk...->n...", weights, found.images), jnp.einsum("nk,nkf->nf", weights, found.features)


def make_encoder_scorer(
    gan: GAN, encoder: Encoder, variables: Variables, yardstick: str, mesh: Mesh | None = None
) -> Scorer:
    """Scores by the distance to G(E(x)): one pass forward (izi and izif, Schlegl et al. 2019).

    Args:
      gan: the model.
      encoder: of images to z.
      variables: the trained encoder's.
      yardstick: what is compared, see ``describe``.
      mesh: the devices of this process to use, by default one.
    """
    mesh = mesh or make_mesh()

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(WHOLE, ROWS), out_specs=ROWS, check_vma=False)
    def reconstruct(weights: Weights, images: Array) -> tuple[Array, Array]:
        z: Any = encoder.apply(variables, images, train=False)
        generated: Any = gan.generator.apply(weights.generator, jax.vmap(partial(project, gan))(z), train=False)
        return generated, jax.vmap(partial(describe, yardstick=yardstick))(generated)

    return _make_reconstruction_scorer(reconstruct, yardstick, lanes_on(mesh) * mesh.size)


def make_discriminator_scorer(gan: GAN, mesh: Mesh | None = None) -> Scorer:
    """Scores by P_D: -log D(x), the discriminator's output alone; no search, and the map is of one value."""
    mesh = mesh or make_mesh()

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(WHOLE, ROWS), out_specs=ROWS, check_vma=False)
    def loss(weights: Weights, images: Array) -> Array:
        logits, _ = gan.discriminator.apply(weights.discriminator, images, train=False)
        return jax.vmap(cross_entropy_loss)(logits)

    def score(weights: Weights, images: Iterable[np.ndarray]) -> Iterator[Score]:
        weights = jax.device_put(weights, whole(mesh))
        for block, filled in _blocks(images, lanes_on(mesh) * mesh.size):
            for image, unreal in zip(block, np.asarray(loss(weights, filled)), strict=False):
                everywhere = np.full(image.shape[:2], unreal)
                yield Score(unreal, np.zeros_like(unreal), unreal, np.zeros_like(image), everywhere)

    return score


def _make_reconstruction_scorer(
    reconstruct: Callable[[Weights, Array], tuple[Array, Array]], yardstick: str, width: int
) -> Scorer:
    """From what gives images (N, S, S, C) their likeness among normal ones, and its description (N, F)."""

    @jax.jit
    def compare(images: Array, features: Array) -> tuple[Array, Array]:
        differences = jax.vmap(partial(describe, yardstick=yardstick))(images) - features
        _, size, _, channels = images.shape
        where = partial(difference_map, image_size=size, channels=channels, yardstick=yardstick)
        return jnp.linalg.norm(differences, axis=1), jax.vmap(where)(differences)

    def score(weights: Weights, images: Iterable[np.ndarray]) -> Iterator[Score]:
        for block, filled in _blocks(images, width):
            likenesses, features = reconstruct(weights, jnp.asarray(filled))
            found = jax.device_get((*compare(filled, features), likenesses))
            for _, distance, anomaly_map, likeness in zip(block, *found, strict=False):
                yield Score(distance, distance, np.zeros_like(distance), likeness, anomaly_map)

    return score


def score_images(scorer: Scorer, weights: Weights, images: Iterable[np.ndarray]) -> Score:
    """Scores every image once; all fields gain a leading axis.

    Args:
      scorer: such as ``make_search_scorer`` gives.
      weights: of the trained model.
      images: one or more (S, S, C) float32 in [-1, 1], an array (N, S, S, C) for one.

    Raises:
      ValueError: the images are integers, so not in [-1, 1]; see ``to_model_range``.
    """
    return Score(*(np.stack(field) for field in zip(*scorer(weights, images), strict=True)))


class _Query(NamedTuple):
    number: int  # of the image, in the order given
    image: np.ndarray  # (S, S, C)
    start: np.ndarray  # (latent,)
    restarts: int  # how many there are for each image


def _queries(make_starts: MakeStarts, images: Iterable[np.ndarray], width: int) -> Iterator[_Query]:
    numbers = count()
    for block, filled in _blocks(images, width):
        starts = np.asarray(make_starts(jnp.asarray(filled)))
        for image, of_image in zip(block, starts, strict=False):
            number = next(numbers)
            yield from (_Query(number, image, start, len(of_image)) for start in of_image)


def _blocks(images: Iterable[np.ndarray], width: int) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """So many images at a time, and as an array that is always of that size: the rest repeats the first."""
    remaining = iter(images)
    while block := list(islice(remaining, width)):
        if block[0].dtype.kind != "f":
            raise ValueError(f"images must be floats in [-1, 1], not {block[0].dtype}")
        yield block, np.stack([*block, *[block[0]] * (width - len(block))]).astype(np.float32)
