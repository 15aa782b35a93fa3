"""Kill runs, run two at once and damage their files, and count how often anything is lost.

    python -m benchmarks.faults --workdir runs/faults

Trains and scores scikit-learn's digits with a tiny model: in processes that are killed at random moments, in two
processes at once, and with flipped bits in every kind of file. Also reads mutated images. Prints a table of counts;
every row should end with a zero. The random moments and places depend on --seed.
"""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from anogan_jax import config as configs
from anogan_jax import load
from anogan_jax.checkpoint import restore_state, saved_steps
from anogan_jax.data import read_inputs
from anogan_jax.detector import gan_of
from anogan_jax.errors import UserError
from anogan_jax.training import init_state, make_optimizer

_WORKDIR = flags.DEFINE_string("workdir", "runs/faults", "Folder of the runs; must not exist.")
_KILLS = flags.DEFINE_integer("kills", 100, "Number of kills in training, and of kills in scoring.", lower_bound=0)
_FLIPS = flags.DEFINE_integer("flips", 20, "Number of flipped bits in each kind of file.", lower_bound=0)
_IMAGES = flags.DEFINE_integer("images", 200, "Number of mutated images.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random moments and places.")

_TINY = [
    "--config=configs/digits.py",
    "--config.train.steps=300",
    "--config.train.checkpoint_every=20",
    "--config.train.log_every=10",
    "--config.model.width=4",
    "--config.bank.size=256",
    "--config.encoder.steps=40",
    "--config.search.steps=4",
]


def main(_: list[str]) -> None:
    """Run all tests; print the table."""
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # Pillow warns of mutated images
    root, rng = Path(_WORKDIR.value).absolute(), np.random.default_rng(_SEED.value)
    if root.exists():
        raise SystemExit(f"error: {root}: exists already; give another --workdir")
    root.mkdir(parents=True)
    rows: list[tuple[str, int | str, int | str]] = [("what was done", "times", "lost or wrong"), ("---", "---", "---")]
    whole, scored, killed, output = (root / name for name in ("whole", "whole-scores", "killed", "killed-scores"))
    longest = [seconds(command) for command in (train(whole), score(whole, scored))]
    kills = kill_until_done(train(killed), killed, longest[0] / 2, rng)  # each run resumes the last
    rows.append(("kills in training", kills, differing(load(whole), load(killed))))
    kills = kill_until_done(score(whole, output), output, longest[1], rng)
    rows.append(("kills in scoring", kills, int(read(scored) != read(output))))
    two = root / "two"
    rows.append(("two processes that train in one folder", 2, two_at_once(train(two), lambda: load(two))))
    both = root / "two-scores"
    rows.append(("two processes that score into one folder", 2, two_at_once(score(whole, both), lambda: read(both))))
    rows.append(("two processes that score into two folders", 2, readers(whole, root, read(scored))))
    for path in sorted((whole / "detector").iterdir()):
        rows.append((f"flipped bits in {path.name}", _FLIPS.value, flips_missed(path, rng, lambda: load(whole))))
    rows.append(("flipped bits in a checkpoint", _FLIPS.value, checkpoint_flips_missed(whole, rng)))
    rows.append(("mutated images", _IMAGES.value, mutations_missed(root, rng)))
    for name, count, lost in rows:
        print(f"| {name} | {count} | {lost} |", flush=True)


def train(workdir: Path) -> list[str]:
    """Return the command that trains in a work directory."""
    return [sys.executable, "train.py", *_TINY, f"--workdir={workdir}"]


def score(workdir: Path, output: Path) -> list[str]:
    """Return the command that scores the test split into a folder."""
    return [sys.executable, "score.py", f"--workdir={workdir}", f"--output={output}"]


def read(output: Path) -> bytes:
    """Return the content of scores.csv."""
    return (output / "scores.csv").read_bytes()


def seconds(command: list[str]) -> float:
    """Run a command; return the seconds that it took."""
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def kill_until_done(command: list[str], folder: Path, longest: float, rng: np.random.Generator) -> int:
    """Run a command again and again, killed after up to ``longest`` seconds, then to its end; return the kills."""
    done = 0
    while done < _KILLS.value:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.1, longest))
            shutil.rmtree(folder)  # the command finished: start over
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
    subprocess.run(command, check=True, capture_output=True)
    return done


def differing(ours: object, theirs: object) -> int:
    """Return how many arrays of two detectors differ in any bit."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return sum(not np.array_equal(one, other) for one, other in pairs if hasattr(one, "shape"))


def two_at_once(command: list[str], check: Callable[[], object]) -> int:
    """Start a command twice; return 0 if one succeeds, a failing one says why and the result is intact, else 1."""
    pair = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(process.communicate()[1], process.returncode) for process in pair]
    check()
    codes = sorted(code for _, code in ended)
    is_said = codes == [0, 0] or any("here; wait for it" in errors for errors, code in ended if code)
    return int(codes[0] != 0 or codes[1] not in (0, 1) or not is_said or any("Traceback" in text for text, _ in ended))


def readers(workdir: Path, root: Path, expected: bytes) -> int:
    """Score the same run into two folders at once; return how many results differ."""
    outputs = [root / "reader-1", root / "reader-2"]
    pair = [
        subprocess.Popen(score(workdir, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for output in outputs
    ]
    return sum(process.wait() != 0 or read(output) != expected for process, output in zip(pair, outputs, strict=True))


def flips_missed(path: Path, rng: np.random.Generator, check: Callable[[], object]) -> int:
    """Flip one bit of a file at a time; return how often ``check`` raised no UserError."""
    content, missed = path.read_bytes(), 0
    for _ in range(_FLIPS.value):
        path.write_bytes(flipped(content, rng))
        try:
            check()
            missed += 1
        except UserError:
            pass
    path.write_bytes(content)
    return missed


def checkpoint_flips_missed(workdir: Path, rng: np.random.Generator) -> int:
    """Flip bits in files of the last checkpoint; return how often the checkpoint was restored nevertheless."""
    config, folder = configs.load(workdir / "config.json"), workdir / "checkpoints"
    optimizer = make_optimizer(config.train.learning_rate, config.train.beta1)
    shapes = jax.eval_shape(lambda: init_state(gan_of(config), optimizer, jax.random.key(0), config.model.channels))
    last, missed = saved_steps(folder)[-1], 0
    files = sorted(path for path in (folder / str(last)).rglob("*") if path.is_file() and path.stat().st_size)
    for path in rng.choice(np.array(files, dtype=object), _FLIPS.value):
        content = path.read_bytes()
        path.write_bytes(flipped(content, rng))
        restored = restore_state(folder, shapes)
        missed += int(restored is None or int(restored.step) == last)
        path.write_bytes(content)
    return missed


def mutations_missed(root: Path, rng: np.random.Generator) -> int:
    """Read images with changed, cut or inserted bytes; return how often an error other than UserError was raised."""
    missed, path = 0, root / "mutated"
    for number in range(_IMAGES.value):
        kind = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")[number % 6]
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(buffer, kind)
        content = bytearray(buffer.getvalue())
        for place in rng.integers(0, len(content), 8):
            content[place] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(content) // 2, len(content) + 1)])
        try:
            read_inputs([path], 1).read(0)
        except UserError:
            pass
        except Exception as error:
            print(json.dumps({"kind": kind, "number": number, "error": repr(error)}), flush=True)
            missed += 1
    return missed


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with one bit flipped."""
    changed = bytearray(content)
    changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


if __name__ == "__main__":
    app.run(main)
