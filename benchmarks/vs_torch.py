"""Compare the speed of the same DCGAN in PyTorch and here, on the CPU.

    pip install -r requirements-torch.txt
    python -m benchmarks.vs_torch [--quick] [--json FILE]

Both run in one process and alternate; training steps are timed in runs of five, as in training. PyTorch is run with
both memory formats, contiguous and channels_last, and the faster time counts. Times are medians; a ratio above 1 means
that this library is faster.

Whole searches of PyTorch (500 Adam steps, in batches of 64, or one image after another as in AnoGANs written in
PyTorch) are timed for some of their steps, which all cost the same, and extrapolated. The searches of this library are
timed as a whole: the same loss with 64 SOAP steps from the nearest image of a bank, and the default preset, by
structure. The share of the matmul peak counts the arithmetic of direct convolutions. This library needs 9/16 of it, so
the share can exceed 1.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from absl import app, flags
from torch import nn
from torch.nn import functional as F

from anogan_jax import (
    PRESETS,
    Calibration,
    Config,
    Detector,
    Model,
    Weights,
    cli,
    draw_bank,
    init_state,
    make_features,
    make_optimizer,
    make_search,
    make_train_step,
)
from anogan_jax.appearance import fit_appearance
from anogan_jax.config import ModelConfig, SearchConfig
from anogan_jax.detector import Regions, gan_of, scorer_of
from anogan_jax.runtime import to_pixels

_QUICK = flags.DEFINE_bool("quick", False, "Only the smallest size, no search step, a quarter of the queries; scaled.")
_JSON = flags.DEFINE_string("json", None, "File of the rows.")

_BATCH = 64
_QUERIES = 256
_LATENT = 32
_PEERS_STEPS = 500
_SAME_LOSS = SearchConfig(starts=1, steps=64, features="pixels", learning_rate=1.0, discrimination_weight=0.1)
_DEFAULT = SearchConfig(**PRESETS["anogan"].search)


class Size(NamedTuple):
    """The size of a model of base width 64."""

    image: int
    channels: int
    kernel: int

    def __str__(self) -> str:
        return f"{self.image}x{self.image}x{self.channels}" + (", 5x5" if self.kernel == 5 else "")


_SIZES = (Size(32, 1, 4), Size(32, 3, 4), Size(64, 1, 4), Size(64, 1, 5))


class TorchGenerator(nn.Module):
    """The layers of anogan_jax.models.Generator."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        geometry: dict[str, Any] = {"stride": 2, "padding": 1}
        if size.kernel == 5:
            geometry = {"stride": 2, "padding": 2, "output_padding": 1}
        widths = 64 * size.image // 8
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(_LATENT, widths, 4, bias=False),
            nn.BatchNorm2d(widths),
            nn.ReLU(),
        ]
        while widths > 64:
            layers.append(nn.ConvTranspose2d(widths, widths // 2, size.kernel, bias=False, **geometry))
            widths //= 2
            layers += [nn.BatchNorm2d(widths), nn.ReLU()]
        layers += [nn.ConvTranspose2d(widths, size.channels, size.kernel, **geometry), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return images (N, C, S, S) of z (N, latent)."""
        images: torch.Tensor = self.layers(z[:, :, None, None])
        return images


class TorchDiscriminator(nn.Module):
    """The layers of anogan_jax.models.Discriminator; returns logits and the last features."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, widths = size.channels, 64
        for layer in range(size.image.bit_length() - 3):
            layers.append(nn.Conv2d(channels, widths, size.kernel, 2, (size.kernel - 1) // 2, bias=layer == 0))
            layers += [nn.BatchNorm2d(widths)] if layer else []
            layers.append(nn.LeakyReLU(0.2))
            channels, widths = widths, 2 * widths
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Conv2d(channels, 1, 4)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (N,) and features of images (N, C, S, S)."""
        features = self.layers(images)
        return self.logit(features).flatten(), features


class TorchModel:
    """The model in PyTorch, in one memory format."""

    def __init__(self, size: Size, memory_format: Any) -> None:
        torch.manual_seed(0)
        layout: dict[str, Any] = {"memory_format": memory_format}
        self.generator, self.discriminator = TorchGenerator(size).to(**layout), TorchDiscriminator(size).to(**layout)
        self.average = [p.detach().clone() for p in self.generator.parameters()]
        self.optimizers = [
            torch.optim.Adam(module.parameters(), 2e-4, (0.5, 0.999), fused=True)
            for module in (self.generator, self.discriminator)
        ]
        images = torch.rand(_BATCH, size.channels, size.image, size.image) * 2 - 1
        self.images = images.to(**layout)

    def train_step(self) -> None:
        """Update the discriminator, then the generator on the same fakes, then the moving average."""
        of_generator, of_discriminator = self.optimizers
        ones, zeros = torch.ones(_BATCH), torch.zeros(_BATCH)
        fake = self.generator(torch.randn(_BATCH, _LATENT))
        of_discriminator.zero_grad()
        loss = F.binary_cross_entropy_with_logits(self.discriminator(self.images)[0], ones)
        loss = loss + F.binary_cross_entropy_with_logits(self.discriminator(fake.detach())[0], zeros)
        loss.backward()
        of_discriminator.step()
        self.discriminator.requires_grad_(False)  # its gradients are not needed to update the generator
        of_generator.zero_grad()
        F.binary_cross_entropy_with_logits(self.discriminator(fake)[0], ones).backward()
        of_generator.step()
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.generator.parameters()), 0.001)

    def search_step(self, batch: int) -> Callable[[], None]:
        """Return a function that runs one Adam step on the z of a batch of queries."""
        self.generator.eval().requires_grad_(False)
        self.discriminator.eval().requires_grad_(False)
        queries = self.images[:batch]
        with torch.no_grad():
            wanted = self.discriminator(queries)[1]
        z = torch.randn(batch, _LATENT, requires_grad=True)
        optimizer = torch.optim.Adam([z], 0.1)

        def step() -> None:
            generated = self.generator(z)
            features = self.discriminator(generated)[1]
            loss = 0.9 * (queries - generated).abs().sum() + 0.1 * (wanted - features).abs().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step


class Ours:
    """The model in this library."""

    def __init__(self, size: Size) -> None:
        self.config = Config(model=ModelConfig(size.image, size.channels, 64, size.kernel, _LATENT))
        self.gan = gan_of(self.config)
        optimizer = make_optimizer()
        self.state = init_state(self.gan, optimizer, jax.random.key(0), size.channels)
        self._step = make_train_step(self.gan, optimizer)
        shape = (_QUERIES, size.image, size.image, size.channels)
        self.images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def train_step(self) -> None:
        """Run one training step and wait for it."""
        images = jax.block_until_ready(jax.numpy.asarray(self.images[:_BATCH]))  # as in training
        self.state, metrics = self._step(self.state, images)
        jax.block_until_ready(metrics)

    def weights(self) -> Weights:
        """Return the current weights; the time does not depend on their values."""
        return Weights(self.state.generator, self.state.discriminator)

    def search_steps(self) -> Callable[[], None]:
        """Return a function that runs eight search steps on a batch, including the evaluation of the result."""
        pixels = make_features("pixels", *self.images.shape[2:])
        names = ("learning_rate", "discrimination_weight")
        search = make_search(self.gan, pixels, steps=8, **{name: getattr(_SAME_LOSS, name) for name in names})
        run = jax.jit(jax.vmap(search.run, in_axes=(None, 0, 0)))
        z = jax.random.normal(jax.random.key(1), (_BATCH, _LATENT))
        arguments = (self.weights(), jax.numpy.asarray(self.images[:_BATCH]), z)
        return lambda: jax.block_until_ready(run(*arguments).loss)

    def whole_search(self, settings: SearchConfig, queries: int) -> Callable[[], Any]:
        """Return a function that runs the whole search from a bank for this number of queries."""
        bank = draw_bank(self.gan, self.weights(), jax.random.key(2), 8_192)
        appearance = fit_appearance(to_pixels(self.images, self.images), seed=0)
        nothing, whole = Calibration(np.zeros(0), np.zeros(0), np.zeros(()), np.zeros(())), Regions(None, [])
        of = (self.config, self.gan, Model(self.weights()), bank, None, appearance, None, nothing, 0, whole)
        score = scorer_of(Detector(*of).with_search(settings))
        return lambda: list(score(self.images[:queries]))


def main(_: list[str]) -> None:
    """Measure all sizes."""
    cli.keep_memory()  # makes both faster
    cli.keep_compiled_programs()
    torch.set_num_threads(os.cpu_count() or 1)
    peak = matmul_peak()
    print(f"matmul peak {peak / 1e9:.0f} GFLOP/s, load {os.getloadavg()[0]:.1f}")
    rows: list[dict[str, Any]] = []
    for size in _SIZES[:1] if _QUICK.value else _SIZES:
        for row in measure(size, peak):
            rows.append(row)
            spread = "{:.2f} to {:.2f}".format(*row["ratios"])
            print(
                f"{row['size']:14} {row['work']:12} ours {row['ours_s']:9.3f} s  PyTorch {row['torch_s']:9.3f} s  "
                f"ratio {row['ratio']:6.2f} ({spread})  {row['gflops']:4.0f} GFLOP/s  "
                f"{row['share_of_peak']:.0%} of peak",
                flush=True,
            )
        if _JSON.value:
            Path(_JSON.value).write_text(json.dumps(rows, indent=2) + "\n")


def measure(size: Size, peak: float) -> list[dict[str, Any]]:
    """Return the rows of one size."""
    ours = Ours(size)
    peers = [TorchModel(size, layout) for layout in (torch.channels_last, torch.contiguous_format)]
    layer = convolution_flops(size)

    def row(work: str, times: list[list[float]], scales: tuple[float, float], flops: float) -> dict[str, Any]:
        mine = [scales[0] * t for t in times[0]]
        best = min(times[1:], key=statistics.median)
        theirs = [scales[1] * t for t in best]
        ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
        seconds = statistics.median(mine)
        return {
            "work": work,
            "size": str(size),
            "ours_s": seconds,
            "torch_s": statistics.median(theirs),
            "ratio": statistics.median(theirs) / seconds,
            "ratios": [ratios[0], ratios[-1]],
            "gflops": flops / seconds / 1e9,
            "share_of_peak": flops / seconds / peak,
        }

    # Forward, and gradients for inputs and for weights: G 3, D 2 x 3 in its own update, 2 in G's.
    in_a_row = 1 if _QUICK.value else 5
    train_steps = [repeated(step, in_a_row) for step in (ours.train_step, *(peer.train_step for peer in peers))]
    rows = [row("train_step", interleaved(train_steps, repeats()), (1 / in_a_row, 1 / in_a_row), 11 * _BATCH * layer)]
    steps = [peer.search_step(_BATCH) for peer in peers]
    if not _QUICK.value:
        times = interleaved([ours.search_steps(), *steps], repeats())
        rows.append(row("search_step", times, (1 / 8, 1), 4 * _BATCH * layer))
    if size.kernel == 5:  # whole searches of this size would take most of the time and show nothing new
        return rows
    queries = _QUERIES // 4 if _QUICK.value else _QUERIES
    searches = {"search_256": _SAME_LOSS, "default_256": _DEFAULT}
    times = interleaved([*(ours.whole_search(each, queries) for each in searches.values()), *steps], 1)
    in_a_row = 20 if _QUICK.value else 50
    singles = interleaved([repeated(peer.search_step(1), in_a_row) for peer in peers], 1)
    scale, in_batches = _QUERIES / queries, _PEERS_STEPS * _QUERIES / _BATCH
    for (name, settings), seconds in zip(searches.items(), times, strict=False):
        passes = 4 if settings.discrimination_weight else 2  # passes through a network in one step
        flops = passes * settings.starts * settings.steps * _QUERIES * layer
        rows.append(row(name, [seconds, *times[len(searches) :]], (scale, in_batches), flops))
        if settings is _SAME_LOSS:
            rows.append(row("one_by_one", [seconds, *singles], (scale, _PEERS_STEPS / in_a_row * _QUERIES), flops))
    return rows


def repeats() -> int:
    """Return how often each function is timed."""
    return 3 if _QUICK.value else 7


def repeated(work: Callable[[], None], times: int) -> Callable[[], None]:
    """Return a function that does the work several times in a row."""

    def all_of_it() -> None:
        for _ in range(times):
            work()

    return all_of_it


def interleaved(works: list[Callable[[], Any]], repeat: int) -> list[list[float]]:
    """Return the seconds of each function; they are run in turn, after one run that is not timed."""
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeat):
        for work, seconds in zip(works, times, strict=True):
            time.sleep(0.1)  # the other library's threads spin for a while before they sleep
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
    return times


def convolution_flops(size: Size) -> float:
    """Return the operations of one image in the direct convolutions of one network, the same number for both."""
    total, channels, features, edge = 0.0, size.channels, 64, size.image // 2
    while edge >= 4:
        total += 2 * edge**2 * size.kernel**2 * channels * features
        channels, features, edge = features, 2 * features, edge // 2
    return total


def matmul_peak() -> float:
    """Return FLOP/s of the faster square product of both libraries, in float32."""
    size = 2048
    a, b = torch.rand(size, size), np.random.default_rng(0).random((size, size), np.float32)
    product, on_device = jax.jit(lambda x: x @ x), jax.numpy.asarray(b)
    times = interleaved([lambda: a @ a, lambda: jax.block_until_ready(product(on_device))], repeats())
    return 2.0 * size**3 / min(min(seconds) for seconds in times)


if __name__ == "__main__":
    app.run(main)
