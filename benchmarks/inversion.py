"""Does the search find what is there? Queries G(z*) of a trained model, whose loss can reach zero.

    python -m benchmarks.inversion --workdir runs/mnist --figure docs/inversion.png

For 100 random z*, the residual left as a share of that of another draw of the prior, after every eight steps: of the
default search, from the nearest of a bank, and of the paper's 500 Adam steps from a random z; with 1, 2 and 4 starts of
which the best counts. No search stops early. Prints JSON, and draws the curves for one start.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from matplotlib.figure import Figure

from anogan_jax import cli, make_bank, make_search, nearest, sample_latent
from anogan_jax.run import open_run
from anogan_jax.search import PAPER_SETTINGS, project

_FIGURE = flags.DEFINE_string("figure", None, "Where to draw the residual against steps.")
_QUERIES = 100
_STARTS = (1, 2, 4)


def main() -> int:
    """Measures; returns the exit code."""
    run = open_run(cli.given_workdir())
    gan, weights, settings = run.gan, run.weights, run.config.search

    def generate(z: Array) -> Array:
        images: Any = gan.generator.apply(weights.generator, z, train=False)
        return images

    hidden, others = (sample_latent(gan, jax.random.key(seed), (_QUERIES,)) for seed in (1, 2))
    queries = generate(jax.vmap(partial(project, gan))(hidden))
    unrelated = jnp.abs(queries - generate(others)).sum(axis=(1, 2, 3)).mean()

    def descend(z: Array, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        """Residual and loss of the best point so far, (rounds, queries, starts), from z (queries, starts, latent)."""
        search = make_search(
            gan,
            **how | {"tolerance": 0.0},
            discrimination=settings.discrimination,
            discrimination_weight=settings.discrimination_weight,
            feature_layer=settings.feature_layer,
        )
        count = z.shape[1]
        images = jnp.repeat(queries, count, axis=0)
        begin = jax.jit(jax.vmap(search.begin, in_axes=(None, 0, 0)))
        descent = begin(weights, images, z.reshape(len(images), -1))
        advance = jax.jit(jax.vmap(search.advance, in_axes=(None, 0)))
        trail = []
        while not descent.done.all():
            descent = advance(weights, descent)
            trail.append([np.asarray(leaf).reshape(-1, count) for leaf in (descent.best.residual, descent.best.loss)])
        residuals, losses = np.array(trail).swapaxes(0, 1)
        return residuals / float(unrelated), losses

    bank = make_bank(gan, weights, jax.random.key(run.config.seed), settings.bank_size)
    random = sample_latent(gan, jax.random.key(3), (_QUERIES, max(_STARTS)))
    trails = {
        "bank": descend(nearest([bank], queries, max(_STARTS))),
        "paper": descend(random, **PAPER_SETTINGS),
    }
    report: dict[str, Any] = {"queries": _QUERIES, "residual_of_an_unrelated_image": float(unrelated)}
    for name, (residuals, losses) in trails.items():
        for starts in _STARTS:
            best = np.take_along_axis(residuals[-1], losses[-1][:, :starts].argmin(1)[:, None], 1)
            report[f"{name}, best of {starts}"] = {
                "under_5_percent": int((best < 0.05).sum()),
                "median_percent": 100 * float(np.median(best)),
            }
    print(json.dumps(report, indent=2))
    if _FIGURE.value:
        _draw({name: residuals[:, :, 0] for name, (residuals, _) in trails.items()}, Path(_FIGURE.value))
    return 0


def _draw(trails: dict[str, np.ndarray], path: Path) -> None:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    for (name, left), color in zip(trails.items(), ("#2a6f97", "#c2571a"), strict=True):
        steps = 8 * np.arange(1, len(left) + 1)
        low, middle, high = np.quantile(left, (0.1, 0.5, 0.9), axis=1)
        axis.fill_between(steps, low, high, alpha=0.2, color=color)
        axis.plot(steps, middle, color=color, label=f"{name}: median, 10 % to 90 % shaded")
    axis.axhline(0.05, color="black", linestyle="--", linewidth=1, label="5 %")
    axis.set(xscale="log", yscale="log", xlabel="gradient steps, one start", ylabel="residual left")
    axis.set(title="Queries G(z*): residual, 1 for an unrelated image")
    axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
