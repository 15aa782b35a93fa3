"""The latent walk and the embedding: ways between two z, the discriminator's features, the same picture each time."""

import json
import re

import numpy as np
import pytest
from conftest import discriminate, generate
from PIL import Image
from threadpoolctl import threadpool_limits

from anogan_jax import evaluation, spaces, to_model_range
from anogan_jax.data import from_user, to_networks
from anogan_jax.detector import findings_of
from anogan_jax.errors import UserError
from anogan_jax.evaluation import score_to_folder
from anogan_jax.queries import read_tiles
from anogan_jax.report import EMBEDDING
from anogan_jax.spaces import embed, interpolate, walk

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 16, 16), np.uint8)
SHARES = np.linspace(0, 1, 9)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(spaces, "_OTHERS", 20)
    monkeypatch.setattr(spaces, "_QUERIES", 12)


def test_walk_under_the_normal_prior_turns_and_lengthens_evenly():
    first, second = RNG.normal(size=(2, 50)) * [[1.0], [3.0]]
    z = interpolate("normal", first, second, SHARES)
    np.testing.assert_allclose(z[[0, -1]], [first, second], rtol=1e-5)
    norms = np.linalg.norm(z, axis=1)
    np.testing.assert_allclose(np.diff(norms), (norms[-1] - norms[0]) / 8, rtol=1e-4)
    cosines = (z[1:] * z[:-1]).sum(axis=1) / (norms[1:] * norms[:-1])
    np.testing.assert_allclose(np.arccos(cosines), np.arccos(cosines).mean(), rtol=1e-3)


@pytest.mark.parametrize("prior", ["normal", "uniform"])
@pytest.mark.parametrize("factor", [1.0, 0.5, -1.0])
def test_walk_on_a_line_through_the_origin_is_straight(prior, factor):
    z = RNG.uniform(-1, 1, 8)
    expected = ((1 - SHARES) + factor * SHARES)[:, None] * z
    np.testing.assert_allclose(interpolate(prior, z, factor * z, SHARES), expected, atol=1e-6)


def test_walk_under_the_uniform_prior_is_straight():
    first, second = RNG.uniform(-1, 1, (2, 8))
    middle = interpolate("uniform", first, second, np.array([0.25]))[0]
    np.testing.assert_allclose(middle, 0.75 * first + 0.25 * second, rtol=1e-5)


def test_walk_leads_from_the_least_to_the_most_anomalous_query(tiny_run, tmp_path, monkeypatch):
    """Their reconstructions are the first and the last image; the picture is a row of all."""
    detector, walks = tiny_run.detector, []
    monkeypatch.setattr(evaluation, "walk", lambda *of: walks.append(walk(*of)) or walks[0])
    score_to_folder(detector, from_user(IMAGES, 1), tmp_path, "an array")
    findings = sorted(findings_of(detector, from_user(IMAGES, 1)), key=lambda finding: finding.score)
    ends = [generate(detector.gan, detector.model.weights.generator, f.z[None])[0] for f in (findings[0], findings[-1])]
    np.testing.assert_allclose(walks[0][[0, -1]], ends, atol=1e-5)
    with Image.open(tmp_path / "samples" / "walk.png") as picture:
        assert picture.width > 9 * picture.height * 0.9


def test_walk_is_drawn_without_any_z(tiny_run, tmp_path):
    """Unreadable queries have none; with one image it stays where it is."""
    images = from_user(IMAGES[:2], 1)

    def read(i):
        if i:
            raise UserError("broken")
        return images.read(i)

    score_to_folder(tiny_run.detector, images._replace(read=read), tmp_path, "an array")
    with Image.open(tmp_path / "samples" / "walk.png") as picture:
        assert picture.width > picture.height


def test_results_among_the_samples_are_not_scored(tmp_path):
    with pytest.raises(UserError, match="the results would be among the images"):
        evaluation.check_apart(tmp_path, tmp_path / "samples")


def test_features_are_those_of_the_discriminators_last_hidden_layer(tiny_run):
    """The mean over an image's tiles; however many there are of other images, and none without tiles."""
    detector = tiny_run.detector
    tiles = to_model_range(RNG.integers(0, 256, (150, 16, 16, 1), np.uint8))
    parts = {7: tiles[:70], 3: tiles[70:71], 5: tiles[:0], 9: tiles[71:]}
    found = spaces._described(spaces._make_describe(detector), parts.items())
    assert list(found) == [7, 3, 9]
    for number, features in found.items():
        _, layers = discriminate(detector.gan, detector.model.weights.discriminator, parts[number])
        expected = np.asarray(layers[-1]).reshape(len(parts[number]), -1).mean(axis=0)
        np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-5)


def test_embedding_is_the_same_on_any_number_of_threads(tiny_run):
    """Bit for bit; queries are evenly spaced, and unreadable ones left out."""
    images = from_user(IMAGES, 1)

    def read(i):
        if i == 29:
            raise UserError("broken")
        return images.read(i)

    queries = images._replace(read=read)
    found = embed(tiny_run.detector, queries)
    with threadpool_limits(2):
        again = embed(tiny_run.detector, queries)
    assert found.numbers.tolist() == [0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26]
    assert {name: points.shape for name, points in found.others.items()} == {
        "generated": (20, 2),
        "held out": (20, 2),
        "training": (20, 2),
    }
    np.testing.assert_array_equal(found.queries, again.queries)
    for name, points in found.others.items():
        np.testing.assert_array_equal(points, again.others[name])


def test_embedding_shows_what_the_detector_keeps(tiny_run):
    bare = tiny_run.detector._replace(held_out=None, references=None)
    assert list(embed(bare, from_user(IMAGES, 1)).others) == ["generated"]


def test_images_that_differ_are_apart_in_the_embedding(tiny_run):
    """Copies of two images: the nearest point of each is a copy."""
    pair = np.stack([np.zeros((16, 16), np.uint8), IMAGES[0]])
    found = embed(tiny_run.detector, from_user(np.repeat(pair, 6, axis=0), 1)).queries
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1) + np.where(np.eye(12), np.inf, 0)
    assert (distances.argmin(axis=1) // 6 == np.arange(12) // 6).all()


def test_embedding_is_in_the_report_where_it_is_asked_for(tiny_run, tmp_path):
    for wanted in (True, False, True):
        score_to_folder(tiny_run.detector, from_user(IMAGES, 1), tmp_path / "a", "an array", embedding=wanted)
        page = (tmp_path / "a" / "report.html").read_text()
        charts = json.loads(re.search(r'id="summary" type="application/json">(.*?)</script>', page)[1])["charts"]
        assert ("embedding" in charts) == (tmp_path / "a" / EMBEDDING).exists() == wanted
    with Image.open(tmp_path / "a" / EMBEDDING) as picture:
        assert min(picture.size) > 300


def test_tiles_of_a_query_are_what_the_networks_see(tiny_run):
    config = tiny_run.detector.config
    tiles = read_tiles(from_user(IMAGES, 1), config, 4)
    np.testing.assert_array_equal(tiles, to_networks(IMAGES[4:5, ..., None], config))
