"""One-class protocols: the normal class, and the normal images held out of training."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from anogan_jax.config import Config, DataConfig, Window
from anogan_jax.data.classes import chosen_normal, shown
from anogan_jax.data.images import Images, any_readable, read_ahead, read_as
from anogan_jax.data.pixels import find_window, limit_pixels
from anogan_jax.data.regions import cropped, within
from anogan_jax.data.sources import load_splits
from anogan_jax.errors import UserError

log = logging.getLogger(__name__)
_LOOKED_AT = 1_024  # training images, at most, whose pixels data.window=auto uses


class OneClass(NamedTuple):
    """A data set under a one-class protocol; labels are 0 for normal, 1 for anomalous."""

    train: Images  # normal images only, unless contaminated
    held_out: Images  # normal images excluded from training, for calibration
    test: Images | None
    origin: str  # the data set and its location, as text
    warning: str  # why it may not be the intended data set
    window: Window = None  # as data.window; the one that was found if that is "auto"


def load_one_class(config: Config, given: Images | None = None, roi_mask: np.ndarray | None = None) -> OneClass:
    """Read the data set and split it; the result depends only on the images and the config.

    Args:
      config: the settings.
      given: the training images, for the source "arrays".
      roi_mask: (H, W) bool, the one region of interest for all images, if it is known; otherwise it is read.

    Raises:
      UserError: the data set, the class, enough normal images or the region of interest are missing.
    """
    data = config.data
    limit_pixels(data.max_pixels)
    whole, test, origin, warning, is_one_class = load_splits(data, config.model, given)
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
    held_out, kept = _held_out(order, max(1, round(data.held_out * len(normal))), whole)
    share = data.contamination
    mixed_in = round(share / (1 - share) * len(kept))
    if len(anomalous) < mixed_in:
        raise UserError(
            f"data.contamination={share}: needs {mixed_in} anomalous training images; {origin} has {len(anomalous)}"
        )
    contaminants = np.random.default_rng([config.seed, 1]).choice(anomalous, mixed_in, replace=False)
    trained, window = np.sort(np.concatenate([kept, contaminants])), data.window
    if window == "auto":
        window = find_window(_some_pixels(whole.take(trained), config.seed), config.seed)
        log.info("data.window=auto: %g to %g", *window)
        how = config.model.channels, window
        whole, test = read_as(whole, *how), test and read_as(test, *how)
    whole = cropped(within(whole, data.roi, roi_mask), data.crop)
    if test is not None:
        test = cropped(within(test, data.roi, roi_mask), data.crop)._replace(labels=tested)
        if data.test_limit is not None and data.test_limit < len(test.names):
            test = test.take(np.sort(np.random.default_rng(0).permutation(len(test.names))[: data.test_limit]))
    return OneClass(whole.take(trained), whole.take(np.sort(held_out)), test, origin, warning, window)


def test_split(data: OneClass) -> Images:
    """Return the test split.

    Raises:
      UserError: there is no test split, or none of its images can be read.
    """
    if data.test is None:
        raise UserError(f"give --input=IMAGES; the training data, {data.origin}, has no test split")
    return any_readable(data.test, f"test split of {data.origin}")


def _held_out(order: np.ndarray, count: int, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Divide the numbers of normal images, in random order, into ``count`` that are held out and the others.

    Slices of one volume resemble each other, so whole volumes are held out, with more slices than ``count`` if
    necessary. If there is only one volume, some of its slices are held out.
    """
    volumes = [images.rows[i].volume or i for i in order] if images.rows else order.tolist()
    sizes = Counter(volumes)
    if len(sizes) == 1:
        log.warning(
            "all normal images are slices of one volume: the held-out slices resemble those that are trained on, so "
            "p-values of other volumes will be too small"
        )
        return order[:count], order[count:]
    chosen, number = set(), 0
    for volume in list(sizes)[:-1]:
        if number < count:
            chosen.add(volume)
            number += sizes[volume]
    is_held_out = np.array([volume in chosen for volume in volumes])
    return order[is_held_out], order[~is_held_out]


def _some_pixels(images: Images, seed: int) -> Iterator[np.ndarray]:
    """Yield the pixels of random images, as they are in their files; unreadable images are left out."""
    assert images.raw is not None
    chosen = np.random.default_rng([seed, 5]).permutation(len(images.names))[:_LOOKED_AT]
    for found in read_ahead(images.raw, chosen.tolist(), ahead=16):
        if not isinstance(found, UserError):
            yield found[0]


def _anomalous(
    labels: np.ndarray | None, tested: np.ndarray | None, data: DataConfig, origin: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Map the class labels of both splits to 0 normal, 1 anomalous; without a protocol they have to be 0 and 1 already.

    Raises:
      UserError: they are other classes, and nothing says which are normal; or a class is named that does not exist.
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
