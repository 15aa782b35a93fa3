"""Models of one class each, and how their test images are scored: what ``one_class`` and ``choices`` share."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from anogan_jax.bank import describe_bank
from anogan_jax.config import Config, EncoderConfig
from anogan_jax.data import Images, OneClass, as_array, to_model_range
from anogan_jax.fit import fit
from anogan_jax.queries import score_queries
from anogan_jax.run import Run, make_scorer, open_run
from anogan_jax.scoring import Scorer, make_nearest_scorer

Scores = Callable[[], np.ndarray]  # of the test images, once all is made ready


def of_class(config: Config, normal: int, seed: int) -> Config:
    """The config for one class, with an encoder."""
    return replace(config, data=replace(config.data, normal=normal), seed=seed, encoder=EncoderConfig(1_000))


def trained(config: Config, folder: Path) -> Run:
    """The model, trained if there is none yet."""
    fit(config, folder)
    return open_run(folder)


def searched(method: str, run: Run, data: OneClass) -> Scores:
    """By a method of score.py; what it keeps is made, and its programs compiled, beforehand."""
    return warm(make_scorer(run, method), run, data)


def same_knn(run: Run, data: OneClass) -> Scores:
    """As ``make_nearest_scorer``, of the training images themselves."""
    search = run.config.search
    train = to_model_range(as_array(data.train, run.config), run.config.data.normalize_contrast)
    yardsticks = (search.yardstick, search.nearest_by)
    scorer = make_nearest_scorer([describe_bank(train, *yardsticks)], search.neighbours, *yardsticks)
    return warm(scorer, run, data)


def warm(scorer: Scorer, run: Run, data: OneClass) -> Scores:
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
