"""Scores to files and a table: scores.csv, summary.json and pictures."""

import csv
import heapq
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anogan_jax.atomic import replacing
from anogan_jax.calibration import p_values, threshold
from anogan_jax.data import to_model_range, to_pixels
from anogan_jax.figures import Panel, save_histogram, save_panels, save_roc
from anogan_jax.metrics import decision_metrics, ranking_metrics
from anogan_jax.run import Scored

COLUMNS = ("name", "label", "score", "residual", "discrimination", "p_value", "is_anomaly")
_SHOWN = 8  # of the most anomalous queries, and of the least


def write_report(
    folder: Path,
    results: Iterable[Scored],
    held_out: np.ndarray,
    alpha: float,
    normalize_contrast: bool,
    facts: dict[str, Any],
    baselines: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes scores.csv, summary.json, panels.png, histogram.png and, with labels of both kinds, roc.png.

    Args:
      folder: where they go.
      results: of the queries, at least one of which could be read; taken one at a time, and none is kept but the
        scores and the images of the pictures.
      held_out: (M,) scores of held-out normal images.
      alpha: the false-alarm rate; an image is called an anomaly at p-value <= alpha.
      normalize_contrast: whether the model saw them so; see ``to_model_range``.
      facts: what else summary.json shall say, first.
      baselines: by name, other detectors' scores of the queries, whose AUROC is said where there are labels.

    Returns:
      What is in summary.json.
    """
    began, unreadable = time.monotonic(), 0
    scores: list[float] = []
    labels: list[int | None] = []
    most: list[Scored] = []
    least: list[Scored] = []
    with replacing(folder / "scores.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for scored in results:
            label = "" if scored.label is None else scored.label
            if scored.score is None:
                unreadable += 1
                writer.writerow([scored.name, label, "", "", "", "", "unreadable"])
                continue
            score = float(scored.score.score)
            p = _p_value(score, held_out)
            terms = (score, float(scored.score.residual), float(scored.score.discrimination))
            writer.writerow([scored.name, label, *terms, p, int(p <= alpha)])
            scores.append(score)
            labels.append(scored.label)
            most = heapq.nlargest(_SHOWN, [*most, scored], key=_score)
            least = heapq.nsmallest(_SHOWN, [*least, scored], key=_score)
    seconds = time.monotonic() - began
    every = np.array(scores)
    is_anomaly = p_values(every, held_out) <= alpha
    bound = threshold(held_out, alpha)
    summary = facts | {
        "seconds": seconds,
        "images_per_second": len(every) / seconds,
        "images": len(every),
        "unreadable": unreadable,
        "alpha": alpha,
        "threshold": bound if np.isfinite(bound) else None,
        "held_out_images": len(held_out),
        "anomalies": int(is_anomaly.sum()),
    }
    truth = None if None in labels else np.array(labels)
    if truth is not None and len(np.unique(truth)) == 2:
        summary |= {"labelled_anomalous": int(truth.sum())}
        summary |= ranking_metrics(truth, every) | decision_metrics(truth, is_anomaly)
        summary |= {f"auroc of {name}": ranking_metrics(truth, s)["auroc"] for name, s in baselines.items()}
        save_roc(folder / "roc.png", truth, every, "A(x)")
    rest = sorted((s for s in least if all(s is not other for other in most)), key=_score, reverse=True)
    groups = {
        title: [_panel(scored, held_out, normalize_contrast) for scored in chosen]
        for title, chosen in (("Most anomalous", most), ("Least anomalous", rest))
        if chosen
    }
    save_panels(folder / "panels.png", groups)
    save_histogram(folder / "histogram.png", every, truth, bound)
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


def _score(scored: Scored) -> float:
    assert scored.score is not None
    return float(scored.score.score)


def _p_value(score: float, held_out: np.ndarray) -> float:
    return float(p_values(np.array([score]), held_out)[0])


def _panel(scored: Scored, held_out: np.ndarray, normalize_contrast: bool) -> Panel:
    assert scored.image is not None
    assert scored.score is not None
    query, generated, score = scored.image, scored.score.generated, _score(scored)
    residual = np.abs(to_model_range(query[None], normalize_contrast)[0] - generated).mean(axis=-1)
    pixels = to_pixels(generated[None], query[None], normalize_contrast)[0]
    return Panel(scored.name, score, _p_value(score, held_out), query, pixels, residual)
