"""One-class detection: each class of a data set in turn is normal, and all others are to be told from it.

    python -m benchmarks.one_class --config configs/mnist.py --workdir runs/one_class/mnist

Trains a model on the training images of each class, less the held-out tenth (Ruff et al. 2018), scores the test split,
and writes a row for each method to benchmarks/results/<data set>.json, the table to docs/detection.md:
  best        as the config searches and measures
  explained   likenesses among training images as the generator makes them, as best is for some configs
  sampled     likenesses among random generated images, as best is for the others
  bank        A(x), after the search from the nearest generated image; on 2,000 of the test images
  paper       A(x), after the paper's 500 steps from a random z; on the same 2,000
  encoder     the encoder alone, trained for 1,000 steps, under the config's yardstick
  same_knn    the mean of the nearest training images, under the config's yardstick: what the generator is worth
  pca32, knn2, knn2cos   as score.py --compare
Prints the table in the end. Goes on where it was stopped: what has a row of the same settings is not done again.
--quick is for a look: few steps, two classes.
"""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags
from sklearn.metrics import roc_auc_score

from anogan_jax import cli
from anogan_jax.bank import describe_bank
from anogan_jax.baselines import knn, knn_cosine, pca
from anogan_jax.config import Config, EncoderConfig, SearchConfig, differences
from anogan_jax.data import Images, OneClass, as_array, load_one_class, to_model_range
from anogan_jax.errors import UserError
from anogan_jax.fit import fit
from anogan_jax.queries import score_queries
from anogan_jax.run import Run, make_scorer, open_run
from anogan_jax.scoring import Scorer, make_nearest_scorer
from benchmarks.one_class_table import RESULTS, table, write_table

METHODS = ("best", "explained", "sampled", "encoder", "same_knn", "pca32", "knn2", "knn2cos", "bank", "paper")
_SLOW = ("bank", "paper")  # on a fixed sample of the test split
_SAMPLE = 2_000

_CLASSES = flags.DEFINE_list("classes", [str(n) for n in range(10)], "Which are normal in turn.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Of training.")
_METHODS = flags.DEFINE_list("methods", list(METHODS), "Which to run.")
_QUICK = flags.DEFINE_bool("quick", False, "Two classes, 50 steps, 200 test images, and no results are filed.")


def main() -> None:
    """Trains and scores what has no row yet."""
    config = cli.given_config() or Config()
    if not config.data.name:
        raise UserError("data.name: give the data set's, by which its results are filed")
    name = config.data.name.replace("_", "-") + ("-contaminated" if config.data.contamination else "")
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text()) if path.exists() and not _QUICK.value else []
    for seed in _SEEDS.value:
        for normal in _CLASSES.value[: 2 if _QUICK.value else None]:
            of_class = configured(config, int(normal), int(seed))
            mine = {row["method"]: row for row in rows if (row["class"], row["seed"]) == (int(normal), int(seed))}
            missing = [
                method
                for method in _METHODS.value
                if method not in mine or mine[method]["config"] != settings(of_class, method)
            ]
            if not missing:
                continue
            run = trained(of_class, cli.given_workdir())
            for method in missing:
                row = measured(run, method)
                rows = [other for other in rows if other is not mine.get(method)] + [row]
                print(*(row[key] for key in ("class", "seed", "method", "auroc", "images", "seconds")), flush=True)
                if not _QUICK.value:
                    path.parent.mkdir(exist_ok=True)
                    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
                    write_table(name, rows)
    print(*table(name, rows), sep="\n")


def configured(config: Config, normal: int, seed: int) -> Config:
    """For one class, with an encoder."""
    config = replace(
        config,
        data=replace(config.data, normal=normal),
        seed=seed,
        encoder=EncoderConfig(20 if _QUICK.value else 1_000),
    )
    if _QUICK.value:
        config = replace(config, train=replace(config.train, steps=50), search=replace(config.search, bank_size=512))
    return config


def settings(config: Config, method: str) -> list[str]:
    """What is not as by default, but for where the data is."""
    anywhere = replace(config.data, dir="", test_limit=sample_of(method))
    return [text.split(", not ")[0] for text in differences(replace(config, data=anywhere), Config())]


def sample_of(method: str) -> int | None:
    """How many of the test images a method scores; None: all."""
    return 200 if _QUICK.value else _SAMPLE if method in _SLOW else None


def trained(config: Config, workdir: Path) -> Run:
    """The model of one class, trained if there is none yet."""
    folder = workdir / f"{config.data.normal}-{config.seed}{'-quick' if _QUICK.value else ''}"
    fit(config, folder)
    return open_run(folder)


def measured(run: Run, method: str) -> dict:
    """Scores the test split, or a sample of it, by one method."""
    config = replace(run.config, data=replace(run.config.data, test_limit=sample_of(method)))
    run, data = run._replace(config=config), load_one_class(config)
    labels = test_of(data).labels
    assert labels is not None
    score = _SCORES[method](run, data)
    began = time.monotonic()
    scores = score()
    return {
        "method": method,
        "class": config.data.normal,
        "seed": config.seed,
        "auroc": round(float(roc_auc_score(labels, scores)), 5),
        "images": len(scores),
        "seconds": round(time.monotonic() - began, 2),
        "commit": _commit(),
        "config": settings(config, method),
    }


def searched(method: str, run: Run, data: OneClass) -> Callable[[], np.ndarray]:
    """By a method of score.py; what it keeps is made, and its programs compiled, beforehand."""
    return warm(make_scorer(run, method), run, data)


def among(references: int, run: Run, data: OneClass) -> Callable[[], np.ndarray]:
    """As the config says, but for what images are compared with."""
    search = replace(run.config.search, references=references)
    return searched("anogan", run._replace(config=replace(run.config, search=search)), data)


def baseline(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray], run: Run, data: OneClass
) -> Callable[[], np.ndarray]:
    """By one of the baselines of score.py."""
    arrays = (as_array(images, run.config) for images in (data.train, test_of(data)))
    train, test = (array.reshape(len(array), -1) / 255.0 for array in arrays)
    return lambda: score(train, test)


def same_knn(run: Run, data: OneClass) -> Callable[[], np.ndarray]:
    """As ``make_nearest_scorer``, of the training images themselves."""
    search = run.config.search
    train = to_model_range(as_array(data.train, run.config), run.config.data.normalize_contrast)
    yardsticks = (search.yardstick, search.nearest_by)
    scorer = make_nearest_scorer([describe_bank(train, *yardsticks)], search.neighbours, *yardsticks)
    return warm(scorer, run, data)


def warm(scorer: Scorer, run: Run, data: OneClass) -> Callable[[], np.ndarray]:
    """Scores the test split when called; compiled before that."""
    test, size, channels = test_of(data), run.config.model.image_size, run.config.model.channels
    score = partial(scorer, run.weights)
    list(score([np.zeros((size, size, channels), np.float32)]))
    return lambda: np.array(
        [scored.found.score for scored in score_queries(score, test, run.config, "test images") if scored.found]
    )


def test_of(data: OneClass) -> Images:
    """The test split, which the data sets here have."""
    assert data.test is not None
    return data.test


_SCORES: dict[str, Callable[[Run, OneClass], Callable[[], np.ndarray]]] = {
    "best": partial(searched, "anogan"),
    "explained": partial(among, SearchConfig.references),
    "sampled": partial(among, 0),
    "bank": partial(searched, "bank"),
    "paper": partial(searched, "paper"),
    "encoder": partial(searched, "encoder"),
    "same_knn": same_knn,
    "knn2": partial(baseline, knn),
    "knn2cos": partial(baseline, knn_cosine),
    "pca32": partial(baseline, pca),
}


def _commit() -> str:
    """The commit, and whether the code (not what this writes) has changed since."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = Path(__file__).parent.parent
        return subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False)

    changed = git("diff", "--quiet", "HEAD", "--", "anogan_jax", "configs", "benchmarks/*.py").returncode
    return (git("rev-parse", "--short", "HEAD").stdout.strip() or "unknown") + ("-dirty" if changed else "")


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
