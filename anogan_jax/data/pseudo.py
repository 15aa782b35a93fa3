"""Pseudo-anomalies: normal images, damaged at random, from which a network learns where damage is.

| kind | share | what changes, in images of S x S pixels |
|---|---|---|
| paste | 45 % | a spot becomes a piece of another normal image, resized by 0.7 to 1.4 and rotated by right angles; |
| | | 6 in 10 get the low frequencies of their new place |
| paint | 45 % | a spot or a scratch becomes lighter or darker by 0.4 to 3 standard deviations of the image |
| move | 10 % | a rectangle, its sides 3 to S / 1.5, shows another place of the image, its brightness shifted |

A spot is an ellipse with an irregular outline, its radii 1 to S / 3; a scratch is a bent line, 5 to 1.5 S long and
0.75 to 2.75 wide. How pieces are blended decides how much is learnt (NSA, Schlüter et al. 2022; compare CutPaste, Li et
al. 2021; DRAEM, Zavrtanik et al. 2021).
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from anogan_jax.config import Config
from anogan_jax.data.images import resize
from anogan_jax.data.views import to_networks

_KINDS = {"paste": 0.45, "paint": 0.45, "move": 0.10}
_MOST = 3  # damages of one image, at most
_KEEPS_PLACE = 0.6  # share of pastes that get the low frequencies of their new place
_FINE = 4  # masks are drawn larger by this factor, for smooth edges
_LEAST_CONTRAST = 4.0  # smallest contrast that is assumed for an image, in grey levels
_VISIBLE = 0.15  # standard deviations of the image by which damage must change a pixel to be counted


def make_pseudo_draw(draw: Callable[[int], np.ndarray], seed: int) -> Callable[[int], np.ndarray]:
    """Return ``draw_pseudo(place)``: the normal example at an even place of a stream, a damaged one at an odd place.

    An example is (S, S, C + 1) uint8, its last channel the mask, 255 where damaged; see ``to_batch``. It depends
    only on the seed and the place, so training resumes exactly.

    Args:
      draw: the normal examples (S, S, C) uint8, from ``make_draw``.
      seed: the seed of the damage.
    """

    def draw_pseudo(place: int) -> np.ndarray:
        image, mask = draw(place), np.zeros((), bool)
        if place % 2:
            image, mask = damage(image, draw(place + 1), np.random.default_rng([seed, 4, place]))
        return np.concatenate([image, np.broadcast_to(mask, image.shape[:2])[..., None] * np.uint8(255)], axis=-1)

    return draw_pseudo


def to_batch(examples: np.ndarray, config: Config) -> np.ndarray:
    """Convert examples (N, S, S, C + 1) uint8 to float32: images in the networks' range, masks 0 or 1."""
    images = to_networks(examples[..., :-1], config)
    return np.concatenate([images, examples[..., -1:].astype(np.float32) / 255], axis=-1)


def damage(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a normal image with one to three damages, (S, S, C) uint8, and where it was changed visibly, (S, S) bool.

    Args:
      image: (S, S, C) uint8, 8x8 or larger.
      other: another normal image of this shape, from which pieces are pasted.
      rng: the source of all random numbers.
    """
    size, before = len(image), image.astype(np.float32)
    contrast = max(float(before.std()), _LEAST_CONTRAST)
    pixels = before
    for _ in range(rng.integers(1, _MOST + 1)):
        kind = rng.choice(list(_KINDS), p=list(_KINDS.values()))
        draw_mask = {"paste": _spot, "paint": _spot if rng.random() < 0.5 else _scratch, "move": _rectangle}[kind]
        mask = _mask(size, draw_mask, rng)
        if kind == "paste":
            changed = _another(pixels, other, rng)
        elif kind == "paint":
            changed = pixels + contrast * np.exp(rng.uniform(np.log(0.4), np.log(3.0))) * rng.choice((-1, 1))
        else:
            shift = rng.integers(-size // 2, size // 2 + 1, 2)
            changed = np.roll(pixels, shift, axis=(0, 1)) + contrast * rng.normal(0, 0.8)
        pixels = np.clip(pixels + mask * (changed - pixels), 0, 255)
    difference = np.abs(pixels - before).mean(axis=-1)
    return np.rint(pixels).astype(np.uint8), _smoothed(difference, 0.7) > _VISIBLE * contrast


def _smoothed(values: np.ndarray, deviation: float | tuple[float, ...]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter  # slow to import

    return gaussian_filter(values, deviation)


def _another(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the other image, resized, rotated, cut or mirrored to the image's size; some get its low frequencies."""
    size = len(image)
    side = max(size // 2, round(size * rng.uniform(0.7, 1.4)))
    found = np.rot90(resize(other, side, side), int(rng.integers(4)))
    missing = max(0, size - side)
    found = np.pad(found, ((0, missing), (0, missing), (0, 0)), mode="symmetric")
    row, column = rng.integers(0, len(found) - size + 1, 2)
    found = found[row : row + size, column : column + size].astype(np.float32)
    if rng.random() < _KEEPS_PLACE:
        low = (size / 8, size / 8, 0)
        found = found - _smoothed(found, low) + _smoothed(image, low)
    return found


Draw = Callable[[ImageDraw.ImageDraw, int, np.random.Generator], None]


def _mask(size: int, draw: Draw, rng: np.random.Generator) -> np.ndarray:
    """Return (S, S, 1) in [0, 1]: a shape with more or less soft edges."""
    canvas = Image.new("L", (_FINE * size, _FINE * size))
    draw(ImageDraw.Draw(canvas), size, rng)
    soft = canvas.reduce(_FINE).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))
    return np.asarray(soft, np.float32)[..., None] / 255


def _spot(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Draw an ellipse of any direction, its outline irregular."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii, turn = np.exp(rng.uniform(0, np.log(size / 3), 2)), rng.uniform(0, np.pi)
    waves = sum(rng.normal(0, 0.12) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    across, down = radii[:, None] * (1 + waves) * [np.cos(angles), np.sin(angles)]
    x = across * np.cos(turn) - down * np.sin(turn)
    y = across * np.sin(turn) + down * np.cos(turn)
    outline = _FINE * (np.stack([x, y], axis=1) + rng.uniform(0, size, 2))
    draw.polygon([tuple(point) for point in outline.tolist()], fill=255)


def _scratch(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Draw a bent, unsteady line."""
    along, length = np.linspace(0, 1, 20), np.exp(rng.uniform(np.log(5), np.log(1.5 * size)))
    bent = 4 * along * (1 - along) * rng.normal(0, 0.15) * length + np.cumsum(rng.normal(0, 0.2, len(along)))
    turn = rng.uniform(0, 2 * np.pi)
    x = along * length * np.cos(turn) - bent * np.sin(turn)
    y = along * length * np.sin(turn) + bent * np.cos(turn)
    line = _FINE * (np.stack([x, y], axis=1) + rng.uniform(0, size, 2))
    draw.line([tuple(point) for point in line.tolist()], fill=255, width=int(rng.integers(3, 3 * _FINE)))


def _rectangle(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    sides = np.exp(rng.uniform(np.log(3), np.log(size / 1.5), 2))
    corner = rng.uniform(0, size - sides)
    (left, top), (right, bottom) = _FINE * corner, _FINE * (corner + sides) - 1
    draw.rectangle((left, top, right, bottom), fill=255)
