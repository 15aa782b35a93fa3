"""Show where one trained detector loses detection: in the search, the feature space, or the generator's coverage.

    python -m benchmarks.causes --workdir runs/one_class/mnist/8-0 --figure docs/causes-mnist-8.png

Uses 128 normal and 128 anomalous test images. Search: the score and its AUROC against the number of gradient steps, for
the default search by structure and in pixels, and for the paper's search. Coverage: the AUROC of the distance to the
nearest image among growing numbers of random generated images, among the training images, and among their inversions,
in both feature spaces.
Prints the tables and saves the plots; no setting is chosen from them.
"""

from dataclasses import replace
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from anogan_jax import Bank, Detector, UserError, cli, draw_bank, load
from anogan_jax.bank import bank_of_images
from anogan_jax.config import BankConfig, FeatureSpace, with_preset
from anogan_jax.data import Images, load_one_class
from benchmarks.classes import (
    balanced_sample,
    in_model_range,
    make_other_bank,
    timed_scores,
    with_neighbours,
)

_EACH = 128  # number of normal images, and of anomalous ones
_STEPS = {"structure": (0, 1, 4, 8, 16, 64), "pixels": (0, 1, 4, 8, 16, 64), "paper": (0, 1, 8, 64, 500)}
_STYLES = {"structure": "-", "pixels": ":", "paper": "--"}
_SIZES = (512, 2_048, 8_192, 32_768)
_SPACES: tuple[FeatureSpace, ...] = ("structure", "pixels")

_FIGURE = flags.DEFINE_string("figure", None, "File of the plots.", required=True)


def main() -> None:
    """Measure, print and plot."""
    detector = load(cli.given_workdir())
    if detector.config.patches.enabled:
        raise UserError("the detector uses patches; this benchmark needs a detector of whole images")
    images, labels = balanced_sample(detector.config, _EACH)
    descent = {name: against_steps(detector, images, name) for name in _STEPS}
    banks = banks_of(detector)
    coverage = {space: against_banks(detector, images, banks, space) for space in _SPACES}
    show(labels, descent, coverage)
    save(Path(_FIGURE.value), labels, descent, coverage)


def against_steps(detector: Detector, images: Images, name: str) -> dict[str, np.ndarray]:
    """Return the scores for each number of steps of a search."""
    search = with_preset(detector.config, "paper" if name == "paper" else "anogan").search
    if name == "pixels":
        search = replace(search, features="pixels")
    return {
        str(steps): timed_scores(detector.with_search(replace(search, steps=steps)), images)[0]
        for steps in _STEPS[name]
    }


def banks_of(detector: Detector) -> dict[str, Bank]:
    """Return the banks: random images, named by their number; training images; inversions."""
    train = load_one_class(detector.config).train
    random = draw_bank(detector.gan, detector.model.weights, jax.random.key(0), max(_SIZES))
    banks = {f"{size:,}": Bank(random.z[:size], random.images[:size]) for size in _SIZES}
    banks["training images"] = bank_of_images(in_model_range(train, detector.config), detector.gan.latent_size)
    banks["inverted"] = make_other_bank(detector, train, BankConfig.inverted)
    return banks


def against_banks(
    detector: Detector, images: Images, banks: dict[str, Bank], space: FeatureSpace
) -> dict[str, np.ndarray]:
    """Return the distances to the nearest image of each bank."""
    return {
        name: timed_scores(with_neighbours(detector, bank, starts=1, features=space), images)[0]
        for name, bank in banks.items()
    }


def show(labels: np.ndarray, descent: dict, coverage: dict) -> None:
    """Print the tables."""
    tables = {f"score, steps of the search: {name}": found for name, found in descent.items()}
    tables |= {f"distance in {space} to the nearest of": found for space, found in coverage.items()}
    for title, rows in tables.items():
        table = Table(title, "normal", "anomalous", "AUROC")
        for name, values in rows.items():
            means = (f"{values[labels == label].mean():.4g}" for label in (0, 1))
            table.add_row(name, *means, f"{roc_auc_score(labels, values):.3f}")
        Console(soft_wrap=True).print(table)


def save(path: Path, labels: np.ndarray, descent: dict, coverage: dict) -> None:
    """Save the plots."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for name, found in descent.items():
        steps, unit = list(map(int, found)), next(iter(found.values()))[labels == 0].mean()
        for label, colour in ((0, "tab:blue"), (1, "tab:red")):
            means = [values[labels == label].mean() / unit for values in found.values()]
            kind = ("normal", "anomalous")[label]
            axes[0].plot(steps, means, _STYLES[name], color=colour, label=f"{kind}, {name}")
        aurocs = [roc_auc_score(labels, values) for values in found.values()]
        axes[1].plot(steps, aurocs, _STYLES[name], color="black", label=name)
    axes[0].set(xlabel="gradient steps", ylabel="mean score, 1 for normal at 0 steps", title="The search fits both")
    axes[1].set(xlabel="gradient steps", ylabel="AUROC", title="Its effect on detection")
    for axis in axes[:2]:
        axis.set_xscale("symlog", linthresh=1)
    for space, found in coverage.items():
        *random, training, inverted = [roc_auc_score(labels, values) for values in found.values()]
        (line,) = axes[2].plot(_SIZES, random, label=f"random, {space}")
        for name, auroc, style in (("training images", training, ":"), ("inverted", inverted, "--")):
            axes[2].axhline(auroc, ls=style, color=line.get_color(), label=f"{name}, {space}")
    axes[2].set(xscale="log", xlabel="random generated images", ylabel="AUROC", title="Nearest image, no search")
    for axis in axes:
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
