"""The likeness made of a bank's nearest images, by itself and as a score."""

import jax
import numpy as np
import pytest

from anogan_jax import describe, describe_bank, make_bank, make_mesh, make_nearest_scorer, neighbours, score_images
from anogan_jax.scoring import lanes_on


@pytest.fixture(scope="module")
def bank(gan, weights):
    return make_bank(gan, weights, jax.random.key(5), 5000)


@pytest.mark.parametrize("yardstick", ["pixels", "structure"])
def test_are_the_nearest_by_an_independent_computation(bank, blobs, yardstick):
    queries = blobs[:40]
    found = neighbours([describe_bank(bank.images[:5000], yardstick)], queries, 5, yardstick)
    images = np.asarray(bank.images)[:5000]
    every, mine = (np.stack([describe(x, yardstick) for x in these]) for these in (images, queries))
    distances = np.linalg.norm(mine[:, None].astype(np.float64) - every[None], axis=2)
    order = np.argsort(distances, axis=1)[:, :6]
    nearest = np.take_along_axis(distances, order, axis=1)
    clear = nearest[:, 5] - nearest[:, 4] > 1e-5  # which is fifth, and not for rounding to decide
    assert clear.mean() > 0.9
    order, nearest = order[:, :5], nearest[:, :5]
    np.testing.assert_allclose(found.distance, nearest, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(found.images[:, 0], images[order[:, 0]])

    scorer = make_nearest_scorer([describe_bank(bank.images[:5000], yardstick)], 5, yardstick)
    score = score_images(scorer, None, queries)
    np.testing.assert_allclose(score.generated[clear], images[order[clear]].mean(axis=1), atol=1e-5)
    expected = np.linalg.norm(mine - every[order].mean(axis=1), axis=1)
    np.testing.assert_allclose(score.score[clear], expected[clear], rtol=1e-4)
    if yardstick == "pixels":
        np.testing.assert_allclose(score.anomaly_map, np.abs(queries - score.generated).mean(axis=-1), atol=1e-6)


def test_what_is_near_by_one_yardstick_is_compared_by_another(bank, blobs):
    images, queries = np.asarray(bank.images)[:5000], blobs[:20]
    described = describe_bank(images, "structure", nearest_by="pixels")
    score = score_images(make_nearest_scorer([described], 5, "structure", nearest_by="pixels"), None, queries)
    distances = np.square(queries[:, None] - images[None]).sum(axis=(2, 3, 4), dtype=np.float64)
    found = images[np.argsort(distances, axis=1)[:, :5]]
    np.testing.assert_allclose(score.generated, found.mean(axis=1), atol=1e-5)
    features = np.array([np.mean([describe(x, "structure") for x in these], axis=0) for these in found])
    expected = np.linalg.norm([describe(x, "structure") for x in queries] - features, axis=1)
    np.testing.assert_allclose(score.score, expected, rtol=1e-4)


def test_a_bank_in_blocks_is_as_good_as_one(bank, blobs):
    parts = [describe_bank(bank.images[a:b], "structure") for a, b in ((0, 7), (7, 4200), (4200, 5000))]
    whole = neighbours([describe_bank(bank.images[:5000], "structure")], blobs[:9], 8, "structure")
    split = neighbours(parts, blobs[:9], 8, "structure")
    np.testing.assert_allclose(whole.distance, split.distance, atol=1e-3)
    np.testing.assert_array_equal(whole.images, split.images)


def test_of_a_bank_smaller_than_asked_for_all_count(bank, blobs):
    few = np.asarray(bank.images[:5])
    score = score_images(make_nearest_scorer([describe_bank(few, "structure")], 8, "structure"), None, blobs[:2])
    np.testing.assert_allclose(score.generated, np.broadcast_to(few.mean(axis=0), (2, 16, 16, 1)), atol=1e-6)
    mean = np.mean([describe(x, "structure") for x in few], axis=0)
    expected = [np.linalg.norm(describe(x, "structure") - mean) for x in blobs[:2]]
    np.testing.assert_allclose(score.score, expected, rtol=1e-4)


def test_a_score_depends_on_its_image_alone(bank, blobs):
    scorer = make_nearest_scorer([describe_bank(bank.images[:5000], "structure")], 8, "structure")
    queries = np.stack([blobs, -blobs], axis=1).reshape(-1, 16, 16, 1)[: 2 * lanes_on(make_mesh()) + 3]
    together = score_images(scorer, None, queries).score
    order = np.random.default_rng(0).permutation(len(queries))
    np.testing.assert_array_equal(score_images(scorer, None, queries[order]).score, together[order])
    assert score_images(scorer, None, queries[-1:]).score[0] == together[-1]


def test_tells_what_was_never_seen_from_what_is_normal(bank, blobs):
    scorer = make_nearest_scorer([describe_bank(bank.images[:5000], "structure")], 8, "structure")
    score = score_images(scorer, None, np.concatenate([blobs[:20], -blobs[:20]])).score
    assert score[:20].max() < score[20:].min()
