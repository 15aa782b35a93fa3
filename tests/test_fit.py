"""Training in a work directory: exact resume, refusals, damage, divergence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, TINY

from anogan_jax import fit as fitting
from anogan_jax.checkpoint import restore_state, save_state, saved_steps
from anogan_jax.config import Config, DataConfig, ModelConfig, SearchConfig, TrainConfig, save
from anogan_jax.data import load_one_class, make_draw, to_model_range
from anogan_jax.devices import make_mesh
from anogan_jax.errors import UserError
from anogan_jax.fit import Stopped, fit, restored_encoder
from anogan_jax.run import explained_normals, make_scorer, open_run
from anogan_jax.scoring import score_images
from anogan_jax.training import make_train_step


def tiny(**train):
    defaults = dict(steps=12, batch_size=8, log_every=4, sample_every=6, checkpoint_every=5)
    return Config(
        data=DataConfig(
            source="packaged", name="digits", normal=0, normalize_contrast=True, held_out=0.2, test_limit=40
        ),
        model=ModelConfig(image_size=16, width=4, latent_size=4),
        train=TrainConfig(**(defaults | train)),
        search=SearchConfig(steps=3, bank_size=64),
    )


def leaves(state):
    return [np.asarray(jax.random.key_data(x) if x is state.key else x) for x in jax.tree.leaves(state)]


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(leaves(one), leaves(two), strict=True))


def signal_after(monkeypatch, steps, number=signal.SIGTERM):
    """Sends this process a signal after so many training steps."""

    def make(*args):
        step, done = make_train_step(*args), []

        def counted(*inputs):
            done.append(0)
            if len(done) == steps:
                os.kill(os.getpid(), number)
            return step(*inputs)

        return counted

    monkeypatch.setattr(fitting, "make_train_step", make)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return fit(tiny(), workdir), workdir


@pytest.mark.parametrize(("steps", "number"), [(3, signal.SIGTERM), (5, signal.SIGINT), (7, signal.SIGTERM)])
def test_a_stopped_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch, uninterrupted, steps, number):
    """Bit for bit: at a checkpoint and between two; the log is that of one run too."""
    with monkeypatch.context() as patch:
        signal_after(patch, steps, number)
        with pytest.raises(Stopped):
            fit(tiny(), tmp_path)
    assert saved_steps(tmp_path / "checkpoints")[-1] == steps
    whole, workdir = uninterrupted
    assert same(fit(tiny(), tmp_path), whole)
    logged = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged))
    assert logged[-1] == 12
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {p.name for p in (workdir / "samples").iterdir()}


def test_resuming_restores_the_optimizer(tmp_path, monkeypatch, uninterrupted):
    """The comparison above can fail: it does when the moments are lost."""
    with monkeypatch.context() as patch:
        signal_after(patch, 5)
        with pytest.raises(Stopped):
            fit(tiny(), tmp_path)
    forget = fitting.restored_or_new

    def without_moments(*args):
        state = forget(*args)
        return state._replace(generator_optimizer=jax.tree.map(np.zeros_like, state.generator_optimizer))

    monkeypatch.setattr(fitting, "restored_or_new", without_moments)
    assert not same(fit(tiny(), tmp_path), uninterrupted[0])


def test_a_killed_process_goes_on_from_its_last_checkpoint(tmp_path, uninterrupted):
    """SIGKILL gives no time to save: the last checkpoint, and the log cut back to it."""
    flags = [*TINY, "--config.train.log_every=1", "--config.train.steps=100000", f"--workdir={tmp_path}"]
    process = subprocess.Popen([sys.executable, ROOT / "train.py", *flags], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not saved_steps(tmp_path / "checkpoints"):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    config = tiny(log_every=1)
    save(config, tmp_path / "config.json")  # the same run, but to end at step 12
    for step in saved_steps(tmp_path / "checkpoints"):
        if step > 5:
            shutil.rmtree(tmp_path / "checkpoints" / str(step))
    assert same(fit(config, tmp_path), uninterrupted[0])
    logged = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, 13))


def test_a_finished_run_is_left_alone(uninterrupted):
    whole, workdir = uninterrupted
    before = (workdir / "metrics.jsonl").read_bytes()
    assert same(fit(tiny(), workdir), whole)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_another_config_is_refused_by_the_fields_that_differ(uninterrupted):
    with pytest.raises(UserError, match=r"train\.batch_size=9, not 8"):
        fit(tiny(batch_size=9), uninterrupted[1])


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_last_checkpoint(tmp_path, monkeypatch):
    def make(*args):
        step = make_train_step(*args)

        def diverging(state, images):
            return step(state, images * np.nan if int(state.step) == 6 else images)

        return diverging

    monkeypatch.setattr(fitting, "make_train_step", make)
    with pytest.raises(UserError, match="step 7: discriminator_loss is nan"):
        fit(tiny(), tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == [5]


def damage(checkpoint):
    for file in checkpoint.rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, gan, trained_state, caplog):
    older, newer = trained_state._replace(step=np.int32(10)), trained_state._replace(step=np.int32(20))
    shapes = jax.eval_shape(lambda: trained_state)
    assert restore_state(tmp_path, shapes) is None
    save_state(tmp_path, older)
    save_state(tmp_path, newer)
    assert same(restore_state(tmp_path, shapes), newer)
    damage(tmp_path / "20")
    assert same(restore_state(tmp_path, shapes), older)
    assert "20: damaged, falling back" in caplog.text
    save_state(tmp_path, newer)  # training came to that step again
    assert same(restore_state(tmp_path, shapes), newer)
    for step in (10, 20):
        damage(tmp_path / str(step))
    with pytest.raises(UserError, match="none of its checkpoints"):
        restore_state(tmp_path, shapes)


def test_only_the_last_checkpoints_are_kept(tmp_path, trained_state):
    for step in range(1, 6):
        save_state(tmp_path, trained_state._replace(step=np.int32(step)))
    assert saved_steps(tmp_path) == [3, 4, 5]


def test_a_mistake_in_the_data_leaves_the_work_directory_free(tmp_path):
    wrong = tiny()
    wrong.data.source, wrong.data.dir = "folder", str(tmp_path / "nothing")
    with pytest.raises(UserError, match="no such folder"):
        fit(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A work directory with a critic's generator and an encoder of it; treat as read-only."""
    workdir = tmp_path_factory.mktemp("encoded") / "run"
    config = tiny(objective="wgan_gp", beta1=0.0)
    config.encoder.steps = 9
    fit(config, workdir)
    return config, workdir


def test_an_encoder_is_trained_after_the_gan(encoded):
    _, workdir = encoded
    assert saved_steps(workdir / "encoder" / "checkpoints") == [5, 9]
    lines = [json.loads(line) for line in (workdir / "encoder" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 5, 8, 9]
    assert all(np.isfinite(line["encoder_loss"]) for line in lines)


def test_an_encoder_stopped_on_the_way_ends_the_same(encoded, tmp_path):
    config, workdir = encoded
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "encoder" / "checkpoints" / "9")
    fit(config, tmp_path / "again")
    mesh = make_mesh()
    one, two = (restored_encoder(folder, config, mesh) for folder in (workdir, tmp_path / "again"))
    assert same(one, two)


@pytest.mark.parametrize("method", ["anogan", "nearest", "encoder", "from_encoder", "paper", "yeh"])
def test_every_method_scores_a_run_that_has_all_it_takes(encoded, method):
    run = open_run(encoded[1])
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)
    scores = score_images(make_scorer(run, method), run.weights, images)
    assert np.isfinite(scores.score).all()
    assert scores.generated.shape == images.shape


def test_normal_images_are_explained_once_and_better_than_by_the_nearest(trained_run, tmp_path, monkeypatch):
    shutil.copytree(trained_run, tmp_path / "run")
    run = open_run(tmp_path / "run")
    explained = explained_normals(run)
    train = load_one_class(run.config).train
    draw = make_draw(train, run.config)
    seen = to_model_range(np.stack([draw(i) for i in range(len(train.names))]), run.config.data.normalize_contrast)
    assert explained.shape == seen.shape
    bank = np.load(tmp_path / "run" / "bank" / "12" / "0-64.npz")["images"].astype(np.float32)
    nearest = np.abs(seen[:, None] - bank[None]).mean(axis=(2, 3, 4)).min(axis=1)
    assert np.abs(seen - explained).mean() < nearest.mean()
    kept = tmp_path / "run" / "bank" / "12" / "normal-8192.npz"
    np.savez(kept, images=explained[:5], made_with=np.load(kept)["made_with"])
    np.testing.assert_array_equal(explained_normals(run), explained[:5])
    few = score_images(make_scorer(run, "nearest"), run.weights, seen[:2])  # the likeness is then the mean of all five
    np.testing.assert_allclose(few.generated[0], explained[:5].astype(np.float32).mean(axis=0), atol=1e-3)
    run.config.search.neighbours = 3  # is no matter of the search for each
    assert len(explained_normals(run)) == 5
    run.config.search.prior_weight = 1.0
    assert len(explained_normals(run)) == len(seen)
    np.savez(kept, images=explained[:5], made_with=np.load(kept)["made_with"])
    monkeypatch.setattr("anogan_jax.run.__version__", "another")
    assert len(explained_normals(run)) == len(seen)


def test_what_fills_up_a_bank_is_nobodys_likeness(trained_run, tmp_path):
    """Of the 64 images of the bank, not of the zeros that fill its last chunk, a flat query is far."""
    shutil.copytree(trained_run, tmp_path / "run")
    run = open_run(tmp_path / "run")
    run.config.search.references, run.config.search.neighbours = 0, 1
    found = score_images(make_scorer(run, "nearest"), run.weights, np.zeros((1, 16, 16, 1), np.float32))
    bank = np.load(tmp_path / "run" / "bank" / "12" / "0-64.npz")["images"].astype(np.float32)
    np.testing.assert_allclose(found.score[0], np.sqrt(np.square(bank).sum(axis=(1, 2, 3)).min()), rtol=1e-4)


def test_a_run_without_an_encoder_says_so(trained_run):
    with pytest.raises(UserError, match="trained without an encoder; train with"):
        make_scorer(open_run(trained_run), "encoder")
