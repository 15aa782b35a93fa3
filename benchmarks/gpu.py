"""How near an accelerator is to its limit: training, search, and the two forms of the convolutions.

    python -m benchmarks.gpu [--json FILE]

Without an accelerator it runs small on the CPU, and says so. For a DCGAN of base width 64 it prints training images a
second; images x steps a second of the search, for several numbers of lanes; and, layer by layer, XLA's own convolutions
against the matrix products that the CPU uses. In float32 and bfloat16, each as a share of the rate measured for a
large square product of that type, counting the arithmetic of direct convolutions. Medians, compiling left out.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import Array

from anogan_jax import (
    cli,
    inference_weights,
    init_state,
    layers,
    make_gan,
    make_optimizer,
    make_search,
    make_train_step,
    sample_latent,
)
from anogan_jax.models import PRECISIONS

_JSON = flags.DEFINE_string("json", None, "Where to write the rows.")


class Work(NamedTuple):
    """How much of it is measured."""

    image: int
    width: int
    batches: tuple[int, ...]  # of training
    lanes: tuple[int, ...]  # of the search
    square: int  # edge of the product that shows the peak
    repeat: int


_LARGE = Work(image=64, width=64, batches=(64, 512), lanes=(32, 128, 512, 2048), square=8192, repeat=20)
_SMALL = Work(image=16, width=16, batches=(16,), lanes=(8, 32), square=1024, repeat=3)


def main(_: list[str]) -> None:
    """Measures all."""
    cli.keep_memory()
    cli.keep_compiled_programs()
    device = jax.devices()[0]
    work = _SMALL if device.platform == "cpu" else _LARGE
    print(f"device: {device.device_kind}, jax {jax.__version__}")
    if device.platform == "cpu":
        print("no accelerator: a small model on the CPU, to show that the benchmark runs; its numbers mean nothing")
    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        peak = matmul_rate(work, jnp.dtype(precision))
        print(f"\n{precision}: square product of {work.square} {peak / 1e12:.2f} TFLOP/s")
        rows.append({"work": "matmul", "precision": precision, "flops_per_s": peak})
        for measure in (training, searching, convolutions):
            for row in measure(work, precision):
                row |= {"precision": precision, "device": device.device_kind}
                row["share_of_peak"] = row["flops_per_s"] / peak
                rows.append(row)
                rate = f"{row['images_per_s']:12,.0f} {row['unit']}/s  " if "unit" in row else " " * 33
                print(f"{row['work']:34} {rate}{row['seconds'] * 1e3:9.3f} ms  {row['share_of_peak']:6.1%} of peak")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(rows, indent=2) + "\n")


def training(work: Work, precision: str) -> list[dict[str, Any]]:
    """One step, for each batch size."""
    gan, optimizer = make_gan(work.image, 1, work.width, precision=precision), make_optimizer()
    rows = []
    for batch in work.batches:
        state = init_state(gan, optimizer, jax.random.key(0), channels=1)
        images = jax.random.uniform(jax.random.key(1), (batch, work.image, work.image, 1), minval=-1.0)
        step = make_train_step(gan, optimizer)

        def again(state: Any, images: Array = images, step: Any = step) -> Any:
            return step(state, images)[0]

        seconds = timed_chain(again, state, work.repeat)
        # Forward, and gradients for inputs and for weights: G 3, D 2 x 3 in its own update, 2 in G's.
        flops = 11 * batch * convolution_flops(work)
        rows.append(rate_row(f"training, batch {batch}", seconds, flops, batch, "images"))
    return rows


def searching(work: Work, precision: str) -> list[dict[str, Any]]:
    """A round of eight steps, for each number of lanes."""
    gan = make_gan(work.image, 1, work.width, precision=precision)
    state = init_state(gan, make_optimizer(), jax.random.key(0), channels=1)
    weights = jax.jit(partial(inference_weights, gan))(state._replace(step=state.step + 1))
    search = make_search(gan, steps=10**6, tolerance=0.0)
    rows = []
    for lanes in work.lanes:
        images = jax.random.uniform(jax.random.key(1), (lanes, work.image, work.image, 1), minval=-1.0)
        starts = sample_latent(gan, jax.random.key(2), (lanes,))
        descent = jax.jit(jax.vmap(search.begin, in_axes=(None, 0, 0)))(weights, images, starts)
        advance = jax.jit(jax.vmap(search.advance, in_axes=(None, 0)), donate_argnums=1)
        seconds = timed_chain(partial(advance, weights), descent, work.repeat)
        flops = 8 * 4 * lanes * convolution_flops(work)
        rows.append(rate_row(f"search, {lanes} lanes", seconds, flops, 8 * lanes, "images x steps"))
    return rows


def convolutions(work: Work, precision: str) -> list[dict[str, Any]]:
    """Each layer forward and backward, by XLA and by matrix products."""
    rows = []
    channels, features, edge = 1, work.width, work.image
    while edge > 4:
        for name, convolve, native in (
            ("down", layers.down_by_matmuls, layers.native_down),
            ("up", layers.up_by_matmuls, layers.native_up),
        ):
            narrow, wide = (work.batches[0], edge // 2, edge // 2, features), (work.batches[0], edge, edge, channels)
            inputs, kernel_shape = (wide, (4, 4, channels, features))
            if name == "up":
                inputs, kernel_shape = narrow, (4, 4, features, channels)
            x, kernel = (
                jax.random.normal(jax.random.key(i), shape, jnp.dtype(precision))
                for i, shape in enumerate((inputs, kernel_shape))
            )
            flops = 3 * 2 * work.batches[0] * (edge // 2) ** 2 * 16 * channels * features
            for form, function in (("native", native), ("products", convolve)):

                def both(pair: tuple[Array, Array], function: Callable[..., Array] = function) -> Any:
                    y, pull_back = jax.vjp(function, *pair)
                    return pull_back(y)

                seconds = timed_chain(jax.jit(both), (x, kernel), work.repeat, chained=False)
                label = f"{name} {edge}x{edge}x{channels} <-> {features}, {form}"
                rows.append({"work": label, "seconds": seconds, "flops_per_s": flops / seconds})
        channels, features, edge = features, 2 * features, edge // 2
    return rows


def rate_row(work: str, seconds: float, flops: float, images: int, unit: str) -> dict[str, Any]:
    """One measurement of a whole program."""
    return {
        "work": work,
        "seconds": seconds,
        "flops_per_s": flops / seconds,
        "images_per_s": images / seconds,
        "unit": unit,
    }


def timed_chain(step: Callable[[Any], Any], state: Any, repeat: int, chained: bool = True) -> float:
    """Median seconds of a step, each waited for; the first ones do not count. A chained step takes its own result."""
    seconds = []
    for i in range(repeat + 2):
        began = time.perf_counter()
        result = jax.block_until_ready(step(state))
        if i > 1:
            seconds.append(time.perf_counter() - began)
        state = result if chained else state
    return statistics.median(seconds)


def convolution_flops(work: Work) -> float:
    """Of one image through the convolutions of one network, direct form: the two networks have the same."""
    total, channels, features, edge = 0.0, 1, work.width, work.image // 2
    while edge >= 4:
        total += 2 * edge**2 * 16 * channels * features
        channels, features, edge = features, 2 * features, edge // 2
    return total


def matmul_rate(work: Work, dtype: Any) -> float:
    """FLOP/s of a square product, accumulated in float32; float32 at the default precision, as the layers' are."""
    a = jax.random.normal(jax.random.key(0), (work.square, work.square), dtype)
    return 2.0 * work.square**3 / timed_chain(jax.jit(lambda a: a @ a), a, work.repeat, chained=False)


if __name__ == "__main__":
    app.run(main)
