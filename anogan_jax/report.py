"""Reports: scores.csv, summary.json, pictures, report.html."""

import base64
import csv
import errno
import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anogan_jax.calibration import threshold
from anogan_jax.data import Images
from anogan_jax.errors import UserError, printable
from anogan_jax.figures import (
    PARTS,
    PICTURE,
    save_embedding,
    save_grid,
    save_heatmap,
    save_histogram,
    save_panels,
    save_roc,
    strip,
)
from anogan_jax.files import replacing
from anogan_jax.journal import Entry, Journal
from anogan_jax.metrics import count_pixels, decision_metrics, pixel_metrics, ranking_metrics
from anogan_jax.runtime import TERMS, Finding, p_values
from anogan_jax.spaces import Embedding

log = logging.getLogger(__name__)
_WALK = "samples/walk.png"
REPORT = ("scores.csv", "summary.json", "panels.png", "histogram.png", "roc.png", _WALK, "report.html")
EMBEDDING = "embedding.png"  # if it is asked for
VOLUMES = "volumes.csv"  # if slices of volumes were scored
OPTIONAL = ("roc.png", _WALK, EMBEDDING, VOLUMES)  # files that not every run writes
_OF_VOLUMES = ("name", "label", "score", "slice", "slices", "p_value", "is_anomaly")
SCORES = ("score", "term", "residual", "discrimination", "damage", "rotation", "appearance")
COLUMNS = ("name", "label", *SCORES, "p_value", "is_anomaly")
_SHOWN = 8  # most anomalous queries in panels.png, and as many least anomalous ones
_IN_GALLERY = 10_000  # most anomalous queries in report.html
_FEW, _THUMBNAIL = 1_000, 96  # with more queries, the pictures in the page are this small
_UNUSABLE_NAME = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # errors of a picture's name
_PAGE = Path(__file__).with_name("report.html")


def record(
    journal: Journal,
    findings: Iterable[Finding],
    queries: Images,
    level: float,
    heatmaps: Path | None = None,
    maps: Path | None = None,
) -> None:
    """Add findings to the journal one at a time; write a heatmap and a map of each if asked for.

    Args:
      journal: the entries of earlier findings; the new ones are appended.
      findings: the findings of the queries, in their order.
      queries: the scored images, with masks if there are any.
      level: the level of the heatmaps' colours, see ``overlay``.
      heatmaps: the folder for a PNG of each query.
      maps: the folder for each anomaly map, .npy, (H, W) float32.
    """
    longest = PICTURE if len(queries.names) <= _FEW else _THUMBNAIL
    for number, found in enumerate(findings, start=journal.count):
        picture, pixels, z = b"", None, found.z.astype(np.float32).tobytes()
        if found.is_readable:
            try:
                _write_pictures(queries.names[number], found, level, heatmaps, maps)
            except UserError as error:
                if getattr(error.__cause__, "errno", None) not in _UNUSABLE_NAME:
                    raise
                log.warning("no picture of %s: %s", queries.names[number], error)
            picture = strip(found.image, found.reconstruction, found.anomaly_map, level, longest)
            mask = queries.mask(number) if queries.mask else None
            pixels = None if mask is None else count_pixels(found.anomaly_map, mask)
        label = -1 if queries.labels is None else int(queries.labels[number])
        kind = printable(queries.kinds[number]) if queries.kinds else ""
        terms = {name: getattr(found, name) for name in SCORES}
        journal.add(Entry(queries.names[number], label, kind, **terms, z=z, picture=picture), pixels)
    journal.flush()


def write_report(
    folder: Path,
    journal: Journal,
    held_out: np.ndarray,
    alpha: float,
    level: float,
    facts: dict[str, Any],
    baselines: Mapping[str, np.ndarray] = MappingProxyType({}),
    walk: np.ndarray | None = None,
    embedding: Embedding | None = None,
    volumes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the files of REPORT: roc.png only with labels of both kinds, the walk and the embedding only if given.

    With volumes, also write volumes.csv.

    Args:
      folder: the folder of these files.
      journal: the entries of all queries, at least one of them readable.
      held_out: (M,) scores of held-out normal images.
      alpha: the false-alarm rate; an image with a p-value <= alpha is called an anomaly.
      level: the level of the heatmaps' colours, see ``overlay``.
      facts: further entries of summary.json, which come first.
      baselines: by name, other detectors' scores of the queries, for their AUROC.
      walk: (n, S, S, C) images of a latent walk from the least to the most anomalous query.
      embedding: the embedding of queries and other images.
      volumes: for each query the name of the volume that it is a slice of, or an empty text; () if there are none.

    Returns:
      The content of summary.json.
    """
    every, labels = np.array([(entry.score, entry.label) for entry in journal.entries()]).T
    readable = ~np.isnan(every)
    scores, truth, p = every[readable], labels[readable].astype(int), p_values(every, held_out)
    is_anomaly, bound = p <= alpha, threshold(held_out, alpha)
    by_term = Counter(e.term for e, found in zip(journal.entries(), is_anomaly, strict=True) if found)
    summary = facts | {
        "images": len(scores),
        "unreadable": len(every) - len(scores),
        "alpha": alpha,
        "threshold": bound if np.isfinite(bound) else None,
        "held_out_images": len(held_out),
        "anomalies": int(is_anomaly.sum()),
        **{f"anomalies_by_{term}": by_term[term] for term in TERMS},
    }
    summary |= _measure(truth, scores, is_anomaly[readable], baselines)
    if defects := by_defect(journal):
        summary |= defects["all"] | {"defects": defects}
    if any(volumes):
        summary |= _write_volumes(folder / VOLUMES, journal, volumes, p, alpha)
    charts = _draw_charts(folder, scores, truth, bound, walk, embedding and _by_verdict(embedding, is_anomaly))
    order = np.argsort(-every, kind="stable")[: len(scores)].tolist()  # unreadable ones come last
    _write_scores(folder / "scores.csv", journal, p, is_anomaly)
    _write_panels(folder / "panels.png", journal, order, p, level)
    with replacing(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    _write_page(folder / "report.html", journal, summary, charts, set(order[:_IN_GALLERY]), p, is_anomaly)
    return summary


def write_comparison(path: Path, labels: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, str]:
    """Write AUROC and average precision of each method as CSV; return them as text for a table."""
    rows = {name: ranking_metrics(labels, values) for name, values in scores.items()}
    _write_csv(path, ("method", "auroc", "average_precision"), ([name, *row.values()] for name, row in rows.items()))
    return {name: f"AUROC {row['auroc']:.4f}  AP {row['average_precision']:.4f}" for name, row in rows.items()}


def print_summary(title: str, summary: Mapping[str, Any]) -> None:
    """Print the content of summary.json, with a table of the kinds of defects if there are any."""
    defects = summary.get("defects", {})
    print_table(title, {name.replace("_", " "): value for name, value in summary.items() if name != "defects"})
    if defects:
        heads = ("defect", *(name.replace("_", " ") for name in defects["all"]))
        rows = {kind: list(values.values()) for kind, values in defects.items()}
        print_table("By defect, against the good images", rows, heads)


def print_table(title: str, rows: Mapping[str, Any], heads: Sequence[str] = ()) -> None:
    """Print a row for each name: its value, or its values under their heads."""
    table = Table(*heads, title=escape(printable(title)), show_header=bool(heads), title_justify="left")
    for name, row in rows.items():
        values = row if isinstance(row, list) else [row]
        known = ["none" if value is None else value for value in (name, *values)]
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in known]
        table.add_row(*(escape(printable(text)) for text in texts))
    Console(file=sys.stdout, soft_wrap=True).print(table)


def by_defect(journal: Journal) -> dict[str, dict[str, float]]:
    """Return image AUROC and, with masks, pixel metrics against the good images, for "all" and each kind of defect.

    Without good images there is no image AUROC, and the normal pixels are those of the defective images.
    """
    scores = defaultdict(list)
    for entry in journal.entries():
        if entry.kind and entry.is_readable:
            scores[entry.kind].append(entry.score)
    good = scores.pop("good", [])
    pixels, found = journal.pixels, {}
    for name, kinds in ({"all": list(scores)} | {kind: [kind] for kind in sorted(scores)}).items():
        bad = [score for kind in kinds for score in scores[kind]]
        labels, values = np.repeat([0, 1], [len(good), len(bad)]), {}
        if good and bad:
            values["image_auroc"] = ranking_metrics(labels, np.array(good + bad))["auroc"]
        if masked := [pixels[kind] for kind in kinds if kind in pixels]:
            counts = np.sum([*masked, pixels.get("good", np.zeros_like(masked[0]))], axis=0)
            values |= pixel_metrics(counts) if counts[:2].any(axis=1).all() else {}
        if values:
            found[name] = values
    return found


def read_names(path: Path) -> set[str]:
    """Return the names in a scores.csv."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["name"] for row in csv.DictReader(file) if row.get("name")}


def _measure(
    labels: np.ndarray, scores: np.ndarray, is_anomaly: np.ndarray, baselines: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the entries of summary.json that need labels (N,); none if some labels are unknown."""
    kinds = set(labels.tolist())
    if kinds == {0, 1}:
        measured = ranking_metrics(labels, scores) | decision_metrics(labels, is_anomaly)
        others = {f"auroc of {name}": ranking_metrics(labels, each)["auroc"] for name, each in baselines.items()}
        return {"labelled_anomalous": int(labels.sum())} | measured | others
    if kinds not in ({0}, {1}):
        return {}
    measured = _one_sided(labels, is_anomaly)
    log.warning("%s", measured["not_measured"])
    return measured


def _draw_charts(
    folder: Path,
    scores: np.ndarray,
    labels: np.ndarray,
    bound: float,
    walk: np.ndarray | None,
    embedding: Mapping[str, np.ndarray] | None,
) -> dict[str, Path]:
    """Write the charts, the ROC curve only with labels of both kinds; return their files by name.

    The embedding holds the points (N, 2) of each group.
    """
    charts = {"histogram": folder / "histogram.png"}
    known = labels if set(labels.tolist()) == {0, 1} else None
    if known is not None:
        charts["roc"] = folder / "roc.png"
        save_roc(charts["roc"], known, scores, "score")
    save_histogram(charts["histogram"], scores, known, bound)
    if embedding:
        charts["embedding"] = folder / EMBEDDING
        save_embedding(charts["embedding"], embedding)
    if walk is not None:
        charts["walk"] = folder / _WALK
        save_grid(charts["walk"], walk, columns=len(walk))
    return charts


def _one_sided(labels: np.ndarray, is_anomaly: np.ndarray) -> dict[str, Any]:
    """Return the metrics of labelled images that are all normal, or all anomalous, and name the missing metrics."""
    measured = decision_metrics(labels, is_anomaly)
    kept, lacking = (("recall", "sensitivity"), "normal") if labels.all() else (("specificity",), "anomalous")
    others = ", ".join(("AUROC", "average precision", *(name for name in measured if name not in kept)))
    text = f"{others}: the labelled images are of one kind, none is {lacking}"
    return {"labelled_anomalous": int(labels.sum()), **{name: measured[name] for name in kept}, "not_measured": text}


def _write_pictures(name: str, found: Finding, level: float, heatmaps: Path | None, maps: Path | None) -> None:
    if heatmaps:
        title = printable(f"{name}   score {found.score:.4g}")
        save_heatmap(heatmaps / f"{name}.png", title, found.image, found.anomaly_map, level)
    if maps:
        with replacing(maps / f"{name}.npy") as temporary:
            np.save(temporary, found.anomaly_map)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _write_scores(path: Path, journal: Journal, p: np.ndarray, is_anomaly: np.ndarray) -> None:
    def row(entry: Entry, p_value: float, anomaly: bool) -> list[Any]:
        name = _unlike_formula(entry.name)
        label = "" if entry.label < 0 else entry.label
        if not entry.is_readable:
            return [name, label, *[""] * (len(COLUMNS) - 3), "unreadable"]
        return [name, label, *(getattr(entry, term) for term in SCORES), p_value, int(anomaly)]

    _write_csv(path, COLUMNS, map(row, journal.entries(), p.tolist(), is_anomaly.tolist()))


def _unlike_formula(name: str) -> str:
    """Return a name that a spreadsheet does not run as a formula; a "./" in front does not change the path."""
    return f"./{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _write_volumes(
    path: Path, journal: Journal, volumes: Sequence[str], p: np.ndarray, alpha: float
) -> dict[str, int | float]:
    """Write a row for each volume: the highest score of its slices, and which slice has it; return a summary.

    The p-value is that slice's times the number of readable slices, at most 1 (Bonferroni): at most a share ``alpha``
    of normal volumes is called anomalous, however the scores of a volume's slices depend on each other.
    """
    slices = defaultdict(list)
    for entry, volume, p_value in zip(journal.entries(), volumes, p.tolist(), strict=True):
        if volume:
            slices[volume].append((entry.score, entry.label, entry.name, p_value))
    rows, known = [], []
    for volume, every in slices.items():
        label = max(label for _, label, _, _ in every)
        shown: list[Any] = [_unlike_formula(volume), "" if label < 0 else label]
        readable = [each for each in every if not np.isnan(each[0])]
        if not readable:
            rows.append([*shown, "", "", 0, "", "unreadable"])
            continue
        score, _, name, p_value = max(readable, key=lambda each: each[0])
        bound = min(1.0, len(readable) * p_value)
        rows.append([*shown, score, _unlike_formula(name), len(readable), bound, int(bound <= alpha)])
        known.append((label, score))
    _write_csv(path, _OF_VOLUMES, rows)
    summary: dict[str, int | float] = {"volumes": len(rows), "anomalous_volumes": sum(row[-1] == 1 for row in rows)}
    labels, scores = np.array(known).T if known else np.zeros((2, 0))
    if set(labels.tolist()) == {0, 1}:
        summary["volume_auroc"] = ranking_metrics(labels, scores)["auroc"]
    return summary


def _write_panels(path: Path, journal: Journal, order: list[int], p: np.ndarray, level: float) -> None:
    chosen = {"Most anomalous": order[:_SHOWN], "Least anomalous": order[_SHOWN:][-_SHOWN:]}
    panels = {}
    for i, entry in enumerate(journal.entries()):
        if any(i in numbers for numbers in chosen.values()):
            name = printable(entry.name)
            name = name if len(name) <= 18 else "…" + name[-17:]
            panels[i] = (f"{name}\n{entry.score:.4g}, p={p[i]:.3f}", entry.picture)
    save_panels(path, {title: [panels[i] for i in numbers] for title, numbers in chosen.items() if numbers}, level)


def _by_verdict(embedding: Embedding, is_anomaly: np.ndarray) -> dict[str, np.ndarray]:
    """Return the points of an embedding by their groups: queries by their verdict, drawn last."""
    found = is_anomaly[embedding.numbers]
    queries = {"query, normal": embedding.queries[~found], "query, anomaly": embedding.queries[found]}
    return embedding.others | {name: points for name, points in queries.items() if len(points)}


def _write_page(
    path: Path,
    journal: Journal,
    summary: dict[str, Any],
    charts: Mapping[str, Path],
    shown: set[int],
    p: np.ndarray,
    is_anomaly: np.ndarray,
) -> None:
    """Write report.html, one self-contained file, with these charts and a gallery of the shown entries."""
    head, middle, tail = _PAGE.read_text().replace("@@SUMMARY@@", "@@ROWS@@").split("@@ROWS@@")
    unreadable = [entry.name for entry in journal.entries() if not entry.is_readable]
    known = {
        "figures": _figures(summary),
        "warnings": _warnings(summary, unreadable),
        "facts": {name: value for name, value in summary.items() if name != "defects"},
        "defects": summary.get("defects", {}),
        "charts": {name: base64.b64encode(chart.read_bytes()).decode() for name, chart in charts.items()},
        "parts": PARTS,
        "terms": TERMS,
        "left_out": summary["images"] - len(shown),
    }
    rows = (
        [
            *(printable(e.name), e.label, e.kind, e.score, e.term, p[i], int(is_anomaly[i])),
            base64.b64encode(e.picture).decode(),
        ]
        for i, e in enumerate(journal.entries())
        if i in shown
    )
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(head + _json(known) + middle)
        for number, row in enumerate(rows):
            file.write((",\n" if number else "") + _json(row))
        file.write(tail)


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return title, value and explanation of what matters: the verdicts and, with labels, AUROC and false alarms."""
    images, anomalies = summary["images"], summary["anomalies"]
    terms = ", ".join(f"{summary[f'anomalies_by_{term}']:,} by {term}" for term in TERMS)
    found = [("Anomalies", f"{anomalies:,} of {images:,}", terms if anomalies else "no image has p <= alpha")]
    bad = summary.get("labelled_anomalous", 0)
    if "auroc" in summary:
        found.append(("AUROC", f"{summary['auroc']:.4f}", f"{bad:,} anomalous and {images - bad:,} normal images"))
    if "specificity" in summary:
        rate, good = 1 - summary["specificity"], images - bad
        expected = f"{round(rate * good):,} of {good:,} normal images; alpha allows {summary['alpha']:.1%}"
        found.append(("False alarms", f"{rate:.1%}", expected))
    return found


def _warnings(summary: Mapping[str, Any], unreadable: Sequence[str]) -> list[str]:
    """Return what a reader has to know first."""
    found = [summary["warning"]] if "warning" in summary else []
    if "not_measured" in summary:
        found.append(f"Not measured: {summary['not_measured']}")
    if unreadable:
        names = ", ".join(unreadable[:5]) + (", ..." if unreadable[5:] else "")
        found.append(f"Unreadable, {len(unreadable)}: {names}")
    return [printable(text) for text in found]


def _json(value: Any) -> str:
    """Return JSON that is safe inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")
