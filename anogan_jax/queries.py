"""Scoring of queries of any size: read ahead, resized or cut into tiles, divided between processes."""

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import jax
import numpy as np
from tqdm.auto import tqdm

from anogan_jax.config import Config
from anogan_jax.data import Images, read_ahead, view_of
from anogan_jax.data.images import resize
from anogan_jax.devices import gather, hides_bars
from anogan_jax.errors import UserError
from anogan_jax.runtime import Finding, Judge, Query, Score, find

log = logging.getLogger(__name__)
_READ_AHEAD = 8  # images
_EXCHANGED = 32  # results that each process sends at a time


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
      rotation_factor: the factor of T(x), which is added to A(x), see ``Calibration``.
    """
    total, processes = len(queries.names), jax.process_count()
    share = range(first + jax.process_index(), total, processes)
    mine = find(_begun(queries, config, share), score, judge, level, rotation_factor)
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
    return Query(image, queries.region(number) if queries.region else None, view_of(config), resize)


def _begun(queries: Images, config: Config, chosen: Iterable[int]) -> Iterator[Query | None]:
    """Yield the chosen queries, read ahead and cut; None, and log a warning, if one cannot be read."""
    for query in read_ahead(partial(_begin, queries, config), chosen, _READ_AHEAD):
        if isinstance(query, UserError):
            log.warning("skipped %s", query)
        yield None if isinstance(query, UserError) else query


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


def _packed(found: list[Finding]) -> np.ndarray:
    """Return findings as the bytes of an .npz file, (n,) uint8."""
    buffer = io.BytesIO()
    fields = {f"{name}{i}": value for i, each in enumerate(found) for name, value in each._asdict().items()}
    np.savez(buffer, **fields)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _unpacked(packed: np.ndarray) -> list[Finding]:
    """Return the findings of ``_packed``."""
    file = np.load(io.BytesIO(packed.tobytes()), allow_pickle=False)
    rows = ([file[f"{name}{i}"] for name in Finding._fields] for i in range(len(file.files) // len(Finding._fields)))
    return [Finding(*(value if value.ndim else value.item() for value in row)) for row in rows]
