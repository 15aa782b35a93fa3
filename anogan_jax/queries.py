"""Queries of any size through a scorer: read ahead, resized or cut into tiles, divided between processes."""

import io
import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm.auto import tqdm

from anogan_jax.appearance import Judge, combine
from anogan_jax.config import Config
from anogan_jax.data import (
    Images,
    apply_region,
    contrast_tables,
    has_content,
    make_resize,
    pad_to,
    read_ahead,
    resize_region,
    to_networks,
    to_pixels,
)
from anogan_jax.data.images import resize
from anogan_jax.devices import gather, hides_bars
from anogan_jax.errors import UserError
from anogan_jax.scoring import Score
from anogan_jax.tiles import Mosaic, cut_tiles, pool

log = logging.getLogger(__name__)
_ARRAYS = ("image", "reconstruction", "anomaly_map", "z")  # of a finding
TERMS = ("reconstruction", "appearance", "detail")  # what a score can be of
_READ_AHEAD = 8  # images
_EXCHANGED = 32  # results that each process sends at a time


class Finding(NamedTuple):
    """The result of one query, at the query's own size."""

    name: str
    label: int | None  # 0 normal, 1 anomalous
    kind: str | None  # kind of defect, such as "crack"
    image: np.ndarray  # (H, W, C) uint8 the query; the arrays of an unreadable query are empty, its numbers NaN
    reconstruction: np.ndarray  # (H, W, C) uint8
    anomaly_map: np.ndarray  # (H, W) float32 where the query differs from what was found, at least 0
    z: np.ndarray  # (latent,) float32 of G(z), the reconstruction; with patches of the tile with the largest R(x)
    score: float  # A(x), with patches pooled from the map, with T(x)'s part; raised where ``appearance`` is above 1
    appearance: float  # how far brightness, contrast, noise or colour are from normal images', in units of the limit
    term: str  # of TERMS
    residual: float  # R(x); with patches the mean over tiles
    discrimination: float  # D(x); with patches the mean over tiles
    damage: float  # S(x) of the segmenter, 0 without one; with patches the largest of a tile
    rotation: float  # T(x) of the rotation network, 0 without one
    told: float  # share of the four quarter turns that the rotation network tells

    @property
    def is_readable(self) -> bool:
        """True if the query was read and scored."""
        return self.image.size > 0


def score_queries(
    score: Callable[[Iterable[np.ndarray]], Iterator[Score]],
    queries: Images,
    config: Config,
    what: str = "",
    first: int = 0,
    judge: Judge | None = None,
    level: float = 0.0,
    rotation_factor: float = 0.0,
) -> Iterator[Finding]:
    """Yield the finding of each query in order, as soon as it is known; show a progress bar on a terminal.

    Each of several processes reads and scores its share and receives the results of all; each must consume them all.
    Memory does not grow with the number of queries.

    Args:
      score: a ``Scorer`` with its model bound.
      queries: the images to score; where they have regions of interest, a map is 0 outside, which counts nowhere.
      config: of the model; its pooling settings too.
      what: the noun that the progress bar shows; without one there is no bar.
      first: the number of the first query to score.
      judge: of the queries' appearance; without one, scores are of reconstructions alone.
      level: the score that corresponds to an appearance at its limit, see ``combine``.
      rotation_factor: what T(x) is multiplied by before it is added to A(x), see ``Calibration``.
    """
    total, processes = len(queries.names), jax.process_count()
    share = range(first + jax.process_index(), total, processes)
    mine = _findings(score, queries, judge, level, rotation_factor, config, share)
    results = mine if processes == 1 else _gathered(mine, total - first)
    silent = hides_bars() if what else True
    with tqdm(total=total, initial=first, desc=what, unit="image", disable=silent, dynamic_ncols=True) as bar:
        for finding in results:
            yield finding
            bar.update()


def read_tiles(queries: Images, config: Config, number: int) -> np.ndarray:
    """Read a query; return what the networks see of it, (n, S, S, C) in [-1, 1]: with patches its tiles, else n = 1.

    Raises:
      UserError: it cannot be read.
    """
    size, channels = config.model.image_size, config.model.channels
    tiles = _begin(queries, config, number).tiles  # none where all of an image is empty
    return to_networks(np.array(tiles, np.uint8).reshape(-1, size, size, channels), config)


def _begin(queries: Images, config: Config, number: int) -> "_Query":
    """Read a query and cut it; raise UserError if it cannot be read."""
    image = queries.read(number)
    return _Query(image, queries.region(number, image) if queries.region else None, config)


def _findings(
    score: Callable[[Iterable[np.ndarray]], Iterator[Score]],
    queries: Images,
    judge: Judge | None,
    level: float,
    rotation_factor: float,
    config: Config,
    chosen: Iterable[int],
) -> Iterator[Finding]:
    """Yield the findings of the chosen queries, in their order."""
    waiting: deque[tuple[int, _Query]] = deque()  # read, and not yet yielded

    def tiles() -> Iterator[np.ndarray]:
        for i, query in zip(chosen, read_ahead(partial(_begin, queries, config), chosen, _READ_AHEAD), strict=True):
            if isinstance(query, UserError):
                log.warning("skipped %s", query)
                query = _Query(None, None, config)
            waiting.append((i, query))
            for tile in query.tiles:
                yield to_networks(tile[None], config)[0]

    def done() -> Iterator[Finding]:
        unjudged = [query for _, query in waiting if query.appearance is None]
        if judge and unjudged:  # many at a time, which takes less time
            for query, judged in zip(unjudged, judge([query.padded for query in unjudged]), strict=True):
                query.appearance = judged
        while waiting and waiting[0][1].is_done():
            i = waiting[0][0]
            label = None if queries.labels is None else int(queries.labels[i])
            kind = None if queries.kinds is None else queries.kinds[i]
            yield waiting.popleft()[1].finding(queries.names[i], label, kind, level, rotation_factor)

    for result in score(tiles()):
        yield from done()  # queries without a tile, which stand before this tile's query
        waiting[0][1].add(result)
        yield from done()
    yield from done()


class _Query:
    """A query in progress: its tiles, and the results of those that are scored."""

    def __init__(self, image: np.ndarray | None, region: np.ndarray | None, config: Config) -> None:
        self.appearance: tuple[float, str] | None = (0.0, "")  # None until it is judged
        self.tiles: list[np.ndarray] = []  # with content; a whole image is one tile
        self._image, self._region = image, region
        self._config = config
        self._corners: list[tuple[int, int]] = []
        self._terms: list[tuple[float, ...]] = []
        self._z, self._largest = np.zeros(0, np.float32), -math.inf
        if image is None:
            return
        resized, size = make_resize(config)(image), config.model.image_size
        self._resized_shape = resized.shape
        within = self._resized_region = None if region is None else resize_region(region, *resized.shape[:2])
        self.appearance, self.padded = None, pad_to(resized, size)
        seen, self._inverse = self.padded, None  # the networks see patches without their image's contrast
        if config.patches.enabled and config.data.normalize_contrast:
            table, self._inverse = contrast_tables(self.padded)
            seen = table[self.padded]
        for row, column, tile in cut_tiles(seen, size, config.pooling.stride or size // 2):
            here = np.s_[row : row + size, column : column + size]
            is_outside = within is not None and not within[here].any()
            is_seen = not is_outside and has_content(self.padded[here], config.patches.min_contrast)
            if is_seen or not config.patches.enabled:
                self.tiles.append(tile)
                self._corners.append((row, column))

    @cached_property
    def _mosaic(self) -> Mosaic:
        height, width, channels = self.padded.shape
        return Mosaic(height, width, channels, self._config.model.image_size)

    def is_done(self) -> bool:
        return len(self._terms) == len(self.tiles)

    def add(self, result: Score) -> None:
        """Take the result of the next tile."""
        number = len(self._terms)
        tile, by_itself = self.tiles[number], self._config.data.normalize_contrast and self._inverse is None
        reconstruction = to_pixels(result.reconstruction[None], tile[None], by_itself)[0]
        if self._inverse is not None:
            reconstruction = self._inverse[reconstruction]
        self._mosaic.add(reconstruction, result.anomaly_map, *self._corners[number])
        terms = (result.score, result.residual, result.discrimination, result.rotation, result.told, result.damage)
        self._terms.append(tuple(float(term) for term in terms))
        if result.residual > self._largest:
            self._z, self._largest = result.z[0], float(result.residual)

    def finding(self, name: str, label: int | None, kind: str | None, level: float, rotation_factor: float) -> Finding:
        if self._image is None:
            empty, nan = np.zeros((0, 0, 1), np.uint8), float("nan")
            no_map = np.zeros((0, 0), np.float32)
            return Finding(name, label, kind, empty, empty, no_map, self._z, nan, nan, "", *[nan] * 5)
        terms = np.array(self._terms or [(0.0,) * 6])
        score, residual, discrimination, rotation, told, _ = terms.mean(axis=0).tolist()
        damage = float(terms[:, -1].max())
        height, width = self._resized_shape[:2]
        reconstruction, anomaly_map = (each[:height, :width] for each in self._mosaic.blended())
        if self._resized_region is not None:
            anomaly_map = apply_region(anomaly_map, self._resized_region)
        if self._config.patches.enabled:
            counted = anomaly_map if self._resized_region is None else anomaly_map[self._resized_region]
            score = pool(counted, self._config.pooling.share)
        score += rotation_factor * rotation
        appearance, term = self.appearance or (0.0, "")
        combined = float(combine(score, appearance, level))
        term = term if combined > score else TERMS[0]
        shape = self._image.shape[:2]
        shown = (resize(reconstruction, *shape), resize(anomaly_map[..., None], *shape)[..., 0])
        if self._region is not None:
            shown = (apply_region(shown[0], self._region), apply_region(shown[1], self._region))
        values = (residual, discrimination, damage, rotation, told)
        return Finding(name, label, kind, self._image, *shown, self._z, combined, appearance, term, *values)


def _gathered(mine: Iterator[Finding], count: int) -> Iterator[Finding]:
    """Yield the findings of all processes, in the order of the queries, exchanged some at a time."""
    processes = jax.process_count()
    for first in range(0, count, processes * _EXCHANGED):
        packed = _packed(list(islice(mine, _EXCHANGED)))
        sizes = gather(np.array(len(packed)))
        every = gather(np.pad(packed, (0, int(sizes.max()) - len(packed))))
        parts = [_unpacked(part[:size]) for part, size in zip(every, sizes, strict=True)]
        for i in range(min(processes * _EXCHANGED, count - first)):
            yield parts[i % processes][i // processes]


def _packed(findings: list[Finding]) -> np.ndarray:
    """Return findings as bytes, (n,) uint8: an .npz of their arrays and of the rest as JSON."""
    buffer, rest = io.BytesIO(), []
    arrays: dict[str, Any] = {}
    for i, finding in enumerate(findings):
        values = finding._asdict()
        arrays |= {f"{name}{i}": values.pop(name) for name in _ARRAYS}
        rest.append(values)
    np.savez(buffer, rest=np.frombuffer(json.dumps(rest).encode(), np.uint8), **arrays)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _unpacked(packed: np.ndarray) -> list[Finding]:
    """Return the findings of ``_packed``."""
    found = np.load(io.BytesIO(packed.tobytes()), allow_pickle=False)
    rest = json.loads(found["rest"].tobytes())
    return [Finding(**values, **{name: found[f"{name}{i}"] for name in _ARRAYS}) for i, values in enumerate(rest)]
