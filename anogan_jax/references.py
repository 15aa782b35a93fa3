"""Make the bank of generated images and choose the references, training images without outliers."""

import logging
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from tqdm.auto import tqdm

from anogan_jax.bank import Bank, draw_bank, make_index
from anogan_jax.config import Config, FeatureSpace
from anogan_jax.data import Images, make_draw, read_ahead, to_networks
from anogan_jax.devices import hides_bars, make_mesh
from anogan_jax.errors import UserError
from anogan_jax.features import make_features
from anogan_jax.models import GAN, Weights
from anogan_jax.runtime import Score
from anogan_jax.scoring import Model, make_scorer
from anogan_jax.search import make_search

log = logging.getLogger(__name__)
_INVERSION_STEPS = 24  # gradient steps that invert a training image
_INVERSION_RATE = 1.0  # its learning rate: in pixels the loss is far flatter than in the default search


def make_bank(config: Config, gan: GAN, weights: Weights, images: Images) -> tuple[Bank, np.ndarray | None]:
    """Return the bank, and the references (K, S, S, C) uint8 or None: training images or patches, without outliers.

    The bank holds random generated images; unless patches are used, inversions of training images replace them. Some
    random images mix several kinds of normal images, and can resemble anomalies; inversions of training images do not.
    """
    bank = draw_bank(gan, weights, jax.random.fold_in(jax.random.key(config.seed), 0), config.bank.size)
    inverted, references = 0 if config.patches.enabled else config.bank.inverted, config.bank.references
    if not max(inverted, references):
        return bank, None
    screened = screen(config, gan, weights, bank, images, max(inverted, references))
    if inverted:
        examples = screened[:inverted]
        log.info("inverting %d training images", len(examples))
        bank = invert(gan, weights, bank, (to_networks(image[None], config)[0] for image in examples), len(examples))
    return bank, screened[:references] if references else None


def screen(config: Config, gan: GAN, weights: Weights, random: Bank, images: Images, count: int) -> np.ndarray:
    """Return up to ``count`` training images or patches (K, S, S, C) uint8, without outliers.

    An outlier, perhaps an anomaly, is far from all random generated images: the distance of its features to the mean of
    the eight nearest exceeds the median distance by more than ``bank.max_deviation`` robust standard deviations. These
    are estimated from the median absolute deviation, or if that is 0 from the mean one (Iglewicz & Hoaglin 1993).
    """
    draw = make_draw(images, config)
    places = range(count if config.patches.enabled else min(count, len(images.names)))
    examples: list[np.ndarray] = []
    for image in read_ahead(draw, places, ahead=64):
        if isinstance(image, UserError):
            raise image
        examples.append(image)
    seen = (to_networks(image[None], config)[0] for image in examples)
    scores = np.array([score.score for score in _score_by_bank(gan, weights, random, "structure", seen, 8, 0)])
    deviations = np.abs(scores - np.median(scores))
    spread = 1.4826 * np.median(deviations) or 1.2533 * deviations.mean()
    is_outlier = scores > np.median(scores) + config.bank.max_deviation * spread
    if is_outlier.any():
        log.info("left out %d outliers: they are neither inverted nor used as references", is_outlier.sum())
    return np.stack(examples)[~is_outlier]


def invert(gan: GAN, weights: Weights, bank: Bank, images: Iterable[np.ndarray], count: int | None = None) -> Bank:
    """Find the z of each image by a short search in pixels from its nearest neighbour in the bank.

    Args:
      gan: the model.
      weights: its trained weights.
      bank: where the searches start.
      images: each (S, S, C) in [-1, 1].
      count: the number of images, for the progress bar.
    """
    scores = _score_by_bank(gan, weights, bank, "pixels", images, starts=1, steps=_INVERSION_STEPS)
    with tqdm(scores, total=count, desc="inverting", unit="image", disable=hides_bars(), dynamic_ncols=True) as found:
        pairs = [(score.z[0], score.reconstruction.astype(np.float16)) for score in found]
    return Bank(*(np.stack(part) for part in zip(*pairs, strict=True)))


def _score_by_bank(
    gan: GAN, weights: Weights, bank: Bank, space: FeatureSpace, images: Iterable[np.ndarray], starts: int, steps: int
) -> Iterator[Score]:
    """Score images by searches from their nearest neighbours in a bank, on this process's devices."""
    features = make_features(space, *bank.images.shape[2:])
    search = make_search(gan, features, steps=steps, learning_rate=_INVERSION_RATE)
    mesh = make_mesh(jax.local_devices())
    index = make_index(bank, features)
    return make_scorer(gan, search, "bank", starts, mesh=mesh)(Model(weights, bank_index=index), images)
