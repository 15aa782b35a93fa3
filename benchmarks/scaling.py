"""Do time per image and memory stay the same however many images are scored?

    python -m benchmarks.scaling --workdir runs/mnist [--counts 64,1000,10000]

Each number of images is scored in a process of its own, from an .npy with draws from the run's test images, to a whole
report. Compiling is left out: two images are scored first. Prints, for each, milliseconds an image (the median of
several passes where they are short) and the process's peak memory.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from anogan_jax import cli
from anogan_jax.data import read_input
from anogan_jax.figures import HeatScale
from anogan_jax.journal import Journal
from anogan_jax.queries import Scored, score_queries
from anogan_jax.report import record, write_report
from anogan_jax.run import make_scorer, open_run
from benchmarks.apart import each_apart

_COUNTS = flags.DEFINE_list("counts", ["64", "1000", "10000"], "Numbers of images.")
_ONE = flags.DEFINE_integer("one", None, "Measure this number alone, in this process.")
_AT_LEAST = 1000  # images in all the passes of one number


def main() -> int:
    """Measures; returns the exit code."""
    if _ONE.value:
        print(json.dumps(measure(_ONE.value)))
        return 0
    for count, found in each_apart("benchmarks.scaling", _COUNTS.value):
        print(
            f"{count:7,} images: {found['milliseconds']:7.2f} ms an image, {found['megabytes']:6,.0f} MB",
            flush=True,
        )
    return 0


def measure(count: int) -> dict[str, float]:
    """Milliseconds an image, and this process's peak memory."""
    run = open_run(cli.given_workdir())
    scorer = make_scorer(run, "bank")
    passes = -(-_AT_LEAST // count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        write_images(path, count)
        queries = read_input(path, run.config.model.channels)
        score = partial(scorer, run.weights)
        for _ in score_queries(score, queries.take(np.arange(2)), run.config, "warming up"):
            pass
        seconds: list[float] = []

        def timed() -> Iterator[Scored]:
            began = time.perf_counter()
            yield from score_queries(score, queries, run.config, "queries")
            seconds.append(time.perf_counter() - began)

        scale = HeatScale(1.0)
        for _ in range(passes):
            journal = Journal(Path(folder) / "unfinished", "")
            record(journal, timed(), queries, scale)
            write_report(Path(folder), journal, np.arange(100.0), 0.05, scale, {})
            journal.remove()
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"milliseconds": 1000 * statistics.median(seconds) / count, "megabytes": megabytes}


def write_images(path: Path, count: int) -> None:
    """Random draws from the run's test images; by a process whose memory is not measured."""
    code = (
        "import sys, numpy as np; from pathlib import Path; from anogan_jax import config; "
        "from anogan_jax.data import as_array, load_one_class; "
        "config = config.load(Path(sys.argv[1])); images = as_array(load_one_class(config).test, config); "
        "np.save(sys.argv[2], images[np.random.default_rng(0).integers(len(images), size=int(sys.argv[3]))])"
    )
    config = cli.given_workdir() / "config.json"
    subprocess.run([sys.executable, "-c", code, str(config), str(path), str(count)], check=True)


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
