"""The estimator of scikit-learn: its checks that apply to images, and its agreement with the detector."""

import pickle

import numpy as np
import pytest
from conftest import assert_trees_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data

from anogan_jax import load
from anogan_jax.config import BankConfig, Config, DataConfig, ModelConfig, SearchConfig, TrainConfig
from anogan_jax.errors import UserError
from anogan_jax.sklearn import AnoGAN

TINY = Config(
    data=DataConfig(held_out=0.4),
    model=ModelConfig(image_size=8, width=4, latent_size=2),
    train=TrainConfig(steps=2, batch_size=4),
    bank=BankConfig(size=16, inverted=0),
    search=SearchConfig(starts=1, steps=0),
    alpha=0.2,
)


class OfRows(AnoGAN):
    """The estimator of rows of numbers, as the checks make them: each becomes an image of 8x8 pixels."""

    def fit(self, X, y=None):
        return super().fit(images_of(validate_data(self, X)))

    def explain(self, X):
        check_is_fitted(self, "detector_")
        return super().explain(images_of(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags


def images_of(rows):
    return np.stack([np.resize(np.clip(128 + 10 * row, 0, 255).astype(np.uint8), (8, 8)) for row in rows])


_VALIDATION = "is about the validation of tables, which scikit-learn did for the rows here; images have their own"
_COLUMNS = "is about the number of columns; images may differ in size"
NOT_FOR_IMAGES = {
    "check_fit2d_1sample": "takes a ValueError; one image is refused with a UserError, as everywhere in the package",
    "check_array_api_input": "takes arrays of other libraries; images are NumPy arrays",
    "check_classifier_data_not_an_array": "takes objects that become tables",
    **dict.fromkeys(["check_n_features_in", "check_n_features_in_after_fitting", "check_fit2d_1feature"], _COLUMNS),
    **dict.fromkeys(
        [
            *("check_estimators_dtypes", "check_dtype_object", "check_complex_data", "check_estimators_nan_inf"),
            *("check_estimators_empty_data_messages", "check_positive_only_tag_during_fit", "check_fit1d"),
            *("check_estimator_sparse_tag", "check_estimator_sparse_array", "check_estimator_sparse_matrix"),
            "check_fit2d_predict1d",
        ],
        _VALIDATION,
    ),
}
CHECKS = list(estimator_checks_generator(OfRows(TINY), expected_failed_checks=NOT_FOR_IMAGES, mark="skip"))
NAMES = [getattr(check, "func", check).__name__ for _, check in CHECKS]


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=NAMES)
def test_check_of_scikit_learn(estimator, check):
    check(estimator)


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 100, (60, 10, 12), np.uint8)
NEW = np.concatenate([IMAGES[:5], RNG.integers(0, 256, (5, 10, 12), np.uint8)])


@pytest.fixture(scope="module")
def fitted():
    return AnoGAN(TINY).fit(IMAGES)


def test_predictions_agree_with_the_p_values(fitted):
    """New images agree, and the held-out ones, whose scores lie exactly at the thresholds."""
    for images in (NEW, fitted.detector_.held_out):
        is_anomaly = fitted.p_values(images) <= 0.2
        np.testing.assert_array_equal(fitted.predict(images) == -1, is_anomaly)
        np.testing.assert_array_equal(fitted.decision_function(images) < 0, is_anomaly)
        np.testing.assert_array_equal(fitted.score_samples(images), -fitted.detector_.score(images).score)
        assert 0 < is_anomaly.sum() < len(images)
    found = fitted.explain(NEW)
    assert found.anomaly_map.shape == (10, 10, 12)
    assert found.reconstruction.shape == (10, 10, 12, 1)


def test_without_enough_held_out_images_nothing_is_an_anomaly():
    strict = AnoGAN(TINY, alpha=0.001).fit(IMAGES)
    assert strict.offset_ == -np.inf
    assert (strict.predict(NEW) == 1).all()
    assert (strict.decision_function(NEW) > 0).all()


def test_saved_and_pickled_estimators_score_the_same(fitted, tmp_path):
    fitted.save(tmp_path)
    for other in (AnoGAN.load(tmp_path), pickle.loads(pickle.dumps(fitted))):
        for ours, theirs in zip(fitted.explain(NEW), other.explain(NEW), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert other.offset_ == fitted.offset_
    assert_trees_equal(load(tmp_path).bank, fitted.detector_.bank)
    assert AnoGAN.load(tmp_path).get_params()["config"] == fitted.detector_.config
    assert clone(fitted).get_params() == fitted.get_params()


def test_parameters_replace_those_of_the_config(fitted, monkeypatch):
    trained = []

    def fit(images, config):
        trained.append(config)
        return fitted.detector_

    monkeypatch.setattr("anogan_jax.sklearn.fit", fit)
    given = dict(preset="paper", steps=3, image_size=16, alpha=0.5)
    AnoGAN(TINY, random_state=np.int64(7), **given).fit(IMAGES)
    AnoGAN(TINY, random_state=np.random.RandomState(0), **given).fit(IMAGES)
    AnoGAN(steps=3).fit(IMAGES)
    for config in trained[:2]:
        assert (config.train.steps, config.model.image_size, config.alpha, config.search.steps) == (3, 16, 0.5, 500)
    assert (trained[0].seed, type(trained[0].seed), type(trained[1].seed)) == (7, int, int)
    assert (trained[2].train.steps, trained[2].model.image_size, trained[2].seed) == (3, 16, 0)


@pytest.mark.parametrize("method", ["score_samples", "decision_function", "predict", "p_values", "explain", "save"])
def test_use_before_fit_is_refused(method, tmp_path):
    with pytest.raises(NotFittedError):
        getattr(AnoGAN(), method)(tmp_path if method == "save" else NEW)


def test_mistakes_in_images_and_parameters_are_named(fitted):
    with pytest.raises(UserError, match=r"images: shape \(10, 120\)"):
        fitted.predict(NEW.reshape(10, -1))
    with pytest.raises(UserError, match=r"train\.steps=0"):
        AnoGAN(TINY, steps=0).fit(IMAGES)
    for given in (None, 5, iter(IMAGES)):  # without a config, whose defaults depend on the images
        with pytest.raises(UserError, match="give an array"):
            AnoGAN().fit(given)
