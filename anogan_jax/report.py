"""Scores to files people read: scores.csv, summary.json, pictures, report.html."""

import base64
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anogan_jax.atomic import replacing
from anogan_jax.calibration import p_values, threshold
from anogan_jax.data import Images
from anogan_jax.figures import HeatScale, Panel, save_heatmap, save_histogram, save_panels, save_roc, triptych
from anogan_jax.journal import Entry, Journal
from anogan_jax.metrics import count_pixels, decision_metrics, pixel_metrics, ranking_metrics
from anogan_jax.queries import Scored

COLUMNS = ("name", "label", "score", "residual", "discrimination", "p_value", "is_anomaly")
_SHOWN = 8  # of the most anomalous queries, and of the least
_IN_GALLERY = 10_000  # of the most anomalous


def record(
    journal: Journal,
    results: Iterable[Scored],
    queries: Images,
    scale: HeatScale,
    heatmaps: Path | None = None,
    maps: Path | None = None,
) -> None:
    """Takes results one at a time into the journal, and writes what was asked for of each.

    Args:
      journal: what was scored before; the results go on where it ends.
      results: of the queries, in their order.
      queries: what is scored, with masks where there are any.
      scale: of the heatmaps.
      heatmaps: the folder for a PNG of each query.
      maps: the folder for each anomaly map, .npy, (H, W) float32.
    """
    for number, scored in enumerate(results, start=journal.count):
        label = -1 if scored.label is None else scored.label
        kind, found, name = scored.kind or "", scored.found, scored.name
        if found is None:
            journal.add(Entry(name, label, kind, np.nan, np.nan, np.nan, b""))
            continue
        if heatmaps:
            title = f"{name}   score {found.score:.4g}"
            save_heatmap(heatmaps / f"{name}.png", title, found.image, found.anomaly_map, scale)
        if maps:
            with replacing(maps / f"{name}.npy") as temporary:
                np.save(temporary, found.anomaly_map)
        picture = triptych(found.image, found.generated, found.anomaly_map, scale)
        pixels = None if queries.mask is None else count_pixels(found.anomaly_map, queries.mask(number))
        journal.add(Entry(name, label, kind, found.score, found.residual, found.discrimination, picture), pixels)
    journal.flush()


def write_report(
    folder: Path,
    journal: Journal,
    held_out: np.ndarray,
    alpha: float,
    scale: HeatScale,
    facts: dict[str, Any],
    baselines: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes scores.csv, summary.json, panels.png, histogram.png, report.html and, with labels of both kinds, roc.png.

    Args:
      folder: where they go.
      journal: all that was scored, of which at least one query could be read.
      held_out: (M,) scores of held-out normal images.
      alpha: the false-alarm rate; an image is called an anomaly at p-value <= alpha.
      scale: of the heatmaps.
      facts: what else summary.json shall say, first.
      baselines: by name, other detectors' scores of the queries, whose AUROC is said where there are labels.

    Returns:
      What is in summary.json.
    """
    table = [(entry.score, entry.label) for entry in journal.entries()]
    every, labels = np.array([score for score, _ in table]), np.array([label for _, label in table])
    readable = ~np.isnan(every)
    p = np.full(len(every), np.nan)
    p[readable] = p_values(every[readable], held_out)
    is_anomaly = p <= alpha
    bound = threshold(held_out, alpha)
    summary = facts | {
        "images": int(readable.sum()),
        "unreadable": int((~readable).sum()),
        "alpha": alpha,
        "threshold": bound if np.isfinite(bound) else None,
        "held_out_images": len(held_out),
        "anomalies": int(is_anomaly.sum()),
    }
    scores, truth, called = every[readable], labels[readable], is_anomaly[readable]
    known = truth if set(truth.tolist()) == {0, 1} else None
    if known is not None:
        summary |= {"labelled_anomalous": int(known.sum())}
        summary |= ranking_metrics(known, scores) | decision_metrics(known, called)
        summary |= {f"auroc of {name}": ranking_metrics(known, s)["auroc"] for name, s in baselines.items()}
        save_roc(folder / "roc.png", known, scores, "score")
    defects = by_defect(journal)
    summary |= {name: value for name, value in defects.get("all", {}).items() if name not in summary}
    if defects:
        summary["defects"] = defects
    save_histogram(folder / "histogram.png", scores, known, bound)
    _write_csv(folder / "scores.csv", journal, p, is_anomaly)
    _write_panels(folder / "panels.png", journal, every, p, scale)
    with replacing(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    _write_page(folder, journal, summary, every, p, is_anomaly)
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


def print_defects(defects: Mapping[str, Mapping[str, float]]) -> None:
    """A row for each kind of defect."""
    table = Table(title="By defect, against the good images", title_justify="left")
    names = list(defects["all"])
    for name in ("defect", *names):
        table.add_column(name.replace("_", " "))
    for kind, values in defects.items():
        table.add_row(kind, *(f"{values[name]:.4g}" for name in names))
    Console(file=sys.stdout, soft_wrap=True).print(table)


def by_defect(journal: Journal) -> dict[str, dict[str, float]]:
    """For "all" and each kind of defect, against the good images: image AUROC, and with masks the pixels' metrics."""
    scores: dict[str, list[float]] = {}
    for entry in journal.entries():
        if entry.kind and entry.is_readable:
            scores.setdefault(entry.kind, []).append(entry.score)
    good = scores.pop("good", [])
    if not (good and scores):
        return {}
    pixels = journal.pixels()
    defects = {"all": list(scores)} | {kind: [kind] for kind in sorted(scores)}
    found = {}
    for name, kinds in defects.items():
        bad = [score for kind in kinds for score in scores[kind]]
        labels = np.repeat([0, 1], [len(good), len(bad)])
        found[name] = {"image_auroc": ranking_metrics(labels, np.array(good + bad))["auroc"]}
        if pixels:
            counts = sum((pixels[kind] for kind in kinds), start=np.zeros_like(pixels[kinds[0]]))
            found[name] |= pixel_metrics(counts + pixels["good"])
    return found


def _write_csv(path: Path, journal: Journal, p: np.ndarray, is_anomaly: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for entry, p_value, anomaly in zip(journal.entries(), p.tolist(), is_anomaly.tolist(), strict=True):
            label = "" if entry.label < 0 else entry.label
            if entry.is_readable:
                terms = (entry.score, entry.residual, entry.discrimination)
                writer.writerow([entry.name, label, *terms, p_value, int(anomaly)])
            else:
                writer.writerow([entry.name, label, "", "", "", "", "unreadable"])


def _write_panels(path: Path, journal: Journal, scores: np.ndarray, p: np.ndarray, scale: HeatScale) -> None:
    order = np.argsort(-scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))].tolist()  # NaN comes last
    chosen = {"Most anomalous": order[:_SHOWN], "Least anomalous": order[_SHOWN:][-_SHOWN:]}
    wanted = {number for numbers in chosen.values() for number in numbers}
    entries = {number: entry for number, entry in enumerate(journal.entries()) if number in wanted}
    groups = {
        title: [Panel(entries[i].name, entries[i].score, float(p[i]), entries[i].picture) for i in numbers]
        for title, numbers in chosen.items()
        if numbers
    }
    save_panels(path, groups, scale)


def _write_page(
    folder: Path, journal: Journal, summary: dict[str, Any], scores: np.ndarray, p: np.ndarray, is_anomaly: np.ndarray
) -> None:
    """report.html: one file that needs nothing else."""
    head, middle, tail = _PAGE.read_text().replace("@@SUMMARY@@", "@@ROWS@@").split("@@ROWS@@")
    names = ["histogram", "roc"] if "auroc" in summary else ["histogram"]  # a roc.png may be of an earlier run
    charts = {name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode() for name in names}
    facts = {name: value for name, value in summary.items() if name != "defects"}
    if unreadable := [entry.name for entry in journal.entries() if not entry.is_readable]:
        facts["unreadable"] = f"{len(unreadable)}: {', '.join(unreadable[:5])}{', ...' if unreadable[5:] else ''}"
    if summary["images"] > _IN_GALLERY:
        facts["in this gallery"] = f"the {_IN_GALLERY} most anomalous"
    order = np.argsort(-scores, kind="stable")[: min(_IN_GALLERY, summary["images"])]
    is_shown = np.zeros(len(scores), bool)
    is_shown[order] = True

    def rows() -> Iterator[str]:
        for i, entry in enumerate(journal.entries()):
            if is_shown[i]:
                picture = base64.b64encode(entry.picture).decode()
                yield _json([entry.name, entry.label, entry.kind, entry.score, p[i], int(is_anomaly[i]), picture])

    with replacing(folder / "report.html") as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(head + _json({"facts": facts, "defects": summary.get("defects", {}), "charts": charts}) + middle)
        for number, row in enumerate(rows()):
            file.write((",\n" if number else "") + row)
        file.write(tail)


def _json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")


_PAGE = Path(__file__).with_name("report.html")
