"""Queries through a scorer: read ahead of it, whole or by tiles, shared out between processes."""

import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from anogan_jax.config import Config
from anogan_jax.data import Images, has_content, make_fit, read_ahead, to_model_range, to_pixels
from anogan_jax.data.images import resize
from anogan_jax.devices import gather, is_first
from anogan_jax.errors import UserError
from anogan_jax.scoring import Score
from anogan_jax.tiles import Mosaic, cut_tiles, pool, tile_corners

log = logging.getLogger(__name__)
_READ_AHEAD = 8  # images
_EXCHANGED = 32  # results of each process at a time


class Found(NamedTuple):
    """What was found in one query, at its own size."""

    image: np.ndarray  # (H, W, C) uint8 the query
    generated: np.ndarray  # (H, W, C) uint8 its reconstruction, by the generator
    anomaly_map: np.ndarray  # (H, W) float32 how far the one is from the other, where
    score: float  # of the method; by patches, pooled from the map
    residual: float  # R(x); by patches, the tiles' mean
    discrimination: float  # D(x); by patches, the tiles' mean


class Scored(NamedTuple):
    """One query."""

    name: str
    label: int | None  # 0 normal, 1 anomalous
    kind: str | None  # such as "crack"
    found: Found | None  # None where it could not be read


def score_queries(
    score: Callable[[Iterable[np.ndarray]], Iterator[Score]],
    queries: Images,
    config: Config,
    what: str,
    first: int = 0,
) -> Iterator[Scored]:
    """Scores the queries in their order, under a progress bar (on a terminal), each given out as soon as it is done.

    Of several processes each reads and scores its share, and all are given all; each must take
    them all. Memory does not grow with the number of queries.

    Args:
      score: a ``Scorer`` with its weights.
      queries: what to score.
      config: of the model.
      what: they are, for the bar.
      first: the number of the first to score.
    """
    total, processes = len(queries.names), jax.process_count()
    share = range(first + jax.process_index(), total, processes)
    mine = _scored(score, queries, config, share)
    results = mine if processes == 1 else _gathered(mine, total - first)
    silent = None if is_first() else True
    with tqdm(total=total, initial=first, desc=what, unit="image", disable=silent, dynamic_ncols=True) as bar:
        for scored in results:
            yield scored
            bar.update()


def _scored(
    score: Callable[[Iterable[np.ndarray]], Iterator[Score]], queries: Images, config: Config, chosen: Iterable[int]
) -> Iterator[Scored]:
    """The chosen queries, in their order."""
    waiting: deque[_Query] = deque()  # read and not yet given out
    fit = make_fit(config)

    def tiles() -> Iterator[np.ndarray]:
        for i, image in zip(chosen, read_ahead(queries.read, chosen, _READ_AHEAD), strict=True):
            if isinstance(image, UserError):
                log.warning("skipped %s", image)
                waiting.append(_Query(i, None, None, config))
                continue
            waiting.append(_Query(i, image, fit(image), config))
            for tile in waiting[-1].tiles:
                yield to_model_range(tile[None], config.data.normalize_contrast)[0]

    def done() -> Iterator[Scored]:
        while waiting and waiting[0].is_done():
            query = waiting.popleft()
            label = None if queries.labels is None else int(queries.labels[query.number])
            kind = None if queries.kinds is None else queries.kinds[query.number]
            yield Scored(queries.names[query.number], label, kind, query.result())

    for found in score(tiles()):
        yield from done()  # those without a tile come before the tile's image
        waiting[0].take(found)
        yield from done()
    yield from done()


class _Query:
    """A query under way: its tiles, and what was found in those that are done."""

    def __init__(self, number: int, image: np.ndarray | None, fitted: np.ndarray | None, config: Config) -> None:
        self.number = number
        self._image = image
        self._config = config
        self.tiles: list[np.ndarray] = []  # with content; an image that is not cut is its own tile
        self._corners: list[np.ndarray] = []
        self._terms: list[tuple[float, float, float]] = []
        if fitted is None:
            return
        (height, width, channels), size = fitted.shape, config.model.image_size
        corners = tile_corners(height, width, size, config.patches.stride or size // 2)
        for corner, tile in zip(corners, cut_tiles(fitted, corners, size), strict=True):
            if not config.patches.enabled or has_content(tile, config.patches.min_contrast):
                self.tiles.append(tile)
                self._corners.append(corner)
        self._mosaic = Mosaic(height, width, channels + 1, size)

    def is_done(self) -> bool:
        return len(self._terms) == len(self.tiles)

    def take(self, found: Score) -> None:
        """What was found in the next tile."""
        number = len(self._terms)
        tile, normalize_contrast = self.tiles[number], self._config.data.normalize_contrast
        generated = to_pixels(found.generated[None], tile[None], normalize_contrast)[0]
        both = np.concatenate([generated, found.anomaly_map[..., None]], axis=-1, dtype=np.float32)
        self._mosaic.add(both, *self._corners[number])
        self._terms.append((float(found.score), float(found.residual), float(found.discrimination)))

    def result(self) -> Found | None:
        if self._image is None:
            return None
        both, (height, width) = self._mosaic.blended(), self._image.shape[:2]
        score, residual, discrimination = np.mean(self._terms or [(0.0, 0.0, 0.0)], axis=0)
        patches = self._config.patches
        if patches.enabled:
            both = both[: max(1, round(patches.scale * height)), : max(1, round(patches.scale * width))]
            score = pool(both[..., -1], patches.pooling, patches.share)
        both = resize(both, height, width)
        generated = np.rint(np.clip(both[..., :-1], 0, 255)).astype(np.uint8)
        return Found(self._image, generated, both[..., -1], float(score), float(residual), float(discrimination))


def _gathered(mine: Iterator[Scored], count: int) -> Iterator[Scored]:
    """What every process scored, in the order of the queries, exchanged some at a time."""
    processes = jax.process_count()
    for first in range(0, count, processes * _EXCHANGED):
        packed = np.frombuffer(pickle.dumps(list(islice(mine, _EXCHANGED))), np.uint8)
        sizes = gather(np.array(len(packed)))
        every = gather(np.pad(packed, (0, int(sizes.max()) - len(packed))))
        parts = [pickle.loads(part[:size].tobytes()) for part, size in zip(every, sizes, strict=True)]
        for i in range(min(processes * _EXCHANGED, count - first)):
            yield parts[i % processes][i // processes]
