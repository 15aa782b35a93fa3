"""A trained run: what a work directory holds, ready to score images."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from anogan_jax import config as configs
from anogan_jax.atomic import replacing
from anogan_jax.bank import Bank, make_bank, place_bank
from anogan_jax.config import Config
from anogan_jax.data import load_one_class
from anogan_jax.data.images import read_arrays
from anogan_jax.devices import gather, is_first, make_mesh, whole
from anogan_jax.errors import UserError
from anogan_jax.fit import gan_of, restored_or_new
from anogan_jax.models import GAN, Weights
from anogan_jax.queries import score_queries
from anogan_jax.scoring import Scorer, from_bank, from_prior, make_discriminator_scorer, make_search_scorer
from anogan_jax.search import PAPER_SETTINGS, even_scale, make_search
from anogan_jax.tiles import pool
from anogan_jax.training import inference_weights

log = logging.getLogger(__name__)
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
    mesh: Mesh  # this process's devices


class HeldOut(NamedTuple):
    """What normal images score that training never saw."""

    scores: np.ndarray  # (M,)
    highs: np.ndarray  # (M,) what one percent of each one's map reaches


def open_run(workdir: Path) -> Run:
    """Rebuilds the trained model from a work directory alone.

    Raises:
      UserError: it holds no run, or no checkpoint that can be read.
    """
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir}: holds no run (no config.json there); train one first, with train.py")
    config = configs.load(workdir / "config.json")
    state = restored_or_new(workdir, config, make_mesh(jax.devices()))
    step = int(state.step)
    if step == 0:
        raise UserError(f"{workdir}: has no checkpoint yet; train first")
    if step < config.train.steps:
        log.warning("%s: training stopped at step %d of %d", workdir, step, config.train.steps)
    gan, mesh = gan_of(config), make_mesh(jax.local_devices())
    weights = jax.device_get(jax.jit(inference_weights, static_argnums=0)(gan, state))
    return Run(workdir, config, gan, jax.device_put(weights, whole(mesh)), step, mesh)


def make_scorer(run: Run, method: str, on_turn: Callable[[int], None] | None = None) -> Scorer:
    """Builds one of METHODS for the run's model; the first use of the bank makes it.

    ``on_turn`` is as for ``make_search_scorer``.
    """
    if method == "discriminator":
        return make_discriminator_scorer(run.gan, run.mesh)
    settings = run.config.search
    if method == "paper" and settings.method != "paper":
        settings = replace(settings, method="paper", steps=None, learning_rate=None)
    paper = settings.method == "paper"
    how: dict[str, Any] = PAPER_SETTINGS if paper else {"tolerance": settings.tolerance}
    given = {"steps": settings.steps, "learning_rate": settings.learning_rate}
    search = make_search(
        run.gan,
        **how | {name: value for name, value in given.items() if value is not None},
        discrimination="cross_entropy" if method == "yeh" else settings.discrimination,
        discrimination_weight=settings.discrimination_weight,
        feature_layer=settings.feature_layer,
    )
    if paper:
        make_starts = from_prior(run.gan, run.config.seed, settings.restarts)
    else:
        make_starts = from_bank(_BankFiles(run), _kept_scale(run), settings.restarts, run.mesh)
    return make_search_scorer(search, make_starts, run.mesh, on_turn)


def held_out_scores(run: Run, scorer: Scorer, method: str) -> HeldOut:
    """Of the held-out normal images; kept in the work directory, for they need no second search.

    Raises:
      UserError: none of them can be read.
    """
    path = run.workdir / f"held_out-{method}-{run.step}.npz"
    made_with = repr((run.config.data, run.config.patches, run.config.search, run.config.seed))
    kept = read_arrays(path) if path.exists() else {}
    if gather(np.array(str(kept.get("made_with")) == made_with)).all():
        return HeldOut(kept["scores"], kept["highs"])
    images = load_one_class(run.config).held_out
    results = score_queries(partial(scorer, run.weights), images, run.config, "held-out images")
    found = [scored.found for scored in results if scored.found]
    if not found:
        raise UserError(f"none of the {len(images.names)} held-out images can be read")
    highs = [pool(each.anomaly_map, "quantile", 0.01) for each in found]
    held_out = HeldOut(np.array([each.score for each in found]), np.array(highs))
    if is_first():
        with replacing(path) as temporary:
            np.savez(temporary, **held_out._asdict(), made_with=made_with)
    return held_out


def _kept_scale(run: Run) -> Array:
    """The model's ``even_scale``, from bank/<step>/scale.npz, which is made when first needed."""
    path = _bank_folder(run) / "scale.npz"
    if path.exists():
        return jnp.asarray(read_arrays(path)["scale"])
    scale = even_scale(run.gan, run.weights)
    if is_first():
        with replacing(path) as temporary:
            np.savez(temporary, scale=scale)
    return scale


def _bank_folder(run: Run) -> Path:
    return run.workdir / "bank" / str(run.step)


class _BankFiles:
    """The run's bank in blocks, bank/<step>/<block>-<images>.npz, each made when first needed.

    A bank of one block stays in the devices' memory; a larger one is read again for every pass.
    Several processes that need a block at once each make it, the same one, and the first writes it.
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
        path = _bank_folder(run) / f"{number}-{size}.npz"
        if path.exists():
            kept = read_arrays(path)
            return place_bank(kept["z"], kept["images"], run.mesh)
        key = jax.random.fold_in(jax.random.key(run.config.seed), number)
        bank = make_bank(run.gan, run.weights, key, size, run.mesh)
        if is_first():
            with replacing(path) as temporary:
                np.savez(temporary, z=np.asarray(bank.z)[:size], images=np.asarray(bank.images, np.float16)[:size])
        return bank
