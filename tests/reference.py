"""Independent computations in float64 NumPy and SciPy, written from the definitions alone."""

import numpy as np
from scipy import ndimage


def structure(image: np.ndarray) -> np.ndarray:
    """Return the structure features (F,) of an image (S, S, C), as ``make_features`` defines them."""
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    angles = 2 * np.pi * np.arange(8) / 8
    towards = np.maximum(0, across[..., None] * np.cos(angles) + down[..., None] * np.sin(angles))
    edges = towards**8 / (across**2 + down**2 + 1e-8)[..., None] ** 3.5
    blurred = ndimage.gaussian_filter(edges, sigma=2, truncate=3, mode="reflect", axes=(0, 1))
    sampled = np.cbrt(blurred[2::4, 2::4] + 1e-4).ravel()
    return sampled / np.linalg.norm(sampled)


def pixels(image: np.ndarray) -> np.ndarray:
    """Return the pixels of an image as a vector."""
    return image.astype(np.float64).ravel()


def distance(space: str, one: np.ndarray, other: np.ndarray) -> float:
    """Return the distance between two images' features in a feature space."""
    return float(np.linalg.norm(one - other, ord=1 if space == "pixels" else 2))


DESCRIBE = {"structure": structure, "pixels": pixels}


def nearest(space: str, query: np.ndarray, images: np.ndarray, count: int) -> tuple[np.ndarray, bool]:
    """Return the places of the nearest images by Euclidean distance, and whether they are clearly the nearest."""
    describe = DESCRIBE[space]
    distances = np.linalg.norm(describe(query) - np.stack([describe(image) for image in images]), axis=1)
    order = np.argsort(distances, kind="stable")
    gap = distances[order[count]] - distances[order[count - 1]] if count < len(images) else np.inf
    return order[:count], bool(gap > 1e-4)
