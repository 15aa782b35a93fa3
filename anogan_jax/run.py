"""A trained run: what a work directory holds, ready to score images."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from anogan_jax import config as configs
from anogan_jax.atomic import replacing
from anogan_jax.bank import Bank, make_bank
from anogan_jax.config import Config
from anogan_jax.data import load_one_class, to_model_range
from anogan_jax.data.images import read_arrays
from anogan_jax.errors import UserError
from anogan_jax.fit import gan_of, restored_or_new
from anogan_jax.models import GAN, Weights
from anogan_jax.scoring import Score, Scorer, from_bank, from_prior, make_discriminator_scorer, make_search_scorer
from anogan_jax.search import make_search
from anogan_jax.training import inference_weights

log = logging.getLogger(__name__)
_DEFAULTS = {"bank": (64, 0.3), "paper": (500, 0.1)}  # steps and learning rate of the search methods
_BANK_BLOCK = 32_768  # images

# The table of the AnoGAN paper. "anogan" is the search as the config sets it.
METHODS = {
    "anogan": "the latent search, as configured",
    "paper": "the latent search with the paper's 500 steps from a random z",
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


def make_scorer(run: Run, method: str, on_turn: Callable[[int], None] | None = None) -> Scorer:
    """Builds one of METHODS for the run's model; the first use of the bank makes it.

    ``on_turn`` is as for ``make_search_scorer``.
    """
    if method == "discriminator":
        return make_discriminator_scorer(run.gan)
    settings = run.config.search
    if method == "paper" and settings.method != "paper":
        settings = replace(settings, method="paper", steps=None, learning_rate=None)
    paper = settings.method == "paper"
    steps, learning_rate = _DEFAULTS[settings.method]
    search = make_search(
        run.gan,
        steps=settings.steps or steps,
        learning_rate=settings.learning_rate or learning_rate,
        decay=not paper,
        tolerance=0.0 if paper else settings.tolerance,
        discrimination="cross_entropy" if method == "yeh" else settings.discrimination,
        discrimination_weight=settings.discrimination_weight,
        feature_layer=settings.feature_layer,
    )
    if paper:
        return make_search_scorer(search, from_prior(run.gan, run.config.seed, settings.restarts), on_turn)
    return make_search_scorer(search, from_bank(run.gan, _BankFiles(run), settings.restarts), on_turn)


def score_with_progress(run: Run, scorer: Scorer, images: np.ndarray, what: str) -> Score:
    """Scores images (N, S, S, C) uint8 under a progress bar (on a terminal); fields gain a leading axis."""
    seen = (to_model_range(image[None], run.config.data.normalize_contrast)[0] for image in images)
    scores = tqdm(
        scorer(run.weights, seen), total=len(images), desc=what, unit="image", disable=None, dynamic_ncols=True
    )
    return Score(*(np.stack(field) for field in zip(*scores, strict=True)))


def held_out_scores(run: Run, scorer: Scorer, method: str) -> np.ndarray:
    """The (M,) scores of the held-out normal images; kept in the work directory, for they need no second search."""
    path = run.workdir / f"held_out-{method}-{run.step}.npz"
    made_with = repr((run.config.data, run.config.search, run.config.seed))
    if path.exists():
        kept = read_arrays(path)
        if str(kept.get("made_with")) == made_with:
            return kept["scores"]
    images = load_one_class(run.config).held_out.images
    scores = score_with_progress(run, scorer, images, "held-out images").score
    with replacing(path) as temporary:
        np.savez(temporary, scores=scores, made_with=made_with)
    return scores


class _BankFiles:
    """The run's bank in blocks, bank/<step>/<block>-<images>.npz, each made when first needed.

    A bank of one block stays in memory; a larger one is read again for every pass.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        size = run.config.search.bank_size
        self._sizes = [min(_BANK_BLOCK, size - first) for first in range(0, size, _BANK_BLOCK)]
        self._whole: Bank | None = None

    def __iter__(self) -> Iterator[Bank]:
        for number in range(len(self._sizes)):
            if self._whole is not None:
                yield self._whole
                continue
            bank = self._block(number)
            if len(self._sizes) == 1:
                self._whole = bank
            yield bank

    def _block(self, number: int) -> Bank:
        run, size = self._run, self._sizes[number]
        path = run.workdir / "bank" / str(run.step) / f"{number}-{size}.npz"
        if path.exists():
            kept = read_arrays(path)
            return Bank(jnp.asarray(kept["z"]), jnp.asarray(kept["images"], jnp.float32))
        key = jax.random.fold_in(jax.random.key(run.config.seed), number)
        bank = make_bank(run.gan, run.weights, key, size)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            np.savez(temporary, z=bank.z, images=np.asarray(bank.images, np.float16))
        return bank
