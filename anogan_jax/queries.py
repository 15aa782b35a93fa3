"""Scoring of queries of any size: read ahead, resized or cut into tiles, divided between processes."""

import io
import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm.auto import tqdm

from anogan_jax.config import Config
from anogan_jax.data import Images, read_ahead, view_of
from anogan_jax.data.images import resize
from anogan_jax.devices import gather, hides_bars
from anogan_jax.errors import UserError
from anogan_jax.runtime import Judge, Measured, Query, Score

log = logging.getLogger(__name__)
_ARRAYS = ("image", "reconstruction", "anomaly_map", "z")  # fields of a finding
_READ_AHEAD = 8  # images
_EXCHANGED = 32  # results that each process sends at a time


_NO_IMAGE, _NO_MAP, _NAN = np.zeros((0, 0, 1), np.uint8), np.zeros((0, 0), np.float32), math.nan
_UNREADABLE = Measured(_NO_IMAGE, _NO_IMAGE, _NO_MAP, _NO_MAP.ravel(), _NAN, _NAN, "", *[_NAN] * 5)


class Finding(NamedTuple):
    """The result of one query: its metadata, and the fields of ``Measured``, empty and NaN if it is unreadable."""

    name: str
    label: int | None  # 0 normal, 1 anomalous
    kind: str | None  # kind of defect, such as "crack"
    image: np.ndarray
    reconstruction: np.ndarray
    anomaly_map: np.ndarray
    z: np.ndarray
    score: float
    appearance: float
    term: str
    residual: float
    discrimination: float
    damage: float
    rotation: float
    told: float

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

    Each of several processes reads and scores its share and receives the results of all; each must consume all.
    Memory does not grow with the number of queries.

    Args:
      score: a ``Scorer`` with its model bound.
      queries: the images to score; outside their regions of interest, if any, maps are 0 and not pooled.
      config: the settings, of which those of model and pooling are used.
      what: the noun that the progress bar shows; without one there is no bar.
      first: the number of the first query to score.
      judge: judges the queries' appearance; without one, scores have no appearance terms.
      level: the score that corresponds to an appearance at its limit, see ``combine``.
      rotation_factor: the factor with which T(x) is added to A(x), see ``Calibration``.
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
    """Read a query; return what the networks see, (n, S, S, C) in [-1, 1]: its tiles, or the whole image (n = 1).

    Raises:
      UserError: it cannot be read.
    """
    size, channels = config.model.image_size, config.model.channels
    tiles = list(_begin(queries, config, number).inputs())  # none if the whole image lacks content
    return np.array(tiles, np.float32).reshape(-1, size, size, channels)


def _begin(queries: Images, config: Config, number: int) -> Query:
    """Read a query and cut it; raise UserError if it cannot be read."""
    image = queries.read(number)
    return Query(image, queries.region(number, image) if queries.region else None, view_of(config), resize)


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
    waiting: deque[tuple[int, Query | None]] = deque()  # read or unreadable, and not yet yielded

    def tiles() -> Iterator[np.ndarray]:
        for i, query in zip(chosen, read_ahead(partial(_begin, queries, config), chosen, _READ_AHEAD), strict=True):
            if isinstance(query, UserError):
                log.warning("skipped %s", query)
                waiting.append((i, None))
            else:
                waiting.append((i, query))
                yield from query.inputs()

    def done() -> Iterator[Finding]:
        unjudged = [query for _, query in waiting if query and query.appearance is None]
        if judge and unjudged:  # many at a time, which takes less time
            for query, judged in zip(unjudged, judge([query.padded for query in unjudged]), strict=True):
                query.appearance = judged
        while waiting and (waiting[0][1] is None or waiting[0][1].is_done()):
            i, ended = waiting.popleft()
            label = None if queries.labels is None else int(queries.labels[i])
            kind = None if queries.kinds is None else queries.kinds[i]
            measured = ended.measure(level, rotation_factor) if ended else _UNREADABLE
            yield Finding(queries.names[i], label, kind, *measured)

    for result in score(tiles()):
        yield from done()  # queries without tiles that come before this tile's query
        current = waiting[0][1]
        assert current is not None
        current.add(result)
        yield from done()
    yield from done()


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
