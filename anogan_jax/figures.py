"""The pictures people look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import RocCurveDisplay

from anogan_jax.atomic import replacing

_NORMAL, _ANOMALOUS, _UNKNOWN = "#2a6f97", "#d1495b", "#6c757d"


def save_grid(path: Path, images: np.ndarray, columns: int = 8) -> None:
    """Images (N, S, S, C) as one PNG, row by row, two pixels apart, enlarged; their range becomes black to white."""
    low, high = float(images.min()), float(images.max())
    pixels = np.rint((images - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    count, size, _, channels = images.shape
    rows = -(-count // columns)
    cell = size + 2
    canvas = np.full((rows * cell + 2, columns * cell + 2, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * cell + 2, (i % columns) * cell + 2
        canvas[top : top + size, left : left + size] = image
    picture = Image.fromarray(_displayable(canvas))
    scale = max(1, 768 // picture.width)
    with replacing(path) as temporary:
        picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(temporary)


class Panel(NamedTuple):
    """One query as it is shown."""

    name: str
    score: float
    p_value: float
    query: np.ndarray  # (S, S, C) uint8
    generated: np.ndarray  # (S, S, C) uint8
    residual: np.ndarray  # (S, S), >= 0


def save_panels(path: Path, groups: Mapping[str, Sequence[Panel]]) -> None:
    """Queries by titled group, side by side: query, G(z), and |x - G(z)| as a heatmap on one scale."""
    columns = max(2, max(len(panels) for panels in groups.values()))
    top = max(1e-6, *(float(panel.residual.max()) for panels in groups.values() for panel in panels))

    figure = Figure(figsize=(1.35 * columns + 1.7, 4.9 * len(groups)), layout="constrained")
    blocks = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    heat = None
    for block, (title, panels) in zip(blocks, groups.items(), strict=True):
        block.suptitle(title, fontweight="bold", x=0.01, ha="left")
        axes = block.subplots(3, columns, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[], frame_on=False)
        for row, label in enumerate(("query", "G(z)", "residual")):
            axes[row, 0].set_ylabel(label)
        for column, panel in enumerate(panels):
            title = f"{_short(panel.name)}\n{panel.score:.4g}, p={panel.p_value:.3f}"
            axes[0, column].set_title(title, fontsize=8)
            for row, image in enumerate((panel.query, panel.generated)):
                axes[row, column].imshow(_displayable(image), cmap="gray", vmin=0, vmax=255)
            heat = axes[2, column].imshow(panel.residual, cmap="inferno", vmin=0, vmax=top)
        block.colorbar(heat, ax=list(axes[2]), label="|x - G(z)|", fraction=0.05, pad=0.01)
    _save(figure, path)


def save_roc(path: Path, labels: np.ndarray, scores: np.ndarray, name: str) -> None:
    """The ROC curve; labels 1 anomalous, 0 normal."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axis = figure.subplots()
    RocCurveDisplay.from_predictions(
        labels, scores, ax=axis, name=name, plot_chance_level=True, curve_kwargs={"color": _ANOMALOUS}
    )
    axis.set(title="Anomalies found against false alarms", xlabel="false positive rate", ylabel="true positive rate")
    axis.legend(loc="lower right")
    _save(figure, path)


def save_histogram(path: Path, scores: np.ndarray, labels: np.ndarray | None, threshold: float) -> None:
    """How the scores are distributed, by label where there are labels, with the threshold."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    bins = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-6), 60).tolist()
    groups = [("queries", slice(None), _UNKNOWN)]
    if labels is not None:
        groups = [("normal", labels == 0, _NORMAL), ("anomalous", labels == 1, _ANOMALOUS)]
    for name, members, colour in groups:
        axis.hist(scores[members], bins=bins, density=True, alpha=0.6, color=colour, label=name)
    if np.isfinite(threshold):
        axis.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold")
    axis.set(xlabel="anomaly score A(x)", ylabel="density", title="Scores")
    axis.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _displayable(image: np.ndarray) -> np.ndarray:
    """(H, W, C) to what a picture can show: grey, RGB, or the mean of other channels."""
    if image.shape[-1] == 3:
        return image
    return image[..., 0] if image.shape[-1] == 1 else image.mean(axis=-1).astype(np.uint8)


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else "…" + name[-limit + 1 :]
