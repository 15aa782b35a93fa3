"""How well scores tell anomalous from normal; by scikit-learn."""

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score


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
