"""Does the default search end as low as the paper's, and detect as well, with a fraction of the work?

    python -m benchmarks.search --workdir runs/mnist [--queries 512]

Queries are a random half and half of the run's normal and anomalous test images. For the nearest of the bank without a
search, an encoder without one (if the run has it), the search from the bank and the paper's 500 Adam steps from a
random z: the mean score (of the searches the final loss A(x)), AUROC, generator evaluations for each image (one for
each gradient step) and images a second, compiling and the making of the bank left out. Prints JSON.
"""

import json
import time
from typing import Any

import numpy as np
from absl import flags

from anogan_jax import cli, score_images, to_model_range
from anogan_jax.data import as_array, load_one_class
from anogan_jax.errors import UserError
from anogan_jax.metrics import ranking_metrics
from anogan_jax.run import make_scorer, open_run

_QUERIES = flags.DEFINE_integer("queries", 512, "How many test images.", 2)


def main() -> int:
    """Measures; returns the exit code."""
    run = open_run(cli.given_workdir())
    test = load_one_class(run.config).test
    if test is None or test.labels is None:
        raise UserError("the run's data has no labelled test split")
    rng = np.random.default_rng(0)
    halves = [rng.permutation(np.flatnonzero(test.labels == label))[: _QUERIES.value // 2] for label in (0, 1)]
    chosen = rng.permutation(np.concatenate(halves))
    labels, images = (
        test.labels[chosen],
        to_model_range(as_array(test.take(chosen), run.config), run.config.data.normalize_contrast),
    )
    report: dict[str, Any] = {"images": len(images)}
    for method in ("nearest", *(["encoder"] if run.config.encoder.steps else []), "bank", "paper"):
        turns: list[int] = []
        scorer = make_scorer(run, method, on_turn=turns.append)
        score_images(scorer, run.weights, images[:2])
        turns.clear()
        began = time.perf_counter()
        loss = score_images(scorer, run.weights, images).score
        seconds = time.perf_counter() - began
        report[method] = {
            "mean_score": float(loss.mean()),
            "mean_score_normal": float(loss[labels == 0].mean()),
            "mean_score_anomalous": float(loss[labels == 1].mean()),
            "auroc": ranking_metrics(labels, loss)["auroc"],
            "evaluations_per_image": 8 * sum(turns) / len(images),
            "images_per_second": len(images) / seconds,
        }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
