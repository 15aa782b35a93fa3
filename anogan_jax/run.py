"""A trained run: what a work directory holds, ready to score images."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from anogan_jax import config as configs
from anogan_jax.atomic import replacing
from anogan_jax.bank import Bank, Described, describe_bank, make_bank, place_bank
from anogan_jax.config import Config, SearchConfig
from anogan_jax.data import load_one_class, make_draw, read_ahead, to_model_range
from anogan_jax.data.images import read_arrays
from anogan_jax.devices import gather, is_first, make_mesh, whole
from anogan_jax.encoding import make_encoder
from anogan_jax.errors import UserError
from anogan_jax.fit import gan_of, restored_encoder, restored_or_new
from anogan_jax.losses import residual_loss
from anogan_jax.models import GAN, Variables, Weights
from anogan_jax.queries import score_queries
from anogan_jax.scoring import (
    Scorer,
    from_bank,
    from_encoder,
    from_prior,
    make_discriminator_scorer,
    make_encoder_scorer,
    make_nearest_scorer,
    make_search_scorer,
)
from anogan_jax.search import PAPER_SETTINGS, make_search
from anogan_jax.structure import structure_loss
from anogan_jax.tiles import pool
from anogan_jax.training import inference_weights
from anogan_jax.version import __version__

log = logging.getLogger(__name__)
_BANK_BLOCK = 32_768  # images
_SHORT = 24  # steps of the search that explains a training image
Block = TypeVar("Block")  # Bank, or Described

# The table of the AnoGAN paper. "anogan" is the search as the config sets it.
METHODS = {
    "anogan": "as configured",
    "bank": "A(x) after the latent search from the nearest of a bank of generated images",
    "nearest": "the distance to the nearest normal images as the generator makes them, no search",
    "from_encoder": "A(x) after the latent search from the encoder's z",
    "encoder": "the distance to what the generator makes of the encoder's z, no search",
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


def methods_of(run: Run) -> dict[str, str]:
    """The METHODS that a run can be scored by, each once: the configured one is "anogan"."""
    left_out = {run.config.search.method}
    if not run.config.encoder.steps:
        left_out |= {"from_encoder", "encoder"}
    return {method: what for method, what in METHODS.items() if method not in left_out}


def make_scorer(run: Run, method: str, on_turn: Callable[[int], None] | None = None) -> Scorer:
    """Builds one of METHODS for the run's model; the first use of the bank, or of explained normals, makes them.

    ``on_turn`` is as for ``make_search_scorer``.
    """
    if method == "discriminator":
        return make_discriminator_scorer(run.gan, run.mesh)
    settings = run.config.search
    if method == "yeh" and settings.method in ("nearest", "encoder"):
        settings = _of_method(settings, "bank")
    elif method not in ("anogan", "yeh"):
        settings = _of_method(settings, method)
    if settings.method == "nearest":
        yardsticks = (settings.yardstick, settings.nearest_by, run.mesh)
        if run.config.patches.enabled or not settings.references:
            random = _BankFiles(run, lambda bank: describe_bank(bank.images[jnp.isfinite(bank.squares)], *yardsticks))
            blocks: Iterable[Described] = random
        else:
            blocks = [describe_bank(explained_normals(run), *yardsticks)]
        return make_nearest_scorer(blocks, settings.neighbours, *yardsticks)
    if settings.method == "encoder":
        return make_encoder_scorer(run.gan, make_encoder(run.gan), _encoder(run), settings.yardstick, run.mesh)
    paper = settings.method == "paper"
    how: dict[str, Any] = PAPER_SETTINGS if paper else {"tolerance": settings.tolerance}
    given = {"steps": settings.steps, "learning_rate": settings.learning_rate}
    search = make_search(
        run.gan,
        **how | {name: value for name, value in given.items() if value is not None},
        discrimination="cross_entropy" if method == "yeh" else settings.discrimination,
        discrimination_weight=settings.discrimination_weight,
        feature_layer=settings.feature_layer,
        residual=structure_loss if settings.yardstick == "structure" else residual_loss,
        prior_weight=settings.prior_weight,
    )
    if paper:
        make_starts = from_prior(run.gan, run.config.seed, settings.restarts)
    elif settings.method == "from_encoder":
        make_starts = from_encoder(make_encoder(run.gan), _encoder(run))
    else:
        make_starts = from_bank(_BankFiles(run, lambda bank: bank), settings.restarts, run.mesh)
    return make_search_scorer(search, make_starts, run.mesh, on_turn)


def held_out_scores(run: Run, scorer: Scorer, method: str) -> HeldOut:
    """Of the held-out normal images; kept in the work directory, for they need no second search.

    Raises:
      UserError: none of them can be read.
    """
    path = run.workdir / f"held_out-{method}-{run.step}.npz"
    made_with = repr((__version__, run.config.data, run.config.patches, run.config.search, run.config.seed))
    kept = _kept(path, made_with)
    if gather(np.array(bool(kept))).all():
        return HeldOut(kept["scores"], kept["highs"])
    images = load_one_class(run.config).held_out
    results = score_queries(partial(scorer, run.weights), images, run.config, "held-out images")
    found = [scored.found for scored in results if scored.found]
    if not found:
        raise UserError(f"none of the {len(images.names)} held-out images can be read")
    highs = [pool(each.anomaly_map, "quantile", 0.01) for each in found]
    held_out = HeldOut(np.array([each.score for each in found]), np.array(highs))
    _keep(path, made_with, **held_out._asdict())
    return held_out


def explained_normals(run: Run) -> np.ndarray:
    """(B, S, S, C) training images as the generator makes them; from bank/<step>/, made when first needed.

    Random images lie between the kinds of normal ones too, where anomalies are; these do not. The
    search for each is short, from the nearest of the random ones. Of several processes each explains
    all, and the first keeps them.
    """
    config, search = run.config, run.config.search
    short = replace(_of_method(search, "bank"), steps=_SHORT, restarts=1)
    made_with = repr((__version__, replace(short, neighbours=1, nearest_by=None)))  # which concern no search
    path = _bank_folder(run) / f"normal-{search.references}.npz"
    if kept := _kept(path, made_with):
        return kept["images"]
    train = load_one_class(config).train
    count = min(search.references, len(train.names))
    scorer = make_scorer(run._replace(config=replace(config, search=short)), "anogan")
    images = (
        to_model_range(image[None], config.data.normalize_contrast)[0]
        for image in read_ahead(make_draw(train, config), range(count), ahead=64)
        if not isinstance(image, UserError)
    )
    log.info("%s: explaining %d training images, once", run.workdir, count)
    with tqdm(scorer(run.weights, images), total=count, unit="image", disable=None if is_first() else True) as found:
        normal = np.stack([score.generated.astype(np.float16) for score in found])
    _keep(path, made_with, images=normal)
    return normal


def _kept(path: Path, made_with: str) -> dict[str, np.ndarray]:
    """The arrays of a file, if it was made so; or none."""
    kept = read_arrays(path) if path.exists() else {}
    return kept if str(kept.get("made_with")) == made_with else {}


def _keep(path: Path, made_with: str, **arrays: Any) -> None:
    if is_first():
        with replacing(path) as temporary:
            np.savez(temporary, **arrays, made_with=made_with)


def _of_method(settings: SearchConfig, method: str) -> SearchConfig:
    """The settings for another method: its own steps and rate; A(x), unlike the likenesses, measured in pixels."""
    if method == settings.method:
        return settings
    yardstick = settings.yardstick if method in ("nearest", "encoder") else "pixels"
    return replace(settings, method=method, steps=None, learning_rate=None, yardstick=yardstick)


def _encoder(run: Run) -> Variables:
    """The run's trained encoder.

    Raises:
      UserError: it has none.
    """
    if not run.config.encoder.steps:
        raise UserError(f"{run.workdir}: was trained without an encoder; train with --config.encoder.steps=2000")
    state = restored_encoder(run.workdir, run.config, run.mesh)
    if int(state.step) < run.config.encoder.steps:
        raise UserError(f"{run.workdir}: its encoder is at step {int(state.step)}; run train.py again to go on")
    return jax.device_get(state.encoder)


def _bank_folder(run: Run) -> Path:
    return run.workdir / "bank" / str(run.step)


class _BankFiles(Generic[Block]):
    """The run's bank in blocks, bank/<step>/<block>-<images>.npz, each made when first needed, then prepared.

    A bank of one block stays in the devices' memory; a larger one is read again for every pass.
    Several processes that need a block at once each make it, the same one, and the first writes it.
    """

    def __init__(self, run: Run, prepare: Callable[[Bank], Block]) -> None:
        self._run = run
        self._prepare = prepare
        size = run.config.search.bank_size
        self._sizes = [min(_BANK_BLOCK, size - first) for first in range(0, size, _BANK_BLOCK)]
        self._whole: Block | None = None

    def __iter__(self) -> Iterator[Block]:
        for number in range(len(self._sizes)):
            if self._whole is not None:
                yield self._whole
                continue
            bank = self._prepare(self._block(number))
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
