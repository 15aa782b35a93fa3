"""Measure how close training, search and both forms of the convolutions come to the limit of an accelerator.

    python -m benchmarks.gpu [--json FILE]

For a DCGAN of base width 64 it prints training images per second; images x steps per second for several numbers of
parallel searches; and, layer by layer, XLA's own convolutions against the matrix products that the CPU uses. Each is
measured in float32 and in bfloat16, and also given as a share of the rate of a large square product of that type,
counting the arithmetic of direct convolutions. Times are medians without compilation. Without an accelerator it
measures a small model on the CPU, and says so.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import Array

from anogan_jax import (
    cli,
    inference_weights,
    init_state,
    layers,
    make_features,
    make_gan,
    make_optimizer,
    make_search,
    make_train_step,
    sample_latent,
)
from anogan_jax.config import Precision

_STEPS = 16  # steps of a search
_JSON = flags.DEFINE_string("json", None, "File of the rows.")


class Work(NamedTuple):
    """The sizes that are measured."""

    image: int
    width: int
    batches: tuple[int, ...]  # batch sizes of training
    searches: tuple[int, ...]  # numbers of parallel searches
    square: int  # side of the matrices whose product gives the peak rate
    repeat: int


_LARGE = Work(image=64, width=64, batches=(64, 512), searches=(32, 128, 512, 2048), square=8192, repeat=20)
_SMALL = Work(image=16, width=16, batches=(16,), searches=(8, 32), square=1024, repeat=3)


def main(_: list[str]) -> None:
    """Measure everything."""
    cli.keep_memory()
    cli.keep_compiled_programs()
    device = jax.devices()[0]
    work = _SMALL if device.platform == "cpu" else _LARGE
    print(f"device: {device.device_kind}, jax {jax.__version__}")
    if device.platform == "cpu":
        print("no accelerator: a small model on the CPU, to show that the benchmark runs; its numbers mean nothing")
    rows: list[dict[str, Any]] = []
    for precision in get_args(Precision):
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


def training(work: Work, precision: Precision) -> list[dict[str, Any]]:
    """Return a row for one training step of each batch size."""
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


def searching(work: Work, precision: Precision) -> list[dict[str, Any]]:
    """Return a row for each number of parallel searches with the discriminator's features."""
    gan = make_gan(work.image, 1, work.width, precision=precision)
    state = init_state(gan, make_optimizer(), jax.random.key(0), channels=1)
    weights = jax.jit(partial(inference_weights, gan))(state._replace(step=state.step + 1))
    search = make_search(gan, make_features("pixels", work.image, 1), steps=_STEPS, discrimination_weight=0.1)
    run = jax.jit(jax.vmap(search.run, in_axes=(None, 0, 0)))
    rows = []
    for count in work.searches:
        images = jax.random.uniform(jax.random.key(1), (count, work.image, work.image, 1), minval=-1.0)
        z = sample_latent(gan, jax.random.key(2), (count,))
        seconds = timed_chain(partial(run, weights, images), z, work.repeat, chained=False)
        # Each step runs G and D forward and computes the gradients for their inputs. D is also run once on the query
        # before the first step, and G and D once after the last step.
        flops = (4 * _STEPS + 3) * count * convolution_flops(work)
        rows.append(rate_row(f"{count} parallel searches", seconds, flops, _STEPS * count, "images x steps"))
    return rows


def convolutions(work: Work, precision: Precision) -> list[dict[str, Any]]:
    """Return two rows per layer, forward and backward: XLA's convolution and matrix products."""
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
    """Return the row of a program that handles whole images."""
    return {
        "work": work,
        "seconds": seconds,
        "flops_per_s": flops / seconds,
        "images_per_s": images / seconds,
        "unit": unit,
    }


def timed_chain(step: Callable[[Any], Any], state: Any, repeat: int, chained: bool = True) -> float:
    """Return the median seconds of a step, without the first two; a chained step gets its own result as input."""
    seconds = []
    for i in range(repeat + 2):
        began = time.perf_counter()
        result = jax.block_until_ready(step(state))
        if i > 1:
            seconds.append(time.perf_counter() - began)
        state = result if chained else state
    return statistics.median(seconds)


def convolution_flops(work: Work) -> float:
    """Return the operations of one image in the direct convolutions of one network, the same number for both."""
    total, channels, features, edge = 0.0, 1, work.width, work.image // 2
    while edge >= 4:
        total += 2 * edge**2 * 16 * channels * features
        channels, features, edge = features, 2 * features, edge // 2
    return total


def matmul_rate(work: Work, dtype: Any) -> float:
    """Return FLOP/s of a square product, accumulated in float32; float32 at the default precision, as in the layers."""
    a = jax.random.normal(jax.random.key(0), (work.square, work.square), dtype)
    return 2.0 * work.square**3 / timed_chain(jax.jit(lambda a: a @ a), a, work.repeat, chained=False)


if __name__ == "__main__":
    app.run(main)
