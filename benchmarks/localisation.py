"""Compare how the detector, PCA and nearest neighbours detect and locate defects on the same patches.

    python train.py --config configs/magnetic_tile.py --config.data.dir=FOLDER
    python -m benchmarks.localisation --workdir runs/magnetic_tile

Works with any detector of patches whose data has masks. All methods see the same tiles; their maps of a tile are
blended and pooled in the same way.
  default         the detector
  no references   the detector without references
  no search       the detector with references instead of the search
  no segmenter    the detector without its segmenter
  search only     the detector without references and segmenter
  segmenter only  the detector's segmenter only
  size only       distance of log width and height to the two nearest training images: shows what the image size detects
The baselines learn from 20,000 random patches of the training images:
  pca32           |x - its projection on 32 principal components|
  knn2            the mean distance to the two nearest patches, the same at each pixel of a tile
  knn2_residual   |x - the mean of the two nearest patches|
  same_knn        the detector's comparison, but with the eight nearest patches: no generator
Prints the table and, for each method, in how many images of small defects the map's peak lies inside the mask, widened
by a quarter of a patch. Writes benchmarks/results/<run>.json and keeps the rows of other methods there. An interrupted
run resumes from <workdir>/benchmark.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from anogan_jax import cli, load
from anogan_jax.bank import bank_of_images
from anogan_jax.config import Config
from anogan_jax.data import Images, load_one_class, make_draw, read_ahead, to_networks
from anogan_jax.detector import Detector, findings_of, scorer_of
from anogan_jax.errors import UserError
from anogan_jax.files import replacing
from anogan_jax.journal import Journal
from anogan_jax.queries import score_queries
from anogan_jax.report import by_defect, record
from anogan_jax.runtime import TERMS, Finding, Score
from benchmarks.classes import with_neighbours
from benchmarks.one_class_table import RESULTS

_PATCHES = 20_000
_SMALL = ("blowhole", "break", "crack")
_PARTS: dict[str, dict[str, float]] = {
    "default": {},
    "no references": {"search.reference_weight": 0.0},
    "no search": {"search.reference_weight": 1.0},
    "no segmenter": {"segmenter.weight": 0.0},
    "search only": {"search.reference_weight": 0.0, "segmenter.weight": 0.0},
    "segmenter only": {"segmenter.weight": 1.0},
}
Scoring = Callable[[Iterable[np.ndarray]], Iterator[Score]]


def main() -> None:
    """Score by every method and write the results."""
    workdir = cli.given_workdir()
    detector = load(workdir)
    config, data = detector.config, load_one_class(detector.config)
    if not config.patches.enabled or data.test is None or data.test.mask is None:
        raise UserError(f"{workdir}: its data has no masks, or its detector uses no patches; both are needed")
    path, peaks = RESULTS / f"{workdir.name.replace('_', '-')}.json", {}
    earlier = json.loads(path.read_text()) if path.exists() else []
    rows = [row for row in earlier if row["method"] not in _CHOSEN.value]
    for method in _CHOSEN.value:
        folder = workdir / "benchmark" / method
        journal = Journal(folder / "journal.sqlite", repr((config, detector.step, method)))
        if journal.count < len(data.test.names):
            if method in _PARTS:
                of = detector.with_search(config.search, _PARTS[method]) if _PARTS[method] else detector
                findings = findings_of(of, data.test, method, first=journal.count)
            elif method == "size only":
                findings = by_size(data.train, data.test, first=journal.count)
            else:
                score = scoring_of(method, detector, data.train)
                findings = score_queries(score, data.test, config, method, first=journal.count)
            record(journal, findings, data.test, 1.0, maps=folder / "maps")
        rows += [{"method": method, "defect": defect, **found} for defect, found in by_defect(journal).items()]
        peaks[method] = peaks_inside(data.test, folder / "maps", config)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=2) + "\n")
    show(rows, peaks)


def scoring_of(method: str, detector: Detector, train: Images) -> Scoring:
    """Return the scorer of tiles of another method."""
    patches = patches_of(detector.config, train)
    if method == "same_knn":
        return scorer_of(with_neighbours(detector, bank_of_images(patches, detector.gan.latent_size)))
    return _tile_by_tile(_BASELINES[method](patches.reshape(len(patches), -1)))


def by_size(train: Images, test: Images, first: int) -> Iterator[Finding]:
    """Yield the finding of each test image from number ``first`` on, from its width and height only."""

    def size(images: Images, number: int) -> np.ndarray:
        return np.log(images.read(number).shape[:2])

    neighbours = NearestNeighbors(n_neighbors=2).fit([size(train, i) for i in range(len(train.names))])
    for i in range(first, len(test.names)):
        score, image = float(neighbours.kneighbors([size(test, i)])[0].mean()), test.read(i)
        anomaly_map, no_z = np.full(image.shape[:2], score, np.float32), np.zeros(0, np.float32)
        yield Finding(image, image, anomaly_map, no_z, score, 0.0, TERMS[0], score, *[0.0] * 3)


Residuals = Callable[[np.ndarray], np.ndarray]  # from tiles (n, S * S * C) to residuals of the same shape


def pca32(patches: np.ndarray) -> Residuals:
    """Return the distance of each pixel to the projection on 32 principal components."""
    pca = PCA(32, svd_solver="covariance_eigh").fit(patches)
    return lambda tiles: np.abs(tiles - pca.inverse_transform(pca.transform(tiles)))


def knn2(patches: np.ndarray) -> Residuals:
    """Return the mean distance to the two nearest patches, at every pixel."""
    neighbours = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(patches)
    return lambda tiles: np.full(tiles.shape, neighbours.kneighbors(tiles)[0].mean(1, keepdims=True))


def knn2_residual(patches: np.ndarray) -> Residuals:
    """Return the distance of each pixel to the mean of the two nearest patches."""
    neighbours = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(patches)
    return lambda tiles: np.abs(tiles - patches[neighbours.kneighbors(tiles)[1]].mean(axis=1))


_BASELINES: dict[str, Callable[[np.ndarray], Residuals]] = {
    "pca32": pca32,
    "knn2": knn2,
    "knn2_residual": knn2_residual,
}


METHODS = [*_PARTS, *_BASELINES, "same_knn", "size only"]
_CHOSEN = flags.DEFINE_list("methods", METHODS, "Methods to run.")
flags.register_validator("methods", lambda given: set(given) <= set(METHODS), f"must be among {','.join(METHODS)}")


def patches_of(config: Config, train: Images) -> np.ndarray:
    """Return random patches drawn as in training, (20,000, S, S, C) in [-1, 1]."""
    drawn = read_ahead(make_draw(train, config), range(_PATCHES), ahead=256)
    patches = np.stack([patch for patch in drawn if not isinstance(patch, UserError)])
    return to_networks(patches, config)


def peaks_inside(test: Images, maps: Path, config: Config) -> str:
    """Return in how many images of each small defect the map's peak lies inside the widened mask."""
    assert test.mask is not None
    assert test.kinds is not None
    quarter = round(config.model.image_size / config.patches.scale / 4)
    parts = []
    for kind in _SMALL:
        inside = []
        for i in np.flatnonzero(np.array(test.kinds) == kind).tolist():
            if (mask := test.mask(i)) is None:
                continue
            far = ndimage.distance_transform_edt(~mask)
            inside.append(far.ravel()[np.load(maps / f"{test.names[i]}.npy").argmax()] <= quarter)
        if inside:
            parts.append(f"{kind} {sum(inside)} of {len(inside)}")
    return ", ".join(parts)


def show(rows: list[dict], peaks: dict[str, str]) -> None:
    """Print the table."""
    table = Table(title="Against the good images; image AUROC / pixel AUROC / PRO", title_justify="left")
    defects = list(dict.fromkeys(row["defect"] for row in rows))
    for name in ("method", *defects):
        table.add_column(name)
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = {row["defect"]: row for row in rows if row["method"] == method}
        values = ([cells[defect][name] for name in ("image_auroc", "pixel_auroc", "pro")] for defect in defects)
        table.add_row(method, *(" / ".join(f"{value:.3f}" for value in cell) for cell in values))
    console = Console(soft_wrap=True)
    console.print(table)
    for method, found in peaks.items():
        if found:
            console.print(f"{method}: peak inside the widened mask: {found}")


def _tile_by_tile(residuals: Residuals) -> Scoring:
    def score(tiles: Iterable[np.ndarray]) -> Iterator[Score]:
        remaining = iter(tiles)
        while block := list(islice(remaining, 256)):
            found = residuals(np.stack(block).reshape(len(block), -1)).reshape(len(block), *block[0].shape)
            for tile, residual in zip(block, found, strict=True):
                total, nothing = np.abs(residual).sum(), np.zeros(())
                shown = (np.zeros_like(tile), residual.mean(axis=-1), np.zeros((1, 0), np.float32))
                yield Score._make([total, total, *[nothing] * 4, *shown])

    return score


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
