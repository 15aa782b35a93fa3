"""Saving and restoring training states with orbax, which is slow to import and needed only in training."""

import errno
import hashlib
import logging
import math
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax

from anogan_jax.auxiliary import NetworkState
from anogan_jax.devices import is_first, wait_for_all
from anogan_jax.errors import UserError
from anogan_jax.files import digest, replacing
from anogan_jax.training import TrainState

log = logging.getLogger(__name__)
State = TypeVar("State", TrainState, NetworkState)
_KEEP = 3  # the last checkpoint, and two earlier ones in case it is damaged


def save_state(folder: Path, state: State) -> None:
    """Save a state to ``folder/<training step>`` and return when it is on disk; the first process writes.

    Raises:
      UserError: it cannot be written.
    """
    import orbax.checkpoint as ocp

    if is_first():
        step, arrays = int(state.step), jax.device_get(state._replace(key=jax.random.key_data(state.key)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_space(folder, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
            with _manager(folder, alone=True) as manager:
                if step in manager.all_steps():  # a damaged checkpoint, which orbax refuses to overwrite
                    manager.delete(step)
                manager.save(step, args=ocp.args.StandardSave(arrays))
                manager.wait_until_finished()
                kept = manager.all_steps()
            with replacing(_digest_file(folder, step)) as temporary:
                temporary.write_text(_digest(folder / str(step)))
            for old in set(saved_steps(folder)) - set(kept):
                _digest_file(folder, old).unlink()
        except Exception as error:  # orbax raises many types for a full disk or a missing permission
            raise UserError(f"{folder}: the checkpoint cannot be saved: {_reason(error)}") from error
    wait_for_all("checkpoint saved")


def restore_state(folder: Path, like: State) -> State | None:
    """Return the last readable state, or None if none was saved; warn of damaged ones.

    Args:
      folder: the folder given to ``save_state``.
      like: the state's shapes, types and, where they matter, shardings: ``jax.ShapeDtypeStruct`` leaves.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    import orbax.checkpoint as ocp

    data = jax.eval_shape(jax.random.key_data, like.key)
    raw_key: Any = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=like.key.sharding)
    steps = saved_steps(folder)
    for path in folder.glob("*/"):
        if path.name.isdecimal() and int(path.name) not in steps:  # left by a killed process or another version
            log.warning("%s: checkpoint %s has no digest and is not used", folder, path.name)
    for step in reversed(steps):
        try:
            if _digest(folder / str(step)) != _digest_file(folder, step).read_text():
                raise ValueError("the digest does not match")
            with _manager(folder) as manager:
                state = manager.restore(step, args=ocp.args.StandardRestore(like._replace(key=raw_key)))
            return state._replace(key=jax.random.wrap_key_data(state.key))
        except Exception as error:  # damage raises many types
            log.warning("%s: damaged, falling back to the checkpoint before it: %s", folder / str(step), _reason(error))
    if steps:
        raise UserError(f"{folder}: none of its checkpoints can be read; delete the folder to train anew")
    return None


def saved_steps(folder: Path) -> list[int]:
    """Return the saved steps, ascending; a digest marks a checkpoint as complete."""
    return sorted(int(path.stem) for path in folder.glob("*.sha256") if path.stem.isdecimal())


def _check_space(folder: Path, needed: int) -> None:
    """Raise OSError if the disk is too full; orbax, when it runs out of space, prints tracebacks of its threads."""
    needed += needed // 4 + 2**18  # for metadata and whole disk blocks
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"No space left on device, {math.ceil(needed / 2**20):,} MiB are needed")


def _digest(folder: Path) -> str:
    """Return the digest of all files below a folder; orbax may read wrong weights from a damaged file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [f"{path.relative_to(folder)} {digest(path)}" for path in files]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _digest_file(folder: Path, step: int) -> Path:
    return folder / f"{step}.sha256"


def _manager(folder: Path, alone: bool = False) -> Any:
    """Open orbax's CheckpointManager, for all processes together or only for the first."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import LatestN

    first = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="first")
    options = ocp.CheckpointManagerOptions(
        create=False,
        preservation_policy=LatestN(_KEEP),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
        multiprocessing_options=first if alone else ocp.options.MultiprocessingOptions(),
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def _reason(error: Exception) -> str:
    """Return the first line of a library's message, shortened."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "No space left on device" in str(error):
        return "No space left on device"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
