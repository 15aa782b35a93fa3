"""Pictures of the spaces that a GAN has learnt: a latent walk, and a t-SNE of the discriminator's features."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from anogan_jax.bank import draw_bank
from anogan_jax.config import Config, Prior
from anogan_jax.data import Images, read_ahead, to_networks
from anogan_jax.detector import Detector, held_out_images, in_regions
from anogan_jax.errors import UserError
from anogan_jax.models import Variables
from anogan_jax.queries import read_tiles
from anogan_jax.runtime import blocks

_STEPS = 10  # images of a walk
_QUERIES, _OTHERS = 1_000, 300  # points of an embedding, at most: queries, and images of each other kind
_BATCH = 64  # images that the discriminator describes at a time


class Embedding(NamedTuple):
    """Images as points of a plane, near each other if the discriminator's features are similar."""

    numbers: np.ndarray  # (n,) int the queries
    queries: np.ndarray  # (n, 2) their points
    others: dict[str, np.ndarray]  # "generated", and "training" and "held out" if they are kept: (m, 2)


def walk(detector: Detector, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the images (10, S, S, C) in [-1, 1] that the generator makes between two z (latent,)."""
    z = interpolate(detector.gan.latent_prior, first, second, np.linspace(0, 1, _STEPS))
    generate = jax.jit(partial(detector.gan.generator.apply, train=False))
    return np.asarray(generate(detector.model.weights.generator, z))


def interpolate(prior: Prior, first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the points (n, latent) at these shares (n,) of the way from one z to another.

    The way is straight in the box of the uniform prior. Under the normal prior the direction follows the great circle
    (White 2016, arXiv 1609.04468) and the norm changes evenly: the straight way is nearer to the origin, where a prior
    of many dimensions has no mass.

    >>> half = interpolate("normal", np.array([2.0, 0.0]), np.array([0.0, 2.0]), np.array([0.5]))
    >>> half.astype(float).round(3).tolist()
    [[1.414, 1.414]]
    """
    first, second, shares = first.astype(np.float64), second.astype(np.float64), shares[:, None]
    norms = np.linalg.norm([first, second], axis=1)
    one, other = (z / max(norm, 1e-12) for z, norm in zip((first, second), norms, strict=True))
    angle = np.arccos(np.clip(one @ other, -1, 1))
    if prior == "uniform" or np.sin(angle) < 1e-6:
        between = (1 - shares) * first + shares * second
    else:
        direction = (np.sin((1 - shares) * angle) * one + np.sin(shares * angle) * other) / np.sin(angle)
        between = ((1 - shares) * norms[0] + shares * norms[1]) * direction
    return between.astype(np.float32)


def embed(detector: Detector, queries: Images) -> Embedding:
    """Return a t-SNE (van der Maaten & Hinton 2008) of the discriminator's features, the same each time.

    The features are those of the last hidden layer; for an image in tiles, their mean over the tiles. The images are up
    to 1,000 of the queries, evenly spaced, and up to 300 each of generated images, references ("training") and held-out
    images, if the detector keeps them.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    config, seed, describe = detector.config, detector.config.seed, _make_describe(detector)
    kept, as_resized = held_out_images(detector)
    drawn = draw_bank(detector.gan, detector.model.weights, jax.random.key(seed), _OTHERS).images
    groups = {
        "generated": _described(describe, enumerate(drawn[:, None])),
        "held out": _described(describe, _tiles(kept, as_resized, _OTHERS)),
    }
    if detector.references is not None:
        training = detector.references[_evenly(len(detector.references), _OTHERS)]
        groups["training"] = _described(describe, enumerate(to_networks(training, config)[:, None]))
    groups["queries"] = _described(describe, _tiles(in_regions(detector, queries), config, _QUERIES))
    features = np.stack([each for group in groups.values() for each in group.values()])
    tsne = TSNE(perplexity=min(30.0, (len(features) - 1) / 3), init="pca", random_state=seed)
    with threadpool_limits(1):  # the order of sums, and so the picture, depends on the number of threads
        points = iter(tsne.fit_transform(features))
    placed = {name: np.array(list(islice(points, len(group)))).reshape(-1, 2) for name, group in groups.items()}
    of_queries = placed.pop("queries")
    return Embedding(np.array(list(groups["queries"]), int), of_queries, {n: p for n, p in placed.items() if len(p)})


def _tiles(images: Images, config: Config, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield number and tiles (n, S, S, C) of evenly spaced images; unreadable ones are left out."""
    chosen = _evenly(len(images.names), most).tolist()
    for number, tiles in zip(chosen, read_ahead(partial(read_tiles, images, config), chosen, ahead=8), strict=True):
        if not isinstance(tiles, UserError):
            yield number, tiles


def _make_describe(detector: Detector) -> Callable[[np.ndarray], Array]:
    """Return the compiled ``describe(tiles)``: the features (n, F) of the discriminator's last hidden layer."""

    @jax.jit
    def describe(variables: Variables, tiles: Array) -> Array:
        found: Any = detector.gan.discriminator.apply(variables, tiles, train=False)
        return found[1][-1].reshape(len(tiles), -1)

    return partial(describe, detector.model.weights.discriminator)


def _described(
    describe: Callable[[np.ndarray], Array], images: Iterable[tuple[int, np.ndarray]]
) -> dict[int, np.ndarray]:
    """Return the mean features (F,) of each image's tiles by its number; an image without tiles is left out."""

    numbers, sums, counts = deque[int](), defaultdict[int, Any](np.float64), Counter[int]()

    def tiles() -> Iterator[np.ndarray]:
        for number, of_image in images:
            numbers.extend([number] * len(of_image))
            yield from of_image

    for block, padded in blocks(tiles(), _BATCH):
        for row in np.asarray(describe(padded))[: len(block)]:  # one at a time: an image may have many tiles
            number = numbers.popleft()
            sums[number] += row
            counts[number] += 1
    return {number: (total / counts[number]).astype(np.float32) for number, total in sums.items()}


def _evenly(count: int, most: int) -> np.ndarray:
    """Return up to ``most`` numbers below ``count``, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
