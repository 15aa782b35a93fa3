"""The devices at hand as a mesh of one axis, and several processes that work as one."""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from anogan_jax.errors import UserError

AXIS = "data"  # the mesh's one axis: what is of one image or one row of a batch is divided along it
WHOLE, ROWS = PartitionSpec(), PartitionSpec(AXIS)
Tree = TypeVar("Tree")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over these devices; by default over the one that JAX computes on unless told otherwise."""
    return Mesh(np.array(devices or jax.local_devices()[:1]), (AXIS,))


def whole(mesh: Mesh) -> NamedSharding:
    """Every device holds all of the array."""
    return NamedSharding(mesh, WHOLE)


def rows(mesh: Mesh) -> NamedSharding:
    """Every device holds its part of the array's first axis."""
    return NamedSharding(mesh, ROWS)


def join_processes() -> None:
    """Makes this process one of several that train and score together; before JAX computes anything.

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
    """Whether this is the process that writes files and speaks to the user."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns once every process has come to the same place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def gather(tree: Tree) -> Tree:
    """Every process's NumPy arrays, stacked along a new first axis in the order of the processes, for all of them."""
    if jax.process_count() == 1:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)
    gathered: Any = multihost_utils.process_allgather(tree)
    return jax.tree.map(np.asarray, gathered)
