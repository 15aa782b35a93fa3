"""How well scores tell anomalous from normal, and maps anomalous pixels from normal ones; by scikit-learn."""

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score, roc_curve

_LEVELS = 2**15  # float16 without a sign
_MAX_FALSE_POSITIVES = 0.3  # up to which PRO is integrated


def ranking_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """AUROC and average precision; labels 1 anomalous, 0 normal, both present."""
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
    }


def decision_metrics(labels: np.ndarray, is_anomaly: np.ndarray) -> dict[str, float | None]:
    """Precision, recall (= sensitivity) and specificity of the calls; None where nothing was to divide by."""
    counts = confusion_matrix(labels, is_anomaly, labels=[0, 1])
    (true_negative, false_positive), (false_negative, true_positive) = counts.tolist()

    def share(part: int, rest: int) -> float | None:
        return part / (part + rest) if part + rest else None

    sensitivity = share(true_positive, false_negative)
    return {
        "precision": share(true_positive, false_positive),
        "recall": sensitivity,
        "sensitivity": sensitivity,
        "specificity": share(true_negative, false_positive),
    }


def count_pixels(anomaly_map: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One image's share in ``pixel_metrics``; counts of many images are added up.

    Maps are compared at half precision: so few values are possible that pixels can be counted by
    value, and any number of images takes the same memory.

    Args:
      anomaly_map: (H, W) >= 0.
      mask: (H, W) bool, True where it is anomalous.

    Returns:
      (3, 2^15) float64, by the map's value: the normal pixels, the anomalous ones, and these
      weighted so that each connected region of the mask has a weight of 1 in all.
    """
    levels = anomaly_map.astype(np.float16).view(np.uint16)  # in the order of the values, for none is negative
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(regions[mask])
    inside = levels[mask]
    return np.stack(
        [
            np.bincount(levels[~mask], minlength=_LEVELS).astype(np.float64),
            np.bincount(inside, minlength=_LEVELS).astype(np.float64),
            np.bincount(inside, weights=1 / sizes[regions[mask]], minlength=_LEVELS),
        ]
    )


def pixel_metrics(counts: np.ndarray) -> dict[str, float]:
    """AUROC and average precision of single pixels, and PRO, from the sum of ``count_pixels``.

    PRO, the per-region overlap (Bergmann et al. 2021, the MVTec AD dataset, sec. 5.1): the share of
    each connected region that is found, averaged over regions, against the share of normal pixels
    that is called anomalous; the area under that curve up to 30 % of those, over 0.3.
    """
    normal, anomalous, regions = counts
    labels, values = np.repeat([0, 1], _LEVELS), np.tile(np.arange(_LEVELS), 2)

    def weighted(anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weights = np.concatenate([normal, anomalous])
        there = weights > 0
        return labels[there], values[there], weights[there]

    truth, found, weights = weighted(anomalous)
    auroc = roc_auc_score(truth, found, sample_weight=weights)
    precision = average_precision_score(truth, found, sample_weight=weights)
    truth, found, weights = weighted(regions)
    false, overlap, _ = roc_curve(truth, found, sample_weight=weights)
    within = false < _MAX_FALSE_POSITIVES
    at_limit = np.interp(_MAX_FALSE_POSITIVES, false, overlap)
    area = np.trapezoid(np.append(overlap[within], at_limit), np.append(false[within], _MAX_FALSE_POSITIVES))
    return {"pixel_auroc": float(auroc), "pixel_ap": float(precision), "pro": float(area / _MAX_FALSE_POSITIVES)}
