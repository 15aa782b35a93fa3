"""Appearance: what edge structure ignores; blank, brighter, noisy and blurred images are anomalies."""

import importlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import ROOT
from scipy import ndimage

from anogan_jax.appearance import fit_appearance
from anogan_jax.config import DataConfig
from anogan_jax.data import from_user, make_resize
from anogan_jax.fit import make_appearance
from anogan_jax.runtime import combine, describe, make_judge, windows_of

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
RNG = np.random.default_rng(0)


def textures(count, height=40, width=48, channels=1):
    """Return irregular textures like sand, each of its own brightness."""
    noise = ndimage.gaussian_filter(RNG.normal(size=(count, height, width, channels)), (0, 1, 1, 0))
    brightness = RNG.normal(120, 6, (count, 1, 1, 1))
    return np.clip(brightness + 100 * noise, 0, 255).astype(np.uint8)


def with_square(image, level):
    height, width = image.shape[0] // 4, image.shape[1] // 4
    changed = image.copy()
    changed[height : 2 * height, width : 2 * width] = level
    return changed


CHANGES = {
    "black": np.zeros_like,
    "white": lambda image: np.full_like(image, 255),
    "grey": lambda image: np.full_like(image, 128),
    "brighter": lambda image: np.clip(image.astype(int) + 100, 0, 255).astype(np.uint8),
    "a quarter of the brightness": lambda image: image // 4,
    "a little noise": lambda image: np.clip(image + RNG.normal(0, 25, image.shape), 0, 255).astype(np.uint8),
    "noise": lambda image: RNG.integers(0, 256, image.shape, np.uint8),
    "blurred": lambda image: ndimage.gaussian_filter(image, (3, 3, 0)),
    "black square": lambda image: with_square(image, 0),
    "grey square": lambda image: with_square(image, 128),
}


@pytest.fixture(scope="module")
def judge():
    return make_judge(fit_appearance(textures(150), seed=0))


@pytest.mark.parametrize("change", CHANGES)
def test_changed_image_is_beyond_the_limit(change, judge):
    assert all(value > 1 for value, _ in judge([CHANGES[change](image) for image in textures(20)]))


def test_small_flat_square_is_seen_by_its_windows(judge):
    images = textures(20)
    images[:, 12:20, 15:23] = 120
    assert all(value > 1 and term == "detail" for value, term in judge(images))


def test_new_normal_image_is_within_the_limit(judge):
    assert np.mean([value > 1 for value, _ in judge(textures(100))]) <= 0.02


@pytest.mark.parametrize("change", [lambda image: image[..., ::-1], lambda image: image * np.uint8([1, 0, 1])])
def test_swapped_and_missing_channels_are_seen(change):
    colours = np.uint8([1, 2, 2]) * (textures(100) // 3)
    judge = make_judge(fit_appearance(colours[:80], seed=0))
    assert all(value > 1 for value, _ in judge([change(image) for image in colours[80:]]))
    assert all(value < 1 for value, _ in judge(colours[80:]))


@pytest.mark.parametrize("name", CONFIGS)
def test_constant_image_is_beyond_the_limit_for_every_config(name):
    """The images are of 100x90 pixels; each config resizes them, or cuts patches, as it does for its own data."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config = replace(config, data=replace(config.data, source="arrays"), seed=1)
    images = textures(60, 100, 90, config.model.channels)
    judge = make_judge(make_appearance(config, from_user(images, config.model.channels)))
    size = config.model.image_size
    for level in (0, 60, 128, 255):
        ((value, term),) = judge([np.full((size, size, config.model.channels), level, np.uint8)])
        assert value > 1, (name, level, term)


@pytest.mark.parametrize("height", [20, 203])
def test_statistics_agree_with_a_slow_computation(height):
    """Also of an image that is measured in several strips."""
    image = RNG.integers(0, 256, (height, 17, 2), np.uint8)
    (whole,), sums = describe(image[None])
    (windows,) = windows_of(sums)
    x = image.astype(float)
    rough = np.abs(4 * x - sum(np.roll(x, shift, axis) for axis in (0, 1) for shift in (-1, 1)))[1:-1, 1:-1]
    x = x[1:-1, 1:-1]

    def moments(rows, columns):
        part, roughness = x[rows, columns], rough[rows, columns]
        logs = [np.log1p(each) / np.log(256) for each in (part.std((0, 1)), roughness.mean((0, 1)))]
        return np.stack([part.mean((0, 1)) / 255, *logs])  # (3, C)

    blocks = (height - 2) // 3
    corners = [(3 * i, 3 * j) for i in range(blocks - 1) for j in range(4)]
    expected = np.stack([moments(slice(i, i + 6), slice(j, j + 6)) for i, j in corners])
    np.testing.assert_allclose(windows, expected.transpose(2, 0, 1), atol=1e-6)
    rows, columns = ([3 * (i * count // 4) for i in range(5)] for count in (blocks, 5))
    cells = [[moments(slice(*row), slice(*column)) for column in pairwise(columns)] for row in pairwise(rows)]
    np.testing.assert_allclose(whole[: 4 * 4 * 3 * 2].reshape(3, 4, 4, 2), np.moveaxis(cells, 2, 0), atol=1e-12)
    medians = whole[96:110].reshape(2, 7)[:, 3] * 255
    np.testing.assert_allclose(medians, np.quantile(x, 0.5, axis=(0, 1), method="inverted_cdf"))


@pytest.mark.parametrize("images", [textures(2), np.full((5, 16, 16, 1), 9, np.uint8)], ids=["two", "all alike"])
def test_few_or_equal_images_give_finite_terms(images):
    judge = make_judge(fit_appearance(images, seed=0))
    values = [value for value, _ in judge([images[0], 255 - images[0]])]
    assert np.isfinite(values).all()
    assert values[0] < 1 < values[1]


@pytest.mark.parametrize("row", range(88, 112, 3))
def test_a_small_square_is_found_at_any_row_of_a_tall_image(row):
    """Windows are compared in strips; none is left out where two strips meet."""
    (image,) = textures(1, height=210)
    judge = make_judge(fit_appearance(textures(20, height=210), seed=0))
    image[row : row + 8, 20:28] = 120
    ((value, term),) = judge([image])
    assert value > 1
    assert term == "detail"


def test_terms_depend_on_the_image_alone(judge):
    """Alone, among others of its size, and among others of other sizes."""
    images = textures(5)
    alone = [judge([image])[0] for image in images]
    assert judge(images) == alone
    assert judge([images[0], images[1][:30], images[4]])[::2] == [alone[0], alone[4]]


def test_only_terms_beyond_the_limit_raise_a_score():
    scores = combine([0.2, 0.2, 0.2, 0.9], [0.0, 1.0, 16.0, 16.0], level=0.25)
    assert scores.tolist() == [0.2, 0.2, 0.5, 0.9]


def test_mirrored_images_are_normal_if_training_mirrors():
    """Images that are bright on the left."""
    images = np.clip(textures(200, 32, 32) * np.linspace(1.6, 0.4, 32)[:, None], 0, 255).astype(np.uint8)
    base = importlib.import_module("configs.folder").get_config()
    found = []
    for flip in (False, True):
        config = replace(base, data=DataConfig(source="arrays"), train=replace(base.train, flip=flip))
        judge = make_judge(make_appearance(config, from_user(images, 1)))
        mirrored = [make_resize(config)(image[:, ::-1]) for image in images[:20]]
        found.append(np.median([value for value, _ in judge(mirrored)]))
    assert found[0] > 2 * found[1]
