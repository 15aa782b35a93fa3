"""Test a detector on images that edge structure may not reveal: blank, darker, noisy, blurred, covered, other things.

    python train.py --config configs/mnist.py
    python -m benchmarks.blind_spots --workdir runs/mnist

Changes up to 100 of the detector's held-out normal images and scores them with the detector's own settings. For each
change the table gives the share called anomalous at alpha 0.05 and the term that determined most of these scores. Its
last rows are the shares of false alarms among the unchanged held-out images and among up to 500 normal images of the
test split. Stores the shares under the work directory's name in benchmarks/results/blind-spots.json, and writes the
table of all work directories to docs/detection.md.
"""

import json
from collections import Counter
from collections.abc import Callable

import numpy as np
from absl import flags
from scipy import ndimage
from sklearn.datasets import load_sample_images

from anogan_jax import cli, load, p_values
from anogan_jax.config import with_values
from anogan_jax.data import Images, load_one_class
from anogan_jax.data.images import from_list, resize
from anogan_jax.detector import Detector, findings_of
from anogan_jax.errors import UserError
from anogan_jax.files import replacing
from benchmarks.one_class_table import RESULTS, write_table

_COUNT = 100
_ALPHA = 0.05
Change = Callable[[np.ndarray], np.ndarray]  # changes an image (H, W, C) uint8


def changes(channels: int) -> dict[str, Change]:
    """Return the changes by name; changes of single channels are only for colour images."""
    rng = np.random.default_rng(0)
    photographs = load_sample_images().images

    def noisy(sigma: float) -> Change:
        return lambda image: _to_uint8(image + rng.normal(0, sigma, image.shape))

    def covered(level: int) -> Change:
        def cover(image: np.ndarray) -> np.ndarray:
            height, width = image.shape[0] // 4, image.shape[1] // 4
            row, column = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
            result = image.copy()
            result[row : row + height, column : column + width] = level
            return result

        return cover

    def photographed(image: np.ndarray) -> np.ndarray:
        """Cut a square of 100x100 pixels out of a photograph, resized to the image's size."""
        photograph = photographs[rng.integers(len(photographs))]
        row, column = (rng.integers(length - 100) for length in photograph.shape[:2])
        part = photograph[row : row + 100, column : column + 100]
        part = part if channels == 3 else np.rint(part.mean(axis=-1, keepdims=True)).astype(np.uint8)
        return resize(part, *image.shape[:2])

    found: dict[str, Change] = {
        "black": np.zeros_like,
        "white": lambda image: np.full_like(image, 255),
        "mid-grey": lambda image: np.full_like(image, 128),
        "its mean colour": lambda image: np.broadcast_to(_to_uint8(image.mean(axis=(0, 1))), image.shape),
        "+100 grey levels": lambda image: _to_uint8(image + 100.0),
        "a quarter of the brightness": lambda image: image // 4,
        "inverted": lambda image: 255 - image,
        "noise, sigma 25": noisy(25),
        "noise, sigma 75": noisy(75),
        "pure noise": lambda image: rng.integers(0, 256, image.shape, np.uint8),
        "blurred, sigma 3": lambda image: ndimage.gaussian_filter(image, (3, 3, 0)),
        "turned by 90 degrees": np.rot90,
        "black square, 1/16 of the area": covered(0),
        "grey square, 1/16 of the area": covered(128),
        "parts of photographs": photographed,
    }
    if channels == 3:
        found["red and blue swapped"] = lambda image: image[..., ::-1]
        found["without green"] = lambda image: image * np.array([1, 0, 1], np.uint8)
    return found


def main() -> None:
    """Score every change and write the shares."""
    workdir = cli.given_workdir()
    detector = load(workdir)
    if not detector.held_out:
        raise UserError(f"{workdir}: the detector has no held-out images, which this benchmark changes")
    channels, rng = detector.config.model.channels, np.random.default_rng(1)
    chosen = rng.permutation(len(detector.held_out))[:_COUNT]
    images = [detector.held_out[i] for i in chosen]
    as_resized = detector._replace(config=with_values(detector.config, {"patches.scale": 1.0}))
    rows = {}
    for name, change in changes(channels).items():
        changed = from_list([np.ascontiguousarray(change(image)) for image in images], channels, name)
        rows[name] = called_anomalous(as_resized, changed)
        print(name, *rows[name], flush=True)
    rows["false alarms: held-out images"] = called_anomalous(as_resized, from_list(images, channels, "held out"))
    test = load_one_class(detector.config).test
    if test is not None and test.labels is not None:
        normal = test.take(rng.permutation(np.flatnonzero(test.labels == 0))[: 5 * _COUNT])
        rows["false alarms: test split"] = called_anomalous(detector, normal)
    path = RESULTS / "blind-spots.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[workdir.name] = rows
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(known, indent=1) + "\n")
    write_table("blind-spots", table(known))
    print(*table({workdir.name: rows}), sep="\n")


def called_anomalous(detector: Detector, images: Images) -> tuple[float, str]:
    """Return the share of images called anomalous, and the term that determined most of their scores."""
    findings = list(findings_of(detector, images))
    p = p_values(np.array([finding.score for finding in findings]), detector.calibration.scores)
    return float(np.mean(p <= _ALPHA)), Counter(finding.term for finding in findings).most_common(1)[0][0]


def table(results: dict[str, dict]) -> list[str]:
    """Return the Markdown table: for each work directory the share called anomalous in %, and the term."""
    changes_seen = list(dict.fromkeys(change for rows in results.values() for change in rows))
    lines = ["| images | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for change in changes_seen:
        found = [rows.get(change) for rows in results.values()]
        cells = [f"{100 * each[0]:.0f} {each[1]}" if each else "" for each in found]
        lines.append(f"| {change} | " + " | ".join(cells) + " |")
    return lines


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
