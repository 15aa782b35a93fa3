"""The tables of docs/detection.md, from the rows of benchmarks/results/<data set>.json and the published ones.

python -m benchmarks.one_class_table
"""

import json
import re
from pathlib import Path

import numpy as np

_PAGE = Path(__file__).parent.parent / "docs" / "detection.md"
RESULTS = Path(__file__).parent / "results"
_NAMES = {
    "best": "**this project, default**",
    "explained": "likenesses among explained training images",
    "sampled": "likenesses among random generated images",
    "encoder": "the encoder alone",
    "bank": "A(x), search from the bank",
    "paper": "A(x), the paper's 500 steps",
    "same_knn": "kNN (k=8) under our yardstick",
    "knn2": "kNN (k=2)",
    "knn2cos": "kNN (k=2), cosine",
    "pca32": "PCA-32",
}
# Ruff et al. 2018 (AnoGAN, Deep SVDD), Deecke et al. 2018 (AnoGAN), Perera et al. 2019 (OCGAN); of the rest, means.
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
}


def table(name: str, rows: list[dict]) -> list[str]:
    """AUROC in % of each class, over the seeds; the mean of those seeds that have all classes; the published rows."""
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


def write_table(name: str, rows: list[dict]) -> None:
    """Puts the table into docs/detection.md, where that has a place for it."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    between = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = begin + "\n".join(table(name, rows)) + "\n" + end
    _PAGE.write_text(between.sub(lambda _: text, _PAGE.read_text()))


def main() -> None:
    """Writes every table again."""
    for path in RESULTS.glob("*mnist*.json"):
        write_table(path.stem, json.loads(path.read_text()))


if __name__ == "__main__":
    main()
