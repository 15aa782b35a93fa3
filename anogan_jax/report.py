"""Scores to files and a table: scores.csv, summary.json and pictures."""

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anogan_jax.atomic import replacing
from anogan_jax.calibration import p_values, threshold
from anogan_jax.data.images import ImageSet, to_model_range, to_pixels
from anogan_jax.figures import save_histogram, save_panels, save_roc
from anogan_jax.metrics import decision_metrics, ranking_metrics
from anogan_jax.scoring import Score

COLUMNS = ("name", "label", "score", "residual", "discrimination", "p_value", "is_anomaly")


def write_report(
    folder: Path,
    queries: ImageSet,
    scores: Score,
    held_out: np.ndarray,
    alpha: float,
    normalize_contrast: bool,
    facts: dict[str, Any],
    baselines: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes scores.csv, summary.json, panels.png, histogram.png and, with labels of both kinds, roc.png.

    Args:
      folder: where they go.
      queries: the N images that were scored; labels 0 normal, 1 anomalous.
      scores: theirs.
      held_out: (M,) scores of held-out normal images.
      alpha: the false-alarm rate; an image is called an anomaly at p-value <= alpha.
      normalize_contrast: whether the model saw them so; see ``to_model_range``.
      facts: what else summary.json shall say, first.
      baselines: by name, other detectors' scores of the queries, whose AUROC is said where there are labels.

    Returns:
      What is in summary.json.
    """
    p = p_values(scores.score, held_out)
    is_anomaly = p <= alpha
    bound = threshold(held_out, alpha)
    summary = facts | {
        "images": len(p),
        "unreadable": len(queries.unreadable),
        "alpha": alpha,
        "threshold": bound if np.isfinite(bound) else None,
        "held_out_images": len(held_out),
        "anomalies": int(is_anomaly.sum()),
    }
    labelled = queries.labels is not None and len(np.unique(queries.labels)) == 2
    if queries.labels is not None and labelled:
        summary |= {"labelled_anomalous": int(queries.labels.sum())}
        summary |= ranking_metrics(queries.labels, scores.score) | decision_metrics(queries.labels, is_anomaly)
        summary |= {f"auroc of {name}": ranking_metrics(queries.labels, s)["auroc"] for name, s in baselines.items()}
    _write_csv(folder / "scores.csv", queries, scores, p, is_anomaly)
    residuals = np.abs(to_model_range(queries.images, normalize_contrast) - scores.generated)
    generated = to_pixels(scores.generated, queries.images, normalize_contrast)
    save_panels(folder / "panels.png", queries.images, generated, residuals, queries.names, scores.score, p)
    save_histogram(folder / "histogram.png", scores.score, queries.labels, bound)
    if queries.labels is not None and labelled:
        save_roc(folder / "roc.png", queries.labels, scores.score, "A(x)")
    with replacing(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def write_comparison(path: Path, labels: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, str]:
    """Writes AUROC and average precision of each method as CSV, and returns them as text for a table."""
    rows = {name: ranking_metrics(labels, values) for name, values in scores.items()}
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "auroc", "average_precision"])
        writer.writerows([name, row["auroc"], row["average_precision"]] for name, row in rows.items())
    return {name: f"AUROC {row['auroc']:.4f}  AP {row['average_precision']:.4f}" for name, row in rows.items()}


def print_table(title: str, rows: dict[str, Any]) -> None:
    """Names and values in two columns."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console(file=sys.stdout, soft_wrap=True).print(table)


def _write_csv(path: Path, queries: ImageSet, scores: Score, p: np.ndarray, is_anomaly: np.ndarray) -> None:
    labels = [""] * len(p) if queries.labels is None else queries.labels.tolist()
    columns = (scores.score.tolist(), scores.residual.tolist(), scores.discrimination.tolist(), p.tolist())
    rows = [*zip(queries.names, labels, *columns, is_anomaly.astype(int).tolist(), strict=True)]
    rows += [(name, "", "", "", "", "", "unreadable") for name in queries.unreadable]
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
