"""A folder with masks, in patches: training, scores, heatmaps and metrics of pixels."""

import json
import logging
import shutil
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from conftest import read_image, rows_of
from PIL import Image

from anogan_jax import Config, Detector, fit
from anogan_jax.config import BankConfig, DataConfig, ModelConfig, PatchConfig, SearchConfig, TrainConfig, with_values
from anogan_jax.data import from_user, is_readable, load_one_class, pixels
from anogan_jax.errors import UserError
from anogan_jax.evaluation import score_contents, score_test_split
from anogan_jax.score import main as score_main

RNG = np.random.default_rng(0)


def texture(height, width, *channels):
    return RNG.integers(80, 170, (height, width, *channels), np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Grey and colour images of different sizes, down to 16x16, in MVTec AD's layout; the defects are white."""
    folder = tmp_path_factory.mktemp("parts")
    for i in range(6):
        save(folder / f"train/good/{i}.png", texture(40 + 8 * i, 60, *[3] * (i % 2)))
    for name, shape in (("good/a.png", (16, 16)), ("good/b.jpg", (50, 90, 3)), ("good/c.tiff", (33, 47))):
        save(folder / "test" / name, texture(*shape))
    for name, shape in (("blotch/d.png", (64, 48)), ("blotch/e.bmp", (30, 100)), ("scratch/f.webp", (70, 40))):
        image, mask = texture(*shape), np.zeros(shape, np.uint8)
        image[10:25, 12:30], mask[10:25, 12:30] = 255, 255
        save(folder / "test" / name, image)
        save(folder / "ground_truth" / f"{name.split('.')[0]}_mask.png", mask)
    (folder / "train/good/broken.png").write_text("not a picture")
    return folder


class Trained(NamedTuple):
    """A detector of the parts, its work directory, and the messages of its training."""

    detector: Detector
    workdir: str
    messages: list[str]


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    workdir, messages = tmp_path_factory.mktemp("runs") / "parts", []
    config = Config(
        data=DataConfig(source="folder", dir=str(parts), held_out=0.4),
        patches=PatchConfig(enabled=True, scale=0.5),
        model=ModelConfig(image_size=16, width=4, latent_size=4),
        train=TrainConfig(steps=10, batch_size=8, rotate=True, tensorboard=True),
        bank=BankConfig(size=64),
        search=SearchConfig(steps=2, starts=2),
        alpha=0.3,
    )
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("anogan_jax")
    logger.addHandler(handler)
    detector = fit(config=config, workdir=workdir)
    logger.removeHandler(handler)
    return Trained(detector, workdir, messages)


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """The folder with the results of the test split, and its summary."""
    output = tmp_path_factory.mktemp("scores")
    return output, score_test_split(trained.detector, output, heatmaps=True, maps=True)


def test_unreadable_training_images_are_named_and_left_out(trained):
    (message,) = [message for message in trained.messages if "broken.png" in message]
    assert message.startswith("left out")
    assert "broken.png: not a readable image" in message


@pytest.fixture
def limits(monkeypatch):
    """Put the limits of the process back after the test."""
    monkeypatch.setattr(pixels, "_max_pixels", pixels._max_pixels)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.mark.usefixtures("limits")
def test_limit_of_pixels_is_a_setting_of_training_and_scoring(trained, tmp_path, run_main):
    """Images of 1,500 and 60,000 pixels; the message has the size, the limit and the flag that raises it."""
    save(tmp_path / "images/small.png", texture(30, 50))
    save(tmp_path / "images/large.png", texture(200, 300))
    given = ("--workdir", trained.workdir, "--input", tmp_path / "images", "--output", tmp_path / "output")
    done = run_main(score_main, *given, "--config.data.max_pixels=20000")
    assert done.code == 3
    for text in ("large.png: 300x200 pixels, more than data.max_pixels=20000", "give --config.data.max_pixels=60000"):
        assert text in done.errors
    assert "small.png" not in done.errors
    assert run_main(score_main, *given, "--config.data.max_pixels=60000").code == 0
    detector = trained.detector.with_config(with_values(trained.detector.config, {"data.max_pixels": 20_000}))
    with pytest.raises(UserError, match=r"large\.png: .*max_pixels=20000"):
        detector.score(tmp_path / "images/large.png")
    assert trained.detector.score(tmp_path / "images/large.png").anomaly_map.shape == (1, 200, 300)
    for each, missing in ((detector, True), (trained.detector, False)):
        rows = score_contents(each, [("large.png", (tmp_path / "images/large.png").read_bytes())])
        assert np.isnan(rows["score"]).tolist() == [missing]
    for most, readable in ((20_000, {"small.png"}), (60_000, {"small.png", "large.png"})):
        data = load_one_class(Config(data=DataConfig(source="folder", dir=str(tmp_path / "images"), max_pixels=most)))
        parts = (data.train, data.held_out)
        assert {part.names[0] for part in parts if is_readable(part, 0)} == readable


@pytest.mark.usefixtures("limits")
def test_a_list_of_files_is_trained_on_as_the_config_says(tmp_path):
    """The files are first read when the limit of their pixels, and the window that auto stands for, are known."""
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        save(path, texture(20, 20).astype(np.uint16))
    pixels.limit_pixels(50)
    data = DataConfig(source="arrays", window="auto", max_pixels=400)
    found = load_one_class(Config(data=data), from_user(paths, 1, data.window))
    assert 80 <= found.window[0] < found.window[1] <= 170
    assert [is_readable(found.train, i) for i in range(3)] == [True] * 3
    pixels.limit_pixels(399)
    assert not is_readable(found.held_out, 0)


@pytest.mark.usefixtures("limits")
def test_limit_of_pillow_rises_with_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    save(tmp_path / "a.png", texture(20, 20))
    for most, pillows in ((60, 60), (400, 400), (70, 400)):
        pixels.limit_pixels(most)
        assert pillows == Image.MAX_IMAGE_PIXELS
        refused = pytest.raises(UserError, match=rf"(400|20x20) pixels, .*max_pixels={most}; .*max_pixels=400")
        with nullcontext() if most == 400 else refused:
            read_image(tmp_path / "a.png", 1)


def test_tensorboard_events_hold_losses_and_samples(trained):
    (events,) = (trained.workdir / "tensorboard").iterdir()
    content = events.read_bytes()
    for name in (b"generator_loss", b"gradient_norm", b"samples"):
        assert name in content


def test_held_out_images_are_kept_at_the_size_at_which_they_are_scored(trained):
    shapes = {image.shape for image in trained.detector.held_out}
    assert shapes <= {(round(0.5 * (40 + 8 * i)), 30, 1) for i in range(6)}


def test_pooling_can_be_changed_when_scoring(trained, scored, parts):
    config = trained.detector.config
    other = trained.detector.with_config(replace(config, pooling=replace(config.pooling, share=1e-9)))
    found = other.score(parts / "test")
    for score, anomaly_map in zip(found.score, found.anomaly_map, strict=True):
        assert score >= anomaly_map.max() * (1 - 1e-6)  # the map is resized to the image's size
    assert (other.calibration.scores > trained.detector.calibration.scores).all()
    back = other.with_config(config)
    np.testing.assert_array_equal(back.calibration.scores, trained.detector.calibration.scores)


def test_defects_are_measured_by_image_and_by_pixel(scored):
    output, summary = scored
    assert summary == json.loads((output / "summary.json").read_text())
    assert list(summary["defects"]) == ["all", "blotch", "scratch"]
    for found in summary["defects"].values():
        assert list(found) == ["image_auroc", "pixel_auroc", "pixel_ap", "pro"]
        assert found["pixel_auroc"] > 0.7  # even with hardly any training: white on grey
    assert summary["pro"] == summary["defects"]["all"]["pro"]
    assert len(rows_of(output / "scores.csv")) == 6


def test_heatmaps_and_maps_have_the_size_of_their_query(scored, parts):
    output, _ = scored
    for row in rows_of(output / "scores.csv"):
        with Image.open(parts / "test" / row["name"]) as image:
            size = (image.height, image.width)
        found = np.load(output / "maps" / f"{row['name']}.npy")
        assert (found.shape, found.dtype) == (size, np.float32)
        assert found.min() >= 0
        with Image.open(output / "heatmaps" / f"{row['name']}.png") as picture:
            assert min(picture.size) > 200


def test_score_of_a_tiled_image_is_independent_of_the_other_images(scored, trained, parts, tmp_path):
    """Bit for bit, in a folder with other images in another order."""
    scores = {row["name"]: float(row["score"]) for row in rows_of(scored[0] / "scores.csv")}
    names = ("scratch/f.webp", "good/b.jpg", "blotch/d.png")
    for i, name in enumerate(names):
        shutil.copy(parts / "test" / name, tmp_path / f"{i}{name[-5:]}")
    assert trained.detector.score(tmp_path).score.tolist() == [scores[name] for name in names]


def test_wrong_mask_is_named_before_anything_is_scored(trained, parts, tmp_path):
    shutil.copytree(parts, tmp_path / "parts")
    mask = tmp_path / "parts/ground_truth/scratch/f_mask.png"
    save(mask, np.zeros((40, 70), np.uint8))
    config = trained.detector.config
    moved = trained.detector._replace(config=replace(config, data=replace(config.data, dir=str(tmp_path / "parts"))))
    with pytest.raises(UserError, match=r"f_mask\.png: 70x40 pixels, but its image test/scratch/f\.webp has 40x70"):
        score_test_split(moved, tmp_path / "output")
    assert not (tmp_path / "output").exists()
