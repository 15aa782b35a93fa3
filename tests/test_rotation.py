"""The rotation network: its loss, its augmentation, its term in the score."""

import jax
import numpy as np
import pytest

from anogan_jax import Config, fit, load, to_model_range
from anogan_jax.auxiliary import shift_and_mirror
from anogan_jax.config import BankConfig, ModelConfig, RotationConfig, TrainConfig, with_values
from anogan_jax.data import from_user
from anogan_jax.detector import _stored as stored
from anogan_jax.errors import UserError
from anogan_jax.evaluation import findings_of
from anogan_jax.losses import rotation_loss
from anogan_jax.models import make_rotation_network
from anogan_jax.rotation import fit_rotation, kappa_of, rotation_term

RNG = np.random.default_rng(0)


def letters(count):
    """Return images (N, 16, 16, 1) uint8 of the letter T, somewhere and of some brightness."""
    images = RNG.integers(0, 40, (count, 16, 16, 1), np.uint8)
    for image, (row, column) in zip(images, RNG.integers(1, 6, (count, 2)), strict=True):
        level = RNG.integers(120, 250)
        image[row : row + 3, column : column + 9] = level
        image[row : row + 9, column + 3 : column + 6] = level
    return images


def test_loss_agrees_with_numpy():
    logits = RNG.normal(size=(4, 3, 4)) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = [-np.mean([np.log(probabilities[turn, i, turn]) for turn in range(4)]) for i in range(3)]
    np.testing.assert_allclose(rotation_loss(logits.astype(np.float32)), expected, rtol=1e-5)


def test_images_are_shifted_by_an_eighth_at_most_and_mirrored():
    images = to_model_range(letters(64))
    moved = np.asarray(shift_and_mirror(images, jax.random.key(0)))
    padded, found = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge"), []
    for image, each in zip(padded, moved, strict=True):
        crops = {(y, x): image[y : y + 16, x : x + 16] for y in range(5) for x in range(5)}
        same = [
            (*place, mirrored)
            for place, crop in crops.items()
            for mirrored in (False, True)
            if np.array_equal(crop[:, ::-1] if mirrored else crop, each)
        ]
        assert len(same) == 1
        found += same
    rows, columns, mirrored = (set(part) for part in zip(*found, strict=True))
    assert rows == columns == set(range(5))
    assert mirrored == {False, True}


@pytest.fixture(scope="module")
def detector():
    config = Config(
        model=ModelConfig(image_size=16, width=8, latent_size=4),
        train=TrainConfig(steps=20, batch_size=16),
        rotation=RotationConfig(steps=100),
        bank=BankConfig(size=128, inverted=64),
    )
    return fit(letters(200), config)


def quiet(detector):
    """Return the detector without its terms of appearance."""
    limits = {"limit": np.float64(1e9), "window_limit": np.float64(1e9)}
    quiet = detector._replace(appearance=detector.appearance._replace(**limits))
    return quiet.with_config(with_values(quiet.config, {"search.steps": 0}))


def test_turned_images_have_the_higher_term(detector):
    upright, *turned = (detector.score(np.rot90(letters(20), k, axes=(1, 2))).rotation for k in range(4))
    assert all(np.median(upright) < other.min() for other in turned)


def outputs(detector, images):
    """Return of images (N, 16, 16, 1) uint8, by NumPy: loss (N,), accuracy (N,) and features (N, 4 F)."""
    network, losses, correct, features = make_rotation_network(detector.gan), [], [], []
    for turn in range(4):
        for view in (images, images[:, :, ::-1]):
            turned = to_model_range(np.rot90(view, turn, axes=(1, 2)))
            logits, found = network.apply(detector.model.rotation.network, turned, train=False)
            logits = np.asarray(logits, np.float64)
            losses.append(np.log(np.exp(logits).sum(axis=1)) - logits[:, turn])
            correct.append(logits.argmax(axis=1) == turn)
            features.append(found)
    pairs = np.array(features, np.float64).reshape(4, 2, len(images), -1).mean(axis=1)
    return np.mean(losses, axis=0), np.mean(correct, axis=0), np.moveaxis(pairs, 0, 1).reshape(len(images), -1)


def test_term_agrees_with_its_formula_and_with_itself_in_another_batch():
    """T(x) is kappa L(x) / sigma(L) + M(x) / sigma(M), with statistics of training and of held-out images."""
    training, held_out, images = letters(150), letters(40), letters(70)
    config = Config(
        model=ModelConfig(image_size=16, width=8, latent_size=4),
        train=TrainConfig(steps=2, batch_size=16),
        rotation=RotationConfig(steps=30),
        bank=BankConfig(size=64, inverted=0, references=0),
    )
    detector = fit(letters(60), config)
    network, variables = make_rotation_network(detector.gan), detector.model.rotation.network
    fitted = fit_rotation(network, variables, to_model_range(training), to_model_range(held_out))
    detector = detector._replace(model=detector.model._replace(rotation=fitted))
    (loss, accuracy, features), (*_, of_training) = outputs(detector, held_out), outputs(detector, training)
    covariance = np.cov(of_training, rowvar=False, bias=True)
    covariance += 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))

    def distance(features):
        return mahalanobis(features, of_training.mean(axis=0), np.linalg.inv(covariance))

    kappa = np.clip((accuracy.mean() - 1 / 4) / (1 - accuracy.mean()), 0, 20)
    result, (mine, _, seen) = detector.score(images), outputs(detector, images)
    expected = kappa * mine / loss.std() + distance(seen) / distance(features).std()
    np.testing.assert_allclose(result.rotation, expected, rtol=1e-3)
    for number in (0, 69):
        alone = detector.score(images[number : number + 1])
        assert (alone.rotation[0], alone.score[0]) == (result.rotation[number], result.score[number])


def mahalanobis(values, center, inverse):
    """Return the Mahalanobis distance (N,) of values (N, F) to the center (F,)."""
    differences = values - center
    return np.sqrt(np.einsum("ni,ij,nj->n", differences, inverse, differences))


def test_score_is_the_searchs_and_the_weighted_term(detector):
    """Its factor is made of the held-out images alone."""
    of = quiet(detector)
    plain, weighted = (of.with_config(with_values(of.config, {"rotation.weight": w})) for w in (0, 2))
    found = list(findings_of(weighted, from_user(np.stack(detector.held_out), 1)))
    factor = 2 * np.std([each.residual for each in found])
    assert plain.calibration.rotation_factor == 0
    np.testing.assert_allclose(weighted.calibration.rotation_factor, factor, rtol=1e-9)
    images = letters(9)
    without, result = plain.score(images), weighted.score(images)
    np.testing.assert_allclose(result.score, without.score + factor * result.rotation, rtol=1e-9)
    np.testing.assert_array_equal(without.score, without.residual)
    assert not without.rotation.any()


def test_without_a_rotation_network_the_weight_changes_nothing(detector):
    bare, images = detector._replace(model=detector.model._replace(rotation=None)), letters(3)
    one, other = (bare.with_config(with_values(bare.config, {"rotation.weight": w})).score(images) for w in (0.5, 3))
    np.testing.assert_array_equal(one.score, other.score)
    assert not one.rotation.any()


def test_saved_rotation_network_gives_the_same_scores(detector, tmp_path):
    detector.save(tmp_path)
    images = letters(5)
    for mine, other in zip(detector.score(images), load(tmp_path).score(images), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_rotation_network_of_an_earlier_version_is_one_line(detector, tmp_path, monkeypatch):
    as_stored = stored(detector)
    monkeypatch.setattr("anogan_jax.detector._stored", lambda _: ({**as_stored[0]}, as_stored[1]))
    del as_stored[0]["rotation.npz"]
    detector.save(tmp_path)
    with pytest.raises(UserError, match=r"earlier version, with another rotation term; train again$"):
        load(tmp_path)


@pytest.mark.parametrize(("accuracy", "kappa"), [(0, 0), (0.25, 0), (0.625, 1), (0.75, 2), (0.99, 20), (1, 20)])
def test_kappa_grows_with_the_accuracy(accuracy, kappa):
    np.testing.assert_allclose(kappa_of(accuracy), kappa)


def test_held_out_images_that_do_not_differ_give_no_scale(detector, caplog):
    network, variables = make_rotation_network(detector.gan), detector.model.rotation.network
    alike = np.repeat(to_model_range(letters(1)), 3, axis=0)
    fitted = fit_rotation(network, variables, to_model_range(letters(20)), alike)
    np.testing.assert_array_equal(fitted.scale, [0, 0])
    assert "the rotation network is ignored: it needs at least two held-out images that differ" in caplog.text
    assert not np.asarray(rotation_term(network, fitted, to_model_range(letters(3)))).any()
