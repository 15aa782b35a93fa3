"""Write the tables of docs/detection.md from benchmarks/results/<data set>.json and the published figures.

python -m benchmarks.one_class_table
"""

import json
import re
from pathlib import Path

import numpy as np

_PAGE = Path(__file__).parent.parent / "docs" / "detection.md"
RESULTS = Path(__file__).parent / "results"
_NAMES = {
    "default": "**this project, default search**",
    "nearest": "nearest neighbours in bank and references, no search",
    "no_references": "the default search without references",
    "references": "the nearest references only; the generator is used only to screen them",
    "no_rotation": "the default without the rotation network, A(x) only",
    "rotation": "the rotation network alone, T(x)",
    "random_bank": "default search, bank of random images",
    "encoder": "encoder (f-AnoGAN), no search",
    "paper": "the paper's search, 500 steps",
    "yeh": "the same with cross entropy (Yeh et al. 2016)",
    "same_knn": "kNN (k=8) of training images, default features",
    "knn2": "kNN (k=2)",
    "knn2cos": "kNN (k=2), cosine",
    "pca32": "PCA-32",
}
# Ruff et al. 2018 (AnoGAN, Deep SVDD), Deecke et al. 2018 (AnoGAN), Perera et al. 2019 (OCGAN); of others the means.
_PUBLISHED = {
    "mnist": {
        "AnoGAN in Ruff et al. 2018": [96.6, 99.2, 85.0, 88.7, 89.4, 88.3, 94.7, 93.5, 84.9, 92.4],
        "AnoGAN in Deecke et al. 2018": [99.0, 99.8, 88.8, 91.3, 94.4, 91.2, 92.5, 96.4, 88.3, 95.8],
        "Deep SVDD": [98.0, 99.7, 91.7, 91.9, 94.9, 88.5, 98.3, 94.6, 93.9, 96.5],
        "OCGAN": [99.8, 99.9, 94.2, 96.3, 97.5, 98.0, 99.1, 98.1, 93.9, 98.1],
        "ARNet": [98.3],
        "ESAD": [98.5],
    },
    "fashion-mnist": {"GeoTrans": [93.5], "ARNet": [93.9], "ESAD": [94.0]},
    "cifar10": {
        "AnoGAN in Ruff et al. 2018": [61.8],
        "Deep SVDD": [64.8],
        "OCGAN": [65.6],
        "P-KDGAN": [73.05],
        "ESAD": [78.8],
        "GeoTrans": [86.0],
        "CSI": [94.3],
    },
}


def table(name: str, rows: list[dict]) -> list[str]:
    """Return the Markdown table: AUROC in % by class, averaged over seeds, then the published rows.

    A method's mean is computed from the seeds that have all classes.
    """
    classes = sorted({row["class"] for row in rows} | (set(range(10)) if name in _PUBLISHED else set()))
    lines = [
        "| method | " + " | ".join(map(str, classes)) + " | mean | images | ms |",
        "|---|" + "---|" * (len(classes) + 3),
    ]
    for method, shown in _NAMES.items():
        mine = [row for row in rows if row["method"] == method]
        if not mine:
            continue
        by_class = [[100 * row["auroc"] for row in mine if row["class"] == label] for label in classes]
        by_seed = [
            [100 * row["auroc"] for row in mine if row["seed"] == seed] for seed in {row["seed"] for row in mine}
        ]
        means = [np.mean(found) for found in by_seed if len(found) == len(classes)]
        spread = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
        mean = f"{np.mean(means):.2f}{spread}" if means else ""
        cells = [f"{np.mean(found):.1f}" if found else "" for found in by_class]
        speed = 1000 * np.median([row["seconds"] / row["images"] for row in mine])
        images = "/".join(sorted({f"{row['images']:,}" for row in mine}))
        lines.append(f"| {shown} | " + " | ".join(cells) + f" | {mean} | {images} | {float(f'{speed:.2g}'):g} |")
    for shown, found in _PUBLISHED.get(name, {}).items():
        cells = [f"{value:.1f}" for value in found] if len(found) > 1 else [""] * len(classes)
        lines.append(f"| {shown} | " + " | ".join(cells) + f" | {np.mean(found):.1f} | | |")
    return lines


def write_table(name: str, lines: list[str]) -> None:
    """Replace the lines between the markers of this name in docs/detection.md, if the markers exist."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    between = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = begin + "\n".join(lines) + "\n" + end
    _PAGE.write_text(between.sub(lambda _: text, _PAGE.read_text()))


def main() -> None:
    """Write every table."""
    for name in (*_PUBLISHED, "mnist-contaminated"):
        write_table(name, table(name, json.loads((RESULTS / f"{name}.json").read_text())))


if __name__ == "__main__":
    main()
