"""The architecture: parameter counts by hand, shapes, ranges and initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import generate
from flax import linen as nn

from anogan_jax import init_state, make_gan, make_optimizer, make_train_step, sample_latent
from anogan_jax.models import STATISTICS_MOMENTUM, BatchNorm


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def initial_shapes(gan):
    """Return the shapes of the initial variables, without computing them."""
    state = jax.eval_shape(
        lambda key: init_state(gan, make_optimizer(), key, gan.generator.channels), jax.random.key(0)
    )
    return state.generator, state.discriminator


# By hand: weights, plus scale and offset of each batch normalisation, plus biases at both image ends.
GOLDEN = [
    # The paper's: 64x64 grey, 512-256-128-64, 5x5, z of 100.
    (
        dict(image_size=64, channels=1, width=64, kernel_size=5, latent_size=100),
        (100 * 16 * 512 + 2 * 512)
        + (25 * 512 * 256 + 2 * 256)
        + (25 * 256 * 128 + 2 * 128)
        + (25 * 128 * 64 + 2 * 64)
        + (25 * 64 * 1 + 1),
        (25 * 1 * 64 + 64)
        + (25 * 64 * 128 + 2 * 128)
        + (25 * 128 * 256 + 2 * 256)
        + (25 * 256 * 512 + 2 * 512)
        + (16 * 512 + 1),
    ),
    # 32x32 colour, 4x4.
    (
        dict(image_size=32, channels=3, width=16, kernel_size=4, latent_size=10),
        (10 * 16 * 64 + 2 * 64) + (16 * 64 * 32 + 2 * 32) + (16 * 32 * 16 + 2 * 16) + (16 * 16 * 3 + 3),
        (16 * 3 * 16 + 16) + (16 * 16 * 32 + 2 * 32) + (16 * 32 * 64 + 2 * 64) + (16 * 64 + 1),
    ),
    # The smallest: one layer between 4x4 and the image.
    (
        dict(image_size=8, channels=2, width=4, kernel_size=4, latent_size=3),
        (3 * 16 * 4 + 2 * 4) + (16 * 4 * 2 + 2),
        (16 * 2 * 4 + 4) + (16 * 4 + 1),
    ),
]


@pytest.mark.parametrize(("settings", "generator_count", "discriminator_count"), GOLDEN)
def test_parameter_counts_and_shapes(settings, generator_count, discriminator_count):
    gan, size = make_gan(**settings), settings["image_size"]
    generator, discriminator = initial_shapes(gan)
    assert count(generator["params"]) == generator_count
    assert count(discriminator["params"]) == discriminator_count
    z = jnp.zeros((2, settings["latent_size"]))
    images = jax.eval_shape(lambda variables: gan.generator.apply(variables, z, train=False), generator)
    assert images.shape == (2, size, size, settings["channels"])
    logits, features = jax.eval_shape(
        lambda variables, images: gan.discriminator.apply(variables, images, train=False), discriminator, images
    )
    assert logits.shape == (2,)
    sizes = [size // 2**layer for layer in range(1, len(features) + 1)]
    assert sizes[-1] == 4
    assert [f.shape[1:] for f in features] == [(s, s, settings["width"] * 2**i) for i, s in enumerate(sizes)]


def test_initial_weights_are_normal_with_deviation_002():
    state = init_state(make_gan(16, 1, width=32), make_optimizer(), jax.random.key(0), channels=1)
    for variables in (state.generator, state.discriminator):
        large = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1 and leaf.size > 5000]
        assert large
        for leaf in large:
            assert abs(float(leaf.std()) - 0.02) < 0.001
            assert abs(float(leaf.mean())) < 0.001


def test_generated_images_lie_between_minus_one_and_one(gan, weights):
    images = generate(gan, weights.generator, 10 * sample_latent(gan, jax.random.key(2), (64,)))
    assert 0.9 < np.abs(images).max() <= 1


@pytest.mark.parametrize("size", [0, 4, 12, 28])
def test_size_that_does_not_halve_to_four_is_refused(size):
    with pytest.raises(ValueError, match="image_size"):
        make_gan(size, 1)


def test_priors_have_their_moments():
    with pytest.raises(ValueError, match="cauchy"):
        make_gan(8, 1, latent_prior="cauchy")
    normal = sample_latent(make_gan(8, 1, latent_prior="normal"), jax.random.key(0), (4000,))
    uniform = sample_latent(make_gan(8, 1, latent_prior="uniform"), jax.random.key(0), (4000,))
    assert abs(float(normal.std()) - 1) < 0.01
    assert abs(float(uniform.std()) - 3**-0.5) < 0.01
    assert float(jnp.abs(uniform).max()) <= 1


def test_bfloat16_is_used_in_the_computation_alone(blobs):
    """Weights, statistics, optimiser, images, features and losses are float32; results are close to float32's."""
    whole, half = (make_gan(16, 1, width=4, latent_size=4, precision=name) for name in ("float32", "bfloat16"))
    state = init_state(whole, make_optimizer(), jax.random.key(0), channels=1)
    z = sample_latent(whole, jax.random.key(2), (8,))

    def outputs(gan, state):
        images = gan.generator.apply(state.generator, z, train=False)
        return images, gan.discriminator.apply(state.discriminator, blobs[:8], train=True, mutable="batch_stats")[0]

    compiled = [jax.jit(outputs, static_argnums=0).lower(gan, state) for gan in (whole, half)]
    assert ["bf16" in each.as_text() for each in compiled] == [False, True]
    ours, theirs = (each.compile()(state) for each in compiled)
    after, metrics = jax.eval_shape(make_train_step(half, make_optimizer()), state, blobs[:16])
    leaves = jax.tree.leaves((ours, theirs, after, metrics))
    assert {x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)} == {jnp.dtype("float32")}
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=0.03 * float(np.abs(one).max()))
        assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="float16"):
        make_gan(8, 1, precision="float16")


@pytest.mark.parametrize("train", [True, False])
def test_batch_normalisation_agrees_with_flax(train):
    """Results, running statistics and all gradients, for channels of different mean and scale."""
    keys = jax.random.split(jax.random.key(0), 6)
    x = jax.random.normal(keys[0], (8, 6, 4, 5)) * jnp.array([0.1, 1.0, 2.0, 5.0, 1.0]).reshape(1, 1, 1, 5) + 0.5
    wanted = jax.random.normal(keys[1], x.shape)
    scale, bias, mean, variance = (jax.random.uniform(key, (5,), minval=0.5) for key in keys[2:])
    params, statistics = {"scale": scale, "bias": bias}, {"mean": mean, "var": variance}

    def outputs(apply):
        def loss(params, x):
            y, updates = apply({"params": params, "batch_stats": statistics}, x)
            return jnp.sum((y - wanted) ** 2), (y, updates)

        gradients, (y, updates) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
        return y, updates["batch_stats"], gradients

    flax = nn.BatchNorm(use_running_average=not train, momentum=STATISTICS_MOMENTUM)
    expected = outputs(lambda variables, x: flax.apply(variables, x, mutable=["batch_stats"]))
    ours = outputs(lambda variables, x: BatchNorm(jnp.float32).apply(variables, x, train, mutable=["batch_stats"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, expected)
