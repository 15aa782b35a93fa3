"""The detector as an estimator of scikit-learn: fit, predict, clone, pickle, pipelines, searches over parameters.

from anogan_jax.sklearn import AnoGAN

found = AnoGAN(preset="nearest").fit(images).predict(new_images)  # -1 for an anomaly, 1 for a normal image
"""

from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from anogan_jax.calibration import threshold
from anogan_jax.config import Config, with_preset, with_values
from anogan_jax.detector import Detector, Result, load
from anogan_jax.errors import UserError
from anogan_jax.fit import default_config, fit


class AnoGAN(OutlierMixin, BaseEstimator):
    """Detect anomalous images after training only on normal ones.

    Images are what ``anogan_jax.fit`` takes: uint8, or floats in [-1, 1], (N, H, W) or (N, H, W, C); lists of images of
    any sizes; or paths. Mistakes in them raise ``UserError``, and use before ``fit`` raises ``NotFittedError``.

    Args:
      config: all settings; None: ``default_config`` of the training images.
      preset: the name of search settings, such as "nearest".
      steps: training steps.
      image_size: height and width that the model sees, a power of two.
      alpha: images with a p-value <= alpha are anomalies.
      random_state: the seed, or a ``RandomState`` that draws it. Every argument that is None, this one included, leaves
        the value of the config unchanged; so training is deterministic.

    Attributes:
      detector_: the ``Detector``.
      offset_: the threshold of ``score_samples``; -inf if too few images are held out to call one an anomaly.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        preset: str | None = None,
        steps: int | None = None,
        image_size: int | None = None,
        alpha: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.config = config
        self.preset = preset
        self.steps = steps
        self.image_size = image_size
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on normal images; y is ignored."""
        if X is None:
            raise UserError("X: None; give an array of images, a list of them, or a path")
        config, seed = self.config or default_config(X), self.random_state
        if seed is not None:
            seed = int(seed) if isinstance(seed, Integral) else int(check_random_state(seed).randint(2**31))
        given = {"train.steps": self.steps, "model.image_size": self.image_size, "alpha": self.alpha, "seed": seed}
        config = with_values(config, {name: value for name, value in given.items() if value is not None})
        return self._fitted(fit(X, with_preset(config, self.preset) if self.preset else config))

    def explain(self, X: Any) -> Result:
        """Return all results for the images: scores and p-values, anomaly maps, reconstructions."""
        check_is_fitted(self, "detector_")
        return self.detector_.score(X)

    def score_samples(self, X: Any) -> np.ndarray:
        """Return how normal each image is, (N,): minus its anomaly score."""
        return -self.explain(X).score

    def decision_function(self, X: Any) -> np.ndarray:
        """Return ``score_samples`` minus ``offset_``, (N,): negative for an anomaly."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return -1 for each anomaly, whose p-value is <= alpha, and 1 for each normal image, (N,)."""
        return np.where(self.explain(X).is_anomaly, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """Return the conformal p-value of each image, (N,), in (0, 1]; see ``anogan_jax.p_values``."""
        return self.explain(X).p_value

    def save(self, folder: str | Path) -> None:
        """Write the detector to ``folder/detector``; see ``Detector.save``."""
        check_is_fitted(self, "detector_")
        self.detector_.save(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return the fitted estimator of a detector that was saved in a folder, or trained there."""
        detector = load(folder)
        return cls(detector.config)._fitted(detector)

    def _fitted(self, detector: Detector) -> Self:
        self.detector_ = detector
        self.offset_ = -threshold(detector.calibration.scores, detector.config.alpha)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags
