"""Checks of the training images before training: which can be read, and whether they seem to be the intended ones."""

import hashlib
import logging

import jax
import numpy as np
from tqdm.auto import tqdm

from anogan_jax.config import DataConfig
from anogan_jax.data.images import Images, read_ahead
from anogan_jax.devices import gather, hides_bars
from anogan_jax.errors import UserError

log = logging.getLogger(__name__)
_TOLD = 10  # unreadable images, at most, that are named one by one
_LOOKED_AT = 8  # training images that are checked for lost colours and grey levels
_CLIPPED = 0.95  # share of black and white pixels beyond which a window is most likely wrong


def digests_of(images: Images) -> np.ndarray:
    """Return the SHA-256 of each image's pixels, (N, 32) uint8, zeros if it cannot be read; warn of such images.

    Each of several processes reads its share.
    """
    unreadable = 0
    total, processes = len(images.names), jax.process_count()
    share = range(jax.process_index(), total, processes)
    digests = np.zeros((total, 32), np.uint8)
    with tqdm(total=len(share), desc="reading", unit="image", disable=hides_bars(), leave=False, delay=2) as bar:
        for i, image in zip(share, read_ahead(images.read, share, ahead=16), strict=True):
            if isinstance(image, UserError):
                unreadable += 1
                if unreadable <= _TOLD:
                    log.warning("left out %s", image)
            else:
                content = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()
                digests[i] = np.frombuffer(content, np.uint8)
            bar.update()
    if unreadable > _TOLD:
        log.warning("left out %d further images that cannot be read", unreadable - _TOLD)
    return gather(digests).max(axis=0)


def warning_of_pixels(images: Images, data: DataConfig, channels: int) -> str:
    """Return a warning if the first training images lose colours or nearly all grey levels, else an empty text."""
    counts, has_colours, has_values = np.zeros(256, int), False, False
    for i in range(min(_LOOKED_AT, len(images.names))):  # one at a time, as they may be large
        levels, numbers = np.unique(images.read(i), return_counts=True)
        counts[levels] += numbers
        if images.raw:
            raw = images.raw(i)[0]
            has_colours |= raw.shape[-1] >= 3 and bool(np.ptp(raw[..., :3], axis=-1).any())
            has_values |= len(np.unique(raw)) > 2
    if channels == 1 and has_colours:
        return "training images have colours, which the model sees as grey; --config.model.channels=3 keeps them"
    if data.window and has_values and counts[[0, 255]].sum() > _CLIPPED * counts.sum():
        return (
            f"data.window={data.window[0]:g},{data.window[1]:g}: nearly all pixels of the training images lie outside"
        )
    if np.count_nonzero(counts) == 1:
        level = counts.argmax()
        return f"all pixels of the first training images have the grey level {level}; is data.dir the right folder?"
    return ""


def readable(images: Images, digests: np.ndarray, needed: int) -> np.ndarray:
    """Return the numbers of the images that have a digest; raise UserError, with a reason, if they are too few."""
    found = np.flatnonzero(digests.any(axis=1))
    if len(found) < needed:
        what = "held-out" if needed == 1 else "training"
        unreadable = np.flatnonzero(~digests.any(axis=1))
        reason = "".join(f"; the first error: {error}" for error in read_ahead(images.read, unreadable[:1], ahead=1))
        few = "; give more images, or a smaller data.held_out" if len(digests) < needed else reason
        raise UserError(f"{len(found)} of {len(digests)} {what} images can be read, but {needed} are needed{few}")
    return found
