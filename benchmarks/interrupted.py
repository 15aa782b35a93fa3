"""Many files scored in the same memory as few, by a run that is killed twice on the way.

    python -m benchmarks.interrupted --workdir runs/digits [--counts 2000,20000]

For each number, so many PNG files are drawn from the run's test images, with noise; score.py is killed (SIGKILL) after
a third and after two thirds of them, and started again each time. Prints the peak memory of its processes and whether
scores.csv names every file once, in order.
"""

import csv
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from anogan_jax import cli
from anogan_jax import config as configs
from anogan_jax.data import as_array, load_one_class
from benchmarks.apart import each_apart

_COUNTS = flags.DEFINE_list("counts", ["2000", "20000"], "Numbers of files.")
_ONE = flags.DEFINE_integer("one", None, "Do this number alone, in this process.")


def main() -> int:
    """Measures; returns the exit code."""
    if _ONE.value:
        print(json.dumps(interrupted(_ONE.value)))
        return 0
    for count, found in each_apart("benchmarks.interrupted", _COUNTS.value):
        print(
            f"{count:7,} files: {found['megabytes']:6,.0f} MB, {found['seconds']:5.0f} s in all, killed after at least "
            f"{found['killed after']}; {'complete, none twice' if found['complete'] else 'NOT COMPLETE'}",
            flush=True,
        )
    return 0


def interrupted(count: int) -> dict:
    """Scores so many files, killed twice."""
    workdir = cli.given_workdir()
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary) / "files", Path(temporary) / "output"
        names = write_files(folder, count)
        command = [sys.executable, "score.py", f"--workdir={workdir}", f"--input={folder}", f"--output={output}"]
        killed, began = [], time.monotonic()
        for share in (1 / 3, 2 / 3):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while written(output) < share * count:
                if process.poll() is not None:
                    raise RuntimeError("score.py ended before it was killed")
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed.append(written(output))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        with (output / "scores.csv").open() as file:
            rows = list(csv.DictReader(file))
    complete = [row["name"] for row in rows] == names and all(float(row["score"]) > 0 for row in rows)
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"megabytes": megabytes, "seconds": seconds, "killed after": killed, "complete": complete}


def write_files(folder: Path, count: int) -> list[str]:
    """PNG files in folders of a thousand; their names."""
    config = configs.load(cli.given_workdir() / "config.json")
    test = load_one_class(config).test
    assert test is not None
    images = as_array(test, config)
    rng = np.random.default_rng(0)
    names = [f"{i // 1000:03d}/{i:06d}.png" for i in range(count)]
    for name in names:
        image = images[rng.integers(len(images))].astype(np.int16)
        noisy = np.clip(image + rng.integers(-8, 9, image.shape), 0, 255).astype(np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy[..., 0] if noisy.shape[-1] == 1 else noisy).save(folder / name)
    return names


def written(output: Path) -> int:
    """How many of the results are on disk, at least: each part is named after the number of its first."""
    parts = sorted((output / "unfinished").glob("[0-9]*.npz"))
    return int(parts[-1].stem) if parts else 0


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
