"""The detector as one of PyOD's: its contract, and its agreement with the estimator of scikit-learn."""

import importlib
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from test_sklearn import IMAGES, NEW, TINY

from anogan_jax import sklearn
from anogan_jax.errors import UserError


def test_missing_package_is_told_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyod.models.base", None)
    monkeypatch.delitem(sys.modules, "anogan_jax.pyod", raising=False)
    with pytest.raises(ImportError, match=r"needs PyOD: pip install 'anogan_jax\[pyod\]'"):
        importlib.import_module("anogan_jax.pyod")


@pytest.fixture(scope="module")
def pyod():
    pytest.importorskip("pyod")
    from anogan_jax import pyod

    return pyod


@pytest.fixture(scope="module")
def fitted(pyod):
    return pyod.AnoGAN(0.2, sklearn.AnoGAN(TINY)).fit(IMAGES)


def test_contract_of_pyod(pyod, fitted):
    from pyod.models.base import BaseDetector

    assert isinstance(fitted, BaseDetector)
    assert fitted.decision_scores_.shape == fitted.labels_.shape == (60,)
    np.testing.assert_array_equal(fitted.decision_scores_, fitted.decision_function(IMAGES))
    np.testing.assert_array_equal(fitted.labels_, fitted.predict(IMAGES))
    np.testing.assert_array_equal(fitted.predict(NEW), fitted.decision_function(NEW) > fitted.threshold_)
    for method in ("linear", "unify"):
        of_normal, of_anomaly = fitted.predict_proba(NEW, method).T
        np.testing.assert_allclose(of_normal + of_anomaly, 1)
    labels, confidence = fitted.predict(NEW, return_confidence=True)
    assert labels.shape == confidence.shape == (10,)


def test_scores_and_verdicts_are_those_of_the_estimator(fitted):
    """Also of the held-out images, which lie at the threshold: at most the share ``contamination`` is above it."""
    estimator = sklearn.AnoGAN(TINY, alpha=0.2).fit(IMAGES)
    for images in (NEW, estimator.detector_.held_out):
        np.testing.assert_array_equal(fitted.decision_function(images), -estimator.score_samples(images))
        np.testing.assert_array_equal(fitted.predict(images) == 1, estimator.predict(images) == -1)
    assert 0 < fitted.predict(estimator.detector_.held_out).mean() <= 0.2


def test_rows_of_pixels_are_images(pyod, fitted):
    rows = pyod.AnoGAN(0.2, sklearn.AnoGAN(TINY), IMAGES.shape[1:]).fit(IMAGES.reshape(60, -1))
    np.testing.assert_array_equal(rows.decision_scores_, fitted.decision_scores_)
    np.testing.assert_array_equal(rows.predict(NEW.reshape(10, -1)), fitted.predict(NEW))


def test_parameters_are_kept(pyod, fitted):
    other = clone(fitted).set_params(contamination=0.3, estimator__steps=3).fit(IMAGES)
    assert other.contamination == other.estimator_.detector_.config.alpha == 0.3
    assert (other.estimator_.detector_.config.train.steps, fitted.estimator_.detector_.config.train.steps) == (3, 2)
    with pytest.raises(NotFittedError):
        pyod.AnoGAN().predict(NEW)
    with pytest.raises(UserError, match="alpha="):
        pyod.AnoGAN(object(), sklearn.AnoGAN(TINY)).fit(IMAGES)
