"""What the tests share: tiny models and data; rank promotion and warnings are errors."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()  # compiled once for all the scripts that tests run

import jax
import numpy as np
import pytest

from anogan_jax import init_state, make_gan, make_optimizer, make_train_step
from anogan_jax.training import inference_weights

ROOT = Path(__file__).parent.parent
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure():
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def gan():
    """A GAN for 16x16 grey images, small enough to search with in a test."""
    return make_gan(image_size=16, channels=1, width=8, kernel_size=4, latent_size=4)


@pytest.fixture(scope="session")
def blobs():
    """Normal images: one soft blob somewhere, (N, 16, 16, 1) in [-1, 1]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    centres = rng.uniform(5, 10, (256, 2, 1, 1))
    distance = (rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2
    return (2 * np.exp(-distance / 8) - 1)[..., None].astype(np.float32)


@pytest.fixture(scope="session")
def trained_state(gan, blobs):
    """That GAN after 400 steps on the blobs."""
    optimizer = make_optimizer(learning_rate=1e-3)  # so small a model learns faster
    state = init_state(gan, optimizer, jax.random.key(0), channels=1)
    step = make_train_step(gan, optimizer, ema_decay=0.98)
    rng = np.random.default_rng(1)
    for _ in range(400):
        state, _ = step(state, blobs[rng.integers(0, len(blobs), 32)])
    return state


@pytest.fixture(scope="session")
def weights(gan, trained_state):
    return jax.jit(inference_weights, static_argnums=0)(gan, trained_state)


TINY = (
    "--config=configs/digits.py",
    "--config.model.width=4",
    "--config.model.latent_size=4",
    "--config.train.steps=12",
    "--config.train.batch_size=8",
    "--config.train.log_every=4",
    "--config.train.sample_every=6",
    "--config.train.checkpoint_every=5",
    "--config.search.steps=3",
    "--config.search.bank_size=64",
    "--config.data.test_limit=40",
)


def run_script(script, *flags, timeout=300, **environment):
    """Runs train.py or score.py as a user does; a variable given as None is taken out of the environment."""
    environment = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    command = [sys.executable, "-W", "error::UserWarning:anogan_jax", str(ROOT / script), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout, env=environment)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A work directory that train.py left, on the tiny config; treat as read-only."""
    workdir = tmp_path_factory.mktemp("run") / "tiny"
    done = run_script("train.py", *TINY, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    return workdir
