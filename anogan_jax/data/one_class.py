"""One-class protocols: the normal class, and the normal images held out of training."""

from typing import NamedTuple

import numpy as np

from anogan_jax.config import Config, DataConfig
from anogan_jax.data.classes import chosen_normal, shown
from anogan_jax.data.images import Images
from anogan_jax.data.regions import within
from anogan_jax.data.sources import load_splits
from anogan_jax.errors import UserError


class OneClass(NamedTuple):
    """A data set under a one-class protocol; labels are 0 for normal, 1 for anomalous."""

    train: Images  # normal images only, unless contaminated
    held_out: Images  # normal images excluded from training, for calibration
    test: Images | None
    origin: str  # the data set and its location, as text
    warning: str  # why it may not be the intended data set


def load_one_class(config: Config, given: Images | None = None, roi_mask: np.ndarray | None = None) -> OneClass:
    """Read the data set and split it; a function of the images and the config alone.

    Args:
      config: the settings.
      given: the training images, for the source "arrays".
      roi_mask: (H, W) bool, the one region of interest for all images, if it is known; otherwise it is read.

    Raises:
      UserError: the data set, the class, enough normal images or the region of interest are missing.
    """
    data = config.data
    whole, test, origin, warning, is_one_class = load_splits(data, config.model, given)
    whole = within(whole, data.roi, roi_mask)
    labels, tested = whole.labels, None if test is None else test.labels
    if not is_one_class:
        labels, tested = _anomalous(labels, tested, data, origin)
    if labels is None:
        labels = np.zeros(len(whole.names), int)
    normal, anomalous = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    if len(normal) < 2:
        what = "" if whole.labels is None else "normal images "
        raise UserError(f"{origin}: {len(normal)} {what}to train on; at least 2 are needed")
    order = np.random.default_rng(config.seed).permutation(normal)
    count = max(1, round(data.held_out * len(normal)))
    share = data.contamination
    mixed_in = round(share / (1 - share) * (len(order) - count))
    if len(anomalous) < mixed_in:
        raise UserError(
            f"data.contamination={share}: takes {mixed_in} anomalous training images; {origin} has {len(anomalous)}"
        )
    contaminants = np.random.default_rng([config.seed, 1]).choice(anomalous, mixed_in, replace=False)
    train = whole.take(np.sort(np.concatenate([order[count:], contaminants])))
    if test is not None:
        test = within(test, data.roi, roi_mask)._replace(labels=tested)
        if data.test_limit is not None and data.test_limit < len(test.names):
            test = test.take(np.sort(np.random.default_rng(0).permutation(len(test.names))[: data.test_limit]))
    return OneClass(train, whole.take(np.sort(order[:count])), test, origin, warning)


def _anomalous(
    labels: np.ndarray | None, tested: np.ndarray | None, data: DataConfig, origin: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Map the class labels of both splits to 0 normal, 1 anomalous; without a protocol they have to be these.

    Raises:
      UserError: they are other classes, and nothing says which are normal; or a class is named that is none.
    """
    trained, scored = (set() if each is None else set(each.astype(str).tolist()) for each in (labels, tested))
    if not trained | scored:
        return None, None
    normal = chosen_normal(trained | scored, data)
    if normal is None and (trained - {"0"} or scored - {"0", "1"}):
        raise UserError(f"data.normal: say which class is normal; {origin} has {shown(trained | scored)}")
    chosen = sorted({"0"} if normal is None else normal)

    def is_anomalous(of: np.ndarray | None) -> np.ndarray | None:
        return None if of is None else (~np.isin(of.astype(str), chosen)).astype(int)

    return is_anomalous(labels), is_anomalous(tested)
