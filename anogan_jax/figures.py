"""Pictures for people: samples, heatmaps, panels and plots of scores.

matplotlib and scikit-learn are imported only where a plot is drawn, because that is slow.
"""

import base64
import html
import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from anogan_jax.data.images import resize
from anogan_jax.files import replacing

_NORMAL, _ANOMALOUS, _UNKNOWN = "#2a6f97", "#d1495b", "#6c757d"
_GROUPS = {  # styles of the groups of points of an embedding, in the order of drawing
    "generated": {"color": "#2a9d6f", "marker": "^"},
    "training": {"color": "#9aa5ad", "marker": "s"},
    "held out": {"color": "#3f4a52", "marker": "s"},
    "query, normal": {"color": _NORMAL, "marker": "o"},
    "query, anomaly": {"color": _ANOMALOUS, "marker": "o"},
}
PICTURE = 256  # longer side in pixels, at most, of each part of a strip
_HEATMAP = 1024  # longer side in pixels, at most, of a heatmap
PARTS = ("query", "reconstruction", "map", "overlay")
_UNDER_MAP = 153  # the grey on which a map is shown by itself
_LOSSLESS = 32  # longer side up to which lossy compression would be visible


def save_grid(path: Path, images: np.ndarray, columns: int = 8) -> np.ndarray:
    """Save images (N, S, S, C) as one enlarged PNG, row by row with a white margin; return its pixels, uint8.

    The lowest value becomes black and the highest white.
    """
    low, high = float(images.min()), float(images.max())
    pixels = np.rint((images - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    count, size, _, channels = images.shape
    rows, cell = -(-count // columns), size + 2
    missing = ((0, rows * columns - count), (2, 0), (2, 0), (0, 0))
    cells = np.pad(pixels, missing, constant_values=255).reshape(rows, columns, cell, cell, channels)
    canvas = cells.swapaxes(1, 2).reshape(rows * cell, columns * cell, channels)
    canvas = np.pad(canvas, ((0, 2), (0, 2), (0, 0)), constant_values=255)
    picture = Image.fromarray(_displayable(canvas))
    picture = ImageOps.scale(picture, max(1, 768 // picture.width), Image.Resampling.NEAREST)
    with replacing(path) as temporary:
        picture.save(temporary)
    return np.asarray(picture)


def overlay(image: np.ndarray, anomaly_map: np.ndarray, level: float) -> np.ndarray:
    """Return the query (H, W, C) under its heatmap, (H, W, 3) uint8.

    The colours saturate at twice ``level``, which the map of a normal image rarely exceeds.
    """
    heat = _HEAT[np.minimum(256 * np.clip(anomaly_map / (2 * level), 0, 1), 255).astype(np.uint8)]
    grey = np.atleast_3d(_displayable(image))
    return np.rint(grey * (1 - heat[..., 3:]) + 255 * heat[..., :3] * heat[..., 3:]).astype(np.uint8)


def strip(
    image: np.ndarray, generated: np.ndarray, anomaly_map: np.ndarray, level: float, longest: int = PICTURE
) -> bytes:
    """Return a WebP picture of PARTS side by side, each shrunk if it has a longer side than ``longest``."""
    image, generated, shrunk = (_shrunk(part, longest) for part in (image, generated, anomaly_map[..., None]))
    parts = [np.atleast_3d(_displayable(part)) for part in (image, generated)]
    parts += [overlay(under, shrunk[..., 0], level) for under in (np.full_like(parts[0], _UNDER_MAP), parts[0])]
    in_colours = [np.broadcast_to(part, (*part.shape[:2], 3)) for part in parts]
    buffer, small = io.BytesIO(), max(image.shape[:2]) <= _LOSSLESS
    Image.fromarray(np.concatenate(in_colours, axis=1)).save(buffer, "WEBP", lossless=small, quality=85, method=2)
    return buffer.getvalue()


def captioned(pictures: Sequence[tuple[str, bytes]]) -> str:
    """Return HTML that shows pictures, each a ``strip``, above their captions."""
    figure = (
        '<figure style="display: inline-block; margin: 4px"><img height="96" style="image-rendering: pixelated" '
        'src="data:image/webp;base64,{}"><figcaption>{}</figcaption></figure>'
    )
    shown = [figure.format(base64.b64encode(picture).decode(), html.escape(text)) for text, picture in pictures]
    return f"<div>{''.join(shown)}</div>"


def save_heatmap(path: Path, title: str, image: np.ndarray, anomaly_map: np.ndarray, level: float) -> None:
    """Save the query under its heatmap, with a legend; small images are enlarged, large ones shrunk."""
    image, anomaly_map = _shrunk(image, _HEATMAP), _shrunk(anomaly_map[..., None], _HEATMAP)[..., 0]
    height, width = image.shape[:2]
    inches = 6.0 / max(height, width)
    figure = _figure((max(2.0, inches * width) + 1.6, max(2.0, inches * height) + 0.5))
    axis = figure.subplots()
    axis.imshow(overlay(image, anomaly_map, level), interpolation="nearest")
    axis.set(xticks=[], yticks=[], frame_on=False)
    axis.set_title(title, fontsize=9, parse_math=False)
    _add_legend(figure, axis, level, "anomaly (black line: seldom\nexceeded by normal images)")
    _save(figure, path)


def save_panels(path: Path, groups: Mapping[str, Sequence[tuple[str, bytes]]], level: float) -> None:
    """Save queries in titled groups, one column each: query, reconstruction, and the query under its heatmap.

    Each query is a title and its ``strip``.
    """
    columns = max(2, *(len(panels) for panels in groups.values()))
    figure = _figure((1.35 * columns + 1.7, 4.9 * len(groups)))
    blocks = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for block, (title, panels) in zip(blocks, groups.items(), strict=True):
        block.suptitle(title, fontweight="bold", x=0.01, ha="left")
        axes = block.subplots(3, columns, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[], frame_on=False)
        for axis, label in zip(axes[:, 0], ("query", "reconstruction", "anomaly map"), strict=True):
            axis.set_ylabel(label)
        for column, (name, picture) in zip(axes.T, panels, strict=False):  # a group may have fewer panels than columns
            column[0].set_title(name, fontsize=8, parse_math=False)
            with Image.open(io.BytesIO(picture)) as opened:
                query, reconstruction, _, under_map = np.split(np.asarray(opened.convert("RGB")), len(PARTS), axis=1)
            for axis, part in zip(column, (query, reconstruction, under_map), strict=True):
                axis.imshow(part)
        _add_legend(block, list(axes.flat), level, "anomaly", fraction=0.05, pad=0.01, shrink=0.33, anchor=(0, 0))
    _save(figure, path)


def save_roc(path: Path, labels: np.ndarray, scores: np.ndarray, name: str) -> None:
    """Plot the ROC curve; labels are 1 anomalous, 0 normal."""
    from sklearn.metrics import RocCurveDisplay

    figure = _figure((4.6, 4.6))
    axis = figure.subplots()
    RocCurveDisplay.from_predictions(
        labels, scores, ax=axis, name=name, plot_chance_level=True, curve_kwargs={"color": _ANOMALOUS}
    )
    axis.set(title="Anomalies found against false alarms", xlabel="false positive rate", ylabel="true positive rate")
    _save(figure, path)


def save_histogram(path: Path, scores: np.ndarray, labels: np.ndarray | None, threshold: float) -> None:
    """Plot the distribution of the scores, by label if there are labels, with the threshold."""
    figure = _figure((6.4, 3.6))
    axis = figure.subplots()
    bins = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-6), 60).tolist()
    groups = [("queries", slice(None), _UNKNOWN)]
    if labels is not None:
        groups = [("normal", labels == 0, _NORMAL), ("anomalous", labels == 1, _ANOMALOUS)]
    for name, members, colour in groups:
        axis.hist(scores[members], bins=bins, density=True, alpha=0.6, color=colour, label=name)
    if np.isfinite(threshold):
        axis.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold")
    axis.set(xlabel="anomaly score", ylabel="density", title="Scores")
    axis.legend()
    _save(figure, path)


def save_embedding(path: Path, groups: Mapping[str, np.ndarray]) -> None:
    """Plot the points (N, 2) of each group; the axes have no unit."""
    figure = _figure((6.4, 4.6))
    axis = figure.subplots()
    for name, points in groups.items():
        style = _GROUPS[name]
        axis.scatter(*points.T, s=9, alpha=0.75, linewidths=0, label=f"{name} ({len(points)})", **style)
    axis.set(xticks=[], yticks=[], title="Features of the discriminator, t-SNE")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, frameon=False, fontsize=8)
    _save(figure, path)


def _heat_colours() -> np.ndarray:
    """Return colours (256, 4), transparent for low values; even the most opaque lets the query show through."""
    share = np.linspace(0, 1, 256)[:, None]
    low, high = np.array([1.0, 0.85, 0.0]), np.array([0.85, 0.0, 0.1])
    opacity = 0.65 * np.clip((share - 0.25) / 0.5, 0, 1)
    return np.concatenate([low + (high - low) * share, opacity], axis=1)


_HEAT = _heat_colours()


def _add_legend(figure: Any, axes: Any, level: float, label: str, **where: Any) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ScalarMappable(Normalize(0, 2 * level), ListedColormap(_HEAT))
    bar = figure.colorbar(colours, ax=axes, label=label, extend="max", **where)
    bar.ax.set_facecolor(str(_UNDER_MAP / 255))
    bar.ax.axhline(level, color="black", linewidth=1.5)


def _figure(inches: tuple[float, float]) -> Any:
    """Return an empty matplotlib figure of this width and height, without pyplot and its windows."""
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that the font lacks is drawn as a box
        figure.savefig(temporary, dpi=120)


def _shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """Return an image (H, W, C), shrunk if it has a longer side than this.

    If it is much longer, blocks of pixels are averaged first, because resizing a map takes 8 bytes per pixel.
    """
    side = max(image.shape[:2])
    shape = [max(1, round(min(1.0, longest / side) * length)) for length in image.shape[:2]]
    if side >= 4 * longest:
        means = _block_means(_block_means(image, 2 * shape[0]).swapaxes(0, 1), 2 * shape[1]).swapaxes(0, 1)
        image = np.rint(means).astype(np.uint8) if image.dtype == np.uint8 else means
    return resize(image, *shape)


def _block_means(image: np.ndarray, count: int) -> np.ndarray:
    """Return the means of ``count`` blocks of rows of an image (H, W, C), float32; or the image if it has few rows."""
    if len(image) < 2 * count:
        return image
    edges = np.linspace(0, len(image), count + 1).astype(int)
    return np.stack([image[first:last].mean(axis=0, dtype=np.float32) for first, last in pairwise(edges)])


def _displayable(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) as grey (H, W) or RGB; other channel numbers are averaged."""
    if image.shape[-1] == 3:
        return image
    return image[..., 0] if image.shape[-1] == 1 else image.mean(axis=-1).astype(np.uint8)
