"""What the settings of a config were chosen by: held-out training images, not the test split.

    python -m benchmarks.choices --config configs/mnist.py --workdir runs/one_class/mnist --config.data.dir=IDX_FOLDER

For the models that benchmarks.one_class trained. Each class in turn is normal, and those of its training images that
were held out are to be told from those of the other classes. Prints the table in docs/detection.md: what the queries
are compared with, random images, training images as the generator makes them or the training images themselves, and by
which yardstick the nearest are found; the config's own choice is in bold, and the rest deviates from that.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from absl import flags
from sklearn.metrics import roc_auc_score

from anogan_jax import cli
from anogan_jax.config import Config, SearchConfig
from anogan_jax.data import as_array, load_one_class
from anogan_jax.data.images import from_array
from anogan_jax.errors import UserError
from benchmarks.classes import Scores, of_class, same_knn, searched, trained

_CLASSES = range(10)


def main() -> None:
    """Scores each class by each choice."""
    config = cli.given_config() or Config()
    if config.search.method != "nearest":
        raise UserError(f"search.method={config.search.method}: the choices are of nearest")
    found: dict[str, list[float]] = {}
    of_classes = [of_class(config, label, config.seed) for label in _CLASSES]
    held_out = [as_array(load_one_class(of).held_out, of) for of in of_classes]
    for label in _CLASSES:
        labels = np.repeat(np.arange(10) != label, [len(images) for images in held_out])
        images = from_array(np.concatenate(held_out), config.model.channels, "held-out images", labels.astype(int))
        run = trained(of_classes[label], cli.given_workdir() / f"{label}-{config.seed}")
        data = load_one_class(run.config)._replace(test=images)
        for name, changes, method in choices(run.config.search):
            changed = replace(run.config, search=replace(run.config.search, **changes))
            scores = method(run._replace(config=changed), data)()
            found.setdefault(name, []).append(100 * float(roc_auc_score(labels, scores)))
            print(label, name, f"{found[name][-1]:.2f}", flush=True)
    print("| compared with | " + " | ".join(map(str, _CLASSES)) + " | mean |", "|---|" + "---|" * 11, sep="\n")
    for name, each in found.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in each) + f" | {np.mean(each):.2f} |")


def choices(search: SearchConfig) -> Iterator[tuple[str, dict[str, Any], Callable[..., Scores]]]:
    """Their names, what of the config they change, and how they score."""
    references, nearest_by = search.references, search.nearest_by or search.yardstick
    for kind, by in product(("random", "explained", "training"), ("structure", "pixels")):
        chosen = kind == ("explained" if references else "random") and by == nearest_by
        changes = {"references": 0 if kind == "random" else SearchConfig.references, "nearest_by": by}
        name = f"{kind} images, nearest by {by}"
        method = same_knn if kind == "training" else partial(searched, "anogan")
        yield f"**{name}**" if chosen else name, changes, method
    for count in (1, 4, 16):
        yield f"chosen, {count} neighbour{'s' * (count > 1)}", {"neighbours": count}, partial(searched, "anogan")
    yield "chosen, all in pixels", {"yardstick": "pixels", "nearest_by": "pixels"}, partial(searched, "anogan")


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
