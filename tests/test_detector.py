"""The detector: its scores survive saving, copying and any company; its settings; damaged files; wrong images."""

import base64
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Thread

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import ROOT, assert_trees_equal, digests, generate, rows_of, tiny_config
from PIL import Image

from anogan_jax import PRESETS, Config, fit, load, make_encoder, p_values, runtime, score, with_preset
from anogan_jax.config import DataConfig, with_values
from anogan_jax.errors import UserError
from anogan_jax.evaluation import score_contents
from anogan_jax.models import project
from anogan_jax.runtime import View, to_model_range
from anogan_jax.runtime import _listed as listed

RNG = np.random.default_rng(0)
FILES = (
    *("appearance.npz", "weights.npz", "rotation.npz", "bank.npz", "references.npz", "held_out.npz", "calibration.npz"),
    "detector.json",
)
LOAD_AND_SCORE = """
import sys
import numpy as np
import anogan_jax

result = anogan_jax.load(sys.argv[1]).score(np.load(sys.argv[2]))
np.savez(sys.argv[3], score=result.score, p_value=result.p_value, anomaly_map=result.anomaly_map)
"""


def squares(count, size):
    """Return images (N, S, S) uint8 of one bright square each, somewhere on noise."""
    images = RNG.integers(0, 60, (count, size, size), np.uint8)
    for image, (row, column) in zip(images, RNG.integers(0, size - 10, (count, 2)), strict=True):
        image[row : row + 8, column : column + 8] = 220
    return images


def array_config(**data):
    """Return a tiny config of images from Python: the model of ``tiny_config`` without an encoder."""
    return replace(tiny_config({"encoder.steps": 0}), data=DataConfig(source="arrays", **data))


@pytest.fixture(scope="module")
def images():
    return squares(50, 28)


@pytest.fixture(scope="module")
def detector():
    """A detector of 200 images of 28x28 pixels, trained without a work directory; 20 are held out."""
    return fit(squares(200, 28), array_config())


@pytest.fixture(scope="module")
def result(detector, images):
    return detector.score(images)


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory):
    """A folder with the saved detector; treat it as read-only."""
    folder = tmp_path_factory.mktemp("saved")
    detector.save(folder)
    return folder


def test_result_has_the_sizes_of_the_images(result, images, detector):
    assert result.score.shape == result.p_value.shape == result.is_anomaly.shape == (50,)
    assert result.anomaly_map.shape == (50, 28, 28)
    assert (result.reconstruction.shape, result.reconstruction.dtype) == ((50, 28, 28, 1), np.uint8)
    assert result.anomaly_map.min() >= 0
    np.testing.assert_array_equal(result.image[..., 0], images)
    np.testing.assert_array_equal(result.p_value, p_values(result.score, detector.calibration.scores))
    np.testing.assert_array_equal(result.is_anomaly, result.p_value <= 0.05)
    assert len(detector.held_out) == 20


def test_detector_and_result_show_themselves_in_a_few_lines(detector, result):
    """The text names the fields and prints no array; a notebook shows the most anomalous images first."""
    shown = repr(detector)
    assert shown.splitlines()[0] == "Detector: 16x16 pixels, 1 channel(s), 12 training steps"
    assert "20 held-out images, alpha 0.05" in shown
    assert len(shown) < 400
    assert repr(result).startswith(f"Result: {result.is_anomaly.sum()} of 50 images are anomalies")
    assert len(repr(result)) < 400
    page = result._repr_html_()
    captions = re.findall(r"<figcaption>(\d+): score", page)
    assert [int(number) for number in captions] == np.argsort(-result.score, kind="stable")[:12].tolist()
    pictures = [Image.open(BytesIO(base64.b64decode(each))) for each in re.findall(r"base64,([\w+/=]+)", page)]
    assert [picture.size for picture in pictures] == [(4 * 28, 28)] * 12
    first = np.asarray(pictures[0].convert("RGB"))
    np.testing.assert_array_equal(first[:, :28, 0], result.image[int(captions[0]), ..., 0])
    np.testing.assert_array_equal(first[:, 28:56, 0], result.reconstruction[int(captions[0]), ..., 0])


def test_saved_detector_scores_the_same_in_another_process(saved, result, images, tmp_path):
    """Scores, p-values and maps, bit for bit."""
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", LOAD_AND_SCORE, saved, tmp_path / "images.npy", tmp_path / "result.npz"]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "result.npz")
    for name in ("score", "p_value", "anomaly_map"):
        np.testing.assert_array_equal(found[name], getattr(result, name))


def test_score_script_writes_the_same_numbers(saved, result, images, tmp_path, run_main):
    np.save(tmp_path / "images.npy", images)
    output = tmp_path / "output"
    done = run_main(score.main, "--workdir", saved, "--input", tmp_path / "images.npy", "--output", output, "--maps")
    assert done.code == 0, done.errors
    rows = rows_of(output / "scores.csv")
    for name in ("score", "p_value", "residual", "discrimination"):
        np.testing.assert_array_equal([float(row[name]) for row in rows], getattr(result, name))
    np.testing.assert_array_equal([int(row["is_anomaly"]) for row in rows], result.is_anomaly)
    maps = np.stack([np.load(output / "maps" / f"{row['name']}.npy") for row in rows])
    np.testing.assert_array_equal(maps, result.anomaly_map)


def test_loaded_detector_has_the_same_arrays(saved, detector):
    loaded = load(saved)
    assert loaded.config == detector.config
    assert (loaded.step, loaded.gan) == (detector.step, detector.gan)
    for name in ("model", "bank", "references", "held_out", "calibration"):
        assert_trees_equal(getattr(loaded, name), getattr(detector, name))


def test_score_is_independent_of_batch_order_and_neighbours(detector, result, images):
    order = RNG.permutation(50)
    for ours, theirs in zip(result[:-1], detector.score(images[order])[:-1], strict=True):  # without the names
        np.testing.assert_array_equal(ours[order], theirs)
    for number in (0, 49):
        for ours, theirs in zip(result[:-1], detector.score(images[number : number + 1])[:-1], strict=True):
            np.testing.assert_array_equal(ours[number], theirs[0])


def test_results_have_the_names_of_their_images(detector, images, tmp_path):
    assert detector.score(images[:2]).name.tolist() == ["0", "1"]
    for name in ("b/1.png", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(images[0]).save(tmp_path / name)
    assert detector.score(tmp_path).name.tolist() == ["a.png", "b/1.png"]


def test_images_of_different_sizes_have_maps_of_their_own_sizes(detector, images, result):
    mixed = detector.score([images[0], squares(1, 40)[0], images[1, :, :20]])
    assert [found.shape for found in mixed.anomaly_map] == [(28, 28), (40, 40), (28, 20)]
    assert [found.shape for found in mixed.reconstruction] == [(28, 28, 1), (40, 40, 1), (28, 20, 1)]
    assert mixed.score[0] == result.score[0]


def test_floats_in_the_models_range_score_as_their_pixels_do(detector, result, images):
    for ours, theirs in zip(result, detector.score(to_model_range(images)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda images: images / 255.0, r"\[-1, 1\].*scaled to \[0, 1\]"),
        (lambda images: images.astype(np.float32), r"\[-1, 1\].*found 0 to 220"),
        (lambda images: np.where(images > 100, np.nan, 0.0), "finite"),
        (lambda images: images[0], r"shape \(28, 28\)"),
        (lambda images: images[None, ..., None], r"shape \(1, 50, 28, 28, 1\)"),
        (lambda images: images[:0], "empty"),
        (lambda images: np.repeat(images[..., None], 5, axis=-1), "5 channels"),
        (lambda images: images.astype(str), "type <U"),
        (lambda images: images.astype(jnp.bfloat16), r"type bfloat16; .*floats \(16 to 64 bits\)"),
        (lambda images: np.array(["a.png", "b.png"]), r"paths.* as a list: list\(images\)"),
        (lambda images: np.array([images[0], images[1, :9]], object), r"several sizes, as a list: list\(images\)"),
        (lambda images: images.astype(int) * 2, r"\[0, 255\]"),
        (lambda images: [images[0], images[1, :, :9, None, None]], "shape"),
        (lambda images: "nowhere.png", "nowhere.png: no such file"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(detector, images, given, message):
    with pytest.raises(UserError, match=message):
        detector.score(given(images))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "HSV"])
def test_pictures_of_pillow_score_as_their_files_do(detector, images, mode, tmp_path):
    """Detector.score takes Pillow's images and lists of paths; the runtime refuses modes that need a conversion."""
    paths = [tmp_path / f"{i}.{'tif' if mode in ('CMYK', 'HSV') else 'png'}" for i in range(2)]
    for path, image in zip(paths, images[:2], strict=True):
        picture = Image.fromarray(image).convert("RGB" if mode in ("CMYK", "HSV") else "L").convert(mode)
        picture.convert("RGB" if mode == "HSV" else mode).save(path)
    expected = detector.score(tmp_path).score
    opened = [Image.open(path).convert(mode) if mode == "HSV" else Image.open(path) for path in paths]
    np.testing.assert_allclose(detector.score(opened).score, expected, rtol=0.1 if mode == "HSV" else 1e-12)
    np.testing.assert_array_equal(detector.score(paths).score, expected)
    view = View(28, 1, False, 1.0, 0.0, False, 4, 0.01, None, None)
    if mode in ("P", "CMYK", "HSV"):
        with pytest.raises(ValueError, match=rf"image 0: has Pillow's mode {mode}; give image\.convert"):
            listed(opened, view)
    elif mode in ("L", "RGB", "RGBA"):
        np.testing.assert_array_equal(listed(opened, view), [image[..., None] for image in images[:2]])


@pytest.mark.parametrize("given", [None, 3, {"images": 1}])
def test_objects_that_are_not_images_are_refused(detector, given):
    with pytest.raises(UserError, match="images"):
        detector.score(given)


def test_number_of_search_steps_changes_scores_and_calibration(detector, result, images):
    """The p-values are those among the held-out images, scored with the same settings."""
    found = {}
    for steps in (1, 64):
        other = detector.with_config(with_values(detector.config, {"search.steps": steps}))
        found[steps] = other.score(images)
        held_out = other.score(detector.held_out).score
        np.testing.assert_array_equal(other.calibration.scores, held_out)
        np.testing.assert_array_equal(found[steps].p_value, p_values(found[steps].score, held_out))
    assert (found[1].score != found[64].score).all()
    assert found[64].residual.mean() < found[1].residual.mean()
    assert detector.config.search.steps == 2  # unchanged
    again = detector.with_config(with_values(detector.config, {"search.steps": 1}))
    back = again.with_config(detector.config)
    np.testing.assert_array_equal(back.calibration.scores, detector.calibration.scores)


def test_alpha_changes_the_calls_alone(detector, result, images):
    other = detector.with_config(replace(detector.config, alpha=0.5))
    found = other.score(images)
    np.testing.assert_array_equal(found.p_value, result.p_value)
    np.testing.assert_array_equal(found.is_anomaly, result.p_value <= 0.5)
    assert other.calibration is detector.calibration


@pytest.mark.parametrize(
    ("name", "value"), [("model.width", 8), ("train.steps", 5), ("seed", 1), ("data.keep_held_out", False)]
)
def test_training_setting_cannot_be_changed(detector, name, value):
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        detector.with_config(with_values(detector.config, {name: value}))


def test_impossible_setting_is_refused(detector):
    with pytest.raises(UserError, match=r"search\.steps=-1"):
        detector.with_config(with_values(detector.config, {"search.steps": -1}))


def test_preset_encoder_needs_an_encoder(detector):
    with pytest.raises(UserError, match="encoder"):
        detector.with_preset("encoder")


def test_detector_without_held_out_images(detector, images, tmp_path):
    """No image is saved; alpha may change, and settings that need another calibration may not."""
    config = array_config(keep_held_out=False)
    with pytest.raises(UserError, match=r"set bank\.references=0"):
        fit(squares(60, 28), config)
    bare = fit(squares(60, 28), with_values(config, {"bank.references": 0}), tmp_path)
    assert bare.held_out is bare.references is None
    kept = set(FILES) - {"held_out.npz", "references.npz"}
    assert sorted(path.name for path in (tmp_path / "detector").iterdir()) == sorted(kept)
    for file in tmp_path.rglob("*.npz"):
        arrays = np.load(file)
        assert not any(arrays[name].dtype == np.uint8 for name in arrays.files)
    loaded = load(tmp_path)
    lenient = loaded.with_config(replace(loaded.config, alpha=0.5))
    np.testing.assert_array_equal(lenient.score(images).score, bare.score(images).score)
    for name, value in (("search.steps", 3), ("pooling.share", 0.5)):
        with pytest.raises(UserError, match=rf"{name}.*keep_held_out"):
            loaded.with_config(with_values(loaded.config, {name: value}))


def test_run_is_complete_without_its_training_images(tmp_path, run_main):
    """Trained from a folder, which is deleted; copied elsewhere; scored with each preset."""
    folder, new = tmp_path / "normal", tmp_path / "new"
    for where, count in ((folder, 60), (new, 3)):
        where.mkdir()
        for i, image in enumerate(squares(count, 20)):
            Image.fromarray(image).save(where / f"{i}.png")
    config = replace(tiny_config(), data=DataConfig(source="folder", dir=str(folder)))
    fit(folder, config, tmp_path / "trained")
    shutil.rmtree(folder)
    shutil.move(tmp_path / "trained", tmp_path / "copy")
    before = digests(tmp_path / "copy")
    for preset in (None, *PRESETS):
        output = tmp_path / f"results-{preset}"
        chosen = [f"--preset={preset}"] if preset else []
        fast = ["--config.search.steps=3"] if preset in ("paper", "yeh") else []
        done = run_main(score.main, "--workdir", tmp_path / "copy", "--input", new, "--output", output, *chosen, *fast)
        assert done.code == 0, done.errors
        assert len(rows_of(output / "scores.csv")) == 3
        assert digests(tmp_path / "copy") == before
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "new", *(f"results-{p}" for p in (None, *PRESETS))}


@pytest.mark.parametrize("name", ["anogan", "nearest", "encoder"])
def test_presets_score_differently_and_are_calibrated(tiny_run, name):
    images = RNG.integers(0, 256, (3, 16, 16), np.uint8)
    own = tiny_run.detector.score(images)
    other = tiny_run.detector.with_preset(name)
    assert other.config == with_preset(tiny_run.detector.config, name)
    assert len(other.calibration.scores) == 29
    found = other.score(images)
    assert np.isfinite(found.score).all()
    assert (found.score != own.score).any()


def test_score_of_the_nearest_images_agrees_with_numpy(tiny_run):
    """start=bank, steps=0, no references: the distance to the mean of the nearest images' features."""
    nearest = with_preset(tiny_run.detector.config, "nearest")
    detector = tiny_run.detector.with_config(with_values(nearest, {"search.reference_weight": 0.0}))
    images = RNG.integers(0, 256, (20, 16, 16, 1), np.uint8)
    found = detector.score(images)
    bank = detector.bank.images.astype(np.float32)
    features = np.stack([reference.structure(image) for image in bank])
    for query, score_ in zip(to_model_range(images, normalize_contrast=True), found.residual, strict=True):
        places, is_clear = reference.nearest("structure", query, bank, 8)
        if is_clear:
            expected = np.linalg.norm(reference.structure(query) - features[places].mean(axis=0))
            np.testing.assert_allclose(score_, expected, rtol=1e-4)


def test_score_of_the_encoders_reconstruction_agrees_with_numpy(tiny_run):
    """start=encoder, steps=0: the distance to G(E(x))."""
    detector = tiny_run.detector.with_preset("encoder")
    images = RNG.integers(0, 256, (5, 16, 16, 1), np.uint8)
    queries = to_model_range(images, normalize_contrast=True)
    z = jax.jit(partial(make_encoder(detector.gan).apply, train=False))(detector.model.encoder, queries)
    z = jax.vmap(lambda z: project(detector.gan, z))(z)
    generated = np.asarray(generate(detector.gan, detector.model.weights.generator, z))
    pairs = zip(queries, generated, strict=True)
    expected = [np.linalg.norm(reference.structure(one) - reference.structure(other)) for one, other in pairs]
    np.testing.assert_allclose(detector.score(images).residual, expected, rtol=1e-4)


def flip(path):
    """Invert the lowest bit of the middle byte of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.unlink()], ids=["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_named(saved, tmp_path, damage, name):
    shutil.copytree(saved, tmp_path / "copy")
    damage(tmp_path / "copy" / "detector" / name)
    with pytest.raises(UserError) as raised:
        load(tmp_path / "copy")
    assert str(tmp_path / "copy") in str(raised.value)
    if (tmp_path / "copy" / "detector" / "detector.json").exists():
        assert name in str(raised.value)


def test_every_flipped_byte_of_the_description_is_noticed(saved, tmp_path):
    """The description holds the digests of the other files; nothing else vouches for its settings."""
    shutil.copytree(saved, tmp_path / "copy")
    path = tmp_path / "copy" / "detector" / "detector.json"
    content = path.read_bytes()
    unnoticed = []
    for place in range(0, len(content), 41):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            load(tmp_path / "copy")
        except UserError:
            continue
        unnoticed.append(content[max(0, place - 20) : place + 5])
    assert not unnoticed


def test_folder_without_a_detector_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="no trained detector"):
            load(folder)


def test_existing_detector_is_not_overwritten(saved, detector):
    before = digests(saved)
    with pytest.raises(UserError, match="exists already"):
        detector.save(saved)
    assert digests(saved) == before


def test_unwritable_folder_is_named(detector, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/run/detector: cannot be written"):
        detector.save(tmp_path / "file" / "run")


def test_default_config_is_used_for_arrays():
    assert Config().data.source == "auto"
    with pytest.raises(UserError, match="empty"):
        fit(np.zeros((0, 28, 28), np.uint8))


def test_what_structure_ignores_is_an_anomaly(detector, images, result):
    """Blank frames, another brightness, noise: their reconstruction may be good, their appearance is not."""
    changed = {
        "black": 0 * images[:10],
        "white": np.full_like(images[:10], 255),
        "noise": RNG.integers(0, 256, images[:10].shape, np.uint8),
    }
    detector = detector.with_config(with_values(detector.config, {"rotation.weight": 0.0}))  # it notices them too
    for name, queries in changed.items():
        found = detector.score(queries)
        assert found.is_anomaly.all(), name
        assert set(found.term.tolist()) <= {"appearance", "detail"}, name
        assert (found.appearance > 1).all(), name
    assert (result.score[result.term == "reconstruction"] > 0).all()


def test_each_path_of_a_list_is_scored(detector, images, tmp_path):
    for i in range(2):
        Image.fromarray(images[i]).save(tmp_path / f"{i}.png")
    scores = detector.score([tmp_path / "1.png", str(tmp_path / "0.png"), tmp_path / "1.png"]).score
    assert scores.tolist() == detector.score(images[[1, 0, 1]]).score.tolist()


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_impossible_name_is_no_traceback(name, detector):
    for call in (load, lambda name: detector.score(f"{name}.png"), lambda name: fit([f"{name}.png"])):
        with pytest.raises(UserError, match=r"no such (file|folder)"):
            call(name)


def test_contents_of_any_name_are_scored(detector, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    content, names = (tmp_path / "0.png").read_bytes(), ["a" * 300 + ".png", "", "..", "a\0b", "0.png"]
    found = score_contents(detector, [(name, content) for name in names])
    assert found["file"] == found["name"] == names
    assert found["score"].tolist() == [detector.score(images[:1]).score[0]] * len(names)


def test_damaged_picture_of_pillow_is_one_line(detector, images, tmp_path):
    Image.fromarray(np.tile(images[0], (20, 20))).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    for call in (detector.score, fit):
        with Image.open(tmp_path / "cut.png") as image, pytest.raises(UserError, match="an image of Pillow cannot be"):
            call([image])


def test_animation_of_pillow_is_refused(detector, images, tmp_path):
    first, second = (Image.fromarray(image) for image in images[:2])
    first.save(tmp_path / "two.gif", save_all=True, append_images=[second])
    with Image.open(tmp_path / "two.gif") as image, pytest.raises(UserError, match="has 2 frames; give its path"):
        detector.score([image])


def test_an_empty_path_is_not_the_working_directory(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("a.png")
    detector = tiny_run.detector
    for use in (detector.score, lambda path: detector.score([path]), detector.save, detector.export, load, fit):
        with pytest.raises(UserError):
            use("")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("given", [None, 3, ["runs"]])
def test_what_is_no_path_is_one_line(tiny_run, images, given):
    detector = tiny_run.detector
    uses = [detector.save, detector.export, load]
    uses += [lambda path: fit(images, workdir=path)] if given is not None else []
    for use in uses:
        with pytest.raises(UserError, match=r"^(folder|path|workdir): .* is a \w+, not a path$"):
            use(given)


def test_home_folder_and_examples_are_paths_too(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_run.detector.save("~/run")
    assert (tmp_path / "run/detector").is_dir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    assert len(tiny_run.detector.score("~/a.png").score) == len(tiny_run.detector.score(["~/a.png"]).score) == 1
    with pytest.raises(UserError, match="no such folder"):
        load("~nobody-of-this-name/run")
    assert load(Path("~/run")).step == tiny_run.detector.step
    assert load(Path("example:digits")).step == load("example:digits").step


@pytest.mark.parametrize("given", [None, {"alpha": 0.1}])
def test_config_of_another_type_is_refused(tiny_run, given):
    with pytest.raises(UserError, match=f"anogan_jax.Config, not {type(given).__name__}"):
        tiny_run.detector.with_config(given)


def test_threads_that_score_at_the_same_time_get_the_same_scores(tmp_path, images):
    """Two programs at a time could wait for each other for ever; so could those of an exported detector."""
    detector = load("example:digits")
    detector.export(tmp_path / "digits.anogan")
    for of in (detector, runtime.load(tmp_path / "digits.anogan")):
        expected, found = of.score(images[:5]).score, []

        def use(of=of, found=found):
            found.append(of.score(images[:5]).score)

        uses = [Thread(target=use, daemon=True) for _ in range(4)]
        for each in uses:
            each.start()
        for each in uses:
            each.join(timeout=60)
        assert len(found) == 4
        for scores in found:
            np.testing.assert_array_equal(scores, expected)
