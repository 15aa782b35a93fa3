"""Detectors without a network, to be beaten: nearest neighbours and PCA, by scikit-learn."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors


def baseline_scores(train: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """How far each query is from the normal images; higher is more anomalous.

    Args:
      train: (N, S, S, C) uint8 normal images.
      queries: (M, S, S, C) uint8.

    Returns:
      By name, each (M,): mean distance to the two nearest training images, in raw pixels and as
      the cosine of mean-centred pixels; and the residual of a PCA with 32 components.
    """
    train = train.reshape(len(train), -1) / 255.0
    queries = queries.reshape(len(queries), -1) / 255.0
    scores = {
        "kNN (k=2)": _nearest(train, queries),
        "kNN (k=2), cosine": _nearest(_directions(train), _directions(queries)),
    }
    components = min(32, *train.shape)
    pca = PCA(components, svd_solver="covariance_eigh").fit(train)
    residual = queries - pca.inverse_transform(pca.transform(queries))
    return scores | {f"PCA-{components}": np.square(residual).sum(axis=1)}


def _nearest(train: np.ndarray, queries: np.ndarray) -> np.ndarray:
    neighbours = NearestNeighbors(n_neighbors=min(2, len(train))).fit(train)
    return neighbours.kneighbors(queries)[0].mean(axis=1)


def _directions(images: np.ndarray) -> np.ndarray:
    """Mean-centred and of length 1, so that distance grows with the angle between two images."""
    centred = images - images.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
