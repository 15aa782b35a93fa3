"""Compare PyOD's AnoGAN with this one, through PyOD's own interface, on the same images.

    pip install '.[pyod,torch]'
    python -m benchmarks.pyod_anogan --config mnist --config.data.normal=8 --config.data.dir=IDX_FOLDER

PyOD's fully connected networks have its defaults; they see pixels from 0 to 1. PyOD does not search when it predicts:
the latent vector is a layer's output for zeros, so all queries are compared with the same image. The program counts
with how many different images the queries are compared, and also measures the distance to the mean training image.
Prints a table: AUROC in %; the share of normal test images above the threshold in %, which should be at most 5 with a
contamination of 0.05; seconds.
"""

import time

import numpy as np
import torch
from absl import flags
from pyod.models import anogan as theirs
from sklearn.metrics import roc_auc_score

from anogan_jax import cli, pyod, sklearn
from anogan_jax.config import Config, with_values
from anogan_jax.data import load_one_class, test_split
from anogan_jax.errors import UserError

_IMAGES = flags.DEFINE_integer("images", 1_000, "Training images; at most twice as many test images are used.", 20)
_EPOCHS = flags.DEFINE_integer("epochs", 500, "Epochs of PyOD's AnoGAN; 500 is its default.", 1)
_STEPS = flags.DEFINE_integer("steps", 1_000, "Training steps of this AnoGAN.", 1)
_ALLOWED = 0.05


def main() -> None:
    """Train, score and print."""
    config = cli.given_config() or Config()
    data = load_one_class(with_values(config, {"data.test_limit": 2 * _IMAGES.value}))
    test = test_split(data)
    if test.labels is None:
        raise UserError(f"{data.origin}: its test images have no labels")
    train = np.stack([data.train.read(i) for i in range(min(_IMAGES.value, len(data.train.names)))])
    queries, labels = np.stack([test.read(i) for i in range(len(test.names))]), test.labels
    rows, new_rows = (each.reshape(len(each), -1) / 255 for each in (train, queries))
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)  # one thread is faster for networks this small
    peer = theirs.AnoGAN(epochs=_EPOCHS.value, contamination=_ALLOWED)
    settings = with_values(config, {"train.steps": _STEPS.value, "encoder.steps": 0})
    ours = pyod.AnoGAN(_ALLOWED, sklearn.AnoGAN(settings))
    print(f"{len(train)} training images, {len(queries)} test images of {data.origin}")
    print("| detector | AUROC | above the threshold | seconds to train | ms per image |\n|---|---|---|---|---|")
    measure("PyOD's AnoGAN", peer, rows, new_rows, labels)
    distances = np.abs(new_rows - rows.mean(axis=0)).mean(axis=1)
    print(f"| distance to the mean training image | {100 * roc_auc_score(labels, distances):.1f} | | | |")
    measure("this one", ours, train, queries, labels)
    print(f"Different images that PyOD's {len(queries)} queries are compared with: {count_compared(peer, new_rows)}")


def measure(name: str, detector: pyod.BaseDetector, train: np.ndarray, queries: np.ndarray, labels: np.ndarray) -> None:
    """Fit a detector of PyOD's kind, score images, and print its row."""
    began = time.monotonic()
    detector.fit(train)
    fitted = time.monotonic()
    detector.decision_function(queries[:1])  # compiles the program
    compiled = time.monotonic()
    scores = detector.decision_function(queries)
    milliseconds = 1000 * (time.monotonic() - compiled) / len(queries)
    above = 100 * (scores[labels == 0] > detector.threshold_).mean()
    auroc = 100 * roc_auc_score(labels, scores)
    print(f"| {name} | {auroc:.1f} | {above:.1f} | {fitted - began:.0f} | {milliseconds:.2g} |", flush=True)


def count_compared(peer: theirs.AnoGAN, queries: np.ndarray) -> int:
    """Return the number of different generated images with which PyOD's AnoGAN compares the queries."""
    seen = []
    hook = peer.query_model.generator.register_forward_hook(lambda *call: seen.append(call[-1].numpy().tobytes()))
    peer.decision_function(queries)
    hook.remove()
    return len(set(seen))


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
