"""Measure how well the search inverts the generator, on queries G(z*), whose residual can reach zero.

    python -m benchmarks.inversion --workdir runs/mnist --figure docs/inversion.png

For 100 random z*, measures the pixel residual that remains after a search, divided by the residual of an unrelated
image. Two searches are compared: SOAP from the nearest images of a random bank (as in the inversion of training
images), and Adam from a random z (the paper's). Each is run for several numbers of steps and with 1, 2 and 4 starts, of
which the best counts. Prints JSON, and draws the curves of one start.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array, lax
from matplotlib.figure import Figure

from anogan_jax import cli, draw_bank, load, make_features, make_index, make_search, retrieve, sample_latent
from anogan_jax.models import project

_FIGURE = flags.DEFINE_string("figure", None, "File of the plot of the residual against steps.")
_QUERIES = 100
_STARTS = (1, 2, 4)
_PAPER: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.1, "discrimination_weight": 0.1}
_SEARCHES = {"bank": ({}, (4, 8, 16, 24, 32, 64)), "paper": (_PAPER, (4, 8, 16, 32, 64, 200, 500))}


def main() -> None:
    """Measure, print and draw."""
    detector = load(cli.given_workdir())
    gan, weights, config = detector.gan, detector.model.weights, detector.config
    pixels = make_features("pixels", config.model.image_size, config.model.channels)

    def generate(z: Array) -> Array:
        images: Any = gan.generator.apply(weights.generator, jax.vmap(partial(project, gan))(z), train=False)
        return images

    queries, others = (generate(sample_latent(gan, jax.random.key(seed), (_QUERIES,))) for seed in (1, 2))
    unrelated = float(jnp.abs(queries - others).sum(axis=(1, 2, 3)).mean())

    def search_all(z: Array, steps: int, **settings: Any) -> Any:
        """Return the results of the searches from z (queries, starts, latent), with axes (queries, starts)."""
        search = make_search(gan, pixels, steps=steps, feature_layer=config.search.feature_layer, **settings)
        pairs = (jnp.repeat(queries, z.shape[1], axis=0), z.reshape(-1, z.shape[-1]))
        found = jax.jit(partial(lax.map, lambda pair: search.run(weights, *pair), batch_size=64))(pairs)
        return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*z.shape[:2], *leaf.shape[1:]), found)

    bank = draw_bank(gan, weights, jax.random.key(config.seed), config.bank.size)
    index = make_index(bank, pixels)
    starts = {
        "bank": index.z[retrieve(index.neighbours, queries.reshape(_QUERIES, -1), max(_STARTS))],
        "paper": sample_latent(gan, jax.random.key(3), (_QUERIES, max(_STARTS))),
    }
    report: dict[str, Any] = {"queries": _QUERIES, "residual_of_an_unrelated_image": unrelated}
    curves: dict[str, dict[int, np.ndarray]] = {}
    for name, (settings, numbers) in _SEARCHES.items():
        found = {steps: search_all(starts[name], steps, **settings) for steps in numbers}
        curves[name] = {steps: of.residual[:, 0] / unrelated for steps, of in found.items()}
        last = found[max(numbers)]
        for count in _STARTS:
            best = np.take_along_axis(last.residual, last.loss[:, :count].argmin(axis=1)[:, None], axis=1) / unrelated
            report[f"{name}, best of {count}"] = {
                "under_5_percent": int((best < 0.05).sum()),
                "median_percent": 100 * float(np.median(best)),
            }
    print(json.dumps(report, indent=2))
    if _FIGURE.value:
        _draw(curves, Path(_FIGURE.value))


def _draw(curves: dict[str, dict[int, np.ndarray]], path: Path) -> None:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    for (name, left), color in zip(curves.items(), ("#2a6f97", "#c2571a"), strict=True):
        low, middle, high = np.quantile(list(left.values()), (0.1, 0.5, 0.9), axis=1)
        axis.fill_between(list(left), low, high, alpha=0.2, color=color)
        axis.plot(list(left), middle, color=color, label=f"{name}: median, 10 % to 90 % shaded")
    axis.axhline(0.05, color="black", linestyle="--", linewidth=1, label="5 %")
    axis.set(xscale="log", yscale="log", xlabel="gradient steps of the search, one start", ylabel="remaining residual")
    axis.set(title="Queries G(z*): residual, 1 for an unrelated image")
    axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
