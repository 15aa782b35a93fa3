"""The AnoGAN paper's table on any data set, beside plain baselines on the same images."""

import csv
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from anogan_jax.atomic import replacing
from anogan_jax.metrics import ranking_metrics


def baseline_scores(train: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """What a detector without a network scores; higher is more anomalous.

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
    pca = PCA(components, svd_solver="full").fit(train)
    residual = queries - pca.inverse_transform(pca.transform(queries))
    return scores | {f"PCA-{components}": np.square(residual).sum(axis=1)}


def write_comparison(path: Path, labels: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, str]:
    """Writes AUROC and average precision of each method as CSV; returns the rows as text for a table."""
    rows = {name: ranking_metrics(labels, values) for name, values in scores.items()}
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "auroc", "average_precision"])
        writer.writerows([name, row["auroc"], row["average_precision"]] for name, row in rows.items())
    return {name: f"AUROC {row['auroc']:.4f}  AP {row['average_precision']:.4f}" for name, row in rows.items()}


def _nearest(train: np.ndarray, queries: np.ndarray) -> np.ndarray:
    neighbours = NearestNeighbors(n_neighbors=min(2, len(train))).fit(train)
    return neighbours.kneighbors(queries)[0].mean(axis=1)


def _directions(images: np.ndarray) -> np.ndarray:
    """Mean-centred and of length 1, so that distance grows with the angle between two images."""
    centred = images - images.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
