"""The detector for PyOD: ``decision_scores_``, ``labels_``, ``threshold_``, ``decision_function``, ``predict``.

from anogan_jax.pyod import AnoGAN

found = AnoGAN(contamination=0.05).fit(images).predict(new_images)  # 1 for an anomaly, 0 for a normal image
"""

from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from anogan_jax import sklearn

try:
    from pyod.models.base import BaseDetector
except ImportError as error:
    raise ImportError("anogan_jax.pyod needs PyOD: pip install 'anogan_jax[pyod]'") from error


class AnoGAN(BaseDetector):
    """Detect anomalous images, (N, H, W[, C]) or in another form that ``anogan_jax.fit`` takes.

    ``threshold_`` is computed from the images held out of training: at most a share ``contamination`` of new images
    like them lies above it. PyOD's own detectors compute it from ``decision_scores_``, the scores of the training
    images. That would be too low here: training images are among the references, so they score lower than new images.

    Args:
      contamination: the largest share of normal images that may be called anomalous.
      estimator: has the settings; None: ``anogan_jax.sklearn.AnoGAN()``. Its ``alpha`` is ``contamination``.
      shape: (H, W) or (H, W, C) of an image, to take rows of pixels (N, H * W [* C]) as PyOD's other detectors do.
    """

    def __init__(
        self,
        contamination: float = 0.1,
        estimator: sklearn.AnoGAN | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(contamination)
        self.estimator, self.shape = estimator, shape

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on images; y is ignored."""
        self._set_n_classes(y)
        estimator = clone(self.estimator or sklearn.AnoGAN()).set_params(alpha=self.contamination)
        self.estimator_ = estimator.fit(self._images(X))
        self.decision_scores_ = self.decision_function(X)
        self._process_decision_scores()
        self.threshold_ = -self.estimator_.offset_
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the anomaly score of each image, (N,), higher for an anomaly."""
        check_is_fitted(self, "estimator_")
        return -self.estimator_.score_samples(self._images(X))

    def _images(self, X: Any) -> Any:
        return X if self.shape is None else np.reshape(X, (-1, *self.shape))
