"""Training in a work directory: exact resume, the bank, refusals, damaged checkpoints, divergence."""

import importlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import ROOT, assert_trees_equal, digests, generate, tiny_config
from PIL import Image
from tqdm import tqdm

from anogan_jax import Config, default_config, draw_bank, fit, loop, make_mesh
from anogan_jax.auxiliary import make_network_step
from anogan_jax.checkpoint import restore_state, save_state, saved_steps
from anogan_jax.config import BankConfig, DataConfig, ModelConfig
from anogan_jax.data import Images, from_user, load_one_class, make_draw
from anogan_jax.data.checks import digests_of
from anogan_jax.errors import UserError
from anogan_jax.files import locked
from anogan_jax.fit import train_gan
from anogan_jax.loop import Stopped, restored
from anogan_jax.references import invert, make_bank
from anogan_jax.runtime import to_model_range, to_pixels
from anogan_jax.training import make_train_step

fit_module = importlib.import_module("anogan_jax.fit")  # the package's attribute of this name is the function


class Killed(BaseException):
    """Stands for SIGKILL: nothing is saved."""


def stop(number):
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def kill():
    """End the run at once."""
    raise Killed


def interrupt(patch, name, make, steps, how):
    """Make the step function that ``make`` returns call ``how`` before it has been called so many times."""

    def make_interrupted(*args):
        step, done = make(*args), []

        def interrupted(*inputs):
            done.append(0)
            if len(done) == steps:
                how()
            return step(*inputs)

        return interrupted

    patch.setattr(fit_module, name, make_interrupted)


def arrays(detector):
    return detector.model, detector.bank, detector.held_out, detector.calibration


def logged_steps(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_interrupted_run_ends_with_the_same_detector(tmp_path, monkeypatch, tiny_run):
    """Bit for bit, after stops at a checkpoint, between two, in each network's training, and after a kill."""
    for name, make, steps, how, error, saved in (
        ("make_train_step", make_train_step, 3, lambda: stop(signal.SIGTERM), Stopped, 3),
        ("make_train_step", make_train_step, 2, lambda: stop(signal.SIGINT), Stopped, 5),
        ("make_train_step", make_train_step, 3, kill, Killed, 5),
        ("make_network_step", make_network_step, 2, lambda: stop(signal.SIGTERM), Stopped, 12),
        ("make_network_step", make_network_step, 3, lambda: stop(signal.SIGTERM), Stopped, 12),
        ("make_network_step", make_network_step, 2, lambda: stop(signal.SIGTERM), Stopped, 12),
    ):
        with monkeypatch.context() as patch:
            interrupt(patch, name, make, steps, how)
            with pytest.raises(error):
                fit(config=tiny_config(), workdir=tmp_path)
        assert saved_steps(tmp_path / "checkpoints")[-1] == saved
        assert not (tmp_path / "detector").exists()
    assert saved_steps(tmp_path / "encoder" / "checkpoints")[0] == 2
    assert saved_steps(tmp_path / "segmenter" / "checkpoints") == [3, 4]
    assert saved_steps(tmp_path / "rotation" / "checkpoints") == [2]
    resumed = fit(config=tiny_config(), workdir=tmp_path)
    assert_trees_equal(arrays(resumed), arrays(tiny_run.detector))
    assert digests(tmp_path / "detector") == digests(tiny_run.workdir / "detector")
    for name in (".", "encoder", "segmenter", "rotation"):
        assert logged_steps(tmp_path / name) == logged_steps(tiny_run.workdir / name)
    assert digests(tmp_path / "samples") == digests(tiny_run.workdir / "samples")


def test_signal_handlers_are_restored(tiny_run, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupt(patch, "make_train_step", make_train_step, 1, lambda: stop(signal.SIGTERM))
        with pytest.raises(Stopped, match="SIGTERM, saved at step 1") as stopped:
            fit(config=tiny_config(), workdir=tmp_path)
    assert stopped.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_signal_without_a_work_directory_says_that_nothing_is_saved(monkeypatch):
    def make(*args):
        step = make_train_step(*args)
        return lambda state, images: (signal.raise_signal(signal.SIGINT), step(state, images))[1]

    monkeypatch.setattr(sys.modules["anogan_jax.fit"], "make_train_step", make)
    with pytest.raises(Stopped, match="stopped by SIGINT, nothing is saved; give fit a workdir"):
        fit(config=tiny_config())


def test_signal_in_the_last_step_stops_the_run_too(tmp_path, monkeypatch):
    """Before the next network is trained; one that arrives while the last state is saved has its usual effect."""
    config, before = tiny_config(), signal.signal(signal.SIGTERM, lambda *_: kill())
    with monkeypatch.context() as patch:
        interrupt(patch, "make_train_step", make_train_step, config.train.steps, lambda: stop(signal.SIGTERM))
        with pytest.raises(Stopped, match="saved at step 12"):
            fit(config=config, workdir=tmp_path / "step")
    assert not (tmp_path / "step" / "encoder").exists()

    def save(folder, state):
        save_state(folder, state)
        if int(state.step) == config.train.steps:
            stop(signal.SIGTERM)

    monkeypatch.setattr(loop, "save_state", save)
    try:
        with pytest.raises(Killed):
            fit(config=config, workdir=tmp_path / "saving")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "saving" / "encoder").exists()
    assert saved_steps(tmp_path / "saving" / "checkpoints")[-1] == 12


def test_resume_depends_on_the_optimizer_state(tmp_path, monkeypatch):
    """The comparison above can fail: it does when the moments are lost."""
    config, mesh = tiny_config({"train.steps": 6, "train.sample_every": 100}), make_mesh()
    images = load_one_class(config).train
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = train_gan(config, tmp_path / "whole", images, mesh)
    with monkeypatch.context() as patch:
        interrupt(patch, "make_train_step", make_train_step, 5, lambda: stop(signal.SIGTERM))
        with pytest.raises(Stopped):
            train_gan(config, tmp_path / "stopped", images, mesh)

    def without_moments(*args):
        state = restored(*args)
        return state._replace(generator_optimizer=jax.tree.map(jax.numpy.zeros_like, state.generator_optimizer))

    monkeypatch.setattr(fit_module, "restored", without_moments)
    other = train_gan(config, tmp_path / "stopped", images, mesh)
    with pytest.raises(AssertionError):
        assert_trees_equal(whole.generator, other.generator)


def test_work_directory_has_logs_samples_and_checkpoints(tiny_run):
    workdir = tiny_run.workdir
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 12
    assert saved_steps(workdir / "checkpoints") == [5, 10, 12]
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == ["00000006.png", "00000012.png"]
    assert saved_steps(workdir / "encoder" / "checkpoints") == [4]
    for folder, loss, steps in (
        (workdir, "discriminator_loss", [4, 5, 8, 10, 12]),
        (workdir / "encoder", "loss", [4]),
    ):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == steps
        assert all(np.isfinite(list(line.values())).all() and loss in line for line in lines)


def test_finished_run_is_returned_unchanged(tiny_run):
    before = digests(tiny_run.workdir)
    again = fit(config=tiny_config(), workdir=tiny_run.workdir)
    assert_trees_equal(arrays(again), arrays(tiny_run.detector))
    assert digests(tiny_run.workdir) == before


def test_many_unreadable_images_are_not_told_one_by_one(caplog):
    def read(i):
        raise UserError(f"{i}.png: cannot be read")

    assert not digests_of(Images([str(i) for i in range(25)], None, read)).any()
    assert len(caplog.messages) == 11
    assert "left out 15 further images" in caplog.messages[-1]


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples", "checkpoints", "encoder", "detector"])
def test_files_of_the_user_are_not_written_over(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name}: exists without the config\.json of a run"):
        fit(config=tiny_config(), workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_config_is_refused_with_the_fields_that_differ(tiny_run):
    with pytest.raises(UserError, match=r"train\.batch_size=8, not 9"):
        fit(config=tiny_config({"train.batch_size": 9}), workdir=tiny_run.workdir)


def test_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tmp_path, monkeypatch):
    def make(*args):
        step = make_train_step(*args)
        return lambda state, images: step(state, images * np.nan if int(state.step) == 6 else images)

    monkeypatch.setattr(fit_module, "make_train_step", make)
    with pytest.raises(UserError, match=r"step 7: discriminator_loss is nan.* smaller train\.learning_rate"):
        fit(config=tiny_config(), workdir=tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == [5]


def test_network_whose_loss_is_not_finite_is_named_with_its_learning_rate(tmp_path, monkeypatch):
    def make(*args):
        step = make_network_step(*args)
        return lambda state, images: step(state, images * np.nan)

    monkeypatch.setattr(fit_module, "make_network_step", make)
    with pytest.raises(UserError, match=r"loss is nan.* smaller encoder\.learning_rate"):
        fit(config=tiny_config(), workdir=tmp_path)


def damage(checkpoint):
    for file in checkpoint.rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")


def test_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, trained_state, caplog):
    older, newer = trained_state._replace(step=np.int32(10)), trained_state._replace(step=np.int32(20))
    shapes = jax.eval_shape(lambda: trained_state)
    assert restore_state(tmp_path, shapes) is None
    save_state(tmp_path, older)
    save_state(tmp_path, newer)
    assert_trees_equal(restore_state(tmp_path, shapes), newer)
    damage(tmp_path / "20")
    assert_trees_equal(restore_state(tmp_path, shapes), older)
    assert "20: damaged, falling back" in caplog.text
    save_state(tmp_path, newer)  # training reached that step again
    assert_trees_equal(restore_state(tmp_path, shapes), newer)
    for step in (10, 20):
        damage(tmp_path / str(step))
    with pytest.raises(UserError, match="none of its checkpoints"):
        restore_state(tmp_path, shapes)


def test_only_the_last_checkpoints_are_kept(tmp_path, trained_state):
    for step in range(1, 6):
        save_state(tmp_path, trained_state._replace(step=np.int32(step)))
    assert saved_steps(tmp_path) == [3, 4, 5]


def test_full_disk_is_told_before_orbax_writes(tmp_path, trained_state, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**17))
    with pytest.raises(UserError, match="cannot be saved: No space left on device, 1 MiB are needed"):
        save_state(tmp_path, trained_state)
    assert not list(tmp_path.iterdir())


def test_checkpoint_without_digest_is_named(tmp_path, trained_state, caplog):
    save_state(tmp_path, trained_state)
    for path in tmp_path.glob("*.sha256"):
        path.unlink()
    assert restore_state(tmp_path, jax.eval_shape(lambda: trained_state)) is None
    assert f"checkpoint {int(trained_state.step)} has no digest and is not used" in caplog.text


def test_mistake_in_the_data_leaves_no_work_directory(tmp_path):
    config = tiny_config({"data.source": "folder", "data.dir": str(tmp_path / "nothing")})
    with pytest.raises(UserError, match="no such folder"):
        fit(config=config, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_needs_two_readable_images_and_one_held_out():
    held_out = load_one_class(config_of_blobs(), from_user(np.zeros((10, 16, 16), np.uint8), 1)).held_out.names
    others = [i for i in range(10) if str(i) not in held_out]
    for readable, message in ((others[:1], "1 of 9 training images can be read"), (others[:4], "held-out images")):
        images = [np.full((16, 16 + i), 99 if i in readable else 300) for i in range(10)]  # 300 is no grey level
        with pytest.raises(UserError, match=message):
            fit(images, config_of_blobs())


@pytest.mark.parametrize(
    "values",
    [
        {"model.width": 1024, "model.image_size": 1024},
        {"model.width": 1024, "model.image_size": 256, "model.latent_size": 4096},
        {"bank.size": 2**22, "model.image_size": 512},
    ],
)
def test_settings_that_exceed_the_memory_are_refused_at_once(values, tmp_path):
    with pytest.raises(UserError, match="too large together"):
        fit(config=tiny_config(values), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_config_of_another_type_is_refused():
    with pytest.raises(UserError, match="not dict"):
        fit(np.zeros((9, 16, 16), np.uint8), {"train": {"steps": 2}})


def test_images_or_a_config_must_be_given():
    with pytest.raises(UserError, match="give images"):
        fit()


@pytest.mark.parametrize(
    ("kind", "channels", "is_told"), [("colour", 1, True), ("colour", 3, False), ("grey", 1, False)]
)
def test_colours_that_become_grey_are_told(kind, channels, is_told, tmp_path, monkeypatch, caplog):
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 256, (9, 9, 3 if kind == "colour" else 1), np.uint8)
        Image.fromarray(np.broadcast_to(image, (9, 9, 3))).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(fit_module, "_train", lambda *args: None)
    config = tiny_config({"model.channels": channels})
    fit(tmp_path, replace(config, data=DataConfig(held_out=0.5)))
    assert ("--config.model.channels=3 keeps them" in caplog.text) == is_told


@pytest.mark.parametrize(
    ("low", "high", "window", "message"),
    [
        (0, 256, (0.0, 1.0), "data.window=0,1: nearly all pixels of the training images lie outside"),
        (0, 256, (0.0, 255.0), ""),
        (0, 2, (0.0, 1.0), ""),
        (7, 8, None, "have the grey level 7"),
    ],
)
def test_images_that_lose_everything_are_told(low, high, window, message, monkeypatch, caplog):
    monkeypatch.setattr(fit_module, "_train", lambda *args: None)
    images = np.random.default_rng(0).integers(low, high, (30, 9, 9), np.uint8)
    fit(images, replace(tiny_config(), data=DataConfig(window=window)))
    assert message in caplog.text
    assert bool(message) == ("the training images lie outside" in caplog.text or "have the grey level" in caplog.text)


def test_default_config_depends_on_the_size_and_the_channels_of_the_images(tmp_path):
    for shape, size, channels in (
        ((9, 28, 28), 32, 1),
        ((9, 8, 8, 1), 8, 1),
        ((9, 32, 20, 3), 32, 3),
        ((9, 100, 50), 64, 1),
    ):
        model = default_config(np.zeros(shape, np.uint8)).model
        assert (model.image_size, model.channels) == (size, channels)
    assert default_config([np.zeros((5, 9)), np.zeros((20, 12))]).model.image_size == 32
    assert default_config(tmp_path).model.image_size == 64


def test_objective_reaches_the_model_and_the_training_step(monkeypatch, tmp_path):
    given = []

    def make(gan, optimizer, ema_decay, mesh, objective):
        given.extend([gan.discriminator.batch_norm, gan.latent_prior, ema_decay, objective])
        raise Killed

    monkeypatch.setattr(fit_module, "make_train_step", make)
    monkeypatch.setattr(fit_module, "restored", lambda *_: SimpleNamespace(step=0))
    values = {"train.objective": "wgan_gp", "train.ema_decay": 0.9, "model.latent_prior": "uniform"}
    with pytest.raises(Killed):
        fit(config=tiny_config(values), workdir=tmp_path)
    assert given == [False, "uniform", 0.9, "wgan_gp"]


def config_of_blobs(**bank):
    """Return the config of the fixture ``gan``."""
    return Config(
        data=DataConfig(source="arrays"),
        model=ModelConfig(image_size=16, width=8, latent_size=4),
        bank=BankConfig(**{"size": 256, "inverted": 256, "max_deviation": 3.5} | bank),
    )


def test_inverted_images_are_closer_than_their_nearest_neighbours(gan, weights, blobs):
    bank = draw_bank(gan, weights, jax.random.key(1), 256)
    inverted = invert(gan, weights, bank, iter(blobs[:64]))
    assert inverted.images.shape == (64, 16, 16, 1)
    generated = generate(gan, weights.generator, inverted.z)
    np.testing.assert_allclose(inverted.images, generated, atol=1e-3)
    differences = np.abs(blobs[:64, None] - bank.images[None].astype(np.float32)).sum(axis=(2, 3, 4))
    residual = np.abs(blobs[:64] - inverted.images.astype(np.float32)).sum(axis=(1, 2, 3))
    assert residual.mean() < 0.9 * differences.min(axis=1).mean()


def test_bank_and_references_are_of_training_images_without_outliers(gan, weights, blobs):
    """Bank and references hold none of 4 anomalous training images, and most of 96 normal ones."""
    seen = np.concatenate([blobs[:96], -blobs[96:100]])
    images = from_user(to_pixels(seen, seen), 1)
    everything, all_references = make_bank(config_of_blobs(max_deviation=1e6), gan, weights, images)
    bank, references = make_bank(config_of_blobs(), gan, weights, images)
    draw = make_draw(images, config_of_blobs())
    pixels = np.stack([draw(place) for place in range(100)])
    drawn = to_model_range(pixels)
    is_anomalous = drawn.mean(axis=(1, 2, 3)) > 0
    assert (len(everything.z), is_anomalous.sum()) == (100, 4)
    is_kept = (everything.z[:, None] == bank.z[None]).all(axis=2).any(axis=1)
    assert not is_kept[is_anomalous].any()
    assert is_kept[~is_anomalous].mean() > 0.8
    np.testing.assert_array_equal(bank.images, everything.images[is_kept])
    np.testing.assert_array_equal(all_references, pixels)
    np.testing.assert_array_equal(references, pixels[is_kept])


def test_equal_images_do_not_make_all_others_outliers(gan, weights, blobs):
    """60 of 100 images are equal, so the median deviation is 0; most of the 40 others are kept all the same."""
    noisy = np.clip(blobs[:40] + np.random.default_rng(0).normal(0, 0.5, blobs[:40].shape), -1, 1)
    seen = np.concatenate([np.repeat(blobs[:1], 60, axis=0), noisy.astype(np.float32)])
    _, references = make_bank(config_of_blobs(inverted=0), gan, weights, from_user(to_pixels(seen, seen), 1))
    is_equal = (references == to_pixels(blobs[:1], blobs[:1])).all(axis=(1, 2, 3))
    assert is_equal.sum() == 60
    assert (~is_equal).sum() > 35


@pytest.mark.parametrize(("inverted", "references"), [(10, 0), (10, 20), (20, 10), (0, 10), (0, 0)])
def test_bank_and_references_are_as_many_as_asked_for(gan, weights, blobs, inverted, references):
    images = from_user(to_pixels(blobs[:30], blobs[:30]), 1)
    config = config_of_blobs(inverted=inverted, references=references, size=40, max_deviation=1e6)
    bank, kept = make_bank(config, gan, weights, images)
    assert len(bank.z) == (inverted or 40)
    assert (0 if kept is None else len(kept)) == references


def test_bank_holds_random_images_without_inversion_or_with_patches(gan, weights, blobs):
    images = from_user(to_pixels(blobs[:8], blobs[:8]), 1)
    config = config_of_blobs(inverted=0, size=40)
    random, references = make_bank(config, gan, weights, images)
    assert (random.z.shape, len(references)) == ((40, 4), 8)
    config = config_of_blobs(size=40, references=20)
    config.patches.enabled = True
    bank, patches = make_bank(config, gan, weights, images)
    assert_trees_equal(bank, random)
    assert patches.shape == (20, 16, 16, 1)  # random patches, more than there are images


def test_work_directory_refuses_other_images(tiny_run, tmp_path, monkeypatch):
    """Neither an interrupted run nor a finished one is taken for one of other images."""
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16), np.uint8)
    changed = images.copy()
    changed[-1, -1, -1] ^= 1

    def interrupted(*_):
        raise Stopped(15, 3)

    monkeypatch.setattr(fit_module, "_train", interrupted)
    for _ in range(2):
        with pytest.raises(Stopped):
            fit(images, tiny_config(), tmp_path)
        with pytest.raises(UserError, match="was trained on other images"):
            fit(changed, tiny_config(), tmp_path)
    tiny_run.detector.save(tmp_path)
    assert fit(images, tiny_config(), tmp_path).step == tiny_run.detector.step
    with pytest.raises(UserError, match="was trained on other images"):
        fit(changed, tiny_config(), tmp_path)


def test_changed_folder_is_noticed_and_a_missing_one_is_said(tiny_run, tmp_path, caplog):
    config = tiny_config({"data.source": "folder", "data.dir": str(tmp_path / "images"), "data.normal": None})
    (tmp_path / "images").mkdir()
    for i in range(30):
        Image.fromarray(np.full((16, 16), i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "_train", lambda *_: tiny_run.detector.save(tmp_path / "run"))
        fit(config=config, workdir=tmp_path / "run")
    fit(config=config, workdir=tmp_path / "run")
    (tmp_path / "images" / "3.png").unlink()
    with pytest.raises(UserError, match="was trained on other images"):
        fit(config=config, workdir=tmp_path / "run")
    shutil.rmtree(tmp_path / "images")
    fit(config=config, workdir=tmp_path / "run")
    assert "cannot compare with the images of training" in caplog.text


def test_work_directory_among_the_images_is_refused(tmp_path):
    config = tiny_config({"data.source": "folder", "data.dir": str(tmp_path), "data.normal": None})
    for i in range(30):
        Image.fromarray(np.full((16, 16), i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match=r"lies in data\.dir"):
        fit(config=config, workdir=tmp_path / "runs" / "a")


def test_second_process_that_trains_in_a_folder_is_refused(tmp_path):
    """The lock is the operating system's: it ends with the process that holds it."""
    code = (
        "from pathlib import Path; from anogan_jax.files import locked\n"
        f"with locked(Path({str(tmp_path)!r}), 'training'): print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with (
            pytest.raises(UserError, match=rf"process {other.pid} on .* is training"),
            locked(tmp_path, "training"),
        ):
            pass
        with locked(tmp_path, "scoring"):
            pass
        other.kill()
        other.wait()
    with locked(tmp_path, "training"):
        pass


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bit_in_a_checkpoint_is_noticed_or_harmless(tmp_path, trained_state, seed):
    """In any of its files: the state is restored bit for bit, or the checkpoint before it is used."""
    shapes, older = jax.eval_shape(lambda: trained_state), trained_state._replace(step=np.int32(10))
    save_state(tmp_path, older)
    save_state(tmp_path, trained_state)
    newest = tmp_path / str(int(trained_state.step))
    rng, files = np.random.default_rng(seed), sorted(path for path in newest.rglob("*") if path.is_file())
    for path in rng.choice(np.array(files, dtype=object), 6):
        content = bytearray(path.read_bytes())
        if content:
            place = int(rng.integers(len(content)))
            content[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
    restored = restore_state(tmp_path, shapes)
    assert_trees_equal(restored, trained_state if int(restored.step) == int(trained_state.step) else older)


def test_fit_runs_in_another_thread(tiny_run):
    """A detector that another thread trains, as in a server, is the same bit for bit."""
    with ThreadPoolExecutor(1) as pool:
        detector = pool.submit(fit, config=tiny_config()).result()
    assert_trees_equal(arrays(detector), arrays(tiny_run.detector))


@pytest.mark.parametrize(("level", "is_shown"), [(logging.WARNING, True), (logging.INFO, False)])
def test_progress_is_a_bar_where_lines_of_the_log_are_not_shown(level, is_shown, tmp_path, monkeypatch, caplog):
    config, shown = tiny_config({"train.sample_every": 100}), io.StringIO()

    def bar(disable, **given):
        return tqdm(disable=bool(disable), file=shown, **given)  # as on a terminal

    caplog.set_level(level, "anogan_jax.loop")
    monkeypatch.setattr(loop, "tqdm", bar)
    train_gan(config, tmp_path, load_one_class(config).train, make_mesh())
    assert ("training: 100%" in shown.getvalue()) == is_shown


def test_second_detector_of_the_same_settings_compiles_nothing(caplog):
    """Programs belong to the settings and shapes, not to a detector."""
    config, images = tiny_config(), np.random.default_rng(0).integers(0, 256, (30, 16, 16), np.uint8)
    first = fit(images, config).score(images[:3])
    with jax.log_compiles(), caplog.at_level("WARNING"):
        second = fit(255 - images, config).score(images[:3])
    assert not [line for line in caplog.messages if line.startswith("Compiling")]
    assert not np.array_equal(first.score, second.score)
