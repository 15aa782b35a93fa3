"""Metrics of scores (anomalous against normal images) and of anomaly maps (pixels), by scikit-learn.

Functions import what they need, because scikit-learn is slow to import and unlabelled images have no metrics.
"""

import numpy as np

_LEVELS = 2**15  # non-negative values of float16
_MAX_FALSE_POSITIVES = 0.3  # false positive rate up to which PRO is integrated


def ranking_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return AUROC and average precision; labels are 1 anomalous and 0 normal, both present."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    precision = average_precision_score(labels, scores)
    return {"auroc": float(roc_auc_score(labels, scores)), "average_precision": float(precision)}


def decision_metrics(labels: np.ndarray, is_anomaly: np.ndarray) -> dict[str, float | None]:
    """Return precision, recall (= sensitivity) and specificity of the decisions; None where undefined (0 / 0)."""
    from sklearn.metrics import confusion_matrix

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
    """Count one image's pixels by the value of the map; ``pixel_metrics`` takes the sum of the counts of many images.

    The values are rounded to float16, so that the counts take the same memory for any number of images.

    Args:
      anomaly_map: (H, W) >= 0.
      mask: (H, W) bool, True where anomalous.

    Returns:
      (3, 2^15) float64, by the map's value: the normal pixels, the anomalous ones, and the anomalous ones weighted so
      that each connected region of the mask has a total weight of 1.
    """
    from scipy import ndimage

    levels = anomaly_map.astype(np.float16).view(np.uint16)  # ordered like the values, which are not negative
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    weights = 1 / np.bincount(regions[mask])[regions[mask]]
    normal, anomalous = levels[~mask], levels[mask]
    counted = ((normal, None), (anomalous, None), (anomalous, weights))
    return np.stack([np.bincount(each, of, minlength=_LEVELS).astype(np.float64) for each, of in counted])


def pixel_metrics(counts: np.ndarray) -> dict[str, float]:
    """Return AUROC and average precision of single pixels, and PRO, from the sum of ``count_pixels``.

    PRO, the per-region overlap (Bergmann et al. 2021, the MVTec AD dataset, sec. 5.1), is the share of each connected
    region that is found, averaged over the regions. It is plotted against the share of normal pixels called anomalous;
    the metric is the area under that curve up to a share of 0.3, divided by 0.3.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    normal, anomalous, regions = counts
    labels, values = np.repeat([0, 1], _LEVELS), np.tile(np.arange(_LEVELS), 2)
    weights = np.concatenate([normal, anomalous])
    auroc = roc_auc_score(labels, values, sample_weight=weights)
    precision = average_precision_score(labels, values, sample_weight=weights)
    false, overlap, _ = roc_curve(labels, values, sample_weight=np.concatenate([normal, regions]))
    within = false < _MAX_FALSE_POSITIVES
    at_limit = np.interp(_MAX_FALSE_POSITIVES, false, overlap)
    area = np.trapezoid(np.append(overlap[within], at_limit), np.append(false[within], _MAX_FALSE_POSITIVES))
    return {"pixel_auroc": float(auroc), "pixel_ap": float(precision), "pro": float(area / _MAX_FALSE_POSITIVES)}
