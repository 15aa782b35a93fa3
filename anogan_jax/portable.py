"""A detector as one file that runs without this library: a program of ``jax.export``, its arrays and settings."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array, export

from anogan_jax.errors import UserError
from anogan_jax.files import replacing
from anogan_jax.layers import without_layouts
from anogan_jax.runtime import FORMAT
from anogan_jax.scoring import Model, Program
from anogan_jax.version import __version__

_PLATFORMS = ("cpu", "cuda", "tpu")
_TIE = 1e-6  # stored held-out scores are raised by it: rounding lifts no rescored image above its own score


def export_program(
    path: Path, program: Program, model: Model, facts: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Write the file that ``runtime.load`` reads, complete or not at all.

    Args:
      path: the file to write, which must not exist.
      program: the program of ``make_program``.
      model: its arrays; those that the program does not read are left out.
      facts: the facts that ``runtime.Exported`` reads: view, alpha, levels, region.
      arrays: the arrays that it reads: held_out, those of the appearance, and mask if there is one.

    Raises:
      UserError: the file exists already, or cannot be written, or flatbuffers is missing.
    """
    if path.exists():
        raise UserError(f"{path}: exists already; give another name, or remove it")
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("to export a detector, install flatbuffers: pip install 'anogan_jax[export]'")
    exported, leaves = _exported(program, model, facts["view"])
    stored: dict[str, Any] = arrays | {f"leaf{i}": _narrow(leaf) for i, leaf in enumerate(leaves)}
    stored["held_out"] = arrays["held_out"] * (1 + _TIE)
    stored["program"] = np.frombuffer(exported.serialize(), np.uint8)
    stored["facts"] = np.array(json.dumps({"format": FORMAT, "version": __version__, "jax": jax.__version__, **facts}))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **stored)


def _exported(program: Program, model: Model, view: dict[str, Any]) -> tuple[export.Exported, list[np.ndarray]]:
    """Return the exported program, for any number of images, and the arrays that are its other arguments."""
    leaves, structure = jax.tree.flatten(model)
    size, channels = view["image_size"], view["channels"]
    of_images = jax.ShapeDtypeStruct((*export.symbolic_shape("n"), size, size, channels), np.float32)
    specs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def of_leaves(*given: Array) -> tuple[Array, ...]:
        return program(jax.tree.unflatten(structure, given[:-1]), given[-1])

    with without_layouts(True):
        jaxpr = jax.make_jaxpr(of_leaves)(*specs, of_images).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    used = [i for i, variable in enumerate(jaxpr.invars[:-1]) if id(variable) in read]

    def of_used(*given: Array) -> tuple[Array, ...]:
        every: list[Any] = [None] * len(leaves)
        for i, leaf in zip(used, given[:-1], strict=True):
            every[i] = leaf
        return of_leaves(*every, given[-1])

    with without_layouts(True):
        exported = export.export(jax.jit(of_used), platforms=_PLATFORMS)(*[specs[i] for i in used], of_images)
    return exported, jax.device_get([leaves[i] for i in used])


def _narrow(leaf: np.ndarray) -> np.ndarray:
    """Return an array in half precision if that loses nothing, as for the bank's images."""
    with np.errstate(over="ignore"):
        half = leaf.astype(np.float16)
    return half if leaf.dtype == np.float32 and np.array_equal(half, leaf) else leaf
