"""The training step: it is DCGAN's, compiles once, and depends on the key and the step alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_trees_equal, generate, infer

from anogan_jax import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    init_state,
    make_features,
    make_gan,
    make_optimizer,
    make_search,
    make_train_step,
    sample_latent,
)
from anogan_jax.models import STATISTICS_MOMENTUM


@pytest.fixture
def fresh(gan):
    return init_state(gan, make_optimizer(), jax.random.key(3), channels=1)


def test_step_equals_the_two_dcgan_updates_one_by_one(gan, fresh, blobs):
    """The reference evaluates the generator again for its own update; the step shares one evaluation."""
    optimizer, images = make_optimizer(), blobs[:16]
    z = sample_latent(gan, jax.random.fold_in(fresh.key, fresh.step), (16,))

    def generate_batch(params):
        variables = {**fresh.generator, "params": params}
        return gan.generator.apply(variables, z, train=True, mutable=["batch_stats"])[0]

    def logits(params, x):
        variables = {**fresh.discriminator, "params": params}
        return gan.discriminator.apply(variables, x, train=True, mutable=["batch_stats"])[0][0]

    @jax.jit
    def reference():
        d_params, g_params = fresh.discriminator["params"], fresh.generator["params"]
        fake = generate_batch(g_params)
        d_gradient = jax.grad(lambda p: discriminator_loss(logits(p, images), logits(p, fake)))(d_params)
        update, _ = optimizer.update(d_gradient, fresh.discriminator_optimizer)
        d_params = jax.tree.map(jnp.add, d_params, update)
        g_gradient = jax.grad(lambda p: generator_loss(logits(d_params, generate_batch(p))))(g_params)
        update, _ = optimizer.update(g_gradient, fresh.generator_optimizer)
        return jax.tree.map(jnp.add, g_params, update), d_params

    g_params, d_params = reference()
    state, _ = make_train_step(gan, optimizer)(fresh, images)
    # Adam's first update is the gradient's sign: a gradient near zero may round to either.
    for ours, expected in ((state.generator["params"], g_params), (state.discriminator["params"], d_params)):
        for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            assert np.mean(np.abs(mine - theirs) > 1e-6) < 0.01


def test_step_compiles_once(gan, fresh, blobs, caplog):
    step = make_train_step(gan, make_optimizer(), ema_decay=0.9)  # of settings that no other test has
    state = fresh
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for _ in range(3):
            state, _ = step(state, blobs[:16])
    assert sum("Finished XLA compilation of jit(step)" in line for line in caplog.messages) == 1


def test_smallest_size_trains_and_searches():
    """8x8: the discriminator has one hidden layer, which is not normalised."""
    gan, optimizer = make_gan(image_size=8, channels=2, width=4, latent_size=3), make_optimizer()
    state = init_state(gan, optimizer, jax.random.key(0), channels=2)
    state, metrics = make_train_step(gan, optimizer)(state, np.zeros((4, 8, 8, 2), np.float32))
    search = make_search(gan, make_features("structure", 8, 2), steps=2)
    found = jax.jit(search.run)(infer(gan, state), jnp.zeros((8, 8, 2)), jnp.ones(gan.latent_size))
    assert np.isfinite([*metrics, found.loss]).all()


def test_step_is_a_function_of_the_key_and_the_step_number(gan, blobs):
    step = make_train_step(gan, make_optimizer())

    def run(seed):
        state = init_state(gan, make_optimizer(), jax.random.key(seed), channels=1)
        for _ in range(2):
            state, metrics = step(state, blobs[:16])
        return [np.asarray(leaf) for leaf in jax.tree.leaves((state.generator, state.discriminator, metrics))]

    first, again, other = run(0), run(0), run(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_training_learns_the_data(gan, blobs, weights):
    """Generated images have nearly the data's mean and some of its spread."""
    z = sample_latent(gan, jax.random.key(5), (256,))
    images = generate(gan, weights.generator, z)
    assert float(jnp.abs(images.mean(axis=0) - blobs.mean(axis=0)).mean()) < 0.15
    assert float(images.std(axis=0).mean()) > 0.2 * float(blobs.std(axis=0).mean())


def test_inference_statistics_are_those_of_the_averaged_generator(gan, trained_state, weights):
    """Inference mode agrees with batch mode on a large batch, up to the sampling error."""
    z = sample_latent(gan, jax.random.key(6), (2048,))
    frozen = generate(gan, weights.generator, z)
    by_batch = generate_batch(gan, weights.generator, z)
    assert float(jnp.abs(frozen - by_batch).mean()) < 0.02
    raw = {"params": trained_state.generator_ema, "batch_stats": init_statistics(weights)}
    assert float(jnp.abs(generate(gan, raw, z) - by_batch).mean()) > 0.05


@partial(jax.jit, static_argnums=0)
def generate_batch(gan, variables, z):
    """Return the images of z, normalised by their own batch, as in training."""
    return gan.generator.apply(variables, z, train=True, mutable=["batch_stats"])[0]


def init_statistics(weights):
    return jax.tree.map(jnp.ones_like, weights.generator["batch_stats"])


def test_discriminator_statistics_average_real_and_generated_batches_alike(gan, fresh, blobs):
    """From the first step on, without a trace of their initial values: against a weighted mean in float64."""
    step, state, images = make_train_step(gan, make_optimizer()), fresh, blobs[:16]
    zeros = jax.tree.map(jnp.zeros_like, state.discriminator["batch_stats"])

    @jax.jit
    def statistics_of(variables, batch):
        return gan.discriminator.apply(variables, batch, train=True, mutable=["batch_stats"])[1]

    seen = []
    for _ in range(3):
        z = sample_latent(gan, jax.random.fold_in(state.key, state.step), (16,))
        fake = generate_batch(gan, state.generator, z)
        variables = {"params": state.discriminator["params"], "batch_stats": zeros}
        for batch in (images, fake):
            updates = statistics_of(variables, batch)
            seen.append(jax.tree.map(lambda leaf: np.float64(leaf) / (1 - STATISTICS_MOMENTUM), updates["batch_stats"]))
        state, _ = step(state, images)
    shares = STATISTICS_MOMENTUM ** np.arange(len(seen))[::-1]
    expected = jax.tree.map(lambda *leaves: np.average(leaves, axis=0, weights=shares), *seen)
    ours = infer(gan, state).discriminator["batch_stats"]
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-8)


def test_inference_weights_are_a_function_of_the_state(gan, trained_state, weights):
    assert_trees_equal(infer(gan, jax.tree.map(jnp.copy, trained_state)), weights)


def test_gradient_penalty_of_a_known_critic(blobs):
    """The gradient of C(x) = |x|^2 / 2 is x itself."""
    norms = np.linalg.norm(blobs[:8].reshape(8, -1), axis=1)
    found = gradient_penalty(lambda images: 0.5 * jnp.sum(images**2, axis=(1, 2, 3)), blobs[:8])
    np.testing.assert_allclose(found, np.mean((norms - 1) ** 2), rtol=1e-5)


def test_wgan_gp_updates_the_generator_in_each_fifth_step_and_learns(blobs):
    gan = make_gan(image_size=16, channels=1, width=8, kernel_size=4, latent_size=4, objective="wgan_gp")
    optimizer = make_optimizer(1e-3, beta1=0.0)
    state = init_state(gan, optimizer, jax.random.key(0), channels=1)
    assert not state.discriminator["batch_stats"]
    step = make_train_step(gan, optimizer, ema_decay=0.9, objective="wgan_gp")
    rng, moved = np.random.default_rng(0), []
    for _ in range(400):
        before = np.asarray(jax.tree.leaves(state.generator["params"])[0])
        state, metrics = step(state, blobs[rng.integers(0, len(blobs), 16)])
        moved.append(bool((np.asarray(jax.tree.leaves(state.generator["params"])[0]) != before).any()))
    assert np.flatnonzero(moved).tolist() == list(range(4, 400, 5))
    assert np.isfinite(metrics).all()
    weights = infer(gan, state)
    z = sample_latent(gan, jax.random.key(1), (64,))
    images = np.asarray(generate(gan, weights.generator, z))
    assert np.abs(images.mean(axis=0) - blobs.mean(axis=0)).mean() < 0.25 * np.abs(blobs.mean(axis=0)).mean()
