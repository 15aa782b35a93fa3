"""Measure time per image and memory against the number of images.

    python -m benchmarks.scaling --workdir runs/mnist [--counts 64,1000,10000]

For each number, scores so many random images of the test split and writes the report, in a separate process. Prints
milliseconds per image without compilation (the median of several passes if they are short) and the process's peak
memory.
"""

import json
import resource
import statistics
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from anogan_jax import cli, load
from anogan_jax.data import load_one_class, test_split
from anogan_jax.evaluation import score_to_folder
from benchmarks.apart import each_apart

_COUNTS = flags.DEFINE_list("counts", ["64", "1000", "10000"], "Numbers of images.")
_ONE = flags.DEFINE_integer("one", None, "Measure only this number, in this process.")
_AT_LEAST, _PASSES = 1000, 5  # images scored in all passes together, at least; passes, at most


def main() -> None:
    """Measure each number."""
    if _ONE.value:
        print(json.dumps(measure(_ONE.value)))
        return
    for count, found in each_apart("benchmarks.scaling", _COUNTS.value):
        speed = f"{found['milliseconds']:7.2f} ms per image"
        print(f"{count:7,} images: {speed}, {found['megabytes']:6,.0f} MB", flush=True)


def measure(count: int) -> dict[str, float]:
    """Return milliseconds per image, and this process's peak memory."""
    detector = load(cli.given_workdir())
    test = test_split(load_one_class(detector.config))
    queries = test.take(np.random.default_rng(0).integers(len(test.names), size=count))

    def seconds(number: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return score_to_folder(detector, queries.take(np.arange(number)), Path(folder), "draws")["seconds"]

    seconds(2)  # compiles the program
    passes = [seconds(count) for _ in range(min(_PASSES, -(-_AT_LEAST // count)))]
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"milliseconds": 1000 * statistics.median(passes) / count, "megabytes": megabytes}


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
