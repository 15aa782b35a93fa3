"""Score images with an exported detector. This file needs only JAX, NumPy and flatbuffers, and may be copied.

    detector = runtime.load("parts.anogan")  # as anogan_jax.export wrote it
    result = detector.score(images)  # uint8 images of any size: score, p_value, is_anomaly, anomaly_map

The exported file holds the portable program of the networks and its arrays. All other steps from the pixels of an
image to its verdict are below, in NumPy. The library scores with the same functions, except two that it replaces by
faster ones with the same results: ``resize`` (by Pillow) and ``farthest_of`` (by a k-d tree). JAX needs flatbuffers to
read the program.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice, pairwise
from os import PathLike
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

FORMAT = 2  # version of the exported file's format
TERMS = ("reconstruction", "appearance", "detail")  # what can determine a score
_POOLED = 2**18  # pixels that are pooled at a time, to save memory
_CONTRASTS_IN_RANGE = np.float32(8)  # mean absolute deviations between the mean and the end of the range
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601
_MODES = ("L", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of pixel values
_ORIENTATION = 0x0112  # tag of EXIF; 1 is upright
_CONVERTED = 2**22  # values that are converted at a time, to save memory
_BITS = 22  # fractional bits of Pillow's weights
_BLOCK = 3  # side of a block in pixels; two by two blocks are a window
_GRID = 4  # cells of the grid on each side
_STRIP = 96  # rows of pixels that are described at a time, to save memory; a multiple of _BLOCK
_QUANTILES = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
_RESOLUTION = 64  # steps per unit of the grid to which windows are rounded
_LIFT = 0.25  # exponent of the excess in ``combine``
_DISTANCES = 2**15  # distances that are computed at a time, to save memory and time
# A search decomposes matrices in XLA's threads; on a CPU, two programs at a time can wait for each other for ever.
one_at_a_time = threading.Lock()
Judge = Callable[[Sequence[np.ndarray]], list[tuple[float, str]]]
Farthest = Callable[[np.ndarray], np.ndarray]  # windows (N, n, 3) of N images -> largest distance (N,) to a point
Resize = Callable[[np.ndarray, int, int], np.ndarray]  # image (H, W, C) uint8 or float32, height, width -> image


class Result(NamedTuple):
    """Scores of N images. Maps and reconstructions have the images' sizes; they are lists if the sizes differ."""

    score: np.ndarray  # (N,) float64, higher is more anomalous
    p_value: np.ndarray  # (N,) float64 in (0, 1], see ``p_values``
    is_anomaly: np.ndarray  # (N,) bool, p_value <= alpha
    anomaly_map: Any  # (N, H, W) float32, at least 0: difference from the reconstructions and nearest references
    reconstruction: Any  # (N, H, W, C) uint8
    term: np.ndarray  # (N,) str, what determined each score, one of TERMS


def load(path: str | PathLike, batch: int = 64) -> "Exported":
    """Load an exported detector.

    Args:
      path: the file.
      batch: number of images of the model's size, or of tiles, that the program scores at a time. It is compiled for
        this number when it first scores; smaller batches are padded, so that scores do not depend on other images.

    Raises:
      ValueError: the file is damaged or of another format, or this version of JAX cannot read it.
      FileNotFoundError: the file does not exist.
      ModuleNotFoundError: flatbuffers is missing.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file}
        facts = json.loads(str(arrays.pop("facts")))
        is_known = facts["format"] == FORMAT
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, NumPy and json raise many types for a damaged file
        raise ValueError(f"{path}: damaged, or not an exported detector; export it again") from error
    if not is_known:
        raise ValueError(f"{path}: has format {facts['format']}, but runtime.py reads {FORMAT}; copy both again")
    if batch < 1:
        raise ValueError(f"batch={batch}: must be at least 1")
    return Exported(facts, arrays, batch, str(path))


class Exported:
    """A detector that scores without the library that trained it; see ``load``."""

    def __init__(self, facts: dict[str, Any], arrays: dict[str, np.ndarray], batch: int, where: str) -> None:
        self.view, self.alpha = View(**facts["view"]), facts["alpha"]
        self._region, self._levels, self._batch = facts["region"], facts["levels"], batch
        self._mask, self._held_out = arrays.get("mask"), arrays["held_out"]
        self._judge = make_judge(Appearance(*(arrays[name] for name in Appearance._fields)))
        program = _program(arrays["program"].tobytes(), f"{where}: written with JAX {facts['jax']}")
        leaves = [arrays[f"leaf{i}"].astype(aval.dtype) for i, aval in enumerate(program.in_avals[:-1])]
        self._leaves, self._program = jax.device_put(leaves), jax.jit(program.call)

    def score(self, images: Any, regions: Sequence[np.ndarray] | None = None) -> Result:
        """Score images. The score of an image depends only on the image and the detector.

        Args:
          images: (N, H, W) or (N, H, W, C) uint8, one colour image (H, W, 3), or a list of images (H, W) or (H, W, C)
            of any sizes. With ``data.window``, pixels may be integers or floats of any type.
          regions: a region of interest (H, W) bool for each image. A detector that was trained with a folder of masks
            needs them; other detectors compute regions themselves, or need none.

        Raises:
          ValueError: an image has another type or shape, or lacks a region of interest.
        """
        pixels = _listed(images, self.view)
        given = (
            [None] * len(pixels)
            if regions is None
            else [None if each is None else np.asarray(each) for each in regions]
        )
        if len(given) != len(pixels):
            raise ValueError(f"regions: {len(given)} for {len(pixels)} images; give one for each image")
        inside = list(map(self._find_region, range(len(pixels)), pixels, given))
        for number, region in enumerate(inside):
            if region is not None and not middle(region, self.view.crop).any():
                raise ValueError(f"image {number}: its region lies outside of data.crop={self.view.crop}")
        queries = map(self._query, pixels, inside)
        found = list(find(queries, self._scores, self._judge, *self._levels))
        score = np.array([each.score for each in found])
        p = p_values(score, self._held_out)
        maps, pictures = stacked([each.anomaly_map for each in found]), stacked([each.reconstruction for each in found])
        return Result(score, p, p <= self.alpha, maps, pictures, np.array([each.term for each in found]))

    def _query(self, image: np.ndarray, region: np.ndarray | None) -> "Query":
        """Return the query of an image (H, W, C) uint8 and its region (H, W) bool, filled outside it and cropped."""
        if region is not None:
            image, region = fill_outside(image, region), middle(region, self.view.crop)
        return Query(middle(image, self.view.crop), region, self.view, resize)

    def _scores(self, tiles: Iterable[np.ndarray]) -> Iterator["Score"]:
        for block, padded in blocks(tiles, self._batch):
            with one_at_a_time:
                found = jax.device_get(self._program(*self._leaves, padded))
            yield from (Score(*(field[i] for field in found)) for i in range(len(block)))

    def _find_region(self, number: int, image: np.ndarray, given: np.ndarray | None) -> np.ndarray | None:
        """Return the region of interest (H, W) bool of an image at its own size, or None if it is the whole image."""
        if given is not None:
            if given.shape != image.shape[:2] or given.dtype != bool or not given.any():
                raise ValueError(f"image {number}: its region must be bool, {image.shape[:2]}, and not empty")
            return given
        if self._mask is not None:
            return resize_region(self._mask, *image.shape[:2])
        if self._region == "masks":
            raise ValueError(
                "regions: the detector was trained with a mask for each image; give a mask for each image to score"
            )
        if not self._region:
            return None
        region = largest_parts(image, *self._region)
        if not region.any():
            raise ValueError(f"image {number}: has no pixel above the grey level {self._region[0]:g} of data.roi")
        return region


def _program(serialised: bytes, where: str) -> Any:
    try:
        import flatbuffers  # noqa: F401  # if it is missing, the error of jax.export is less clear

        return jax.export.deserialize(bytearray(serialised))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("jax.export reads programs with flatbuffers: pip install flatbuffers") from error
    except Exception as error:
        raise ValueError(f"{where}, which JAX {jax.__version__} cannot read; export it again") from error


def _listed(images: Any, view: "View") -> list[np.ndarray]:
    """Return images as a list of (H, W, channels) uint8."""
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[-1] in (3, 4) and images.shape[1] > 4:
        images = images[None]
    if not np.iterable(images) or isinstance(images, str | bytes):
        raise ValueError(f"images: {type(images).__name__}; give an array (N, H, W[, C]) or a list of images")
    found = []
    for i, given in enumerate(images):
        if isinstance(given, str | bytes | PathLike):
            raise ValueError(f"image {i}: is a path; give its pixels, such as np.asarray(PIL.Image.open(path))")
        _check_pillow(given, i)
        image = np.asarray(given)
        if image.ndim not in (2, 3) or not image.size:
            raise ValueError(f"image {i}: shape {image.shape} is not (H, W) or (H, W, C)")
        try:
            found.append(to_grey_levels(np.atleast_3d(image), view.channels, view.window))
        except ValueError as error:
            raise ValueError(f"image {i}: {error}") from error
    if not found:
        raise ValueError("images: empty; give at least one")
    return found


def _check_pillow(image: Any, number: int) -> None:
    """Raise ValueError for an image of Pillow whose array would not be the picture that it shows."""
    if not hasattr(image, "mode"):
        return
    if image.mode not in _MODES:
        raise ValueError(f"image {number}: has Pillow's mode {image.mode}; give image.convert('RGB')")
    if "transparency" in image.info:
        raise ValueError(f"image {number}: has a transparent colour; give image.convert('RGBA')")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        raise ValueError(f"image {number}: is rotated by its EXIF tag; give PIL.ImageOps.exif_transpose(image)")


def to_grey_levels(image: np.ndarray, channels: int, window: Sequence[float] | None) -> np.ndarray:
    """Convert an image (H, W, any) to (H, W, channels) uint8: colours by the window, transparency by its type.

    Raises:
      ValueError: pixels are not finite numbers, or without a window not uint8; or the channels do not fit.
    """
    check_numbers(image)
    if window is None and image.dtype != np.uint8:
        raise ValueError(f"pixels of type {image.dtype}; uint8 is needed")
    if window is not None and image.shape[-1] == 4 != channels:
        parts = (by_window(image[..., :3], window), by_window(image[..., 3:], (0, opaque_of(image.dtype))))
        image = np.concatenate(parts, axis=-1)
    elif window is not None:
        image = by_window(image, window)
    return to_channels(image, channels)


def check_numbers(image: np.ndarray) -> None:
    """Raise ValueError unless pixels are integers, bool or finite floats."""
    if image.dtype.kind not in "biuf":
        raise ValueError(f"pixels of type {image.dtype}; integers, floats (16 to 64 bits) or bool are needed")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError("has pixels that are not finite (NaN or infinite)")


def opaque_of(dtype: np.dtype) -> int:
    """Return the alpha value of an opaque pixel."""
    return {"uint16": 65_535}.get(dtype.name, 255 if dtype.kind in "iu" else 1)


class View(NamedTuple):
    """How the networks see an image, and how its map becomes a score."""

    image_size: int  # S, height and width of the images that the networks see
    channels: int
    patches: bool  # whether an image is cut into tiles; otherwise it is resized to S
    scale: float  # with patches, the factor by which images are resized first
    min_contrast: float  # with patches, standard deviation of grey levels below which a tile is left out
    normalize_contrast: bool  # whether brightness and contrast are removed; from patches, those of the whole image
    stride: int  # largest distance in pixels between two neighbouring tiles
    share: float  # with patches, the score is the mean of the map's highest values; this is their share of the pixels
    window: Sequence[float] | None  # low and high, the values that become black and white; None: pixels are uint8
    crop: int | None  # height and width to which images are cropped, at their middle; None: they are not cropped

    def size_of(self, image: np.ndarray) -> tuple[int, int]:
        """Return height and width to which an image (H, W, C) is resized."""
        if not self.patches:
            return self.image_size, self.image_size
        height, width = (max(1, round(self.scale * length)) for length in image.shape[:2])
        return height, width


class Score(NamedTuple):
    """Scores of one image; for N images each field gains a leading axis. Higher is more anomalous."""

    score: np.ndarray  # () A(x) = (1 - lambda) R(x) + lambda D(x), mixed with S(x) if there is a segmenter
    residual: np.ndarray  # () R(x), the distance in the feature space to the reconstructions and the nearest references
    discrimination: np.ndarray  # () D(x); 0 where lambda is 0
    damage: np.ndarray  # () S(x) of the segmenter; 0 without one
    rotation: np.ndarray  # () T(x) of the rotation network, which is no part of A(x); 0 without one
    reconstruction: np.ndarray  # (S, S, C) in [-1, 1] G(z) where the best search ended
    anomaly_map: np.ndarray  # (S, S), at least 0: difference of x from the reconstructions and nearest references
    z: np.ndarray  # (starts, latent) where the searches ended, the best one first


class Finding(NamedTuple):
    """The result of one image: pictures at the image's own size, and scores.

    If the image could not be read, arrays are empty and numbers are NaN.
    """

    image: np.ndarray  # (H, W, C) uint8
    reconstruction: np.ndarray  # (H, W, C) uint8
    anomaly_map: np.ndarray  # (H, W) float32, at least 0: difference from the reconstructions and nearest references
    z: np.ndarray  # (latent,) float32 of the reconstruction G(z); with patches, of the tile with the largest R(x)
    score: float  # A(x), with patches pooled from the map, plus the part of T(x); raised if ``appearance`` is above 1
    appearance: float  # distance of brightness, contrast, noise, colour from normal images, divided by its limit
    term: str  # what determined the score, one of TERMS
    residual: float  # R(x); with patches the mean over tiles
    discrimination: float  # D(x); with patches the mean over tiles
    damage: float  # S(x) of the segmenter, 0 without one; with patches the largest of the tiles
    rotation: float  # T(x) of the rotation network, 0 without one

    @property
    def is_readable(self) -> bool:
        """True if the image was read and scored."""
        return self.image.size > 0


_NO_IMAGE, _NO_MAP = np.zeros((0, 0, 1), np.uint8), np.zeros((0, 0), np.float32)
_UNREADABLE = Finding(_NO_IMAGE, _NO_IMAGE, _NO_MAP, _NO_MAP.ravel(), np.nan, np.nan, "", *[np.nan] * 4)


class Query:
    """An image that is being scored: its tiles, and the scores of the tiles that are done.

    Args:
      image: (H, W, C) uint8, filled outside its region.
      region: the region of interest, (H, W) bool, or None; outside it the map is 0 and is not pooled.
      view: the detector's view.
      resize: the function that resizes an image.
    """

    def __init__(self, image: np.ndarray, region: np.ndarray | None, view: View, resize: Resize) -> None:
        self.appearance: tuple[float, str] | None = None  # the larger term and its name, once the judge has found them
        self.tiles: list[np.ndarray] = []  # (S, S, C) uint8, those with content; a whole image is one tile
        self._image, self._region, self._view, self._resize = image, region, view, resize
        self._corners: list[tuple[int, int]] = []
        self._terms: list[tuple[float, ...]] = []
        self._z, self._largest = np.zeros(0, np.float32), -np.inf
        resized, size = resize(image, *view.size_of(image)), view.image_size
        self._resized_shape = resized.shape
        within = self._resized_region = None if region is None else resize_region(region, *resized.shape[:2])
        self.padded = pad_to(resized, size)
        seen, self._inverse = self.padded, None  # the networks see patches without the contrast of their image
        if view.patches and view.normalize_contrast:
            table, self._inverse = contrast_tables(self.padded)
            seen = table[self.padded]
        for row, column, tile in cut_tiles(seen, size, view.stride):
            here = np.s_[row : row + size, column : column + size]
            is_outside = within is not None and not within[here].any()
            is_seen = not is_outside and has_content(self.padded[here], view.min_contrast)
            if is_seen or not view.patches:
                self.tiles.append(tile)
                self._corners.append((row, column))

    @cached_property
    def _mosaic(self) -> "Mosaic":
        height, width, channels = self.padded.shape
        return Mosaic(height, width, channels, self._view.image_size)

    @property
    def _by_itself(self) -> bool:
        """Return whether each tile is normalised by its own contrast; then the tile is the whole image."""
        return self._view.normalize_contrast and not self._view.patches

    def inputs(self) -> Iterator[np.ndarray]:
        """Yield the tiles in the networks' range, (S, S, C) float32."""
        for tile in self.tiles:
            yield to_model_range(tile[None], self._by_itself)[0]

    def is_done(self) -> bool:
        """Return whether every tile is scored."""
        return len(self._terms) == len(self.tiles)

    def add(self, result: Score) -> None:
        """Add the score of the next tile."""
        number = len(self._terms)
        reconstruction = to_pixels(result.reconstruction[None], self.tiles[number][None], self._by_itself)[0]
        if self._inverse is not None:
            reconstruction = self._inverse[reconstruction]
        self._mosaic.add(reconstruction, result.anomaly_map, *self._corners[number])
        terms = (result.score, result.residual, result.discrimination, result.rotation, result.damage)
        self._terms.append(tuple(float(term) for term in terms))
        if result.residual > self._largest:
            self._z, self._largest = result.z[0], float(result.residual)

    def measure(self, level: float, rotation_factor: float) -> Finding:
        """Return the result; ``level`` and ``rotation_factor`` are those of the calibration."""
        terms = np.array(self._terms or [(0.0,) * 5])
        score, residual, discrimination, rotation, _ = terms.mean(axis=0).tolist()
        damage = float(terms[:, -1].max())
        height, width = self._resized_shape[:2]
        reconstruction, anomaly_map = (each[:height, :width] for each in self._mosaic.blended())
        if self._resized_region is not None:
            anomaly_map = apply_region(anomaly_map, self._resized_region)
        if self._view.patches:
            counted = anomaly_map if self._resized_region is None else anomaly_map[self._resized_region]
            score = pool(counted, self._view.share)
        score += rotation_factor * rotation
        appearance, term = self.appearance or (0.0, "")
        combined = float(combine(score, appearance, level))
        term = term if combined > score else TERMS[0]
        shape = self._image.shape[:2]
        shown = (self._resize(reconstruction, *shape), self._resize(anomaly_map[..., None], *shape)[..., 0])
        if self._region is not None:
            shown = (apply_region(shown[0], self._region), apply_region(shown[1], self._region))
        values = (residual, discrimination, damage, rotation)
        return Finding(self._image, *shown, self._z, combined, appearance, term, *values)


def find(
    queries: Iterable[Query | None],
    score: Callable[[Iterable[np.ndarray]], Iterator[Score]],
    judge: Judge | None,
    level: float,
    rotation_factor: float,
) -> Iterator[Finding]:
    """Yield the finding of each query in order, as soon as its tiles are scored; of None, an unreadable one.

    Args:
      queries: are begun only when their tiles are needed, so that few are in memory at a time.
      score: the scorer of tiles (S, S, C), which yields their scores in order.
      judge: the judge of the queries' appearance; without one, scores have no terms of appearance.
      level: the score that corresponds to an appearance at its limit, see ``combine``.
      rotation_factor: the factor of T(x), which is then added to A(x).
    """
    waiting: deque[Query | None] = deque()  # queries that are begun and not yet yielded

    def tiles() -> Iterator[np.ndarray]:
        for query in queries:
            waiting.append(query)
            if query:
                yield from query.inputs()

    def done() -> Iterator[Finding]:
        unjudged = [query for query in waiting if query and query.appearance is None]
        if judge and unjudged:  # many at a time, which takes less time
            for query, judged in zip(unjudged, judge([query.padded for query in unjudged]), strict=True):
                query.appearance = judged
        while waiting and (waiting[0] is None or waiting[0].is_done()):
            ended = waiting.popleft()
            yield ended.measure(level, rotation_factor) if ended else _UNREADABLE

    for result in score(tiles()):
        yield from done()  # queries without a tile, which precede this tile's query
        current = waiting[0]
        assert current is not None
        current.add(result)
        yield from done()
    yield from done()


def blocks(images: Iterable[np.ndarray], width: int) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Yield up to ``width`` images at a time, and an array of exactly ``width``: the same, padded with the first."""
    remaining = iter(images)
    while block := list(islice(remaining, width)):
        yield block, np.stack([*block, *[block[0]] * (width - len(block))]).astype(np.float32)


def stacked(values: list[Any]) -> Any:
    """Return arrays stacked into one, or unchanged if their shapes differ."""
    return np.array(values) if len({np.shape(value) for value in values}) == 1 else values


def cut_tiles(image: np.ndarray, size: int, stride: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield row, column and pixels (size, size, C) of tiles that cover an image (H, W, C).

    They are evenly spaced, at most ``stride`` apart.

    Raises:
      ValueError: the image is smaller than a tile.
    """
    for row in _places(image.shape[0], size, stride):
        for column in _places(image.shape[1], size, stride):
            yield row, column, image[row : row + size, column : column + size]


class Mosaic:
    """Blends overlapping tiles into one image: a weighted mean, in which a tile's weight falls towards its edges.

    At its edges a tile shows least of a pixel's surroundings; and with these weights there are no seams. Tiles are
    added in the order of ``cut_tiles``, so rows above the last tile are final, and only the sums of ``size`` rows are
    kept in addition to the result.
    """

    def __init__(self, height: int, width: int, channels: int, size: int) -> None:
        self._reconstruction = np.zeros((height, width, channels), np.uint8)
        self._anomaly_map = np.zeros((height, width), np.float32)
        self._first = 0  # row of the image at which the strip begins
        self._sums = np.zeros((channels + 1, size, width), np.float32)  # weighted sums of reconstruction and map
        self._weights = np.zeros((size, width), np.float32)
        ramp = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float32)
        self._tile_weights = np.outer(ramp, ramp)

    def add(self, reconstruction: np.ndarray, anomaly_map: np.ndarray, row: int, column: int) -> None:
        """Add a tile, (S, S, C) and (S, S), whose upper left corner is here; it must not be above the last tile's."""
        self._finish_above(row)
        columns = slice(column, column + len(anomaly_map))
        self._sums[:-1, :, columns] += self._tile_weights * np.moveaxis(reconstruction, -1, 0)
        self._sums[-1, :, columns] += self._tile_weights * anomaly_map
        self._weights[:, columns] += self._tile_weights

    def blended(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the reconstruction (H, W, C) uint8 and the map (H, W) float32, zero where no tile was added.

        No tile may be added afterwards.
        """
        self._finish_above(len(self._anomaly_map))
        return self._reconstruction, self._anomaly_map

    def _finish_above(self, row: int) -> None:
        """Blend the rows of the strip above this row, and move the strip down to it."""
        if row == self._first:
            return
        count = min(row - self._first, len(self._weights))
        rows = slice(self._first, self._first + count)
        means = self._sums[:, :count] / np.maximum(self._weights[:count], 1)
        self._reconstruction[rows] = np.rint(np.moveaxis(means[:-1], 0, -1))
        self._anomaly_map[rows] = means[-1]
        for strip in (self._sums, self._weights):
            strip[..., : strip.shape[-2] - count, :] = strip[..., count:, :].copy()
            strip[..., strip.shape[-2] - count :, :] = 0
        self._first = row


def pool(anomaly_map: np.ndarray, share: float) -> float:
    """Return an image's score from its anomaly map of any shape: the mean of the map's highest values.

    Their number is this share of the map's pixels, and at least one.

    >>> pool(np.array([0.0, 1.0, 2.0, 3.0]), share=0.5)
    2.5
    """
    count = max(1, round(share * anomaly_map.size))
    highest = np.zeros(0, anomaly_map.dtype)
    for part in np.array_split(anomaly_map.ravel(), 1 + anomaly_map.size // _POOLED):
        candidates = np.concatenate([highest, part])
        highest = np.partition(candidates, max(0, len(candidates) - count))[-count:]
    return float(highest.mean(dtype=np.float64))


def _places(length: int, size: int, stride: int) -> list[int]:
    if length < size:
        raise ValueError(f"an image of {length} pixels holds no tile of {size}")
    count = -(-(length - size) // stride) + 1
    return np.rint(np.linspace(0, length - size, count)).astype(int).tolist()


def pad_to(image: np.ndarray, size: int) -> np.ndarray:
    """Pad an image at its lower and right edge, by mirroring, to at least (size, size, C)."""
    missing = ((0, max(0, size - image.shape[0])), (0, max(0, size - image.shape[1])), (0, 0))
    if not np.any(missing):
        return image
    return np.pad(image, missing, mode="symmetric")


def has_content(patch: np.ndarray, min_contrast: float) -> bool:
    """Return whether the standard deviation of a patch's grey levels reaches the minimum."""
    return min_contrast == 0 or float(patch.std()) >= min_contrast


def to_model_range(images: np.ndarray, normalize_contrast: bool = False) -> np.ndarray:
    """Convert images (N, S, S, C) uint8 to float32 in [-1, 1], the networks' range.

    With ``normalize_contrast``, each image is normalised by its own mean and mean absolute deviation (global contrast
    normalisation under the L1 norm, as in Ruff et al. 2018), so that a thin stroke weighs as much as a thick one. The
    result is divided by 8 and clipped to [-1, 1]; an image without contrast becomes zero.

    >>> to_model_range(np.array([[[[0]], [[255]]]], np.uint8)).ravel().tolist()
    [-1.0, 1.0]
    """
    if not normalize_contrast:
        return images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    mean, contrast = _contrast(images)
    return np.clip((images - mean) / (_CONTRASTS_IN_RANGE * contrast), -1, 1)


def to_pixels(generated: np.ndarray, queries: np.ndarray, normalize_contrast: bool = False) -> np.ndarray:
    """Convert images (N, S, S, C) from the networks' range to uint8, with the mean and contrast of ``queries``."""
    if normalize_contrast:
        mean, contrast = _contrast(queries)
        pixels = generated * (_CONTRASTS_IN_RANGE * contrast) + mean
    else:
        pixels = (generated + 1) * 127.5
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def contrast_tables(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a table (256,) uint8 that removes an image's mean and contrast from grey levels, and its inverse.

    ``to_model_range`` of ``table[image]`` is, up to rounding, that of the image with ``normalize_contrast``. So a patch
    keeps its brightness relative to the rest of the image (H, W, C) uint8.
    """
    levels = np.arange(256.0)
    counts = sum(np.bincount(row.ravel(), minlength=256) for row in image)
    mean = np.average(levels, weights=counts)
    scale = _CONTRASTS_IN_RANGE * max(np.average(np.abs(levels - mean), weights=counts), 1.0)
    table, inverse = 127.5 + 127.5 * (levels - mean) / scale, (levels - 127.5) / 127.5 * scale + mean
    return tuple(np.rint(np.clip(each, 0, 255)).astype(np.uint8) for each in (table, inverse))


def _contrast(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's mean and mean absolute deviation (at least one grey level), (N, 1, 1, 1) float32."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    deviation = np.abs(images - mean).mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return mean, np.maximum(deviation, np.float32(1))


def by_window(array: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Convert pixels of any type to uint8: low and all values below become 0, high and all above 255.

    >>> by_window(np.array([[-5.0, 1000.0, 4095.0]]), (0, 4095)).tolist()
    [[0, 62, 255]]
    """
    low, high = window
    strips = np.array_split(array, min(len(array), 1 + array.size // _CONVERTED))
    shares = (np.clip((strip.astype(np.float64) - low) / (high - low), 0, 1) for strip in strips)
    return np.concatenate([np.rint(255 * share).astype(np.uint8) for share in shares])


def middle(image: np.ndarray, size: int | None) -> np.ndarray:
    """Crop an image or region (H, W, ...) to its middle (size, size); shorter sides stay, None crops nothing."""
    first = [max(0, (length - (size or length)) // 2) for length in image.shape[:2]]
    return image[first[0] : first[0] + (size or len(image)), first[1] : first[1] + (size or image.shape[1])]


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Convert an image (H, W, any) uint8 to (H, W, channels): colour to grey, grey to colour, transparency over black.

    Raises:
      ValueError: the image has another number of channels.
    """
    if pixels.shape[-1] == 4 and channels in (1, 3):  # RGBA over black
        pixels = np.rint(pixels[..., :3] * (pixels[..., 3:] / 255.0)).astype(np.uint8)
    have = pixels.shape[-1]
    if have == channels:
        return pixels
    if (have, channels) == (3, 1):
        strips = np.array_split(pixels, 1 + pixels.size // _CONVERTED)
        return np.concatenate([np.rint(strip @ _LUMA).astype(np.uint8) for strip in strips])[..., None]
    if (have, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=-1)
    raise ValueError(f"images of {have} channels, but model.channels={channels}")


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (H, W, C), uint8 or float32, to (height, width, C), as the library does with Pillow, bit for bit.

    Pillow's bilinear filter weights the pixels of each row, rounds, and then does the same with the columns. For
    uint8 the weights are integers with 22 fractional bits.
    """
    for axis, length in ((1, width), (0, height)):
        if image.shape[axis] != length:
            image = _resample(image, length, axis)
    return image


def _resample(image: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Resize an image along one axis: each new pixel is the weighted mean of the pixels that it covers."""
    size = image.shape[axis]
    scale = size / length
    reach = max(scale, 1.0)  # of the triangle filter: a new pixel's width when shrinking, which is antialiasing
    centres = (np.arange(length) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    last = np.minimum((centres + reach + 0.5).astype(int), size)
    places = first[:, None] + np.arange(2 * int(np.ceil(reach)) + 1)  # (length, taps)
    weights = np.maximum(1 - np.abs((places - centres[:, None] + 0.5) * (1.0 / reach)), 0) * (places < last[:, None])
    weights /= weights.cumsum(axis=1)[:, -1:]  # summed one after the other, as Pillow does
    is_integer = image.dtype == np.uint8
    if is_integer:
        weights = (0.5 + weights * (1 << _BITS)).astype(np.int32)
    along = (-1,) + (1,) * (image.ndim - 1 - axis)
    total: Any = 1 << (_BITS - 1) if is_integer else 0.0
    for place, weight in zip(np.minimum(places, size - 1).T, weights.T, strict=True):
        total = total + np.take(image, place, axis=axis) * weight.reshape(along)
    return (total >> _BITS).astype(np.uint8) if is_integer else total.astype(np.float32)


def fill_outside(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) uint8 with the pixels outside a region (H, W) bool replaced by its mean colour."""
    return np.where(region[..., None], image, np.rint(image[region].mean(axis=0)).astype(np.uint8))


def apply_region(values: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return a reconstruction (H, W, C), or a map (H, W), set to 0 outside the region (H, W) bool.

    >>> apply_region(np.array([[7, 8, 9]]), np.array([[True, False, True]])).tolist()
    [[7, 0, 9]]
    """
    return values * (region if values.ndim == 2 else region[..., None])


def resize_region(region: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a region (H, W) bool to (height, width).

    Enlarging uses the nearest neighbour. When shrinking, a new pixel is True if any pixel that it covers is True, so
    that small regions do not vanish.

    >>> resize_region(np.array([[False, False, False, True]]), 2, 2).tolist()
    [[False, True], [False, True]]
    """
    if region.shape == (height, width):
        return region
    rows, columns = (np.arange(to) * of // to for of, to in zip(region.shape, (height, width), strict=True))
    return np.logical_or.reduceat(np.logical_or.reduceat(region, rows, axis=0), columns, axis=1)


def largest_parts(image: np.ndarray, level: float, parts: int) -> np.ndarray:
    """Return the largest connected parts (H, W) bool of an image (H, W, C) that are brighter than a grey level.

    Holes are filled. Connected pixels share a side; of equally large parts the upper one is taken.
    """
    labels = _connected_parts(image.sum(axis=-1, dtype=np.uint16) > level * image.shape[-1])
    sizes = np.bincount(labels.ravel())[1:]
    is_chosen = np.zeros(len(sizes) + 1, bool)
    is_chosen[1 + np.argsort(-sizes, kind="stable")[:parts]] = True
    around = _connected_parts(np.pad(~is_chosen[labels], 1, constant_values=True))
    return (around != around[0, 0])[1:-1, 1:-1]  # pixels that are not around the parts are in them or in a hole


def _connected_parts(mask: np.ndarray) -> np.ndarray:
    """Return the number of the connected part in which each pixel of a mask (H, W) lies, 0 where it is False.

    Parts are numbered from 1 by their first pixels, row by row. Runs of pixels in a row are joined to their neighbours
    above and below, until every run has the lowest number that it can reach.
    """
    runs = _first_of_runs(mask).cumsum().reshape(mask.shape) * mask
    touches = _first_of_runs(mask[1:] & mask[:-1])
    upper, lower = runs[:-1][touches], runs[1:][touches]
    lowest = np.arange(runs.max(initial=0) + 1)
    while (lowest[upper] != lowest[lower]).any():
        reached = np.minimum(lowest[upper], lowest[lower])
        np.minimum.at(lowest, lowest[upper], reached)
        np.minimum.at(lowest, lowest[lower], reached)
        while (lowest[lowest] != lowest).any():
            lowest = lowest[lowest]
    return np.unique(lowest, return_inverse=True)[1][runs]


def _first_of_runs(mask: np.ndarray) -> np.ndarray:
    """Return where in the rows of a mask (H, W) a run of True begins."""
    return mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]


class Appearance(NamedTuple):
    """The statistics of normal images with C channels, and limits that such images seldom exceed."""

    center: np.ndarray  # (F,) mean statistics of whole images
    whitening: np.ndarray  # (F, F) the norm of a difference times this matrix is the Mahalanobis distance
    limit: np.ndarray  # () limit of that distance
    window_limit: np.ndarray  # () limit of a window's distance to its nearest neighbour among ``windows``
    windows: np.ndarray  # (K, 3) statistics of windows, one channel after the other
    counts: np.ndarray  # (C,) numbers of windows of the channels, together K


def make_judge(appearance: Appearance, index: Callable[[np.ndarray], Farthest] | None = None) -> Judge:
    """Return ``judge(images)`` for images (H, W, C) uint8, 8x8 or larger: each image's larger term, and its name.

    A term is divided by its limit, so normal images are seldom above 1. Images of equal size take less time.

    Args:
      appearance: the appearance of normal images.
      index: the function that returns ``farthest(windows)`` for points (K, 3); by default ``farthest_of``.
    """
    of_channels = np.split(appearance.windows, np.cumsum(appearance.counts)[:-1])
    farthest = [(index or farthest_of)(points) for points in of_channels]

    def judge(images: Sequence[np.ndarray]) -> list[tuple[float, str]]:
        if len({image.shape for image in images}) != 1:
            return [judged for image in images for judged in judge([image])]
        statistics, blocks = describe(images[0][None] if len(images) == 1 else np.stack(images))
        rows, step = blocks.shape[2] - 1, _STRIP // _BLOCK  # rows of windows: all, and at a time
        parts = (windows_of(blocks[:, :, row : row + step + 1]) for row in range(0, rows, step))
        distances = [[of(windows[:, i]) for i, of in enumerate(farthest)] for windows in parts]
        detail = np.max(distances, axis=(0, 1)) / appearance.window_limit
        found = []
        for each, of_detail in zip(statistics - appearance.center, detail.tolist(), strict=True):
            whole = np.linalg.norm(each @ appearance.whitening) / appearance.limit  # one by one, for equal rounding
            found.append(max((float(whole), "appearance"), (of_detail, "detail")))
        return found

    return judge


def combine(score: ArrayLike, excess: ArrayLike, level: float) -> np.ndarray:
    """Return the scores (N,); where a term is beyond its limit, at least level * excess^(1/4).

    The root keeps a normal image that is just beyond its limit below most anomalies.

    Args:
      score: A(x), (N,).
      excess: (N,) the larger of the two terms, each divided by its limit.
      level: the score that corresponds to a term at its limit, see ``calibration.appearance_level``.
    """
    return np.where(np.greater(excess, 1), np.maximum(score, level * np.power(excess, _LIFT)), score)


def describe(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistics (N, F) of images (N, H, W, C) uint8, 8x8 or larger, and the sums of their blocks.

    The statistics are, for each cell of a grid, the mean, the logarithm of the standard deviation, and the logarithm of
    the roughness, the mean magnitude of the discrete Laplacian; and for the whole image quantiles of grey levels and of
    the Laplacian. The outermost pixels, which lack neighbours, are left out. The sums are for ``windows_of``.
    """
    count, *lengths, channels = images.shape
    blocks = np.empty((3, count, *((length - 2) // _BLOCK for length in lengths), channels), np.int32)
    histograms: Any = 0  # (2, N, C, 1021): of grey levels and of the Laplacian's magnitude
    for row in range(0, lengths[0] - 2, _STRIP):
        of_strip, counts = _measure(images[:, row : row + _STRIP + 2])
        first = row // _BLOCK
        blocks[:, :, first : first + of_strip.shape[2]] = of_strip
        histograms = histograms + counts
    cells = []
    for top, bottom in _cells(blocks.shape[2]):
        for left, right in _cells(blocks.shape[3]):
            sums = blocks[:, :, top:bottom, left:right].sum(axis=(2, 3), dtype=np.int64)
            cells.append(_moments(sums, _BLOCK**2 * (bottom - top) * (right - left)))  # (3, N, C)
    levels, rough = (_quantiles(each) / 255 for each in histograms)
    whole = [np.stack(cells).transpose(2, 1, 0, 3).reshape(count, -1), levels, _logarithm(rough)]
    return np.concatenate(whole, axis=1), blocks


def windows_of(blocks: np.ndarray) -> np.ndarray:
    """Return mean, log deviation and log roughness (N, C, n, 3) float32 of every window: two by two blocks.

    Args:
      blocks: (3, N, h, w, C) the sums of blocks, as ``describe`` returns them.
    """
    pairs = blocks[:, :, :-1] + blocks[:, :, 1:]
    sums = pairs[..., :-1, :] + pairs[..., 1:, :]
    windows = _moments(np.moveaxis(sums, -1, 2), 4 * _BLOCK**2).astype(np.float32)  # (3, N, C, h - 1, w - 1)
    return np.moveaxis(windows.reshape(*windows.shape[:3], -1), 0, -1)


def _cells(length: int) -> list[tuple[int, int]]:
    """Return where each of four parts of a length begins and ends; each is at least 1 long, even of a short length."""
    edges = [number * length // _GRID for number in range(_GRID + 1)]
    return [(first, max(last, first + 1)) for first, last in pairwise(edges)]


def _measure(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return block sums of strips (N, H, W, C), without outermost pixels, and histograms of levels and Laplacian.

    The sums (3, N, H / 3, W / 3, C) are those of the levels, of their squares, and of the Laplacian's magnitude.
    """
    levels = strip.astype(np.int16)
    inner = levels[:, 1:-1, 1:-1]
    around = levels[:, :-2, 1:-1] + levels[:, 2:, 1:-1] + levels[:, 1:-1, :-2] + levels[:, 1:-1, 2:]
    rough = np.abs(4 * inner - around)
    blocks = np.stack([_block_sums(each) for each in (inner, np.square(inner, dtype=np.int32), rough)])
    return blocks, np.stack([_histograms(inner), _histograms(rough)])


def _block_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums (N, H / 3, W / 3, C) of blocks of 3x3 values."""
    count, *lengths, channels = values.shape
    rows, columns = (length // _BLOCK for length in lengths)
    trimmed = values[:, : rows * _BLOCK, : columns * _BLOCK]
    return trimmed.reshape(count, rows, _BLOCK, columns, _BLOCK, channels).sum(axis=(2, 4), dtype=np.int32)


def _moments(sums: np.ndarray, count: int) -> np.ndarray:
    """Return mean, log deviation and log roughness, each about 0 to 1, from sums over ``count`` pixels."""
    mean, square, rough = sums / (255.0 * count)
    deviation = np.sqrt(np.maximum(square / 255 - mean**2, 0))
    return np.stack([mean, _logarithm(deviation), _logarithm(rough)])


def _histograms(values: np.ndarray) -> np.ndarray:
    """Return how often each value occurs in each image and channel, (N, C, 1021)."""
    count, channels, most = len(values), values.shape[-1], 4 * 255 + 1
    places = most * np.arange(count * channels).reshape(count, 1, 1, channels)
    return np.bincount((values + places).ravel(), minlength=count * channels * most).reshape(count, channels, most)


def _quantiles(histograms: np.ndarray) -> np.ndarray:
    """Return the quantiles of the values of each image, (N, 7 C), one channel after the other."""
    reached = histograms.cumsum(axis=-1)
    found = [(reached < share * reached[..., -1:]).sum(axis=-1) for share in _QUANTILES]
    return np.stack(found, axis=-1).reshape(len(histograms), -1)


def _logarithm(values: np.ndarray) -> np.ndarray:
    """Map [0, 1] to [0, 1] by a logarithm: above one grey level, equal ratios become about equal distances."""
    return np.log1p(255 * values) / np.log(256)


def farthest_of(points: np.ndarray) -> Farthest:
    """Return ``farthest(windows)`` for points (K, 3) of the grid, without an index.

    Each window lies in a cell of the grid. Its distance to the nearest point differs from that of the cell's centre by
    at most the distance between window and centre (triangle inequality); the centre's distance is zero if the centre is
    one of the points. Exact distances are computed only for windows that can be the farthest by this bound.
    """
    return partial(_farthest, points)


def _farthest(points: np.ndarray, windows: np.ndarray) -> np.ndarray:
    count = len(windows)
    cells, of_window = np.unique(cells_of(windows.reshape(-1, 3)), return_inverse=True)
    centres, is_empty = centres_of(cells), ~np.isin(cells, cells_of(points))
    of_cells = np.zeros(len(cells))
    of_cells[is_empty] = _nearest(points, centres[is_empty])
    about = of_cells[of_window].reshape(count, -1)
    error = np.linalg.norm(windows - centres[of_window].reshape(windows.shape), axis=2)
    may_be_farthest = about + error >= (about - error).max(axis=1, keepdims=True)
    candidates, of_candidate = np.unique(windows[may_be_farthest], axis=0, return_inverse=True)
    distances = np.zeros(about.shape)
    distances[may_be_farthest] = _nearest(points, candidates)[of_candidate]
    return distances.max(axis=1)


def cells_of(windows: np.ndarray) -> np.ndarray:
    """Return the number of the grid point nearest to each window (n, 3); the grid's steps are 1/64 long."""
    return np.rint(windows * _RESOLUTION).astype(np.int64) @ (1 << 14, 1 << 7, 1)  # each coordinate is below 128


def centres_of(cells: np.ndarray) -> np.ndarray:
    """Return the points (n, 3) of the grid with these numbers."""
    return np.stack([cells >> 14, cells >> 7 & 127, cells & 127], axis=1) / _RESOLUTION


def _nearest(points: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return the distance (n,) of each window (n, 3) to the nearest of points (K, 3)."""
    parts = np.array_split(windows.astype(np.float64), 1 + len(windows) * len(points) // _DISTANCES)
    squares = [sum(np.square(part[:, i, None] - points[:, i]) for i in range(3)).min(axis=1) for part in parts]
    return np.sqrt(np.concatenate(squares))


def p_values(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return the conformal p-value of each score (Vovk et al. 2005; Bates et al. 2023, eq. 1).

    (1 + the number of held-out scores at or above it) / (1 + the number of held-out scores): for a
    normal image, P(p <= alpha) <= alpha, whatever the distribution of the scores.

    Args:
      scores: (N,), higher is more anomalous.
      held_out: (M,) scores of normal images that training never saw.

    Returns:
      (N,), in [1 / (M + 1), 1]; NaN where the score is NaN.

    >>> p_values(np.array([0.5, 9.0, np.nan]), held_out=np.array([0.1, 0.2, 0.7])).tolist()
    [0.5, 0.25, nan]
    """
    above = len(held_out) - np.searchsorted(np.sort(held_out), scores, side="left")
    return np.where(np.isnan(scores), np.nan, (1 + above) / (1 + len(held_out)))
