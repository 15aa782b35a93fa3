"""The training loop: batches in order, log lines, samples, checkpoints, exact resume."""

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache, partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from tqdm.auto import tqdm

from anogan_jax.checkpoint import State, restore_state, save_state
from anogan_jax.config import Config
from anogan_jax.data import read_ahead
from anogan_jax.devices import gather, hides_bars, is_first, make_mesh, replicated, sharded
from anogan_jax.errors import UserError
from anogan_jax.figures import save_grid
from anogan_jax.files import replacing
from anogan_jax.models import GAN, sample_latent
from anogan_jax.training import TrainState, inference_weights

log = logging.getLogger(__name__)
_LOSSES = {"discriminator_loss": "loss D", "generator_loss": "loss G", "loss": "loss"}  # their names in log lines


class Stopped(Exception):
    """Training was stopped by the signal ``number``; the state is saved at this step, or nowhere if it is None."""

    def __init__(self, number: int, step: int | None) -> None:
        saved = f"saved at step {step}; run the same command again to resume"
        unsaved = "nothing is saved; give fit a workdir to resume"
        super().__init__(f"stopped by {signal.Signals(number).name}, {unsaved if step is None else saved}")
        self.number = number


def advance(
    config: Config,
    folder: Path,
    steps: int,
    state: State,
    train_step: Callable[[State, Array], tuple[State, Any]],
    draw: Callable[[int], np.ndarray],
    to_batch: Callable[[np.ndarray], np.ndarray],
    draw_samples: Callable[[State], Array] | None = None,
) -> State:
    """Train a state to the last step; show progress and write metrics, samples and checkpoints.

    Progress is shown as log lines, or as a bar if log lines are hidden, as in a notebook.

    Args:
      config: the settings.
      folder: the folder for metrics.jsonl, checkpoints/<step>/, samples/<step>.png and, if configured, tensorboard/.
      steps: the last step.
      state: the state to start or resume from.
      train_step: the compiled step, which returns the new state and a tuple of metrics.
      draw: returns the training example at a place of the stream, uint8, as from ``make_draw``.
      to_batch: converts stacked examples to the batch of a step, float32, such as ``to_model_range``.
      draw_samples: returns the images of a state for the sample pictures.

    Returns:
      The state after the last step.

    Raises:
      UserError: a loss is not finite, or a file cannot be written.
      Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    train, step = config.train, int(state.step)
    if step:
        log.info("resuming at step %d", step)
    if is_first():
        _drop_metrics_after(folder / "metrics.jsonl", step)
    batches = _batches(config.train.batch_size, make_mesh(jax.devices()), draw, to_batch, step)
    silent = True if log.isEnabledFor(logging.INFO) else hides_bars()
    bar = tqdm(total=steps, initial=step, desc="training", unit="step", disable=silent, dynamic_ncols=True)
    with _stop_signal() as stop_signal, _event_writer(folder, config, step) as events, bar:
        setting = f"{'train' if isinstance(state, TrainState) else folder.name}.learning_rate"
        progress = _Progress(folder / "metrics.jsonl", step, steps, events, setting)
        while step < steps:
            state, metrics = train_step(state, next(batches))
            step += 1
            progress.add(metrics)
            bar.update()
            finished, log_due = step == steps, step % train.log_every == 0
            stopped = stop_signal(log_due or finished)
            save_due = finished or step % train.checkpoint_every == 0
            save = save_due or stopped
            if save or log_due:
                progress.report(step, write=save_due or log_due)  # raises if a loss is not finite, before it is saved
            if draw_samples and (finished or step % train.sample_every == 0):
                _save_samples(folder, step, np.asarray(draw_samples(state)), events)
            if save:
                save_state(folder / "checkpoints", state)
            if stopped:
                raise Stopped(stopped, step)
    return state


def _save_samples(folder: Path, step: int, samples: np.ndarray, events: Any) -> None:
    """Write the sample picture of a step, on the first process."""
    if is_first():
        picture = save_grid(folder / "samples" / f"{step:08d}.png", samples)
        if events:
            events.add_image("samples", np.atleast_3d(picture), step, dataformats="HWC")


def restored(folder: Path, init: Callable[..., State], arguments: tuple[Any, ...], mesh: Mesh) -> State:
    """Return the last state saved in a folder, or the initial one, replicated on the mesh.

    The initial one is ``init`` of the arguments: a model, an optimizer, the key and the number of channels.
    """
    compiled = _compiled_init(init, mesh)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        compiled.eval_shape(*arguments),
    )
    return restore_state(folder / "checkpoints", like) or compiled(*arguments)


@lru_cache(maxsize=16)
def _compiled_init(init: Callable[..., State], mesh: Mesh) -> Any:
    return jax.jit(init, static_argnums=(0, 1, 3), out_shardings=replicated(mesh))


def make_sampler(gan: GAN, count: int, key: Array) -> Callable[[TrainState], Array]:
    """Return ``draw(state)``: images (count, S, S, C) of the averaged generator, from constant z."""
    return partial(_draw_samples, gan, sample_latent(gan, key, (count,)))


@partial(jax.jit, static_argnums=0)
def _draw_samples(gan: GAN, z: Array, state: TrainState) -> Any:
    return gan.generator.apply(inference_weights(gan, state).generator, z, train=False)


def _batches(
    size: int,
    mesh: Mesh,
    draw: Callable[[int], np.ndarray],
    to_batch: Callable[[np.ndarray], np.ndarray],
    step: int,
) -> Iterator[Array]:
    """Yield the batches from a step on, in the networks' range, divided over the devices.

    Each process draws only its own rows, ahead of the step that uses them.
    """
    sharding = sharded(mesh)
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
        batch = to_batch(np.stack(images))
        placed = jax.make_array_from_process_local_data(sharding, batch, (size, *batch.shape[1:]))
        yield jax.block_until_ready(placed)  # see cli.keep_memory


def _event_writer(folder: Path, config: Config, step: int) -> AbstractContextManager[Any]:
    """Return a TensorBoard writer that hides events after the step, or a context of None if there is to be none."""
    if not (config.train.tensorboard and is_first()):
        return nullcontext()
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)


def _drop_metrics_after(path: Path, step: int) -> None:
    """Remove the lines after the checkpoint, which will be logged again, and a line cut short by a kill."""
    kept = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with suppress(ValueError, TypeError, KeyError):
            kept += [line + "\n"] if json.loads(line)["step"] <= step else []
    with replacing(path) as temporary:
        temporary.write_text("".join(kept))


@contextmanager
def _stop_signal() -> Iterator[Callable[[bool], int]]:
    """Record SIGTERM and SIGINT inside the block instead of obeying them at once, if this is the main thread.

    Yields ``stop_signal(ask)``, which returns the number of the first signal or 0. Several processes exchange theirs
    only if ``ask`` is True, which must be so at the same steps in all of them; thus they stop together. A signal that
    arrives after the last question is raised again when the block ends.
    """
    received: list[int] = []

    def stop_signal(ask: bool) -> int:
        mine = received[0] if received else 0
        if jax.process_count() == 1:
            return mine
        return int(gather(np.int32(mine)).max()) if ask else 0

    is_main = threading.current_thread() is threading.main_thread()  # Python allows handlers in no other
    numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
    previous = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield stop_signal
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


class _Progress:
    """Collects the metrics of each step and reports their means: a log line, metrics.jsonl, TensorBoard events."""

    def __init__(self, path: Path, step: int, steps: int, events: Any, setting: str) -> None:
        self.path, self.steps, self.events = path, steps, events
        self.setting = setting  # name of the learning rate
        self.start, self.began = step, time.monotonic()
        self.pending: list[Any] = []  # Metrics or NetworkMetrics since the last report

    def add(self, metrics: Any) -> None:
        """Add a step's metrics; wait for the step before, so that few steps are in flight when a signal arrives."""
        if self.pending:
            jax.block_until_ready(self.pending[-1])
        self.pending.append(metrics)

    def report(self, step: int, write: bool) -> None:
        """Check the metrics since the last report, and write them; raise UserError if one is not finite."""
        series = {name: np.array([float(getattr(m, name)) for m in self.pending]) for name in self.pending[0]._fields}
        for name, values in series.items():
            if not np.isfinite(values).all():
                first = int(np.argmin(np.isfinite(values)))
                raise UserError(
                    f"step {step - len(values) + 1 + first}: {name} is {values[first]}: training diverged; "
                    f"the last checkpoint is intact. Try a smaller {self.setting} in a new --workdir"
                )
        if not write:
            return
        self.pending.clear()
        if not is_first():
            return
        means = {name: float(values.mean()) for name, values in series.items()}
        rate = (step - self.start) / (time.monotonic() - self.began)
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **means, "steps_per_second": rate}) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error
        if self.events:
            for name, value in means.items():
                self.events.add_scalar(name, value, step)
        shown = "  ".join(f"{label} {means[name]:.3f}" for name, label in _LOSSES.items() if name in means)
        left = math.ceil((self.steps - step) / rate)
        log.info("step %d/%d  %s  %.1f steps/s  %d:%02d left", step, self.steps, shown, rate, *divmod(left, 60))
