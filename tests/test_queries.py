"""Queries of any size through a scorer: their maps, their order, their patches."""

import io
import tracemalloc

import numpy as np
import pytest

from anogan_jax.appearance import fit_appearance
from anogan_jax.config import Config, ModelConfig, PatchConfig, PoolingConfig
from anogan_jax.data import Images
from anogan_jax.errors import UserError
from anogan_jax.queries import _packed, _unpacked, score_queries
from anogan_jax.runtime import Finding, Score, make_judge

RNG = np.random.default_rng(0)


def brightness(tiles):
    """Stand in for a model: bright pixels are anomalous, and the reconstruction is black."""
    for tile in tiles:
        residual = (tile[..., 0] + 1) / 2
        total, zero = residual.sum(), np.float32(0)
        yield Score(
            total, total, *[zero] * 3, np.full_like(tile, -1), residual, np.full((1, 2), residual.mean(), np.float32)
        )


def config(pooling=None, **patches):
    return Config(
        model=ModelConfig(image_size=8),
        patches=PatchConfig(enabled=bool(patches or pooling), **patches),
        pooling=pooling or PoolingConfig(),
    )


def images(*arrays):
    def read(i):
        if arrays[i] is None:
            raise UserError(f"{i} is broken")
        return arrays[i][..., None]

    return Images([str(i) for i in range(len(arrays))], None, read)


def grey(height, width):
    return RNG.integers(0, 256, (height, width), np.uint8)


def score_all(config, *arrays, **settings):
    return list(score_queries(brightness, images(*arrays), config, **settings))


def test_maps_have_the_size_of_their_query():
    shapes = ((8, 8), (30, 11), (5, 40), (16, 16), (3, 3))
    arrays = [grey(*shape) for shape in shapes]
    for settings in (config(), config(PoolingConfig(stride=3)), config(scale=0.5), config(scale=2.0)):
        for found, array in zip(score_all(settings, *arrays), arrays, strict=True):
            assert found.anomaly_map.shape == found.reconstruction.shape[:2] == array.shape
            np.testing.assert_array_equal(found.image[..., 0], array)


@pytest.mark.parametrize(("channels", "most"), [(1, 8.0), (3, 12.0)])
def test_large_image_takes_few_bytes_a_pixel(channels, most):
    large = Config(model=ModelConfig(image_size=64, channels=channels), patches=PatchConfig(enabled=True))
    pixels = np.tile(RNG.integers(0, 256, (64, 64, channels), np.uint8), (128, 8, 1))  # strips are narrow
    judge = make_judge(fit_appearance(pixels.reshape(-1, 64, 64, channels)[:4], seed=0))
    tracemalloc.start()
    try:
        list(score_queries(brightness, Images(["0"], None, lambda _: pixels.copy()), large, judge=judge, level=1.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / pixels[..., 0].size < most


def test_map_of_patches_shows_every_pixel_of_the_query():
    array = grey(30, 21)
    (found,) = score_all(config(PoolingConfig(share=1e-9, stride=3)), array)
    np.testing.assert_allclose(found.anomaly_map, array / 255, atol=1e-6)
    assert found.score == pytest.approx(array.max() / 255)
    assert not found.reconstruction.any()


def test_patches_are_scored_without_the_contrast_of_their_image():
    """Two images that differ in brightness and contrast alone have nearly one map; reconstructions keep their own."""
    settings = config(PoolingConfig(stride=8))
    settings.data.normalize_contrast = True
    dark = RNG.integers(20, 60, (24, 16)).astype(np.uint8)
    one, other = score_all(settings, dark, 3 * dark + 50)
    np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=0.01)
    assert one.anomaly_map.std() > 0.02
    assert one.reconstruction.max() < 60  # black without contrast is darker than its image, clipped to grey levels
    assert score_all(config(PoolingConfig(stride=8)), dark)[0].anomaly_map.max() < one.anomaly_map.max()


def test_residual_of_patches_is_the_mean_over_tiles():
    array = grey(8, 16)
    (found,) = score_all(config(PoolingConfig(stride=8)), array)
    assert found.residual == pytest.approx((array / 255).sum() / 2, rel=1e-5)


def test_z_is_that_of_the_tile_with_the_largest_residual():
    array = np.concatenate([grey(8, 8) // 4, grey(8, 8), grey(8, 8) // 4], axis=1)
    (found,) = score_all(config(PoolingConfig(stride=8)), array)
    np.testing.assert_allclose(found.z, [array[:, 8:16].mean() / 255] * 2, rtol=1e-5)


def test_patches_without_contrast_are_not_scored():
    array = np.full((8, 16), 255, np.uint8)  # bright, but without contrast
    array[:, 8:] = grey(8, 8)
    (found,) = score_all(config(PoolingConfig(stride=8), min_contrast=5.0), array)
    assert not found.anomaly_map[:, :8].any()
    assert found.anomaly_map[:, 8:].any()
    (found,) = score_all(config(min_contrast=5.0), np.full((20, 20), 9, np.uint8))
    assert (found.score, found.residual, len(found.z)) == (0, 0, 0)


def test_tiles_and_pixels_outside_a_region_do_not_count():
    """The residual is of the one tile that has some of it, the score the share of its two pixels, and the map is 0."""
    array, region = np.full((24, 40), 255, np.uint8), np.zeros((24, 40), bool)
    region[10, 3:5], array[10, 4] = True, 51
    queries = images(array)._replace(region=lambda *_: region)
    (found,) = score_queries(brightness, queries, config(PoolingConfig(share=0.5, stride=8)))
    assert found.residual == pytest.approx(63.2)
    assert found.score == pytest.approx(1.0)
    (found,) = score_queries(brightness, queries, config(PoolingConfig(share=1.0, stride=8)))
    assert found.score == pytest.approx(0.6)
    np.testing.assert_array_equal(found.anomaly_map > 0, region)


def test_unreadable_queries_keep_their_place(caplog):
    arrays = [None, grey(9, 9), None, None, grey(20, 8), None]
    found = score_all(config(PoolingConfig(stride=4)), *arrays)
    assert [each.is_readable for each in found] == [array is not None for array in arrays]
    assert np.isnan([each.score for each in found if not each.is_readable]).all()
    assert caplog.text.count("skipped") == 4


def test_scoring_can_start_at_any_query():
    arrays = [grey(9, 9) for _ in range(5)]
    every, rest = score_all(config(), *arrays), score_all(config(), *arrays, first=3)
    assert [each.score for each in rest] == [each.score for each in every[3:]]
    assert len({each.score for each in every}) == 5


def test_processes_exchange_arrays_and_no_pickles():
    """Unpacked findings equal the packed ones, unreadable ones too; a pickle is refused."""
    sent = list(score_queries(brightness, images(grey(8, 8), None), config()))
    for mine, other in zip(sent, _unpacked(_packed(sent)), strict=True):
        np.testing.assert_equal(mine._asdict(), other._asdict())
        assert list(map(type, mine)) == list(map(type, other))
    buffer = io.BytesIO()
    np.savez(buffer, **{name + "0": np.array([{}], object) for name in Finding._fields})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        _unpacked(np.frombuffer(buffer.getvalue(), np.uint8))
