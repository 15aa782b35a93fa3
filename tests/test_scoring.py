"""Scores of images of the model's size: they depend on nothing but the image and the model, and agree with NumPy."""

import re
from functools import partial

import jax
import numpy as np
import pytest
import reference
from conftest import discriminate, generate

from anogan_jax import (
    Model,
    cross_entropy_loss,
    draw_bank,
    make_encoder,
    make_features,
    make_index,
    make_neighbours,
    make_scorer,
    make_search,
    score_images,
)
from anogan_jax.devices import make_mesh
from anogan_jax.models import project
from anogan_jax.scoring import make_discriminator_scorer, slots_of

SLOTS = slots_of(make_mesh())
SETTINGS = {
    "bank": dict(start="bank", starts=2, steps=4, optimizer="soap", features="structure", weight=0.0),
    "nearest": dict(start="bank", starts=8, steps=0, optimizer="soap", features="structure", weight=0.0),
    "references": dict(start="bank", starts=2, steps=3, optimizer="soap", features="structure", weight=0.1, share=0.4),
    "paper": dict(start="random", starts=1, steps=60, optimizer="adam", features="pixels", weight=0.1),
    "encoder": dict(start="encoder", starts=1, steps=0, optimizer="soap", features="structure", weight=0.0),
}


def bind(gan, *, start, starts, steps, optimizer, features, weight, share=0.0, seed=0):
    space = make_features(features, 16, 1)
    search = make_search(
        gan, space, steps=steps, optimizer=optimizer, learning_rate=0.1, discrimination_weight=weight, feature_layer=0
    )
    return make_scorer(gan, search, start, starts, reference_weight=share, encoder=make_encoder(gan), seed=seed)


@pytest.fixture(scope="module")
def bank(gan, weights):
    return draw_bank(gan, weights, jax.random.key(5), 256)


@pytest.fixture(scope="module")
def model(gan, weights, bank, blobs):
    """The trained weights, an encoder as it is initialised, the bank and references by structure."""
    structure = make_features("structure", 16, 1)
    init = jax.jit(partial(make_encoder(gan).init, train=False))
    encoder = init(jax.random.key(7), np.zeros((1, 16, 16, 1), np.float32))
    return Model(weights, encoder, make_index(bank, structure), make_neighbours(blobs[100:], structure))


@pytest.fixture(scope="module", params=SETTINGS)
def scorer(request, gan):
    return bind(gan, **SETTINGS[request.param])


@pytest.fixture(scope="module")
def queries(blobs):
    """More than are scored at a time, normal and anomalous."""
    return np.concatenate([blobs[:45], -blobs[:38]])


def features_of(space, images):
    return np.stack([reference.DESCRIBE[space](image) for image in np.asarray(images)])


def test_score_is_independent_of_batch_order_and_neighbours(scorer, model, queries):
    """Every field, bit for bit."""
    together = score_images(scorer, model, queries)
    order = np.random.default_rng(0).permutation(len(queries))
    shuffled = score_images(scorer, model, queries[order])
    for ours, theirs in zip(together, shuffled, strict=True):
        np.testing.assert_array_equal(ours[order], theirs)
    for i in (0, 7, 82):
        alone = score_images(scorer, model, queries[i : i + 1])
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_[i])


def test_program_has_one_shape_and_is_compiled_once(gan, model, queries, caplog):
    scorer = bind(gan, **SETTINGS["nearest"], seed=99)  # of settings that no other test has
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for count in (1, SLOTS - 1, SLOTS, SLOTS + 1, len(queries)):
            scores = score_images(scorer, model, queries[:count])
            assert all(len(field) == count for field in scores)
    compiled = [line for line in caplog.messages if "Compiling jit(score_block)" in line]
    assert len(compiled) == 1
    assert f"float32[{SLOTS},16,16,1]" in re.sub(r"ShapedArray\((.*?)\)", r"\1", compiled[0])


@pytest.mark.parametrize("name", ["bank", "paper"])
def test_score_is_the_distance_to_the_mean_of_the_starts(gan, model, queries, name):
    """Against NumPy, from the z where the searches ended."""
    settings = SETTINGS[name]
    space, weight, images = settings["features"], settings["weight"], queries[40:50]
    found = score_images(bind(gan, **settings), model, images)
    assert found.z.shape == (10, settings["starts"], gan.latent_size)
    z = found.z.reshape(-1, gan.latent_size)
    generated = np.asarray(generate(gan, model.weights.generator, z))
    means = features_of(space, generated).reshape(10, settings["starts"], -1).mean(axis=1)
    residual = [reference.distance(space, *pair) for pair in zip(features_of(space, images), means, strict=True)]
    np.testing.assert_allclose(found.residual, residual, rtol=1e-4)
    expected = np.zeros(10)
    if weight:
        layers = [
            discriminate(gan, model.weights.discriminator, each)[1][0]
            for each in (np.repeat(images, settings["starts"], axis=0), generated)
        ]
        difference = np.abs(layers[0] - layers[1]).sum(axis=(1, 2, 3))
        expected = difference.reshape(10, -1).mean(axis=1)
        assert (expected > 0).all()
    np.testing.assert_allclose(found.discrimination, expected, rtol=1e-4)
    np.testing.assert_allclose(found.score, (1 - weight) * np.array(residual) + weight * expected, rtol=1e-4)


def test_reconstruction_is_the_image_of_the_search_that_ended_closest(gan, model, queries):
    """z is in the order of the losses, and the first gives the reconstruction."""
    images, starts = queries[40:50], 4
    found = score_images(bind(gan, **SETTINGS["bank"] | {"starts": starts}), model, images)
    generated = generate(gan, model.weights.generator, found.z.reshape(-1, gan.latent_size))
    np.testing.assert_allclose(found.reconstruction, np.asarray(generated)[::starts], atol=1e-5)
    differences = features_of("structure", generated) - np.repeat(features_of("structure", images), starts, axis=0)
    losses = np.linalg.norm(differences, axis=1).reshape(10, starts)
    assert (np.diff(losses, axis=1) > -1e-5).all()
    assert (losses[:, 0] < losses[:, -1] - 1e-3).any()


@pytest.mark.parametrize("space", ["structure", "pixels"])
def test_without_steps_the_score_is_the_distance_to_the_mean_of_the_nearest(gan, model, bank, queries, space):
    indexed = model._replace(bank_index=make_index(bank, make_features(space, 16, 1)))
    scorer = bind(gan, **SETTINGS["nearest"] | {"features": space})
    found = score_images(scorer, indexed, queries[:20])
    images = bank.images.astype(np.float32)
    certain = 0
    for i, query in enumerate(queries[:20]):
        places, is_clear = reference.nearest(space, query, images, 8)
        if not is_clear:  # which image is the eighth nearest is decided by rounding
            continue
        certain += 1
        mean = features_of(space, images[places]).mean(axis=0)
        expected = reference.distance(space, reference.DESCRIBE[space](query), mean)
        np.testing.assert_allclose(found.score[i], expected, rtol=1e-4)
        np.testing.assert_array_equal(found.reconstruction[i], images[(bank.z == found.z[i, 0]).all(axis=1)][0])
        described = features_of(space, [found.reconstruction[i], images[places[0]], query])
        first, nearest = np.linalg.norm(described[:2] - described[2], axis=1)
        assert first == pytest.approx(nearest, rel=1e-5)
        np.testing.assert_array_equal(*(np.sort(z, axis=0) for z in (found.z[i], bank.z[places])))  # ties have no order
    assert certain > 15
    np.testing.assert_array_equal(found.discrimination, 0)


def test_references_take_their_share_of_residual_and_map(gan, model, queries, blobs):
    """Against NumPy, for the distance to the mean features of the eight nearest; their weight 0 is as without any."""
    settings, images = SETTINGS["references"], queries[40:50]
    mixed = score_images(bind(gan, **settings), model, images)
    alone, compared = (score_images(bind(gan, **settings | {"share": share}), model, images) for share in (0.0, 1.0))
    without = score_images(bind(gan, **settings), model._replace(references=None), images)
    for name in ("score", "residual", "anomaly_map"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(without, name))
        expected = 0.6 * getattr(alone, name) + 0.4 * getattr(compared, name)
        np.testing.assert_allclose(getattr(mixed, name), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mixed.reconstruction, alone.reconstruction)
    for i, query in enumerate(images):
        places, _ = reference.nearest("structure", query, blobs[100:], 8)
        mean = features_of("structure", blobs[100:][places]).mean(axis=0)
        expected = reference.distance("structure", reference.DESCRIBE["structure"](query), mean)
        np.testing.assert_allclose(compared.residual[i], expected, rtol=1e-3)


@pytest.mark.parametrize("layer", [0, -1])
def test_discriminators_features_are_a_space_of_comparison(gan, model, bank, queries, blobs, layer):
    """Against NumPy: the distance of normalised features to the mean of the starts and to that of the references."""

    def described(images):
        _, layers = discriminate(gan, model.weights.discriminator, np.asarray(images))
        features = np.asarray(layers[layer], np.float64).reshape(len(images), -1)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def nearest(query, images, count):
        return np.argsort(np.linalg.norm(described(images) - described(query[None]), axis=1))[:count]

    space = make_features("discriminator", 16, 1, gan.discriminator, layer)
    indexed = Model(
        model.weights,
        bank_index=make_index(bank, space, model.weights),
        references=make_neighbours(blobs[100:], space, model.weights),
    )
    images, known = queries[40:50], bank.images.astype(np.float32)
    for steps, share in ((0, 0.0), (3, 0.25)):
        search = make_search(gan, space, steps=steps, learning_rate=0.1)
        found = score_images(make_scorer(gan, search, "bank", 3, reference_weight=share), indexed, images)
        generated = np.asarray(generate(gan, model.weights.generator, found.z.reshape(-1, gan.latent_size)))
        for i, query in enumerate(images):
            made = generated[3 * i : 3 * i + 3] if steps else known[nearest(query, known, 3)]
            reals = blobs[100:][nearest(query, blobs[100:], 8)]
            of_made, of_reals = (described(each).mean(axis=0) - described(query[None])[0] for each in (made, reals))
            expected = (1 - share) * np.linalg.norm(of_made) + share * np.linalg.norm(of_reals)
            assert found.residual[i] == pytest.approx(expected, rel=1e-3)
        assert found.anomaly_map.min() >= 0
        assert found.anomaly_map.shape == (10, 16, 16)


def test_starts_in_the_bank_are_compared_by_generation_with_a_discrimination_term(gan, model, queries):
    """No steps, but lambda above 0: the images are generated anew and D is their mean."""
    found = score_images(bind(gan, **SETTINGS["nearest"] | {"weight": 0.1}), model, queries[:4])
    plain = score_images(bind(gan, **SETTINGS["nearest"]), model, queries[:4])
    np.testing.assert_allclose(np.sort(found.z, axis=1), np.sort(plain.z, axis=1), rtol=1e-6)  # the best first
    np.testing.assert_allclose(found.residual, plain.residual, rtol=1e-2)  # the bank's images are float16
    assert (found.discrimination > 0).all()


def test_encoder_without_steps_is_compared_by_its_reconstruction(gan, model, queries):
    found = score_images(bind(gan, **SETTINGS["encoder"]), model, queries[:10])
    z = make_encoder(gan).apply(model.encoder, queries[:10], train=False)
    z = jax.vmap(partial(project, gan))(z)
    np.testing.assert_allclose(found.z[:, 0], z, atol=1e-5)
    generated = generate(gan, model.weights.generator, z)
    np.testing.assert_allclose(found.reconstruction, generated, atol=1e-4)
    pairs = zip(features_of("structure", queries[:10]), features_of("structure", generated), strict=True)
    np.testing.assert_allclose(found.score, [reference.distance("structure", *pair) for pair in pairs], rtol=1e-4)


def test_random_starts_depend_on_the_image_and_the_seed(gan, model, queries):
    settings = SETTINGS["paper"] | {"starts": 2, "steps": 0}
    changed = queries[:3].copy()
    changed[1, 8, 8] += 1e-3
    one, other = (score_images(bind(gan, **settings, seed=seed), model, changed) for seed in (0, 1))
    again = score_images(bind(gan, **settings), model, queries[:3])
    np.testing.assert_array_equal(one.z[[0, 2]], again.z[[0, 2]])
    assert (one.z[1] != again.z[1]).any()
    assert len(np.unique(one.z.reshape(-1, gan.latent_size), axis=0)) == 6
    assert (one.z != other.z).any(axis=(1, 2)).all()


def test_map_of_pixels_is_the_mean_absolute_difference(gan, model, queries):
    found = score_images(bind(gan, **SETTINGS["paper"]), model, queries[:3])
    expected = np.abs(queries[:3] - found.reconstruction).mean(axis=-1)
    np.testing.assert_allclose(found.anomaly_map, expected, atol=1e-5)


def test_images_are_read_as_they_are_needed(scorer, model, queries):
    """Memory does not grow with the number of images: at most one block is read ahead."""
    given = 0

    def stream():
        nonlocal given
        for _ in range(4):
            for image in queries:
                given += 1
                yield image

    ahead = [given - done for done, _ in enumerate(scorer(model, stream()), start=1)]
    assert len(ahead) == 4 * len(queries)
    assert max(ahead) < SLOTS


@pytest.mark.parametrize("name", ["bank", "nearest", "paper"])
def test_anomalies_score_higher(gan, model, queries, name):
    scores = score_images(bind(gan, **SETTINGS[name]), model, queries).score
    assert scores[:45].max() < scores[45:].min()


def test_discriminator_score_is_its_cross_entropy(gan, model, queries):
    scores = score_images(make_discriminator_scorer(gan), model, queries)
    logits, _ = discriminate(gan, model.weights.discriminator, queries)
    np.testing.assert_allclose(scores.score, jax.vmap(cross_entropy_loss)(logits), rtol=1e-4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 16, 16, 1), np.uint8), "floats"),
        (np.full((2, 16, 16, 1), 2.0, np.float32), "found 2"),
        (np.full((2, 16, 16, 1), np.nan, np.float32), "finite"),
        (np.full((2, 16, 16, 1), 0.5, np.float32), r"\[0, 1\]"),
        (np.zeros((0, 16, 16, 1), np.float32), "at least one"),
    ],
)
def test_images_of_another_scale_are_refused(gan, model, images, message):
    with pytest.raises(ValueError, match=message):
        score_images(bind(gan, **SETTINGS["nearest"]), model, images)
