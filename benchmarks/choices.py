"""Compare settings of the search on held-out images: how the default of a config was chosen, without the test split.

    python -m benchmarks.choices --config configs/mnist.py --workdir runs/one_class/mnist --config.data.dir=IDX_FOLDER

Uses the detectors of benchmarks.one_class, and trains those that are missing. For each class, AUROC is computed on
held-out images: up to 500 of the normal class against up to 100 of each other class. They are scored by the config's
search and by searches that differ from it in one setting. Prints AUROC in % and images per second; the config's own
search is in bold. Appends a row per class and search to a file, and does not repeat searches that have a row there.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from sklearn.metrics import roc_auc_score

from anogan_jax import cli
from anogan_jax.config import BankConfig, Config, to_fields, with_values
from anogan_jax.data import Images, as_array, load_one_class
from anogan_jax.data.images import from_array
from benchmarks.classes import commit, make_other_bank, of_class, settings, timed_scores, trained

_TRIED: dict[str, tuple[Any, ...]] = {
    "search.starts": (1, 4, 8, 16),
    "search.steps": (0, 1, 4, 8, 16, 64),
    "search.learning_rate": (0.01, 0.02, 0.05, 0.1, 0.3),
    "search.features": ("pixels", "discriminator"),
    "search.reference_weight": (0.0, 0.5, 0.75, 1.0),
}
_NORMAL, _ANOMALOUS = 500, 100  # largest numbers of normal images, and of anomalous ones of each class

_CLASSES = flags.DEFINE_list("classes", [str(n) for n in range(10)], "The classes that are normal in turn.")
_RESULTS = flags.DEFINE_string("results", None, "File of the rows. Default: choices.jsonl in the work directory.")
flags.register_validator("classes", lambda given: all(map(str.isdigit, given)), "must be numbers, such as 0,1")


def main() -> None:
    """Score the held-out images of each class by each choice; print the table."""
    config = cli.given_config() or Config()
    path = Path(_RESULTS.value or cli.given_workdir() / "choices.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    rows = {tuple(row["config"]): row for row in map(json.loads, lines)}
    of_classes = {label: of_class(config, label, config.seed) for label in map(int, _CLASSES.value)}
    for label, of in of_classes.items():
        missing = {name: choice for name, choice in choices(of).items() if tuple(settings(choice)) not in rows}
        if not missing:
            continue
        detector = trained(of, cli.given_workdir() / f"{label}-{of.seed}")
        images, train = held_out_images(of), load_one_class(of).train
        for name, choice in missing.items():
            bank = detector.bank
            if choice.bank != of.bank:
                bank = make_other_bank(detector, train, choice.bank.inverted)
            scores, seconds = timed_scores(detector._replace(bank=bank).with_search(choice.search), images)
            row = {
                "class": label,
                "choice": name,
                "auroc": round(float(roc_auc_score(images.labels, scores)), 5),
                "images": len(scores),
                "images_per_second": round(len(scores) / seconds, 1),
                "commit": commit(),
                "config": settings(choice),
            }
            rows[tuple(settings(choice))] = row
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(label, name, row["auroc"], row["images_per_second"], flush=True)
    found = [[rows[tuple(settings(choice))] for choice in choices(of).values()] for of in of_classes.values()]
    print(*table(list(of_classes), list(choices(config)), found), sep="\n")


def choices(config: Config) -> dict[str, Config]:
    """Return the choices by name: the config itself, in bold, and configs that change one of its settings."""
    fields = to_fields(config)
    tried = _TRIED | {"bank.inverted": (0 if config.bank.inverted else BankConfig.inverted,)}
    found = {f"**{', '.join(_shown(name, fields[name]) for name in tried)}**": config}
    for name, values in tried.items():
        found |= {_shown(name, value): with_values(config, {name: value}) for value in values if value != fields[name]}
    return found


def _shown(name: str, value: Any) -> str:
    return ("inverted bank" if value else "random bank") if name == "bank.inverted" else f"{name[7:]} {value}"


def held_out_images(config: Config) -> Images:
    """Return a fixed sample of the held-out images of all classes; those of other classes are anomalous."""
    parts, labels = [], []
    for label in range(10):
        held_out = load_one_class(with_values(config, {"data.normal": label})).held_out
        is_normal = str(label) == config.data.normal
        count = _NORMAL if is_normal else _ANOMALOUS
        chosen = np.random.default_rng(0).permutation(len(held_out.names))[:count]
        parts.append(as_array(held_out.take(chosen), config))
        labels += [int(not is_normal)] * len(parts[-1])
    return from_array(np.concatenate(parts), config.model.channels, "held-out images", np.array(labels))


def table(classes: list[int], names: list[str], found: list[list[dict]]) -> list[str]:
    """Return the Markdown table.

    Args:
      classes: the normal classes.
      names: the names of the choices.
      found: for each class, a row for each choice.
    """
    head = ["search", *map(str, classes), "mean", "images per second"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, rows in zip(names, zip(*found, strict=True), strict=True):
        auroc, speed = ([row[key] for row in rows] for key in ("auroc", "images_per_second"))
        cells = [
            name,
            *(f"{100 * value:.1f}" for value in auroc),
            f"{100 * np.mean(auroc):.2f}",
            f"{np.mean(speed):,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
