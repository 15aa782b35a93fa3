"""The packaged example: small, of the present format and command, and right about digits that it never saw."""

import numpy as np
import pytest
from conftest import TINY
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from anogan_jax import load
from anogan_jax.config import with_values
from anogan_jax.errors import UserError
from anogan_jax.examples.__main__ import CONFIG, FOLDER, KNOWN, main

DIGITS = load_digits()
IMAGES = np.rint(DIGITS.images * (255 / 16)).astype(np.uint8)


def test_example_is_small_and_made_by_the_command_as_it_is():
    """If this fails, the format or the command has changed: python -m anogan_jax.examples."""
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 2**20
    assert load("example:digits").config == CONFIG


def test_example_tells_new_zeros_from_other_digits():
    result, is_zero = load("example:digits").score(IMAGES[KNOWN:]), DIGITS.target[KNOWN:] == 0
    assert roc_auc_score(~is_zero, result.score) > 0.99
    assert result.is_anomaly[~is_zero].mean() > 0.9
    assert result.is_anomaly[is_zero].mean() < 0.2


def test_command_replaces_the_example(tmp_path):
    config = with_values(CONFIG, {name: TINY[name] for name in TINY if "." in name and name != "data.test_limit"})
    for seed in (0, 1):
        main(tmp_path / "digits", with_values(config, {"seed": seed}))
        assert load(tmp_path / "digits").config.seed == seed


@pytest.mark.parametrize("name", ["mnist", "", ".."])
def test_unknown_example_is_refused(name):
    with pytest.raises(UserError, match="no such example"):
        load(f"example:{name}")
