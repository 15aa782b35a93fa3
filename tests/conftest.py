"""Fixtures and helpers of the tests: tiny models, data, a trained detector. Rank promotion and warnings are errors."""

import csv
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles faster; XLA_FLAGS= optimises fully
if "PYTEST_XDIST_WORKER" not in os.environ:  # shared by all workers, and the scripts that the tests run
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from anogan_jax import (
    GAN,
    Config,
    Detector,
    Weights,
    fit,
    inference_weights,
    init_state,
    make_gan,
    make_optimizer,
    make_train_step,
)
from anogan_jax import config as configs
from anogan_jax.config import Window, with_values
from anogan_jax.data.image_files import read_raw
from anogan_jax.data.pixels import to_grey_levels
from anogan_jax.models import Variables
from configs.digits import get_config

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)  # by ml_collections
    from anogan_jax import cli

ROOT = Path(__file__).parent.parent
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the same program is compiled once


def pytest_unconfigure():
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


infer = jax.jit(inference_weights, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def generate(gan: GAN, variables: Variables, z: jax.Array) -> jax.Array:
    """Return the images of z (N, latent) in inference mode."""
    return gan.generator.apply(variables, z, train=False)


@partial(jax.jit, static_argnums=0)
def discriminate(gan: GAN, variables: Variables, images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Return the logits and the features of images in inference mode."""
    return gan.discriminator.apply(variables, images, train=False)


@pytest.fixture(scope="session")
def gan():
    """A GAN for 16x16 grey images, small enough to search with in a test."""
    return make_gan(image_size=16, channels=1, width=8, kernel_size=4, latent_size=4)


@pytest.fixture(scope="session")
def blobs():
    """Normal images: one soft blob somewhere, (256, 16, 16, 1) in [-1, 1]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    centres = rng.uniform(5, 10, (256, 2, 1, 1))
    distance = (rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2
    return (2 * np.exp(-distance / 8) - 1)[..., None].astype(np.float32)


@pytest.fixture(scope="session")
def trained_state(gan, blobs):
    """The training state of ``gan`` after 400 steps on ``blobs``."""
    optimizer = make_optimizer(learning_rate=1e-3)  # so small a model learns faster
    state = init_state(gan, optimizer, jax.random.key(0), channels=1)
    step = make_train_step(gan, optimizer, ema_decay=0.98)
    rng = np.random.default_rng(1)
    for _ in range(400):
        state, _ = step(state, blobs[rng.integers(0, len(blobs), 32)])
    return state


@pytest.fixture(scope="session")
def weights(gan, trained_state) -> Weights:
    """The weights of ``trained_state`` for inference."""
    return infer(gan, trained_state)


TINY: dict[str, Any] = {
    "model.width": 4,
    "model.latent_size": 4,
    "train.steps": 12,
    "train.batch_size": 8,
    "train.log_every": 4,
    "train.sample_every": 6,
    "train.checkpoint_every": 5,
    "encoder.steps": 4,
    "segmenter.steps": 4,
    "rotation.steps": 4,
    "bank.size": 64,
    "bank.inverted": 32,
    "bank.max_deviation": 1e6,  # no outliers: all tiny banks have one size and share compiled programs
    "search.steps": 2,
    "search.starts": 2,
    "data.test_limit": 40,
}


def tiny_config(values: dict[str, Any] | None = None) -> Config:
    """Return configs/digits.py with values that a test can afford, and with these."""
    return with_values(get_config(), TINY | (values or {}))


def tiny_flags(values: dict[str, Any] | None = None) -> list[str]:
    """Return the flags of ``tiny_config(values)`` for train.py."""
    given = TINY | (values or {})
    return [f"--config={ROOT / 'configs/digits.py'}", *(f"--config.{name}={value}" for name, value in given.items())]


class TinyRun(NamedTuple):
    """A finished training run on the packaged digits."""

    workdir: Path
    detector: Detector


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> TinyRun:
    """The run that ``fit(config=tiny_config())`` leaves; treat it as read-only."""
    workdir = tmp_path_factory.mktemp("tiny") / "run"
    return TinyRun(workdir, fit(config=tiny_config(), workdir=workdir))


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    output: str
    errors: str


def run_script(script: str, *flags: Any, timeout: float = 300, **environment: str) -> Ended:
    """Run train.py or score.py in a new process, as a user does."""
    command = [sys.executable, "-W", "error::UserWarning:anogan_jax", str(ROOT / script), *map(str, flags)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=timeout, env={**os.environ, **environment}
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run_main(monkeypatch, capsys, caplog) -> Callable[..., Ended]:
    """Return ``run(main, *flags)``: a script's main function with its command line, in this process."""
    for name in ("handle_ctrl_c", "keep_memory", "keep_compiled_programs"):
        monkeypatch.setattr(cli, name, lambda: None)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def run(main: Callable[[], int | None], *flags: Any) -> Ended:
        given = [str(flag) for flag in flags]
        if not any(flag == "--config" or flag.startswith("--config=") for flag in given):
            given.insert(0, f"--config={configs.__file__}")  # the default, to which ml_collections adds the overrides
        monkeypatch.setattr(sys, "argv", [f"{main.__module__}.py", *given])
        caplog.clear()
        capsys.readouterr()
        with flagsaver.flagsaver(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            with pytest.raises(SystemExit) as ended:
                cli.run(main)
        shown = capsys.readouterr()
        return Ended(ended.value.code, shown.out, "\n".join([*caplog.messages, shown.err]))

    return run


def read_image(path: Path, channels: int, window: Window = None) -> np.ndarray:
    """Read the only picture of an image file as (H, W, C) uint8; raise UserError if it cannot be read."""
    return to_grey_levels(*read_raw(path, window is not None), channels, window)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open() as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_trees_equal(ours: Any, theirs: Any) -> None:
    """Assert that two trees have the same arrays, bit for bit."""
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(*(jax.random.key_data(x) if is_key(x) else x for x in (mine, other)))


def is_key(leaf: Any) -> bool:
    """Return whether a leaf of a tree is a random key."""
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
