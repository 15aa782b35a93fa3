"""Defects found and located by AnoGAN, and by PCA and nearest neighbours on the same patches, in one table.

    python train.py --config configs/magnetic_tile.py --config.data.dir=FOLDER
    python -m benchmarks.localisation --workdir runs/magnetic_tile

For any run by patches whose data has masks. All methods see the same tiles, and what each finds in them goes the same
way: blended into a map, and pooled to a score. The baselines learn from 20,000 random patches of the training images.
  pca32           |x - its projection on 32 principal components|
  knn2            the distance to the two nearest patches, the same all over a tile
  knn2_residual   |x - the mean of the two nearest patches|
  same_knn        as the nearest method of score.py, of the patches themselves: what the generator is worth
Prints the table and, for each method, in how many images of small defects the map's peak lies inside the mask, widened
by a quarter of a patch; writes benchmarks/results/<run>.json. Goes on where it was stopped (<workdir>/benchmark).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from anogan_jax import cli
from anogan_jax.bank import describe_bank
from anogan_jax.config import Config
from anogan_jax.data import Images, load_one_class, make_draw, read_ahead, to_model_range
from anogan_jax.errors import UserError
from anogan_jax.figures import HeatScale
from anogan_jax.journal import Journal
from anogan_jax.models import Weights
from anogan_jax.queries import score_queries
from anogan_jax.report import by_defect, record
from anogan_jax.run import make_scorer, open_run
from anogan_jax.scoring import Score, make_nearest_scorer

_PATCHES = 20_000
_SMALL = ("blowhole", "break", "crack")
Scoring = Callable[[Iterable[np.ndarray]], Iterator[Score]]


def main() -> None:
    """Scores by every method and writes the results."""
    run = open_run(cli.given_workdir())
    config, data = run.config, load_one_class(run.config)
    if not config.patches.enabled or data.test is None or data.test.mask is None:
        raise UserError(f"{run.workdir}: its data has no masks, or its images are not cut into patches")
    methods: dict[str, Callable[[], Scoring]] = {
        "anogan": lambda: partial(make_scorer(run, "anogan"), run.weights),
        **{name: partial(make, config, data.train) for name, make in _BASELINES.items()},
    }
    rows, peaks = [], {}
    for method, make in methods.items():
        folder = run.workdir / "benchmark" / method
        journal = Journal(folder / "journal", repr((config, run.step, method)))
        if journal.count < len(data.test.names):
            results = score_queries(make(), data.test, config, method, first=journal.count)
            record(journal, results, data.test, HeatScale(1.0), maps=folder / "maps")
        rows += [{"method": method, "defect": defect, **found} for defect, found in by_defect(journal).items()]
        peaks[method] = peaks_inside(data.test, folder / "maps", config)
    path = Path(__file__).parent / "results" / f"{run.workdir.name.replace('_', '-')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=2) + "\n")
    show(rows, peaks)


def pca32(config: Config, train: Images) -> Scoring:
    """|x - its projection|."""
    pca = PCA(32, svd_solver="covariance_eigh").fit(patches_of(config, train))
    return _tile_by_tile(lambda tiles: np.abs(tiles - pca.inverse_transform(pca.transform(tiles))))


def knn2(config: Config, train: Images) -> Scoring:
    """The mean distance to the two nearest, everywhere."""
    neighbours = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(patches_of(config, train))
    return _tile_by_tile(lambda tiles: np.full(tiles.shape, neighbours.kneighbors(tiles)[0].mean(1, keepdims=True)))


def knn2_residual(config: Config, train: Images) -> Scoring:
    """|x - the mean of the two nearest|."""
    patches = patches_of(config, train)
    neighbours = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(patches)
    return _tile_by_tile(lambda tiles: np.abs(tiles - patches[neighbours.kneighbors(tiles)[1]].mean(axis=1)))


def same_knn(config: Config, train: Images) -> Scoring:
    """The config's yardstick, with patches in the place of generated images."""
    patches = patches_of(config, train).reshape(-1, *[config.model.image_size] * 2, config.model.channels)
    yardsticks = (config.search.yardstick, config.search.nearest_by)
    scorer = make_nearest_scorer([describe_bank(patches, *yardsticks)], config.search.neighbours, *yardsticks)
    return lambda tiles: scorer(Weights({}, {}), tiles)


_BASELINES = {"pca32": pca32, "knn2": knn2, "knn2_residual": knn2_residual, "same_knn": same_knn}


def patches_of(config: Config, train: Images) -> np.ndarray:
    """Random patches as the model sees them in training, (20,000, S * S * C)."""
    drawn = read_ahead(make_draw(train, config), range(_PATCHES), ahead=256)
    patches = np.stack([patch for patch in drawn if not isinstance(patch, UserError)])
    return to_model_range(patches, config.data.normalize_contrast).reshape(len(patches), -1)


def peaks_inside(test: Images, maps: Path, config: Config) -> str:
    """How many maps of each kind of small defect have their peak inside the widened mask."""
    assert test.mask is not None
    assert test.kinds is not None
    quarter = round(config.model.image_size / config.patches.scale / 4)
    said = []
    for kind in _SMALL:
        inside = []
        for i in np.flatnonzero(np.array(test.kinds) == kind).tolist():
            far = ndimage.distance_transform_edt(~test.mask(i))
            inside.append(far.ravel()[np.load(maps / f"{test.names[i]}.npy").argmax()] <= quarter)
        if inside:
            said.append(f"{kind} {sum(inside)} of {len(inside)}")
    return ", ".join(said)


def show(rows: list[dict], peaks: dict[str, str]) -> None:
    """The table on the terminal."""
    table = Table(title="Against the good images; image AUROC / pixel AUROC / PRO", title_justify="left")
    defects = list(dict.fromkeys(row["defect"] for row in rows))
    for name in ("method", *defects):
        table.add_column(name)
    for method in peaks:
        cells = {row["defect"]: row for row in rows if row["method"] == method}
        values = ([cells[defect][name] for name in ("image_auroc", "pixel_auroc", "pro")] for defect in defects)
        table.add_row(method, *(" / ".join(f"{value:.3f}" for value in cell) for cell in values))
    console = Console(soft_wrap=True)
    console.print(table)
    for method, said in peaks.items():
        console.print(f"{method}: peak inside the widened mask: {said}")


def _tile_by_tile(residuals: Callable[[np.ndarray], np.ndarray]) -> Scoring:
    """From a function of tiles (n, S * S * C) to their per-pixel residuals, of the same shape."""

    def score(tiles: Iterable[np.ndarray]) -> Iterator[Score]:
        remaining = iter(tiles)
        while block := list(islice(remaining, 256)):
            found = residuals(np.stack(block).reshape(len(block), -1)).reshape(len(block), *block[0].shape)
            for tile, residual in zip(block, found, strict=True):
                total = np.abs(residual).sum()
                yield Score(total, total, np.zeros_like(total), np.zeros_like(tile), residual.mean(axis=-1))

    return score


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
