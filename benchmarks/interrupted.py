"""Check that a scoring run that is killed twice is complete, and that many files need no more memory than few.

    python -m benchmarks.interrupted --workdir runs/digits [--counts 2000,20000]

For each number, writes so many PNG files of random test images with noise, kills score.py (SIGKILL) after a third and
after two thirds of them, and starts it again each time. Prints the peak memory of its processes and whether scores.csv
names every file once, in order.
"""

import csv
import json
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from anogan_jax import cli, load
from anogan_jax.data import as_array, load_one_class, test_split
from benchmarks.apart import each_apart

_COUNTS = flags.DEFINE_list("counts", ["2000", "20000"], "Numbers of files.")
_ONE = flags.DEFINE_integer("one", None, "Score only this number, in this process.")


def main() -> None:
    """Measure each number."""
    if _ONE.value:
        print(json.dumps(interrupted(_ONE.value)))
        return
    for count, found in each_apart("benchmarks.interrupted", _COUNTS.value):
        print(
            f"{count:7,} files: {found['megabytes']:6,.0f} MB, {found['seconds']:5.0f} s in total, "
            f"killed after {found['killed after']}; {'complete, none twice' if found['complete'] else 'NOT COMPLETE'}",
            flush=True,
        )


def interrupted(count: int) -> dict:
    """Score ``count`` files in a run that is killed twice; return what was measured."""
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
                    raise RuntimeError("score.py ended before it could be killed")
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
    """Write PNG files, a thousand in each folder; return their names."""
    config = load(cli.given_workdir()).config
    images = as_array(test_split(load_one_class(config)), config)
    rng = np.random.default_rng(0)
    names = [f"{i // 1000:03d}/{i:06d}.png" for i in range(count)]
    for name in names:
        image = images[rng.integers(len(images))].astype(np.int16)
        noisy = np.clip(image + rng.integers(-8, 9, image.shape), 0, 255).astype(np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy[..., 0] if noisy.shape[-1] == 1 else noisy).save(folder / name)
    return names


def written(output: Path) -> int:
    """Return the number of results on disk."""
    try:
        with closing(sqlite3.connect(f"file:{output}/.unfinished.sqlite?mode=ro", uri=True)) as journal:
            return int(journal.execute("SELECT COUNT(*) FROM entries").fetchone()[0])
    except sqlite3.OperationalError:  # the file or the table does not exist yet
        return 0


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
