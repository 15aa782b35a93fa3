"""Training states on disk; the only module that knows orbax."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from anogan_jax.devices import is_first, wait_for_all
from anogan_jax.encoding import EncoderState
from anogan_jax.errors import UserError
from anogan_jax.training import TrainState

log = logging.getLogger(__name__)
State = TypeVar("State", TrainState, EncoderState)
_KEEP = 3  # one to go on from, and others should it be damaged


def save_state(folder: Path, state: State) -> None:
    """Saves to ``folder/<training step>``; returns when it is on disk. Of several processes the first writes.

    Raises:
      UserError: it cannot be written.
    """
    if is_first():
        arrays = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _manager(folder, alone=True) as manager:
                # orbax refuses to write a step that is there already; a damaged one may be.
                step = int(state.step)
                if step in manager.all_steps():
                    manager.delete(step)
                manager.save(step, args=ocp.args.StandardSave(arrays))
                manager.wait_until_finished()
        except Exception as error:  # a full disk or a missing permission reaches us as any of many types
            raise UserError(f"{folder}: the checkpoint cannot be saved: {_reason(error)}") from error
    wait_for_all("checkpoint saved")


def restore_state(folder: Path, like: State) -> State | None:
    """The last state that can be read, or None where none was saved; a damaged one is passed over, saying so.

    Args:
      folder: where ``save_state`` wrote.
      like: the state's shapes, types and, where they matter, shardings: ``jax.ShapeDtypeStruct`` leaves.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    raw_key = jax.eval_shape(jax.random.key_data, like.key)
    raw: Any = like._asdict()
    raw["key"] = jax.ShapeDtypeStruct(raw_key.shape, raw_key.dtype, sharding=like.key.sharding)
    steps = saved_steps(folder)
    for step in reversed(steps):
        try:
            with _manager(folder) as manager:
                state = manager.restore(step, args=ocp.args.StandardRestore(type(like)(**raw)))
            if int(state.step) != step:
                raise ValueError(f"holds step {int(state.step)}")
            return state._replace(key=jax.random.wrap_key_data(state.key))
        except Exception as error:  # damage shows as any of many types
            log.warning("%s: damaged, falling back to the one before: %s", folder / str(step), _reason(error))
    if steps:
        raise UserError(f"{folder}: none of its checkpoints can be read; delete the folder to train anew")
    return None


def saved_steps(folder: Path) -> list[int]:
    """The steps that were saved, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())


@contextlib.contextmanager
def _manager(folder: Path, alone: bool = False) -> Iterator[ocp.CheckpointManager]:
    """Of all processes together, or of the first alone."""
    first = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="first")
    options = ocp.CheckpointManagerOptions(
        create=False,
        preservation_policy=LatestN(_KEEP),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
        multiprocessing_options=first if alone else ocp.options.MultiprocessingOptions(),
    )
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield manager


def _reason(error: Exception) -> str:
    """The first line of what a library said, short enough to read."""
    if "No space left on device" in str(error):
        return "no space left on device"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
