"""Devices as a mesh of one axis, several processes that work together, and a cache of compiled programs."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from anogan_jax.errors import UserError

AXIS = "data"  # the mesh's one axis: batches are divided along it
REPLICATED, SHARDED = PartitionSpec(), PartitionSpec(AXIS)
Tree = TypeVar("Tree")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh over these devices; by default over JAX's default device."""
    return Mesh(np.array(devices or jax.local_devices()[:1]), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding in which every device holds the whole array."""
    return NamedSharding(mesh, REPLICATED)


def sharded(mesh: Mesh) -> NamedSharding:
    """Return the sharding in which the devices divide the array's first axis."""
    return NamedSharding(mesh, SHARDED)


def join_processes() -> None:
    """Join the other processes that train and score together; call it before JAX computes anything.

    JAX finds the others by itself under SLURM, Open MPI and on Cloud TPUs; elsewhere
    JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID
    say where they are.

    Raises:
      UserError: there is no such cluster, or the others cannot be reached.
    """
    count, index = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count), process_id=None if index is None else int(index)
        )
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--distributed: {reason} Start it under SLURM or Open MPI, or set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def is_first() -> bool:
    """Return whether this is the process that writes files and shows messages."""
    return jax.process_index() == 0


def hides_bars() -> bool | None:
    """Return tqdm's argument ``disable``: True on other processes than the first, False in a notebook.

    Otherwise it is None: bars are shown only on a terminal.
    """
    if not is_first():
        return True
    return False if "ipykernel" in sys.modules else None


def keep_compiled_programs() -> None:
    """Cache compiled programs for later runs, in the user's cache folder unless JAX_COMPILATION_CACHE_DIR is set."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anogan_jax"
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            cache.chmod(0o700)  # programs in it are executed
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def wait_for_all(what: str) -> None:
    """Wait until every process has reached the same place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def gather(tree: Tree) -> Tree:
    """Return the NumPy arrays of every process, stacked along a new first axis in the order of the processes."""
    if jax.process_count() == 1:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)
    gathered: Any = multihost_utils.process_allgather(tree)
    return jax.tree.map(np.asarray, gathered)
