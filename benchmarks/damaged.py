"""Choose the segmenter's weight and the pooling share of a detector of patches on held-out images with damage.

    python train.py --config configs/magnetic_tile.py --config.data.dir=FOLDER
    python -m benchmarks.damaged --workdir runs/magnetic_tile

Scores the detector's held-out images and two copies of each in which a random part of the model's size is damaged as in
training (anogan_jax/data/pseudo.py). No test image is used. Prints for each weight the image AUROC for several shares
of the map whose mean is the score, and the map's pixel AUROC and PRO. The damage is of the kinds that the segmenter was
trained on, so the figures favour it.
"""

import numpy as np
from absl import flags
from sklearn.metrics import roc_auc_score

from anogan_jax import cli, load
from anogan_jax.config import with_values
from anogan_jax.data.images import from_list
from anogan_jax.data.pseudo import damage
from anogan_jax.detector import Detector, findings_of, held_out_images
from anogan_jax.errors import UserError
from anogan_jax.metrics import count_pixels, pixel_metrics
from anogan_jax.runtime import pool

_COPIES = 2
_LEAST = 8  # number of pixels that damage must change visibly
_WEIGHTS = (0.0, 0.05, 0.1, 0.3, 1.0)
_SHARES = (0.0001, 0.0005, 0.002, 0.01)


def main() -> None:
    """Print the table."""
    workdir = cli.given_workdir()
    detector = load(workdir)
    if not detector.held_out or not detector.config.patches.enabled or detector.model.segmenter is None:
        raise UserError(f"{workdir}: its detector lacks held-out images, patches or a segmenter; all are needed")
    images, masks = with_damaged_copies(detector.held_out, detector.config.model.image_size)
    of_search, of_segmenter = (maps_of(detector, images, weight) for weight in (0.0, 1.0))
    print("| weight | " + " | ".join(f"{100 * share:g} %" for share in _SHARES) + " | pixel AUROC | PRO |")
    print("|---|" + "---|" * (len(_SHARES) + 2))
    for weight in _WEIGHTS:
        mixed = [(1 - weight) * one + weight * other for one, other in zip(of_search, of_segmenter, strict=True)]
        print(f"| {weight:g} | " + " | ".join(f"{figure:.3f}" for figure in figures(mixed, masks)) + " |")


def with_damaged_copies(held_out: list[np.ndarray], size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return held-out images and two damaged copies of each, (H, W, C) uint8, and masks of their damage, (H, W) bool.

    Args:
      held_out: the images; those smaller than the model's size are left out.
      size: the model's size.
    """
    large, rng = [image for image in held_out if min(image.shape[:2]) >= size], np.random.default_rng(0)
    if not large:
        raise UserError(f"every held-out image is smaller than {size}x{size} pixels, the size of the model")
    images, masks = [], []
    for image in large:
        images.append(image)
        masks.append(np.zeros(image.shape[:2], bool))
        for _ in range(_COPIES):
            other, copy, mask = large[rng.integers(len(large))], image.copy(), np.zeros(image.shape[:2], bool)
            while mask.sum() < _LEAST:
                here = _part(image, size, rng)
                copy[here], mask[here] = damage(image[here], other[_part(other, size, rng)], rng)
            images.append(copy)
            masks.append(mask)
    return images, masks


def maps_of(detector: Detector, images: list[np.ndarray], weight: float) -> list[np.ndarray]:
    """Return the anomaly maps of images at the model's scale, with another weight of the segmenter."""
    _, as_prepared = held_out_images(detector)
    weighted = detector._replace(config=with_values(as_prepared, {"segmenter.weight": weight}))
    queries = from_list(images, detector.config.model.channels, "damaged copies")
    return [finding.anomaly_map for finding in findings_of(weighted, queries, f"weight {weight:g}")]


def figures(maps: list[np.ndarray], masks: list[np.ndarray]) -> list[float]:
    """Return the image AUROC for each share of the map, then the maps' pixel AUROC and PRO."""
    is_damaged = [mask.any() for mask in masks]
    ranked = [roc_auc_score(is_damaged, [pool(each, share) for each in maps]) for share in _SHARES]
    pixels = pixel_metrics(np.sum([count_pixels(each, mask) for each, mask in zip(maps, masks, strict=True)], axis=0))
    return [*ranked, pixels["pixel_auroc"], pixels["pro"]]


def _part(image: np.ndarray, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    row, column = (rng.integers(length - size + 1) for length in image.shape[:2])
    return slice(row, row + size), slice(column, column + size)


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
