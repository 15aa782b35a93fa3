"""The model's view of an image: the whole image, resized, or patches of the model's size."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from anogan_jax.config import Config, TrainConfig
from anogan_jax.data.images import Images, cached, read_ahead, resize
from anogan_jax.errors import UserError
from anogan_jax.runtime import View, contrast_tables, has_content, pad_to, resize_region, to_model_range

_DRAWS = 20  # attempts to draw a patch with enough contrast; the last one is taken in any case


def view_of(config: Config) -> View:
    """Return how the networks see an image."""
    model, patches, pooling = config.model, config.patches, config.pooling
    return View(
        image_size=model.image_size,
        channels=model.channels,
        patches=patches.enabled,
        scale=patches.scale,
        min_contrast=patches.min_contrast,
        normalize_contrast=config.data.normalize_contrast,
        stride=pooling.stride or model.image_size // 2,
        share=pooling.share,
        window=config.data.window if isinstance(config.data.window, tuple) else None,  # "auto" until it is known
        crop=config.data.crop,
    )


def make_resize(config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """Return ``resize(image)`` for (H, W, C) uint8: to (S, S, C), or for patches by the factor ``patches.scale``."""
    view = view_of(config)
    return lambda image: resize(image, *view.size_of(image))


def make_draw(images: Images, config: Config) -> Callable[[int], np.ndarray]:
    """Return ``draw(place)``, the training example (S, S, C) uint8 at a place of an endless stream.

    Each epoch uses every image once, in random order. An example is a random patch or the whole image. If the config
    asks for it, the example is mirrored and rotated, and a patch loses the brightness and contrast of its image. An
    example depends only on the seed and the place, so training resumes exactly.
    """
    size, patches, train, seed = config.model.image_size, config.patches, config.train, config.seed
    shrink, count = make_resize(config), len(images.names)
    resized = cached(lambda i: pad_to(shrink(images.read(i)), size))
    tables = cached(lambda i: contrast_tables(resized(i))[0])
    places = cached(
        lambda i: np.flatnonzero(pad_to(_resized_region(images, config, i)[..., None], size)).astype(np.int32)
    )

    def draw(place: int) -> np.ndarray:
        number = _shuffled(seed, place // count, count)[place % count]
        image = resized(number)
        if not (patches.enabled or train.flip or train.rotate):
            return image
        rng = np.random.default_rng([seed, place])
        inside = places(number) if patches.enabled and images.region else None
        patch = _random_patch(image, size, patches.min_contrast, rng, inside)
        if patches.enabled and config.data.normalize_contrast:
            patch = tables(number)[patch]
        return turned(patch, train, rng)

    return draw


def turned(image: np.ndarray, train: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    """Return an image (H, W, C), rotated and mirrored at random as far as the settings ask for it."""
    if train.rotate:
        image = np.rot90(image, int(rng.integers(4)))
    if train.flip:
        image = image[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
    return image


def to_networks(images: np.ndarray, config: Config) -> np.ndarray:
    """Convert images (N, S, S, C) uint8, as ``make_draw`` gives them, to the networks' range, float32 in [-1, 1]."""
    return to_model_range(images, config.data.normalize_contrast and not config.patches.enabled)


def as_array(images: Images, config: Config) -> np.ndarray:
    """Return all readable images, resized to the model's size: (N, S, S, C) uint8."""
    return np.stack(resized_images(images, config))


def resized_images(images: Images, config: Config) -> list[np.ndarray]:
    """Return all readable images, each (H, W, C) uint8, resized by ``make_resize``."""
    shrink = make_resize(config)
    read = read_ahead(lambda i: shrink(images.read(i)), range(len(images.names)), ahead=64)
    return [image for image in read if not isinstance(image, UserError)]


def resized_regions(images: Images, config: Config) -> list[np.ndarray]:
    """Return the regions of interest (H, W) bool of the images that ``resized_images`` returns, if they have any.

    Raises:
      UserError: an image cannot be read.
    """
    if images.region is None:
        return []
    return [_resized_region(images, config, i) for i in range(len(images.names))]


def _resized_region(images: Images, config: Config, i: int) -> np.ndarray:
    assert images.region is not None
    region = images.region(i)
    return resize_region(region, *view_of(config).size_of(region))


def _random_patch(
    image: np.ndarray, size: int, min_contrast: float, rng: np.random.Generator, inside: np.ndarray | None
) -> np.ndarray:
    """Draw a random patch, again while it lacks contrast, up to ``_DRAWS`` times.

    The centre is uniform over the image and the patch is then moved inside, so that patches show the edges of the
    image about as often as the scored tiles do. With ``inside``, the places of a region's pixels, a random one of them
    is somewhere in the patch.
    """
    lengths = image.shape[:2]
    for _ in range(_DRAWS):
        if inside is None:
            corner = [rng.integers(-(size // 2), length - size // 2) for length in lengths]
        else:
            place = int(inside[rng.integers(len(inside))])
            corner = [each - rng.integers(size) for each in divmod(place, lengths[1])]
        row, column = (np.clip(first, 0, length - size) for first, length in zip(corner, lengths, strict=True))
        patch = image[row : row + size, column : column + size]
        if has_content(patch, min_contrast):
            break
    return patch


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
