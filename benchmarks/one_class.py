"""Measure one-class detection: each class of a data set in turn is normal, and all others are anomalous.

    python -m benchmarks.one_class --config configs/mnist.py --workdir runs/one_class/mnist --config.data.dir=IDX_FOLDER

For each class, trains a detector on the training images without the held-out tenth (Ruff et al. 2018), scores the test
split with each method, and writes a row per method to benchmarks/results/<data set>.json and the table to
docs/detection.md. The methods:
  default         the search of the config
  nearest, encoder, paper, yeh   the presets of score.py; paper and yeh on 2,000 of the test images
  no_references   the default search, compared only with reconstructions
  references      the references only, no search
  random_bank     the default search on a bank of random images
  no_rotation     the default without the rotation network, if there is one: A(x)
  rotation        the rotation network alone: T(x)
  same_knn        the mean of the 8 nearest training images in the features of the default search: no generator
  pca32, knn2, knn2cos   the baselines of score.py --compare
A method that is the config's own search under another name has no row. Methods that have a row are not run again; to
measure again or with other settings, give another file as --results. --quick is only for trying out the program.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from absl import flags
from sklearn.metrics import roc_auc_score

from anogan_jax import cli
from anogan_jax.bank import bank_of_images
from anogan_jax.baselines import knn, knn_cosine, pca
from anogan_jax.comparison import rotation_alone
from anogan_jax.config import PRESETS, Config, with_preset, with_values
from anogan_jax.data import Images, OneClass, as_array, load_one_class, test_split
from anogan_jax.detector import Detector
from anogan_jax.errors import UserError
from anogan_jax.files import replacing
from benchmarks.classes import (
    commit,
    in_model_range,
    make_other_bank,
    of_class,
    settings,
    timed_scores,
    trained,
    with_neighbours,
    with_preset_search,
)
from benchmarks.one_class_table import RESULTS, table, write_table

_SLOW = ("paper", "yeh")  # these score a fixed sample of the test split
_SAMPLE = 2_000
BASELINES = {"pca32": pca, "knn2": knn, "knn2cos": knn_cosine}
_REFERENCE_WEIGHTS = {"no_references": 0.0, "references": 1.0}
_OF_ROTATION = ("no_rotation", "rotation")
_OTHERS = ("encoder", "random_bank", "same_knn")
METHODS = ["default", "nearest", *_REFERENCE_WEIGHTS, *_OF_ROTATION, *_OTHERS, *BASELINES, *_SLOW]
_QUICK_VALUES = {"train.steps": 50, "encoder.steps": 20, "bank.size": 512, "bank.inverted": 64}


def main() -> None:
    """Train and score every method and class that has no row yet."""
    commit()
    config = cli.given_config() or Config()
    if not config.data.name:
        raise UserError("data.name: give the data set's name; the file of results is named after it")
    name = config.data.name.replace("_", "-") + ("-contaminated" if config.data.contamination else "")
    path = Path(_RESULTS.value or RESULTS / f"{name}.json")
    rows = json.loads(path.read_text()) if path.exists() and not _QUICK.value else []
    for seed in map(int, _SEEDS.value):
        for normal in map(int, _CLASSES.value[: 2 if _QUICK.value else None]):
            asked = of_class(config, normal, seed)
            asked = with_values(asked, _QUICK_VALUES) if _QUICK.value else asked
            if "encoder" not in _METHODS.value:  # training an encoder takes a minute, and no other method needs it
                asked = with_values(asked, {"encoder.steps": 0})
            found = {row["method"]: row for row in rows if (row["class"], row["seed"]) == (normal, seed)}
            wanted = {method: row for method, row in found.items() if method in _METHODS.value}
            if any(row["config"] != settings(for_method(asked, method)) for method, row in wanted.items()):
                raise UserError(f"{path}: its rows have other settings; give another file as --results")
            missing = [each for each in _METHODS.value if each not in found and applies(asked, each)]
            if not missing:
                continue
            if (warning := load_one_class(asked).warning) and not _QUICK.value:
                raise UserError(f"results of substitute data are not stored: {warning}")
            detector = trained(asked, cli.given_workdir() / f"{normal}-{seed}{'-quick' if _QUICK.value else ''}")
            for method in missing:
                rows.append(row := measured(detector, method))
                print(*(row[key] for key in ("class", "seed", "method", "auroc", "images", "seconds")), flush=True)
                if not _QUICK.value:
                    with replacing(path) as temporary:
                        temporary.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
                    if not _RESULTS.value:
                        write_table(name, table(name, rows))
    print(*table(name, rows), sep="\n")


def for_method(config: Config, method: str) -> Config:
    """Return the config with the number of test images that the method scores, without an encoder if it uses none."""
    encoder_steps = config.encoder.steps if method == "encoder" else 0
    limit = 200 if _QUICK.value else _SAMPLE if method in _SLOW else None
    return with_values(config, {"data.test_limit": limit, "encoder.steps": encoder_steps})


def applies(config: Config, method: str) -> bool:
    """Return whether the config can run a method, and not as its own search under another name."""
    if method == "random_bank":
        return bool(config.bank.inverted)
    if method in _OF_ROTATION:
        return bool(config.rotation.steps)
    return method not in PRESETS or with_preset(config, method) != config


def measured(detector: Detector, method: str) -> dict:
    """Score the test split, or a sample of it, with one method; return the row."""
    config = for_method(detector.config, method)
    data = load_one_class(config)
    test = test_split(data)
    if method in BASELINES:
        scores, seconds = timed_baseline(BASELINES[method], config, data.train, test)
    elif method == "rotation":
        began = time.monotonic()
        scores = np.array([finding.score for finding in rotation_alone(detector, test, "scoring")])
        seconds = time.monotonic() - began
    else:
        scores, seconds = timed_scores(detector_of(method, detector, data), test)
    assert test.labels is not None
    assert config.data.normal is not None
    return {
        "method": method,
        "class": int(config.data.normal),
        "seed": config.seed,
        "auroc": round(float(roc_auc_score(test.labels, scores)), 5),
        "images": len(scores),
        "seconds": round(seconds, 2),
        "commit": commit(),
        "config": settings(config),
    }


def timed_baseline(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray], config: Config, train: Images, test: Images
) -> tuple[np.ndarray, float]:
    """Return a baseline's scores of the test images, and the seconds that scoring took."""
    flat_train, flat_test = (
        array.reshape(len(array), -1) / 255.0 for array in (as_array(images, config) for images in (train, test))
    )
    began = time.monotonic()
    return score(flat_train, flat_test), time.monotonic() - began


def detector_of(method: str, detector: Detector, data: OneClass) -> Detector:
    """Return the detector that scores with a method."""
    if method == "default":
        return detector
    if method in _REFERENCE_WEIGHTS:
        steps = 0 if method == "references" else detector.config.search.steps
        weight = _REFERENCE_WEIGHTS[method]
        return detector.with_search(replace(detector.config.search, reference_weight=weight, steps=steps))
    if method == "no_rotation":
        return detector.with_search(detector.config.search, {"rotation.weight": 0.0})
    if method == "random_bank":
        bank = make_other_bank(detector, data.train, inverted=0)
        return detector._replace(bank=bank).with_search(detector.config.search)
    if method == "same_knn":
        return with_neighbours(
            detector, bank_of_images(in_model_range(data.train, detector.config), detector.gan.latent_size)
        )
    return with_preset_search(detector, method)


_CLASSES = flags.DEFINE_list("classes", [str(n) for n in range(10)], "The classes that are normal in turn.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of training.")
_METHODS = flags.DEFINE_list("methods", METHODS, "Methods to run.")
_RESULTS = flags.DEFINE_string("results", None, "File of the rows. Default: benchmarks/results/<data set>.json.")
_QUICK = flags.DEFINE_bool("quick", False, "Two classes, 50 steps, 200 test images; no results are stored.")
for _numbers in ("classes", "seeds"):
    flags.register_validator(_numbers, lambda given: all(map(str.isdigit, given)), "must be numbers, such as 0,1")
flags.register_validator("methods", lambda given: set(given) <= set(METHODS), f"must be among {','.join(METHODS)}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
