"""Does the search find what is there? Queries G(z*) of a trained model, whose loss can reach zero.

    python -m benchmarks.inversion --workdir runs/mnist --figure docs/inversion.png

For 100 random z*, the residual at the end as a share of the residual at the start (the mean over fresh draws of the
prior), for 1, 2, 4, 8 and 16 restarts of the search as the run's config sets it; and, for one start, the residual
after 1, 2, 5, 10, ... steps of searches that long. Prints JSON, and draws the curve.
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

from anogan_jax import cli, latent_search, sample_latent
from anogan_jax.run import open_run
from anogan_jax.search import project

_FIGURE = flags.DEFINE_string("figure", None, "Where to draw the residual against steps.")
_QUERIES = 100
_RESTARTS = (1, 2, 4, 8, 16)
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def main() -> int:
    """Measures; returns the exit code."""
    run = open_run(cli.given_workdir())
    gan, weights, settings = run.gan, run.weights, run.config.search

    def generate(z: Array) -> Array:
        images: Any = gan.generator.apply(weights.generator, z, train=False)
        return images

    hidden, others = (sample_latent(gan, jax.random.key(seed), (_QUERIES,)) for seed in (1, 2))
    queries = generate(jax.vmap(partial(project, gan))(hidden))
    start = jnp.abs(queries - generate(others)).sum(axis=(1, 2, 3)).mean()

    @partial(jax.jit, static_argnums=1)
    def shares(key: Array, steps: int) -> Array:
        """The residual left of each query, (queries,), as a share of the start's, and the loss it was chosen by."""
        search = partial(
            latent_search,
            gan,
            steps=steps,
            learning_rate=settings.learning_rate,
            discrimination=settings.discrimination,
            discrimination_weight=settings.discrimination_weight,
            feature_layer=settings.feature_layer,
        )
        found = jax.vmap(search, in_axes=(None, 0, 0))(weights, queries, jax.random.split(key, _QUERIES))
        return jnp.stack([found.residual / start, found.loss])

    curve = {steps: np.asarray(shares(jax.random.key(3), steps)[0]) for steps in _STEPS}
    starts = [shares(jax.random.key(3 + i), settings.steps) for i in range(max(_RESTARTS))]
    residuals, losses = (np.array([np.asarray(one[row]) for one in starts]) for row in (0, 1))
    best = {n: np.take_along_axis(residuals[:n], losses[:n].argmin(0)[None], 0)[0] for n in _RESTARTS}
    report = {
        "queries": _QUERIES,
        "start_residual": float(start),
        "under_5_percent_by_restarts": {n: int((left < 0.05).sum()) for n, left in best.items()},
        "median_share_by_restarts": {n: float(np.median(left)) for n, left in best.items()},
        "median_share_by_steps": {n: float(np.median(left)) for n, left in curve.items()},
    }
    print(json.dumps(report, indent=2))
    if _FIGURE.value:
        _draw(curve, Path(_FIGURE.value))
    return 0


def _draw(curve: dict[int, np.ndarray], path: Path) -> None:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    steps = list(curve)
    low, middle, high = np.quantile(list(curve.values()), (0.1, 0.5, 0.9), axis=1)
    axis.fill_between(steps, low, high, alpha=0.25, color="#2a6f97", label="10 % to 90 % of queries")
    axis.plot(steps, middle, color="#2a6f97", marker="o", markersize=4, label="median")
    axis.axhline(0.05, color="black", linestyle="--", linewidth=1, label="5 %")
    axis.set(xscale="log", yscale="log", xlabel="gradient steps, one start", ylabel="residual left of the start's")
    axis.set(title="Queries G(z*): how much residual the search leaves")
    axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
