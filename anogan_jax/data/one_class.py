"""One-class protocols: which class is normal, and which normal images are kept out of training."""

from typing import NamedTuple

import numpy as np

from anogan_jax.config import Config, DataConfig
from anogan_jax.data.images import Images
from anogan_jax.data.sources import load_splits
from anogan_jax.errors import UserError


class OneClass(NamedTuple):
    """A data set under a one-class protocol; labels are 0 normal, 1 anomalous."""

    train: Images  # normal images only, unless contaminated
    held_out: Images  # normal images that training never sees, for p-values
    test: Images | None
    origin: str
    warning: str


def load_one_class(config: Config) -> OneClass:
    """Reads the data set and splits it; a function of the files and the config alone.

    Raises:
      UserError: there is no such data set, or it has no such class or too few normal images.
    """
    splits = load_splits(config.data, config.model)
    train_labels = _anomalous(splits.train.labels, config.data)
    if config.data.normal is None and config.data.anomalous is None and train_labels is not None and train_labels.any():
        classes = ", ".join(map(str, np.unique(train_labels)))
        raise UserError(f"data.normal: say which class is normal; {splits.origin} has {classes}")
    normal = np.arange(len(splits.train.names)) if train_labels is None else np.flatnonzero(train_labels == 0)
    if len(normal) < 2:
        wanted = config.data.normal if config.data.anomalous is None else f"other than {config.data.anomalous}"
        raise UserError(f"data.normal: {splits.origin} holds {len(normal)} training images of class {wanted}")
    order = np.random.default_rng(config.seed).permutation(normal)
    count = max(1, round(config.data.held_out * len(normal)))
    mixed_in = np.zeros(0, int)
    if share := config.data.contamination:
        anomalous = np.zeros(0, int) if train_labels is None else np.flatnonzero(train_labels == 1)
        wanted_number = round(share / (1 - share) * (len(order) - count))
        if len(anomalous) < wanted_number:
            raise UserError(
                f"data.contamination={share}: takes {wanted_number} anomalous training images; "
                f"{splits.origin} has {len(anomalous)}"
            )
        mixed_in = np.random.default_rng([config.seed, 1]).choice(anomalous, wanted_number, replace=False)
    train = splits.train.take(np.sort(np.concatenate([order[count:], mixed_in])))
    held_out = splits.train.take(np.sort(order[:count]))
    test = splits.test
    if test is not None:
        test = test._replace(labels=_anomalous(test.labels, config.data))
        if config.data.test_limit is not None and config.data.test_limit < len(test.names):
            sample = np.random.default_rng(0).permutation(len(test.names))[: config.data.test_limit]
            test = test.take(np.sort(sample))
    return OneClass(train, held_out, test, splits.origin, splits.warning)


def _anomalous(labels: np.ndarray | None, data: DataConfig) -> np.ndarray | None:
    """Class labels to 0 normal, 1 anomalous; without a protocol the labels say so already."""
    if labels is None:
        return None
    if data.anomalous is not None:
        return (labels == data.anomalous).astype(int)
    return labels if data.normal is None else (labels != data.normal).astype(int)
