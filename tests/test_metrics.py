"""Pixel metrics agree with scikit-learn on single pixels, and PRO with its definition, threshold by threshold."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from anogan_jax.metrics import count_pixels, pixel_metrics

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def maps():
    """Maps that are higher in most masked regions; regions of several sizes, and an image without any."""
    masks = np.zeros((4, 30, 40), bool)
    masks[0, 3:6, 4:9] = masks[0, 20:29, 10:30] = True
    masks[0, 6, 9] = True  # touches the first region at a corner, and so belongs to it
    masks[1, 0, 0] = True
    masks[2, 10:20, 5:15] = True
    found = RNG.gamma(2, 0.3, masks.shape) + 0.4 * masks
    found[1, 0, 0] = 0.01  # a missed region
    return found.astype(np.float16).astype(np.float32), masks


def test_pixel_auroc_and_ap_agree_with_scikit_learn(maps):
    found, masks = maps
    ours = pixel_metrics(sum(count_pixels(*pair) for pair in zip(found, masks, strict=True)))
    assert ours["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), found.ravel()), abs=1e-12)
    assert ours["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), found.ravel()), abs=1e-12)


def test_pro_agrees_with_its_definition(maps):
    found, masks = maps
    regions = []
    for each, mask in zip(found, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [each[labels == label] for label in range(1, count + 1)]
    assert sorted(map(len, regions)) == [1, 16, 100, 180]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(found)[::-1]:
        rates.append((found[~masks] >= threshold).mean())
        overlaps.append(np.mean([(region >= threshold).mean() for region in regions]))
    grid = np.linspace(0, 0.3, 200_001)
    expected = np.interp(grid, rates, overlaps).mean()
    ours = pixel_metrics(sum(count_pixels(*pair) for pair in zip(found, masks, strict=True)))["pro"]
    assert ours == pytest.approx(expected, abs=1e-4)


def test_perfect_and_constant_maps():
    mask = np.zeros((20, 20), bool)
    mask[5:9, 5:9] = True
    perfect = pixel_metrics(count_pixels(mask.astype(np.float32), mask))
    assert perfect == {"pixel_auroc": 1, "pixel_ap": 1, "pro": 1}
    flat = pixel_metrics(count_pixels(np.ones((20, 20), np.float32), mask))
    assert flat["pixel_auroc"] == 0.5
    assert flat["pro"] == pytest.approx(0.15)  # the diagonal up to 0.3, over 0.3
