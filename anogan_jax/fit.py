"""From normal images to a finished detector: train the networks, make bank and appearance, calibrate, save."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from anogan_jax import config as configs
from anogan_jax.appearance import fit_appearance
from anogan_jax.auxiliary import (
    init_network_state,
    make_encoder_loss,
    make_network_step,
    make_rotation_loss,
    make_segmenter_loss,
)
from anogan_jax.calibration import alpha_obstacle
from anogan_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from anogan_jax.data import (
    Images,
    from_user,
    load_one_class,
    make_draw,
    make_pseudo_draw,
    make_resize,
    read_roi,
    resized_images,
    resized_regions,
    to_batch,
    to_networks,
    turned,
)
from anogan_jax.data.checks import digests_of, readable, warning_of_pixels
from anogan_jax.data.inputs import as_plain_array
from anogan_jax.detector import Detector, Regions, gan_of, load, make_detector
from anogan_jax.devices import is_first, make_mesh, wait_for_all
from anogan_jax.errors import UserError
from anogan_jax.files import given_path, locked, replacing
from anogan_jax.loop import Stopped, advance, make_sampler, restored
from anogan_jax.models import (
    Encoder,
    RotationNetwork,
    Segmenter,
    Variables,
    Weights,
    make_encoder,
    make_rotation_network,
    make_segmenter,
)
from anogan_jax.references import make_bank
from anogan_jax.rotation import Rotation, fit_rotation
from anogan_jax.runtime import Appearance, pad_to
from anogan_jax.scoring import Model
from anogan_jax.training import TrainState, inference_weights, init_state, make_optimizer, make_train_step

log = logging.getLogger(__name__)
_SAMPLES = 64  # images in the picture of samples
_STREAMS = {"encoder": 1, "segmenter": 2, "rotation": 3}  # numbers of the networks, for their random keys
_DESCRIBED = 8_192  # training images, at most, to which appearance and rotation statistics are fitted
_WRITTEN = ("checkpoints", "samples", "metrics.jsonl", "tensorboard", *_STREAMS, "detector")


def fit(images: Any = None, config: Config | None = None, workdir: str | Path | None = None) -> Detector:
    """Train a detector on normal images.

    With a work directory it writes config.json, checkpoints/, metrics.jsonl, samples/ and detector/ there, resumes from
    the last checkpoint, and returns the finished detector if there is one. However often training is interrupted,
    the final state is the same bit for bit.

    Args:
      images: normal images, uint8 or floats in [-1, 1], (N, H, W) or (N, H, W, C), or a list of images of any sizes,
        arrays, paths or Pillow's; or the path of a folder, an .npz or an .npy file (floats in files lie in [0, 1]);
        None: the data set that the config names.
      config: the settings; None: ``default_config(images)``.
      workdir: where to train; None: only the returned detector is kept.

    Raises:
      UserError: the images or a setting cannot be used, a loss is not finite, the work directory belongs to another
        config, or nothing can be written.
      Stopped: SIGTERM or SIGINT arrived; with a work directory the state is saved. Only the main thread receives
        signals.
    """
    if images is None and config is None:
        raise UserError("fit: give images, or a config that names a data set")
    if not isinstance(config, Config | None):
        raise UserError(f"fit: the config must be an anogan_jax.Config, not {type(config).__name__}")
    config, given = config or default_config(images), None
    if isinstance(images, str | Path):
        path = given_path(images, "images")
        source: Any = "folder" if path.is_dir() else "npz"
        config = replace(config, data=replace(config.data, source=source, dir=str(path)))
    elif images is not None:
        config = replace(config, data=replace(config.data, source="arrays"))
    config = configs.validate(config)
    if config.data.source == "arrays" and images is not None:
        given = from_user(images, config.model.channels, config.data.window)
    if workdir is not None:
        return _fit(config, given_path(workdir, "workdir"), given)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _fit(config, Path(folder) / "run", given)
        except Stopped as error:
            raise Stopped(error.number, None) from None


def default_config(images: Any) -> Config:
    """Return settings for images as ``fit`` takes them.

    Arrays of up to 32 pixels a side are resized to the next of 8, 16 and 32, all others to 64x64. The model has three
    channels for arrays with colours; for a path it has one, because no file is read here.

    >>> default_config(np.zeros((100, 28, 28), np.uint8)).model.image_size
    32
    """
    size, channels = 64, 1
    if not isinstance(images, str | Path):
        given = images if isinstance(images, list | tuple) else np.atleast_1d(as_plain_array(images))
        arrays = [as_plain_array(image) for image in given]
        longest = max((max(array.shape[:2]) for array in arrays if array.ndim >= 2), default=64)
        size = next(size for size in (8, 16, 32, 64) if longest <= size or size == 64)
        channels = 3 if arrays and arrays[0].ndim == 3 and arrays[0].shape[-1] in (3, 4) else 1
    if size <= 32:
        return Config(model=ModelConfig(image_size=size, channels=channels))
    return Config(
        data=DataConfig(source="folder"),
        model=ModelConfig(image_size=size, channels=channels, width=16, latent_size=64),
        train=TrainConfig(steps=5_000),
    )


def _fit(config: Config, workdir: Path, given: Images | None) -> Detector:
    _refuse_another(workdir, config)
    is_finished = (workdir / "detector").exists()
    try:
        data = load_one_class(config, given)
    except UserError as error:
        if not is_finished:
            raise
        log.warning("cannot compare with the images of training: %s", error)
        return load(workdir)
    if config.data.source == "folder" and workdir.resolve().is_relative_to(Path(config.data.dir).resolve()):
        raise UserError(f"{workdir}: lies in data.dir, so its pictures would be trained on; give another --workdir")
    if data.warning:
        log.warning("%s", data.warning)
    train, held_out = digests_of(data.train), digests_of(data.held_out)
    digest = hashlib.sha256(train.tobytes() + held_out.tobytes()).hexdigest()
    known = workdir / "data.json"
    if known.exists() and digest not in known.read_text(errors="replace"):
        raise UserError(f"{workdir}: was trained on other images; give another --workdir, or the original images")
    if is_finished:
        log.info("%s: the detector is finished", workdir)
        return load(workdir)
    images = data.train.take(readable(data.train, train, 2))
    if warning := warning_of_pixels(images, replace(config.data, window=data.window), config.model.channels):
        log.warning("%s", warning)
    kept = data.held_out.take(readable(data.held_out, held_out, 1))
    log.info("training on %d normal images (%s); %d held out", len(images.names), data.origin, len(kept.names))
    if warning := alpha_obstacle(len(kept.names), config.alpha):
        log.warning("%s", warning)
    mesh = make_mesh(jax.devices())
    if config.train.batch_size % mesh.size:
        raise UserError(f"train.batch_size={config.train.batch_size}: must be a multiple of the {mesh.size} devices")
    _check_memory(config)
    with locked(workdir, "training") if is_first() else nullcontext():
        if is_first() and not (workdir / "config.json").exists():
            with replacing(known) as temporary:
                temporary.write_text(json.dumps({"sha256": digest}) + "\n")
            configs.save(config, workdir / "config.json")
        config = replace(config, data=replace(config.data, window=data.window))  # "auto" is known now
        regions = Regions(read_roi(config.data.roi), resized_regions(kept, config))
        detector = _train(config, workdir, images, resized_images(kept, config), regions, mesh)
    log.info(
        "finished; next: python -m anogan_jax score --workdir %s%s", workdir, "" if data.test else " --input IMAGES"
    )
    return detector


def _train(
    config: Config, workdir: Path, images: Images, held_out: list[np.ndarray], regions: Regions, mesh: Mesh
) -> Detector:
    """Train the networks that the work directory lacks, and save the detector in it."""
    state = train_gan(config, workdir, images, mesh)
    gan = gan_of(config)
    weights: Weights = jax.jit(inference_weights, static_argnums=0)(gan, state)
    networks = {name: train_network(name, config, workdir, images, weights, mesh) for name in _STREAMS}
    rotation = make_rotation(config, networks["rotation"], images, held_out) if networks["rotation"] else None
    model = jax.device_get(Model(weights, networks["encoder"], segmenter=networks["segmenter"], rotation=rotation))
    bank, references = make_bank(config, gan, model.weights, images)
    appearance = make_appearance(config, images)
    detector = make_detector(config, model, bank, references, appearance, config.train.steps, held_out, regions)
    if is_first():
        detector.save(workdir)
    wait_for_all("detector saved")
    return detector


def train_gan(config: Config, workdir: Path, images: Images, mesh: Mesh) -> TrainState:
    """Train the GAN to its last step, or resume; return the final state, replicated on the mesh."""
    gan, train, key = gan_of(config), config.train, jax.random.key(config.seed)
    optimizer = make_optimizer(train.learning_rate, train.beta1)
    state = restored(workdir, init_state, (gan, optimizer, key, config.model.channels), mesh)
    if int(state.step) >= train.steps:
        return state
    train_step = make_train_step(gan, optimizer, train.ema_decay, mesh, train.objective)
    draw_samples = make_sampler(gan, _SAMPLES, key)
    draw, convert = make_draw(images, config), partial(to_networks, config=config)
    return advance(config, workdir, train.steps, state, train_step, draw, convert, draw_samples)


def train_network(
    name: str, config: Config, workdir: Path, images: Images, weights: Weights, mesh: Mesh
) -> Variables | None:
    """Train the encoder, segmenter or rotation network to its last step in the folder of its name, or resume.

    Args:
      name: "encoder", "segmenter" or "rotation".
      config: all settings; those of this name are the network's.
      workdir: the work directory, which holds the folder.
      images: normal images.
      weights: those of the trained GAN, which the encoder learns to invert.
      mesh: the devices.

    Returns:
      The network's variables, replicated on the mesh; None if it has no steps.
    """
    gan, settings, folder = gan_of(config), getattr(config, name), workdir / name
    if not settings.steps:
        return None
    draw, convert = make_draw(images, config), partial(to_networks, config=config)
    optimizer = _one_cycle(settings.steps, settings.learning_rate)
    network: Encoder | RotationNetwork | Segmenter
    if name == "encoder":
        network, optimizer = make_encoder(gan), _cosine_decay(settings.steps, settings.learning_rate)
        loss = make_encoder_loss(gan, weights, settings.feature_weight, settings.feature_layer)
    elif name == "segmenter":
        network, loss = make_segmenter(gan), make_segmenter_loss(gan)
        draw, convert = make_pseudo_draw(draw, config.seed), partial(to_batch, config=config)
    else:
        network, loss = make_rotation_network(gan), make_rotation_loss(gan)
    key = jax.random.fold_in(jax.random.key(config.seed), _STREAMS[name])
    state = restored(folder, init_network_state, (network, optimizer, key, config.model.channels), mesh)
    if int(state.step) < settings.steps:
        log.info("training the network in %s", folder)
        folder.mkdir(exist_ok=True)
        train_step = make_network_step(loss, optimizer, mesh)
        state = advance(config, folder, settings.steps, state, train_step, draw, convert)
    return state.network


@cache
def _cosine_decay(steps: int, learning_rate: float) -> optax.GradientTransformation:
    """Return Adam with a learning rate that decays to 0."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


@cache
def _one_cycle(steps: int, learning_rate: float) -> optax.GradientTransformation:
    """Return AdamW with a learning rate that rises in the first fifth of the steps and then falls to nearly 0."""
    return optax.adamw(optax.cosine_onecycle_schedule(steps, learning_rate, pct_start=0.2))


def make_appearance(config: Config, images: Images) -> Appearance:
    """Fit the appearance of the training images, a random part of them if there are many."""
    rng = np.random.default_rng([config.seed, 3])
    return fit_appearance((turned(image, config.train, rng) for image in _some_resized(config, images)), config.seed)


def make_rotation(config: Config, network: Variables, images: Images, held_out: list[np.ndarray]) -> Rotation:
    """Fit the statistics of a trained rotation network to the training images, a random part of them if many."""
    seen = (to_networks(image[None], config)[0] for image in _some_resized(config, images))
    kept = (to_networks(image[None], config)[0] for image in held_out)
    return fit_rotation(make_rotation_network(gan_of(config)), jax.device_get(network), seen, kept)


def _some_resized(config: Config, images: Images) -> Iterator[np.ndarray]:
    """Yield training images in random order, resized, (H, W, C) uint8, at most ``_DESCRIBED``."""
    chosen = np.random.default_rng([config.seed, 3]).permutation(len(images.names))[:_DESCRIBED]
    shrink, size = make_resize(config), config.model.image_size
    return (pad_to(shrink(images.read(i)), size) for i in chosen.tolist())


def _refuse_another(workdir: Path, config: Config) -> None:
    """Raise UserError if the work directory belongs to another config, or holds files that training would write."""
    path = workdir / "config.json"
    if not path.exists():
        if found := next((workdir / name for name in _WRITTEN if (workdir / name).exists()), None):
            raise UserError(f"{found}: exists without the config.json of a run to resume; give another --workdir")
        return
    if changed := configs.differences(configs.load(path), config):
        raise UserError(
            f"{workdir}: holds a run with another config ({'; '.join(changed)}); give another --workdir, or the run's "
            "config. Scoring settings (search, pooling, alpha) are given when scoring"
        )


def _check_memory(config: Config) -> None:
    """Raise UserError if the parameters with their moments and gradients, or the bank, exceed the machine's memory."""
    gan, model = gan_of(config), config.model
    init = partial(init_state, gan, make_optimizer(), jax.random.key(0), channels=model.channels)
    state = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(init)))
    bank = (
        8 * max(config.bank.size, config.bank.inverted, config.bank.references) * model.image_size**2 * model.channels
    )
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for fields, needed in (("model.width, model.image_size, model.latent_size", state), ("bank.size", bank)):
        if needed > has:
            gigabytes = f"at least {needed / 2**30:.0f} GB, this machine has {has / 2**30:.0f}"
            raise UserError(f"{fields}: too large together; training would take {gigabytes}")
