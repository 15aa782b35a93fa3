"""One-class detection: each class of a data set in turn is normal, and all others are to be told from it.

    python -m benchmarks.one_class --config configs/mnist.py --workdir runs/one_class/mnist --config.data.dir=IDX_FOLDER

Trains a model on the training images of each class, less the held-out tenth (Ruff et al. 2018), scores the test split,
and writes a row for each method to benchmarks/results/<data set>.json, the table to docs/detection.md:
  best        as the config searches and measures
  explained   likenesses among training images as the generator makes them
  sampled     likenesses among random generated images
  bank        A(x), after the search from the nearest generated image; on 2,000 of the test images
  paper       A(x), after the paper's 500 steps from a random z; on the same 2,000
  encoder     the encoder alone, trained for 1,000 steps, under the config's yardstick
  same_knn    the mean of the nearest training images, under the config's yardstick: what the generator is worth
  pca32, knn2, knn2cos   as score.py --compare
What best is has no second row. Prints the table in the end. Goes on where it was stopped: what has a row is not done
again; to measure anew, or with other settings, give another file by --results. --quick is for a look: few steps, two
classes.
"""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from absl import flags
from sklearn.metrics import roc_auc_score

from anogan_jax import cli
from anogan_jax.atomic import replacing
from anogan_jax.baselines import knn, knn_cosine, pca
from anogan_jax.config import Config, EncoderConfig, SearchConfig, differences
from anogan_jax.data import OneClass, as_array, load_one_class
from anogan_jax.errors import UserError
from anogan_jax.run import Run
from benchmarks.classes import Scores, of_class, same_knn, searched, test_of, trained
from benchmarks.one_class_table import RESULTS, table, write_table

_SLOW = ("bank", "paper")  # on a fixed sample of the test split
_SAMPLE = 2_000


def main() -> None:
    """Trains and scores what has no row yet."""
    commit()
    config = cli.given_config() or Config()
    if not config.data.name:
        raise UserError("data.name: give the data set's, by which its results are filed")
    name = config.data.name.replace("_", "-") + ("-contaminated" if config.data.contamination else "")
    path = Path(_RESULTS.value or RESULTS / f"{name}.json")
    rows = json.loads(path.read_text()) if path.exists() and not _QUICK.value else []
    likenesses = "explained" if config.search.references else "sampled"
    as_best = likenesses if config.search.method == "nearest" else config.search.method
    for seed in _SEEDS.value:
        for normal in _CLASSES.value[: 2 if _QUICK.value else None]:
            asked = of_class(config, int(normal), int(seed))
            asked = quickened(asked) if _QUICK.value else asked
            there = {row["method"]: row for row in rows if (row["class"], row["seed"]) == (int(normal), int(seed))}
            missing = [method for method in _METHODS.value if method not in there and method != as_best]
            for method in there:
                if there[method]["config"] != settings(asked, method):
                    raise UserError(f"{path}: its rows are of other settings; give another by --results")
            if not missing:
                continue
            if (warning := load_one_class(asked).warning) and not _QUICK.value:
                raise UserError(f"no results are filed of this: {warning}")
            run = trained(asked, cli.given_workdir() / f"{normal}-{seed}{'-quick' if _QUICK.value else ''}")
            for method in missing:
                rows.append(row := measured(run, method))
                print(*(row[key] for key in ("class", "seed", "method", "auroc", "images", "seconds")), flush=True)
                if not _QUICK.value:
                    with replacing(path) as temporary:
                        temporary.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
                    write_table(path.stem, rows)
    print(*table(path.stem, rows), sep="\n")


def quickened(config: Config) -> Config:
    """Few steps of everything."""
    return replace(
        config,
        encoder=EncoderConfig(20),
        train=replace(config.train, steps=50),
        search=replace(config.search, bank_size=512),
    )


def settings(config: Config, method: str) -> list[str]:
    """What is not as by default, but for where the data is."""
    anywhere = replace(config.data, dir="", test_limit=sample_of(method))
    return [text.split(", not ")[0] for text in differences(replace(config, data=anywhere), Config())]


def sample_of(method: str) -> int | None:
    """How many of the test images a method scores; None: all."""
    return 200 if _QUICK.value else _SAMPLE if method in _SLOW else None


def measured(run: Run, method: str) -> dict:
    """Scores the test split, or a sample of it, by one method."""
    config = replace(run.config, data=replace(run.config.data, test_limit=sample_of(method)))
    run, data = run._replace(config=config), load_one_class(config)
    labels = test_of(data).labels
    assert labels is not None
    score = METHODS[method](run, data)
    began = time.monotonic()
    scores = score()
    return {
        "method": method,
        "class": config.data.normal,
        "seed": config.seed,
        "auroc": round(float(roc_auc_score(labels, scores)), 5),
        "images": len(scores),
        "seconds": round(time.monotonic() - began, 2),
        "commit": commit(),
        "config": settings(config, method),
    }


def among(references: int, run: Run, data: OneClass) -> Scores:
    """As the config says, but for what images are compared with."""
    search = replace(run.config.search, references=references)
    return searched("anogan", run._replace(config=replace(run.config, search=search)), data)


def baseline(score: Callable[[np.ndarray, np.ndarray], np.ndarray], run: Run, data: OneClass) -> Scores:
    """By one of the baselines of score.py."""
    arrays = (as_array(images, run.config) for images in (data.train, test_of(data)))
    train, test = (array.reshape(len(array), -1) / 255.0 for array in arrays)
    return lambda: score(train, test)


METHODS: dict[str, Callable[[Run, OneClass], Scores]] = {
    "best": partial(searched, "anogan"),
    "explained": partial(among, SearchConfig.references),
    "sampled": partial(among, 0),
    "encoder": partial(searched, "encoder"),
    "same_knn": same_knn,
    "pca32": partial(baseline, pca),
    "knn2": partial(baseline, knn),
    "knn2cos": partial(baseline, knn_cosine),
    "bank": partial(searched, "bank"),
    "paper": partial(searched, "paper"),
}

_CLASSES = flags.DEFINE_list("classes", [str(n) for n in range(10)], "Which are normal in turn.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Of training.")
_METHODS = flags.DEFINE_list("methods", list(METHODS), "Which to run.")
_RESULTS = flags.DEFINE_string("results", None, "File of the rows. Default: benchmarks/results/<data set>.json.")
_QUICK = flags.DEFINE_bool("quick", False, "Two classes, 50 steps, 200 test images, and no results are filed.")
for _numbers in ("classes", "seeds"):
    flags.register_validator(_numbers, lambda given: all(map(str.isdigit, given)), "must be numbers, such as 0,1")
flags.register_validator("methods", lambda given: set(given) <= set(METHODS), f"must be among {','.join(METHODS)}")


@cache
def commit() -> str:
    """The commit, and whether the code (not what this writes) has changed since; as it was when first asked."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = Path(__file__).parent.parent
        return subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False)

    changed = git("diff", "--quiet", "HEAD", "--", "anogan_jax", "configs", "benchmarks/*.py").returncode
    return (git("rev-parse", "--short", "HEAD").stdout.strip() or "unknown") + ("-dirty" if changed else "")


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
