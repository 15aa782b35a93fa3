"""Measure how the memory for scoring an image in patches depends on its size.

    python train.py --config configs/folder.py --config.data.dir=FOLDER --config.patches.enabled --workdir runs/patches
    python -m benchmarks.large_images --workdir runs/patches [--megapixels 25,100,200]

Each image is noise in a PNG file, scored by score.py with the preset nearest and tiles that do not overlap. Prints the
peak memory of the process, and the bytes for each pixel more than in the first image.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from anogan_jax import cli, load

_MEGAPIXELS = flags.DEFINE_list("megapixels", ["25", "100", "200"], "Sizes of the images.")


def main() -> None:
    """Measure each size."""
    workdir = cli.given_workdir()
    model, first = load(workdir).config.model, (0, 0.0)
    print("| megapixels | GB | bytes per further pixel | seconds |\n|---|---|---|---|")
    for megapixels in map(int, _MEGAPIXELS.value):
        side = round(1000 * megapixels**0.5)
        with tempfile.TemporaryDirectory() as temporary:
            image = np.random.default_rng(0).integers(0, 256, (side, side, model.channels), np.uint8)
            Image.fromarray(image.squeeze()).save(Path(temporary) / "image.png", compress_level=1)
            del image
            command = [sys.executable, "score.py", f"--workdir={workdir}", f"--input={temporary}/image.png"]
            command += [f"--output={temporary}/output", "--preset=nearest", f"--config.data.max_pixels={side**2}"]
            peak, seconds = measure([*command, f"--config.pooling.stride={model.image_size}"])
        pixels, peak_of_first = first
        further = f"{(peak - peak_of_first) / (side**2 - pixels):.1f}" if pixels else ""
        print(f"| {megapixels} | {peak / 1e9:.2f} | {further} | {seconds:.0f} |", flush=True)
        first = first if pixels else (side**2, peak)


def measure(command: list[str]) -> tuple[int, float]:
    """Run a command; return its peak memory in bytes, and the seconds that it took."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError("score.py failed")
    return used.ru_maxrss * 1024, time.monotonic() - began


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
