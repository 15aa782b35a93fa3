"""Functions shared by the benchmarks of detection: train one detector for each class, and time its scoring."""

import re
import subprocess
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anogan_jax.bank import Bank
from anogan_jax.config import Config, differences, with_preset, with_values
from anogan_jax.data import Images, as_array, load_one_class, test_split, to_networks
from anogan_jax.detector import Detector, findings_of, load, scorer_of
from anogan_jax.errors import UserError
from anogan_jax.fit import fit
from anogan_jax.references import make_bank


def of_class(config: Config, normal: int, seed: int) -> Config:
    """Return the config with one class as normal, and with an encoder."""
    values = {"data.normal": normal, "seed": seed, "encoder.steps": config.encoder.steps or 1_000}
    return with_values(config, values)


def trained(config: Config, folder: Path) -> Detector:
    """Return the detector of a work directory with this config; train it if it is not finished."""
    if (folder / "detector").exists():
        return load(folder).with_config(config)
    return fit(config=config, workdir=folder)


def with_preset_search(detector: Detector, name: str) -> Detector:
    """Return the detector with the search of a preset."""
    return detector.with_search(with_preset(detector.config, name).search)


def make_other_bank(detector: Detector, train: Images, inverted: int) -> Bank:
    """Return a bank of ``inverted`` inverted training images, or of random images if that is 0."""
    config = with_values(detector.config, {"bank.inverted": inverted})
    return make_bank(config, detector.gan, detector.model.weights, train)[0]


def with_neighbours(detector: Detector, bank: Bank, starts: int = 8, **search: Any) -> Detector:
    """Return the detector that compares an image with its nearest neighbours in a bank, without gradient steps."""
    fixed: dict[str, Any] = {"start": "bank", "starts": starts, "steps": 0, "discrimination_weight": 0.0}
    fixed |= {"reference_weight": 0.0}
    return detector._replace(bank=bank).with_search(replace(detector.config.search, **fixed, **search))


def balanced_sample(config: Config, each: int) -> tuple[Images, np.ndarray]:
    """Return a fixed random sample of the test split, up to ``each`` normal and ``each`` anomalous images; and labels.

    Raises:
      UserError: the data set has no test split with normal and anomalous images.
    """
    data = load_one_class(config)
    test = test_split(data)
    numbers = [np.flatnonzero(test.labels == label) for label in (0, 1)]
    if test.labels is None or not all(map(len, numbers)):
        raise UserError(f"needs a test split with normal and anomalous images; {data.origin} has none")
    each, rng = min(each, *map(len, numbers)), np.random.default_rng(0)
    chosen = np.concatenate([rng.choice(those, each, replace=False) for those in numbers])
    return test.take(chosen), test.labels[chosen]


def in_model_range(images: Images, config: Config) -> np.ndarray:
    """Return all images as the networks see them, (N, S, S, C) in [-1, 1]."""
    return to_networks(as_array(images, config), config)


def timed_scores(detector: Detector, images: Images) -> tuple[np.ndarray, float]:
    """Return the scores of images, and the seconds that scoring took after the program was compiled."""
    score, size = scorer_of(detector), detector.config.model.image_size
    list(score([np.zeros((size, size, detector.config.model.channels), np.float32)]))
    began = time.monotonic()
    scores = np.array([finding.score for finding in findings_of(detector, images, "scoring")])
    return scores, time.monotonic() - began


def settings(config: Config) -> list[str]:
    """Return the fields that differ from their defaults, as ``name=value``, without the folder of the data."""
    texts = [text.split(", not ")[0] for text in differences(with_values(config, {"data.dir": ""}), Config())]
    return [re.sub(r"^(data\.\w+)='(\d+)'$", r"\1=\2", text) for text in texts]  # a class is written as a number


@cache
def commit() -> str:
    """Return the commit, marked "-dirty" if the code has changed since; it is determined at the first call."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = Path(__file__).parent.parent
        return subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False)

    changed = git("diff", "--quiet", "HEAD", "--", "anogan_jax", "configs", "benchmarks/*.py").returncode
    return (git("rev-parse", "--short", "HEAD").stdout.strip() or "unknown") + ("-dirty" if changed else "")
