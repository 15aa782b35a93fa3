"""Compare the default search with its alternatives in one run: images per second, gradient steps and AUROC.

    python -m benchmarks.search --workdir runs/mnist [--images 256]

The images are random test images, half of them normal. Compares the configured search, the nearest neighbours without
a search, the encoder if there is one, and the paper's 500 steps; times exclude compilation. Prints JSON.
"""

import json
import statistics
from typing import Any

from absl import flags

from anogan_jax import cli, load
from anogan_jax.metrics import ranking_metrics
from benchmarks.classes import balanced_sample, timed_scores, with_preset_search

_IMAGES = flags.DEFINE_integer("images", 256, "Number of test images.", 2)
_SECONDS = 2.0  # passes are repeated until they took this long together


def main() -> None:
    """Measure and print."""
    detector = load(cli.given_workdir())
    images, labels = balanced_sample(detector.config, _IMAGES.value // 2)
    presets = ("nearest", "encoder", "paper") if detector.model.encoder else ("nearest", "paper")
    report: dict[str, Any] = {"images": len(labels)}
    for name in ("default", *presets):
        each = detector if name == "default" else with_preset_search(detector, name)
        passes: list[float] = []
        while sum(passes) < _SECONDS:
            scores, seconds = timed_scores(each, images)
            passes.append(seconds)
        report[name] = {
            "auroc": ranking_metrics(labels, scores)["auroc"],
            "gradient_steps_per_image": each.config.search.starts * each.config.search.steps,
            "images_per_second": len(labels) / statistics.median(passes),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
