"""Pseudo-anomalies and the segmenter that learns from them: damage is where the mask says, and is found."""

import jax
import numpy as np
import optax
import pytest

from anogan_jax import (
    Config,
    Model,
    Segmentation,
    fit,
    load,
    make_features,
    make_scorer,
    make_search,
    score_images,
    to_model_range,
)
from anogan_jax.auxiliary import init_network_state, make_network_step, make_segmenter_loss
from anogan_jax.checkpoint import restore_state, save_state
from anogan_jax.config import BankConfig, DataConfig, ModelConfig, SegmenterConfig, TrainConfig, with_values
from anogan_jax.data import make_pseudo_draw, to_batch
from anogan_jax.data.pseudo import damage
from anogan_jax.losses import segmentation_loss
from anogan_jax.models import make_segmenter

RNG = np.random.default_rng(0)


def smooth(count, size=16, channels=1):
    """Return images of a bright bump at a random place."""
    y, x = np.mgrid[:size, :size]
    places = RNG.uniform(4, size - 4, (count, 2, 1, 1))
    bumps = np.exp(-((y - places[:, 0]) ** 2 + (x - places[:, 1]) ** 2) / 20)
    return np.repeat((40 + 160 * bumps)[..., None], channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (64, 2)])
def test_damage_is_inside_its_mask(size, channels):
    """Outside the mask no pixel differs visibly; most images are damaged, and none over the whole."""
    images, covered = smooth(100, size, channels), []
    for number, image in enumerate(images):
        before = image.copy()
        damaged, mask = damage(image, images[number - 1], np.random.default_rng(number))
        assert (damaged.shape, damaged.dtype) == (image.shape, np.uint8)
        assert (mask.shape, mask.dtype) == (image.shape[:2], bool)
        np.testing.assert_array_equal(image, before)
        difference = np.abs(damaged.astype(float) - image).mean(axis=-1)
        assert difference[~mask].max(initial=0) <= 0.6 * max(image.std(), 4) + 1
        covered.append(mask.mean())
    assert np.mean(np.array(covered) > 0) > 0.8
    assert 0.02 < np.mean(covered) < 0.5


def test_damage_of_an_image_without_contrast_is_visible():
    flat = np.full((16, 16, 1), 128, np.uint8)
    masks = [damage(flat, flat, np.random.default_rng(seed))[1].any() for seed in range(40)]
    assert np.mean(masks) > 0.3


def test_every_second_example_is_damaged_by_seed_and_place_alone():
    images = smooth(10)
    draw = make_pseudo_draw(lambda place: images[place % 10], seed=3)
    examples = [draw(place) for place in range(20)]
    for place, example in enumerate(examples):
        np.testing.assert_array_equal(draw(place), example)
        is_whole = place % 2 == 0
        assert not (is_whole and example[..., -1].any())
        assert np.array_equal(example[..., :-1], images[place % 10]) or not is_whole
    assert any(example[..., -1].any() for example in examples)
    other = make_pseudo_draw(lambda place: images[place % 10], seed=4)
    assert any((other(place) != examples[place]).any() for place in range(1, 20, 2))


@pytest.mark.parametrize("normalize_contrast", [False, True])
def test_mask_of_a_batch_is_apart_from_the_images_contrast(normalize_contrast):
    images = smooth(4)
    masks = np.repeat(np.array([0, 255, 0, 255], np.uint8), 256).reshape(4, 16, 16, 1)
    config = Config(data=DataConfig(normalize_contrast=normalize_contrast))
    batch = to_batch(np.concatenate([images, masks], axis=-1), config)
    without = to_batch(np.concatenate([images, 0 * masks], axis=-1), config)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch[..., -1], masks[..., 0] / 255)
    np.testing.assert_array_equal(batch[..., :-1], without[..., :-1])


def test_loss_agrees_with_numpy():
    logits, masks = RNG.normal(size=(3, 4, 4)), RNG.integers(0, 2, (3, 8, 8)).astype(float)
    shares = np.stack([masks[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(axis=0)
    expected = np.logaddexp(0, logits) - shares * logits
    loss = segmentation_loss(logits.astype(np.float32), masks.astype(np.float32))
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


@pytest.fixture(scope="module")
def training(gan):
    optimizer = optax.adamw(3e-3)
    state = init_network_state(make_segmenter(gan), optimizer, jax.random.key(0), channels=1)
    return state, make_network_step(make_segmenter_loss(gan), optimizer)


def batch_of(draw, step, size=32):
    return to_batch(np.stack([draw(size * step + row) for row in range(size)]), Config())


def test_segmenter_marks_new_damage(gan, training):
    """It is found in images that training never saw."""
    state, step = jax.tree.map(jax.numpy.copy, training[0]), training[1]
    seen, unseen = smooth(200), smooth(64)
    draw = make_pseudo_draw(lambda place: seen[place % 200], seed=0)
    for number in range(500):
        state, metrics = step(state, batch_of(draw, number))
    assert np.isfinite(metrics.loss)
    examples = batch_of(make_pseudo_draw(lambda place: unseen[place % 64], seed=1), 0, 64)
    logits = make_segmenter(gan).apply(state.network, examples[..., :-1], train=False)
    masks = examples[..., -1].reshape(64, 8, 2, 8, 2).mean(axis=(2, 4))
    assert logits.shape == (64, 8, 8)
    assert np.median(logits[masks > 0.9]) > 0 > np.median(logits[masks == 0])


def test_training_resumes_exactly(training, tmp_path):
    images = smooth(40)
    draw = make_pseudo_draw(lambda place: images[place % 40], seed=0)
    straight, step = jax.tree.map(jax.numpy.copy, training[0]), training[1]
    for number in range(3):
        straight, _ = step(straight, batch_of(draw, number))
    resumed, _ = step(jax.tree.map(jax.numpy.copy, training[0]), batch_of(draw, 0))
    save_state(tmp_path, resumed)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), resumed)
    resumed = restore_state(tmp_path, like)
    for number in (1, 2):
        resumed, _ = step(resumed, batch_of(draw, number))
    for a, b in zip(jax.tree.leaves(straight.network), jax.tree.leaves(resumed.network), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def detector():
    config = Config(
        model=ModelConfig(image_size=16, width=8, latent_size=4),
        train=TrainConfig(steps=20, batch_size=16),
        segmenter=SegmenterConfig(steps=20),
        bank=BankConfig(size=128, inverted=64),
    )
    return fit(smooth(120), config)


def test_weight_of_the_segmenter_decides_its_part_of_score_and_map(detector):
    """A(x) is linear in the weight; with 0 it is the score of the search alone."""
    judged = detector._replace(
        appearance=detector.appearance._replace(limit=np.float64(1e9), window_limit=np.float64(1e9))
    )
    images = smooth(6)
    results = [
        judged.with_config(with_values(judged.config, {"segmenter.weight": w})).score(images) for w in (0, 0.25, 1)
    ]
    none, quarter, alone = results
    np.testing.assert_allclose(none.score, none.residual, rtol=1e-6)
    np.testing.assert_allclose(alone.score, alone.damage, rtol=1e-6)
    np.testing.assert_allclose(quarter.score, 0.75 * none.score + 0.25 * alone.score, rtol=1e-5)
    np.testing.assert_allclose(quarter.anomaly_map, 0.75 * none.anomaly_map + 0.25 * alone.anomaly_map, atol=1e-5)
    assert not none.damage.any()
    assert alone.damage.all()


def test_saved_segmenter_gives_the_same_scores(detector, tmp_path):
    detector.save(tmp_path)
    images = smooth(5)
    for mine, other in zip(detector.score(images), load(tmp_path).score(images), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_without_a_segmenter_the_weight_changes_nothing(detector):
    bare = detector._replace(model=detector.model._replace(segmenter=None))
    images = smooth(3)
    one, other = (bare.with_config(with_values(bare.config, {"segmenter.weight": w})).score(images) for w in (0.1, 0.9))
    np.testing.assert_array_equal(one.score, other.score)
    assert not one.damage.any()


def test_search_tried_with_another_weight_is_calibrated_for_it(detector):
    alone = detector.with_search(detector.config.search, {"segmenter.weight": 1.0})
    assert alone.config.segmenter.weight == 1
    assert alone.calibration.level != detector.calibration.level


def test_reflected_images_have_the_same_damage_if_training_mirrors(gan, weights, training):
    """The logits are averaged over the four reflections, so S(x) is the same for each of them."""
    model = Model(weights, segmenter=training[0].network)
    search = make_search(gan, make_features("pixels", 16, 1), steps=0)
    images = to_model_range(smooth(4))
    for mirrored in (True, False):
        scorer = make_scorer(gan, search, "random", segmentation=Segmentation(make_segmenter(gan), 0.5, mirrored))
        one, *others = (score_images(scorer, model, np.flip(images, axes)).damage for axes in ((), (1,), (2,), (1, 2)))
        assert all(np.allclose(one, other, rtol=1e-5) for other in others) == mirrored
