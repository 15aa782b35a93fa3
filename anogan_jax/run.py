"""A trained run: what a work directory holds, ready to score images."""

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from anogan_jax import config as configs
from anogan_jax.atomic import replacing
from anogan_jax.config import Config
from anogan_jax.data import load_one_class, to_model_range
from anogan_jax.data.images import read_arrays
from anogan_jax.errors import UserError
from anogan_jax.fit import gan_of, restored_or_new
from anogan_jax.models import GAN, Weights
from anogan_jax.scoring import BatchScore, Scores, make_discriminator_score, make_search_score, score_batches
from anogan_jax.search import latent_search
from anogan_jax.training import inference_weights

log = logging.getLogger(__name__)

# The table of the AnoGAN paper. "anogan" is the search as the config sets it.
METHODS = {
    "anogan": "the latent search, as configured",
    "yeh": "the latent search under the discriminator's cross entropy (Yeh et al. 2016)",
    "discriminator": "P_D, the discriminator's output alone",
}


class Run(NamedTuple):
    """A trained model with its config."""

    workdir: Path
    config: Config
    gan: GAN
    weights: Weights
    step: int  # training steps done


def open_run(workdir: Path) -> Run:
    """Rebuilds the trained model from a work directory alone.

    Raises:
      UserError: it holds no run, or no checkpoint that can be read.
    """
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir}: holds no run (no config.json there); train one first, with train.py")
    config = configs.load(workdir / "config.json")
    state = restored_or_new(workdir, config)
    step = int(state.step)
    if step == 0:
        raise UserError(f"{workdir}: has no checkpoint yet; train first")
    if step < config.train.steps:
        log.warning("%s: training stopped at step %d of %d", workdir, step, config.train.steps)
    gan = gan_of(config)
    return Run(workdir, config, gan, jax.jit(inference_weights, static_argnums=0)(gan, state), step)


def make_batch_score(run: Run, method: str) -> BatchScore:
    """Compiles one of METHODS for the run's model."""
    if method == "discriminator":
        return make_discriminator_score(run.gan)
    settings = run.config.search
    search = partial(
        latent_search,
        run.gan,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        restarts=settings.restarts,
        discrimination="cross_entropy" if method == "yeh" else settings.discrimination,
        discrimination_weight=settings.discrimination_weight,
        feature_layer=settings.feature_layer,
    )
    return make_search_score(search, run.config.seed)


def score_with_progress(run: Run, batch_score: BatchScore, images: np.ndarray, what: str) -> Scores:
    """Scores images (N, S, S, C) uint8 under a progress bar (on a terminal)."""
    images = to_model_range(images, run.config.data.normalize_contrast)
    width = run.config.search.batch_size
    parts = []
    with tqdm(total=len(images), desc=what, unit="image", disable=None, dynamic_ncols=True) as bar:
        for part in score_batches(batch_score, run.weights, images, width):
            parts.append(part)
            bar.update(len(part.score))
    return Scores(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def held_out_scores(run: Run, batch_score: BatchScore, method: str) -> np.ndarray:
    """The (M,) scores of the held-out normal images; kept in the work directory, for they need no second search."""
    path = run.workdir / f"held_out-{method}-{run.step}.npz"
    made_with = repr((run.config.data, run.config.search, run.config.seed))
    if path.exists():
        kept = read_arrays(path)
        if str(kept.get("made_with")) == made_with:
            return kept["scores"]
    images = load_one_class(run.config).held_out.images
    scores = score_with_progress(run, batch_score, images, "held-out images").score
    with replacing(path) as temporary:
        np.savez(temporary, scores=scores, made_with=made_with)
    return scores
