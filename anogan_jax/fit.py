"""Training in a work directory: data in order, progress, samples, checkpoints, going on after a stop."""

import json
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from anogan_jax import config as configs
from anogan_jax.atomic import replacing
from anogan_jax.calibration import needed
from anogan_jax.checkpoint import State, restore_state, save_state
from anogan_jax.config import Config
from anogan_jax.data import Images, load_one_class, make_draw, read_ahead, to_model_range
from anogan_jax.devices import gather, is_first, make_mesh, rows, whole
from anogan_jax.encoding import EncoderState, init_encoder_state, make_encoder_step
from anogan_jax.errors import UserError
from anogan_jax.figures import save_grid
from anogan_jax.models import GAN, make_gan, sample_latent
from anogan_jax.training import TrainState, inference_weights, init_state, make_optimizer, make_train_step

log = logging.getLogger(__name__)
_SAMPLES = 64
_LOSSES = {"discriminator_loss": "D", "generator_loss": "G", "encoder_loss": "E"}  # as shown


class Stopped(Exception):
    """A signal ended training early; the state is saved. ``number`` is the signal's."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}, saved at step {step}; run again to go on")
        self.number = number


def fit(config: Config, workdir: Path) -> TrainState:
    """Trains to ``config.train.steps``, from the last checkpoint in the work directory if there is one.

    Leaves config.json, checkpoints/<step>/, metrics.jsonl and samples/<step>.png there, TensorBoard's
    event files in tensorboard/ if asked for, and the like of an encoder in encoder/ if it is to have
    one. However often it is stopped and run again, the final state is the same to the last bit.

    Raises:
      UserError: the directory belongs to another config, the data is not there, a loss is not
        finite, or nothing can be written.
      Stopped: SIGTERM or Ctrl-C came; the state was saved.
    """
    configs.validate(config)
    _refuse_another(workdir, config)
    data = load_one_class(config)
    if data.warning:
        log.warning("%s", data.warning)
    images = _readable(data.train)
    what_next = f"done; next: python score.py --workdir {workdir}{'' if data.test else ' --input WHAT_TO_SCORE'}"
    log.info("training on %d normal images (%s); %d held out", len(images.names), data.origin, len(data.held_out.names))
    if len(data.held_out.names) < needed(config.alpha):
        log.warning(
            "with %d held-out images nothing can be called an anomaly at alpha=%g; it takes %d: give more images, or a "
            "larger data.held_out or alpha",
            len(data.held_out.names),
            config.alpha,
            needed(config.alpha),
        )
    train = config.train
    mesh = make_mesh(jax.devices())
    if train.batch_size % mesh.size:
        raise UserError(f"train.batch_size={train.batch_size}: must be a multiple of the {mesh.size} devices")
    gan = gan_of(config)
    if is_first() and not (workdir / "config.json").exists():
        configs.save(config, workdir / "config.json")
    state = restored_or_new(workdir, config, mesh)
    if int(state.step) < train.steps:
        train_step = make_train_step(gan, _optimizer(config), train.ema_decay, mesh, train.objective)
        draw_samples = make_sampler(gan, _SAMPLES, jax.random.key(config.seed))
        state = _advance(config, workdir, train.steps, state, train_step, make_draw(images, config), draw_samples)
    else:
        log.info("%s: trained to step %d already", workdir, int(state.step))
    if config.encoder.steps:
        _fit_encoder(config, workdir, state, make_draw(images, config), mesh)
    log.info("%s", what_next)
    return state


def restored_encoder(workdir: Path, config: Config, mesh: Mesh) -> EncoderState:
    """The encoder's last state saved in a work directory, or a fresh one; whole on every device of the mesh."""
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    init = partial(init_encoder_state, gan_of(config), _encoder_optimizer(config), channels=config.model.channels)
    return _restored(workdir / "encoder", partial(init, key), mesh)


def _fit_encoder(config: Config, workdir: Path, of: TrainState, draw: Callable[[int], np.ndarray], mesh: Mesh) -> None:
    """Trains the encoder of a trained GAN, in the work directory's folder encoder/."""
    folder, gan = workdir / "encoder", gan_of(config)
    state = restored_encoder(workdir, config, mesh)
    if int(state.step) >= config.encoder.steps:
        log.info("%s: trained to step %d already", folder, int(state.step))
        return
    weights = jax.jit(inference_weights, static_argnums=0)(gan, of)
    how = (config.encoder.feature_weight, config.search.feature_layer)
    train_step = make_encoder_step(gan, weights, _encoder_optimizer(config), *how, mesh)
    folder.mkdir(exist_ok=True)
    _advance(config, folder, config.encoder.steps, state, train_step, draw)


def _advance(
    config: Config,
    folder: Path,
    steps: int,
    state: State,
    train_step: Callable[[State, Array], tuple[State, Any]],
    draw: Callable[[int], np.ndarray],
    draw_samples: Callable[[State], Array] | None = None,
) -> State:
    """Takes a state to its last step, with progress, samples and checkpoints in the folder.

    Raises:
      UserError, Stopped: as ``fit`` does.
    """
    train, step = config.train, int(state.step)
    if step:
        log.info("going on at step %d", step)
    if is_first():
        _drop_metrics_after(folder / "metrics.jsonl", step)
    batches = _batches(config, make_mesh(jax.devices()), draw, step)
    events = _events(folder, config, step)
    with _stop_signal() as stop_signal, _Progress(folder / "metrics.jsonl", step, steps, events) as progress:
        while step < steps:
            state, metrics = train_step(state, next(batches))
            step += 1
            progress.add(metrics)
            finished, log_due = step == steps, step % train.log_every == 0
            stopped = stop_signal(log_due or finished)
            save = finished or stopped is not None or step % train.checkpoint_every == 0
            if save or log_due:
                progress.report(step)  # raises if a loss is not finite, before the state is saved
            if draw_samples and (finished or step % train.sample_every == 0):
                samples = np.asarray(draw_samples(state))
                if is_first():
                    path = folder / "samples" / f"{step:08d}.png"
                    save_grid(path, samples)
                    progress.show_samples(step, path)
            if save:
                save_state(folder / "checkpoints", state)
            if stopped is not None and not finished:
                raise Stopped(stopped, step)
    return state


def gan_of(config: Config) -> GAN:
    """The model that a config describes."""
    model = config.model
    return make_gan(
        model.image_size,
        model.channels,
        model.width,
        model.kernel_size,
        model.latent_size,
        model.latent_prior,
        model.precision,
        config.train.objective,
    )


def restored_or_new(workdir: Path, config: Config, mesh: Mesh) -> TrainState:
    """The last state saved in a work directory, or a fresh one; whole on every device of the mesh."""
    init = partial(init_state, gan_of(config), _optimizer(config), channels=config.model.channels)
    return _restored(workdir, partial(init, jax.random.key(config.seed)), mesh)


def _restored(folder: Path, init: Callable[[], State], mesh: Mesh) -> State:
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole(mesh)), jax.eval_shape(init)
    )
    return restore_state(folder / "checkpoints", like) or jax.jit(init, out_shardings=whole(mesh))()


def _optimizer(config: Config) -> optax.GradientTransformation:
    return make_optimizer(config.train.learning_rate, config.train.beta1)


def _encoder_optimizer(config: Config) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.encoder.learning_rate, max(config.encoder.steps, 1)))


def make_sampler(gan: GAN, count: int, key: Array) -> Callable[[TrainState], Array]:
    """Compiles ``draw(state)``: images (count, S, S, C) of the averaged generator, from the same z each time."""
    z = sample_latent(gan, key, (count,))

    def draw(state: TrainState) -> Any:
        return gan.generator.apply(inference_weights(gan, state).generator, z, train=False)

    return jax.jit(draw)


def _readable(images: Images) -> Images:
    """Those that can be read; the others are named in a warning. Of several processes each tries its share."""
    total, processes = len(images.names), jax.process_count()
    share = range(jax.process_index(), total, processes)
    readable = np.zeros(total, bool)
    silent = None if is_first() else True
    with tqdm(total=len(share), desc="reading", unit="image", disable=silent, leave=False, delay=2) as bar:
        for i, image in zip(share, read_ahead(images.read, share, ahead=16), strict=True):
            readable[i] = not isinstance(image, UserError)
            if not readable[i]:
                log.warning("left out %s", image)
            bar.update()
    found = np.flatnonzero(gather(readable).any(axis=0))
    if len(found) < 2:
        raise UserError(f"of {total} training images {len(found)} can be read; at least 2 are needed")
    return images.take(found)


def _batches(config: Config, mesh: Mesh, draw: Callable[[int], np.ndarray], step: int) -> Iterator[Array]:
    """The batches from a step on, as the networks see them, divided over the devices.

    Each process draws but its own rows, while it trains on those before.
    """
    size, sharding = config.train.batch_size, rows(mesh)
    parts = [where[0].indices(size) for where in sharding.addressable_devices_indices_map((size,)).values() if where]
    mine = range(min(first for first, *_ in parts), max(last for _, last, _ in parts))
    places = (step * size + row for step in count(step) for row in mine)
    drawn = read_ahead(draw, places, ahead=2 * len(mine))
    while True:
        images: list[np.ndarray] = []
        for image in islice(drawn, len(mine)):
            if isinstance(image, UserError):
                raise image
            images.append(image)
        batch = to_model_range(np.stack(images), config.data.normalize_contrast)
        placed = jax.make_array_from_process_local_data(sharding, batch, (size, *batch.shape[1:]))
        yield jax.block_until_ready(placed)  # see cli.keep_memory


def _events(workdir: Path, config: Config, step: int) -> Any:
    """A writer of TensorBoard's event files, which hides what was logged past the step; None if not asked for."""
    if not (config.train.tensorboard and is_first()):
        return None
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)


def _refuse_another(workdir: Path, config: Config) -> None:
    """Raises UserError if the directory belongs to another config."""
    path = workdir / "config.json"
    if not path.exists():
        return
    if changed := configs.differences(config, configs.load(path)):
        raise UserError(
            f"{workdir}: holds a run with another config ({'; '.join(changed)}); give another --workdir, or that config"
        )


def _drop_metrics_after(path: Path, step: int) -> None:
    """What was logged past the checkpoint will be logged again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # cut short by a kill
            continue
    with replacing(path) as temporary:
        temporary.write_text("".join(kept))


@contextmanager
def _stop_signal() -> Iterator[Callable[[bool], int | None]]:
    """While inside, SIGTERM and SIGINT are noted for the loop to obey between two steps.

    What is given tells of them, in several processes only when told to ask (all must, at the same
    step), for then they stop together.
    """
    received: list[int] = []

    def stop_signal(ask: bool) -> int | None:
        mine = received[0] if received else 0
        if jax.process_count() > 1:
            mine = int(gather(np.int32(mine)).max()) if ask else 0
        return mine or None

    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield stop_signal
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Progress:
    """Collects each step's metrics on the device, and reports their mean: a bar, or lines; metrics.jsonl; events."""

    def __init__(self, path: Path, step: int, steps: int, events: Any) -> None:
        self.path = path
        self.events = events
        self.start = self.reported = step
        self.steps = steps
        self.pending: list[Any] = []  # Metrics or EncoderMetrics
        self.began = time.monotonic()
        silent = not (is_first() and sys.stderr.isatty())
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=silent, dynamic_ncols=True)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        if self.events:
            self.events.close()

    def add(self, metrics: Any) -> None:
        """Takes a step's metrics; waits for the step before it, so that a signal never finds many under way."""
        if self.pending:
            jax.block_until_ready(self.pending[-1])
        self.pending.append(metrics)

    def report(self, step: int) -> None:
        """Raises UserError if a metric since the last report was not finite."""
        if not self.pending:
            return
        values = {name: np.array([float(getattr(m, name)) for m in self.pending]) for name in self.pending[0]._fields}
        for name, series in values.items():
            if not np.isfinite(series).all():
                bad = self.reported + 1 + int(np.argmin(np.isfinite(series)))
                raise UserError(
                    f"step {bad}: {name} is {series[bad - self.reported - 1]}: training diverged; "
                    "the last checkpoint is intact. Try a smaller train.learning_rate in a new --workdir"
                )
        if is_first():
            self._show(step, {name: float(series.mean()) for name, series in values.items()})
        self.reported = step
        self.pending.clear()

    def show_samples(self, step: int, path: Path) -> None:
        """Of a picture of generated images."""
        if self.events:
            with Image.open(path) as picture:
                self.events.add_image("samples", np.atleast_3d(np.asarray(picture)), step, dataformats="HWC")

    def _show(self, step: int, means: dict[str, float]) -> None:
        seconds = time.monotonic() - self.began
        rate = (step - self.start) / seconds
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **means, "steps_per_second": rate}) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error
        for name, value in means.items() if self.events else ():
            self.events.add_scalar(name, value, step)
        losses = {label: means[name] for name, label in _LOSSES.items() if name in means}
        if self.bar.disable:
            shown = "  ".join(f"loss {name} {value:.3f}" for name, value in losses.items())
            left = math.ceil((self.steps - step) / rate)
            log.info("step %d/%d  %s  %.1f steps/s  %d:%02d left", step, self.steps, shown, rate, *divmod(left, 60))
        else:
            self.bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
            self.bar.update(step - self.reported)
