"""What the model sees of an image: all of it, resized; or patches of its size."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from anogan_jax.config import Config
from anogan_jax.data.images import Images, cached, read_ahead, resize
from anogan_jax.errors import UserError

_DRAWS = 20  # of a patch, before one without much contrast is taken


def make_fit(config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """Binds ``fit(image)``: the image (H, W, C) uint8 as it is cut or shown whole.

    Whole, it is resized to the model's square. For patches it is scaled, and mirrored at its lower
    and right edge where it is still smaller than one.
    """
    size, patches = config.model.image_size, config.patches

    def fit(image: np.ndarray) -> np.ndarray:
        if not patches.enabled:
            return resize(image, size, size)
        height, width = (max(1, round(patches.scale * length)) for length in image.shape[:2])
        return _at_least(resize(image, height, width), size)

    return fit


def make_draw(images: Images, config: Config) -> Callable[[int], np.ndarray]:
    """Binds ``draw(place)``: what training sees at a place of an endless stream, (S, S, C) uint8.

    The images come shuffled anew each epoch, none left out at its end; of each a random patch, or
    all of it, mirrored and turned as the config says. A function of the place alone, so training
    goes on after a stop with what it would have seen.
    """
    size, patches, train, seed = config.model.image_size, config.patches, config.train, config.seed
    fit, count = make_fit(config), len(images.names)
    fitted = cached(lambda i: fit(images.read(i)))

    def draw(place: int) -> np.ndarray:
        image = fitted(_shuffled(seed, place // count, count)[place % count])
        if not (patches.enabled or train.flip or train.rotate):
            return image
        rng = np.random.default_rng([seed, place])
        image = _random_patch(image, size, patches.min_contrast, rng)
        if train.rotate:
            image = np.rot90(image, int(rng.integers(4)))
        if train.flip:
            image = image[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
        return image

    return draw


def as_array(images: Images, config: Config) -> np.ndarray:
    """All that can be read, whole, as the model sees them: (N, S, S, C) uint8."""
    fit = make_fit(config)
    read = read_ahead(lambda i: fit(images.read(i)), range(len(images.names)), ahead=64)
    return np.stack([image for image in read if not isinstance(image, UserError)])


def has_content(patch: np.ndarray, min_contrast: float) -> bool:
    """Whether a patch's grey levels deviate enough to be looked at."""
    return min_contrast == 0 or float(patch.std()) >= min_contrast


def _random_patch(image: np.ndarray, size: int, min_contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Drawn again where it is empty; of an image that seems to hold nothing else, the last is taken.

    Its centre is uniform over the image, and the patch then moved inside: a corner uniform over all
    that fit would show the image's edges far more seldom than the tiles to be scored do.
    """
    for _ in range(_DRAWS):
        row, column = (
            np.clip(rng.integers(-(size // 2), length - size // 2), 0, length - size) for length in image.shape[:2]
        )
        patch = image[row : row + size, column : column + size]
        if has_content(patch, min_contrast):
            break
    return patch


def _at_least(image: np.ndarray, size: int) -> np.ndarray:
    more = ((0, max(0, size - image.shape[0])), (0, max(0, size - image.shape[1])), (0, 0))
    return np.pad(image, more, mode="symmetric")


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
