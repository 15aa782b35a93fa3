"""Where detection is lost: the search, the generator's coverage, the yardstick; for one trained run.

    python -m benchmarks.causes --workdir runs/one_class/mnist/8-0 --figure docs/causes-mnist-8.png

On a sample of the test split, half of it normal. Search: residual of normal and of anomalous images, and AUROC, against
steps of descent, from the nearest generated image and from a random z. Coverage: the distance from normal and anomalous
images to the nearest of more and more generated images, to the nearest training image, and to the nearest of those as
the generator makes them. Terms: the AUROC of each alone. Nothing is chosen by what this prints.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from absl import flags
from jax import Array, lax
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from anogan_jax import cli
from anogan_jax.bank import Bank, describe_bank, make_bank, nearest, neighbours
from anogan_jax.data import as_array, load_one_class, to_model_range
from anogan_jax.errors import UserError
from anogan_jax.losses import cross_entropy_loss
from anogan_jax.models import hidden_layers, sample_latent
from anogan_jax.run import Run, explained_normals, open_run
from anogan_jax.search import PAPER_SETTINGS, SearchResult, latent_search
from anogan_jax.structure import describe, structure_loss

_EACH = 128  # normal images, and as many anomalous
_STEPS = {"bank": (1, 8, 24, 64, 200), "bank, prior": (8, 24, 64), "random": (1, 24, 64, 200, 500)}
_PRIOR = 1.0  # weight of |z|^2 / 2
_STYLES = {"bank": "-", "bank, prior": ":", "random": "--"}
_SIZES = (512, 2_048, 8_192, 32_768)

_FIGURE = flags.DEFINE_string("figure", None, "Where to save the plots.", required=True)


def main() -> None:
    """Measures, prints and plots."""
    run = open_run(cli.given_workdir())
    data = load_one_class(run.config)
    if data.test is None or data.test.labels is None:
        raise UserError(f"{run.workdir}: its data has no labelled test split")
    rng = np.random.default_rng(0)
    of_each = [np.flatnonzero(data.test.labels == label) for label in (0, 1)]
    each = min(_EACH, *map(len, of_each))
    if run.config.patches.enabled or not each:
        raise UserError(f"{run.workdir}: takes whole test images of both kinds")
    chosen = [rng.choice(those, each, replace=False) for those in of_each]
    labels = np.repeat([0, 1], each)
    contrast = run.config.data.normalize_contrast
    images: Any = to_model_range(as_array(data.test.take(np.concatenate(chosen)), run.config), contrast)
    held_out = to_model_range(as_array(data.held_out, run.config), contrast)
    train = to_model_range(as_array(data.train, run.config), contrast)
    bank = make_bank(run.gan, run.weights, jax.random.key(0), max(_SIZES))
    descent = {start: against_steps(run, bank, images, start) for start in _STEPS}
    coverage = {kind: against_size(run, bank, images, train, kind) for kind in ("pixels", "structure")}
    show(labels, descent, coverage, of_terms(run, bank, images, held_out))
    save(Path(_FIGURE.value), labels, descent, coverage)


def against_steps(run: Run, bank: Bank, images: Any, start: str) -> dict[int, np.ndarray]:
    """A(x) by the most steps taken."""
    if start != "random":
        starts, how = nearest([bank], images, 1)[:, 0], {"tolerance": 0.0}
        if start == "bank, prior":
            how["prior_weight"] = _PRIOR
    else:
        starts, how = sample_latent(run.gan, jax.random.key(0), (len(images),)), PAPER_SETTINGS
    layer = run.config.search.feature_layer
    return {
        steps: np.asarray(_searched(run, images, starts, **{**how, "steps": steps, "feature_layer": layer}).loss)
        for steps in _STEPS[start]
    }


def against_size(run: Run, bank: Bank, images: Any, train: np.ndarray, yardstick: str) -> dict[str, np.ndarray]:
    """The distance to the nearest of so many generated images, and of the training images, seen and explained."""
    banks: dict[str, Any] = {f"{size:,}": bank.images[:size] for size in _SIZES}
    banks |= {"training": train, "explained": explained_normals(run)}
    return {
        name: np.asarray(neighbours([describe_bank(of, yardstick)], images, 1, yardstick).distance)[:, 0]
        for name, of in banks.items()
    }


def of_terms(run: Run, bank: Bank, images: Any, held_out: Any) -> dict[str, np.ndarray]:
    """Each term of a score alone, at the nearest generated image and after the search from there."""
    ours, held = (_found(run, bank, x) for x in (images, held_out[: 2 * _EACH]))
    before, after = (_with_sums(run, *pair) for pair in zip(ours, held, strict=True))
    normal = explained_normals(run)
    by_pixels = _likeness_residuals(normal, images, "pixels")
    residuals, of_held = (_likeness_residuals(normal, x, "structure") for x in (images, held_out))
    scale = np.sqrt(np.mean(of_held**2, axis=0) + np.mean(of_held**2))
    alone = {
        "P_D of x": jax.vmap(cross_entropy_loss)(_discriminated(run, images)[0]),
        "structure, mean of 8 nearest by pixels": np.linalg.norm(by_pixels, axis=1),
        "structure, mean of 8 nearest by structure": np.linalg.norm(residuals, axis=1),
        "the same, in scales of held-out": np.linalg.norm(residuals / scale, axis=1),
    }
    both = {
        f"{name}, {when}": found
        for when, of in (("nearest", before), ("searched", after))
        for name, found in of.items()
    }
    return {name: np.asarray(values) for name, values in (both | alone).items()}


def _found(run: Run, bank: Bank, images: Any) -> list[dict[str, np.ndarray]]:
    """The terms at the nearest generated image, and after the search from there."""
    z = nearest([bank], images, 1)[:, 0]
    searched = _searched(run, images, z, feature_layer=run.config.search.feature_layer).z
    return [dict(_terms(run, images, at)) for at in (z, searched)]


def _with_sums(run: Run, found: dict[str, np.ndarray], held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Also A(x) as the paper adds it up, and with both terms in units of their spread over held-out images."""
    weight, layers = run.config.search.discrimination_weight, hidden_layers(run.gan.generator.image_size)
    residual, discrimination = "L1", f"features {run.config.search.feature_layer % layers}"
    return found | {
        "A(x)": (1 - weight) * found[residual] + weight * found[discrimination],
        "A(x), terms in their spreads": sum(found[term] / held[term].std() for term in (residual, discrimination)),
    }


def _likeness_residuals(normal: np.ndarray, images: Any, nearest_by: str) -> np.ndarray:
    bank = describe_bank(normal, "structure", nearest_by)
    mean = neighbours([bank], images, 8, nearest_by).features.mean(axis=1)
    return np.asarray(jax.vmap(partial(describe, yardstick="structure"))(images) - mean)


def _terms(run: Run, images: Any, z: Array) -> Iterator[tuple[str, np.ndarray]]:
    made: Any = run.gan.generator.apply(run.weights.generator, z, train=False)
    generated: Any = np.asarray(made)
    difference = (images - generated).reshape(len(images), -1)
    yield "L1", np.abs(difference).sum(axis=1)
    yield "L2", np.linalg.norm(difference, axis=1)
    yield "cosine", np.linalg.norm(_direction(images) - _direction(generated), axis=1)
    yield "structure", np.asarray(jax.vmap(structure_loss)(images, generated))
    (_, theirs), (_, ours) = _discriminated(run, images), _discriminated(run, generated)
    for layer in range(hidden_layers(run.gan.generator.image_size)):
        yield f"features {layer}", np.abs(np.asarray(theirs[layer]) - np.asarray(ours[layer])).sum(axis=(1, 2, 3))
    yield "norm of z", np.linalg.norm(np.asarray(z), axis=1)


def _direction(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def _discriminated(run: Run, images: np.ndarray) -> Any:
    return run.gan.discriminator.apply(run.weights.discriminator, images, train=False)


def _searched(run: Run, images: np.ndarray, starts: Array, **how: Any) -> SearchResult:
    search = partial(latent_search, run.gan, run.weights, **how)
    return jax.jit(lambda given: lax.map(lambda each: search(*each), given, batch_size=32))((images, starts))


def show(labels: np.ndarray, descent: dict, coverage: dict, terms: dict) -> None:
    """The tables on the terminal."""
    tables = {f"A(x), steps from {start} z": by_steps for start, by_steps in descent.items()}
    tables |= {f"distance in {kind} to the nearest of": by_size for kind, by_size in coverage.items()} | {"term": terms}
    for title, rows in tables.items():
        table = Table(title, "normal", "anomalous", "AUROC")
        for name, values in rows.items():
            means = (f"{values[labels == label].mean():.4g}" for label in (0, 1))
            table.add_row(str(name), *means, f"{roc_auc_score(labels, values):.3f}")
        Console(soft_wrap=True).print(table)


def save(path: Path, labels: np.ndarray, descent: dict, coverage: dict) -> None:
    """The plots."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for start, by_steps in descent.items():
        steps, values = list(by_steps), [*by_steps.values()]
        for label, colour in ((0, "tab:blue"), (1, "tab:red")):
            means = [found[labels == label].mean() for found in values]
            style = _STYLES[start]
            axes[0].plot(steps, means, style, color=colour, label=f"{('normal', 'anomalous')[label]}, {start}")
        axes[1].plot(steps, [roc_auc_score(labels, found) for found in values], style, color="black", label=start)
    axes[0].set(xscale="log", xlabel="steps of descent", ylabel="A(x)", title="The search explains both")
    axes[1].set(xscale="log", xlabel="steps of descent", ylabel="AUROC", title="What that does to detection")
    for kind, by_size in coverage.items():
        found = {name: roc_auc_score(labels, distances) for name, distances in by_size.items()}
        (line,) = axes[2].plot(_SIZES, list(found.values())[: len(_SIZES)], label=f"generated, {kind}")
        for name, style in (("training", ":"), ("explained", "--")):
            axes[2].axhline(found[name], ls=style, color=line.get_color(), label=f"{name}, {kind}")
    axes[2].set(xscale="log", xlabel="generated images", ylabel="AUROC", title="Nearest image, no search")
    for axis in axes:
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
