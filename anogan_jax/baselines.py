"""Baseline detectors without a network: nearest neighbours and PCA, by scikit-learn."""

from collections.abc import Callable

import numpy as np

from anogan_jax.config import Config
from anogan_jax.data import Images, as_array


def knn(train: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the mean distance (M,) to the two nearest training images; ``train`` is (N, D), ``queries`` (M, D)."""
    from sklearn.neighbors import NearestNeighbors  # slow to import

    neighbours = NearestNeighbors(n_neighbors=min(2, len(train))).fit(train)
    return neighbours.kneighbors(queries)[0].mean(axis=1)


def knn_cosine(train: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return ``knn`` of the images centred to mean 0 and scaled to length 1: distance grows with their angle."""
    return knn(_directions(train), _directions(queries))


def pca(train: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the squared residual (M,) of the projection onto 32 principal components, or onto all if fewer."""
    from sklearn.decomposition import PCA  # slow to import

    fitted = PCA(min(32, *train.shape), svd_solver="covariance_eigh").fit(train)
    residual = queries - fitted.inverse_transform(fitted.transform(queries))
    return np.square(residual).sum(axis=1)


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "kNN (k=2)": knn,
    "kNN (k=2), cosine": knn_cosine,
    "PCA-32": pca,
}


def baselines_of(config: Config, train: Images, queries: Images) -> dict[str, np.ndarray]:
    """Return the scores (M,) of the M readable queries by each of BASELINES, at the model's size.

    Higher is more anomalous. Images are scored whole, so the result is empty for a config with patches.
    """
    if config.patches.enabled:
        return {}
    known, scored = (as_array(images, config) / 255.0 for images in (train, queries))
    flat = known.reshape(len(known), -1), scored.reshape(len(scored), -1)
    return {name: score(*flat) for name, score in BASELINES.items()}


def _directions(images: np.ndarray) -> np.ndarray:
    centred = images - images.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
