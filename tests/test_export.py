"""An exported detector, scored by runtime.py in a process without this library, beside the detector itself."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.datasets import load_digits

from anogan_jax import PRESETS, Config, export, fit, runtime
from anogan_jax.config import (
    BankConfig,
    DataConfig,
    ModelConfig,
    PatchConfig,
    SearchConfig,
    SegmenterConfig,
    TrainConfig,
    with_values,
)
from anogan_jax.data.pixels import to_grey_levels
from anogan_jax.detector import Regions
from anogan_jax.errors import UserError

RNG = np.random.default_rng(0)
DIGITS = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
SIZE = 24
DISC = np.hypot(*(np.mgrid[:SIZE, :SIZE] - 11.5)) < 8
WITHOUT_THE_LIBRARY = """
import pickle, sys
from pathlib import Path
for name in ("anogan_jax", "flax", "orbax", "optax", "pydantic", "sklearn", "PIL", "matplotlib", "ml_collections"):
    sys.modules[name] = None  # to import it raises ModuleNotFoundError
import runtime
assert Path(runtime.__file__).parent == Path.cwd()
for images in sorted(Path().glob("*.images")):
    result = runtime.load(images.with_suffix(".anogan")).score(**pickle.loads(images.read_bytes()))
    images.with_suffix(".result").write_bytes(pickle.dumps(tuple(result)))
"""


def of_any_kind(*sizes):
    """Return images of these sizes, grey, colour and transparent: a disc or noise."""
    images = [RNG.integers(0, 90, size, np.uint8) for size in sizes]
    for image in images[::2]:
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
        inside = np.hypot(rows / image.shape[0] - 0.5, columns / image.shape[1] - 0.5) < 0.35
        image[inside] = RNG.integers(110, 250, image[inside].shape)
    return images


@pytest.fixture(scope="module")
def in_patches():
    """A detector of colour images in patches, with a segmenter and a region of interest."""
    config = Config(
        data=DataConfig(held_out=0.4, normalize_contrast=True, roi="threshold:100"),
        patches=PatchConfig(enabled=True, scale=0.8, min_contrast=1.0),
        model=ModelConfig(image_size=8, channels=3, width=4, latent_size=2),
        train=TrainConfig(steps=2, batch_size=4),
        segmenter=SegmenterConfig(steps=2, weight=0.5),
        bank=BankConfig(size=16, inverted=0, references=16),
        search=SearchConfig(starts=2, steps=1, features="discriminator"),
        alpha=0.2,
    )
    return fit(of_any_kind(*[(SIZE, SIZE, 3)] * 24)[::2], config)


@pytest.fixture(scope="module")
def cases(tiny_run, in_patches, tmp_path_factory):
    """Detectors by name, each with what ``Detector.score`` and what ``Exported.score`` take of the same images."""
    sizes = [(8, 8), (13, 21), (30, 9, 3), (5, 5), (40, 40, 4), (8, 8, 1), (9, 8)]
    blank = np.full((20, 20), 77, np.uint8)
    digits = [*DIGITS[1400:1430], *tiny_run.detector.held_out[:10], *of_any_kind(*sizes), blank]
    found = {name: (tiny_run.detector.with_preset(name), digits, {"images": digits}) for name in PRESETS}
    detector = tiny_run.detector.with_preset("nearest")
    turning = detector.calibration._replace(rotation_factor=np.array(0.5))
    config = with_values(detector.config, {"data.normalize_contrast": True})
    found["rotation"] = (detector._replace(config=config, calibration=turning), digits, {"images": digits})
    parts = of_any_kind((SIZE, SIZE, 3), (31, 40), (50, 20, 4), (11, 12, 3), (10, 61, 1), (120, 130, 3), (24, 25))[::2]
    found["threshold"] = (in_patches, parts, {"images": parts})
    window = with_values(in_patches.config, {"data.window": (10.0, 1000.0), "data.crop": 30})
    deep = [
        4 * np.atleast_3d(part)[..., :3].astype(of) for part, of in zip(parts, ("u2", ">i4", "f4", "i2"), strict=True)
    ]
    found["window"] = (in_patches._replace(config=window), deep, {"images": deep})
    masked = with_values(in_patches.config, {"data.roi": "mask.png"})
    found["mask"] = (in_patches._replace(config=masked, regions=Regions(DISC, [])), parts, {"images": parts})
    folder = tmp_path_factory.mktemp("masks")
    images = of_any_kind(*[(SIZE, SIZE + i, 3) for i in range(4)])
    for i, image in enumerate(images):
        for name, pixels in (("images", image), ("masks", np.roll(DISC, i, axis=0))):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    of_each = in_patches._replace(config=with_values(masked, {"data.roi": str(folder / "masks")}))
    regions = [runtime.resize_region(np.roll(DISC, i, axis=0), SIZE, SIZE + i) for i in range(4)]
    found["masks"] = (of_each, folder / "images", {"images": images, "regions": regions})
    return found


@pytest.fixture(scope="module")
def exported(cases, tmp_path_factory):
    """The folder with ``NAME.anogan`` of each case, and ``NAME.result`` of a process without the library."""
    folder = tmp_path_factory.mktemp("exported")
    for name, (detector, _, given) in cases.items():
        detector.export(folder / f"{name}.anogan")
        (folder / f"{name}.images").write_bytes(pickle.dumps(given))
    shutil.copy(ROOT / "anogan_jax/runtime.py", folder)
    command = [sys.executable, "-W", "error", "-c", WITHOUT_THE_LIBRARY]
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


NAMES = (*PRESETS, "rotation", "threshold", "window", "mask", "masks")


@pytest.mark.parametrize("name", NAMES)
def test_scores_without_the_library_are_the_detectors(cases, exported, name):
    detector, images, _ = cases[name]
    ours, theirs = detector.score(images), runtime.Result(*pickle.loads((exported / f"{name}.result").read_bytes()))
    np.testing.assert_allclose(theirs.score, ours.score, rtol=1e-5, atol=1e-5)
    for field in ("p_value", "is_anomaly", "term"):
        np.testing.assert_array_equal(getattr(theirs, field), getattr(ours, field))
    for field, tolerance in (("anomaly_map", 1e-4), ("reconstruction", 1)):
        for mine, other in zip(getattr(theirs, field), getattr(ours, field), strict=True):
            np.testing.assert_allclose(mine.astype(float), other.astype(float), atol=tolerance)
            assert mine.dtype == other.dtype
    assert len(set(ours.score)) > 2


def test_the_cases_have_verdicts_and_terms_of_each_kind(exported):
    results = [runtime.Result(*pickle.loads((exported / f"{name}.result").read_bytes())) for name in NAMES]
    assert {bool(verdict) for result in results for verdict in result.is_anomaly} == {False, True}
    assert {str(term) for result in results for term in result.term} == set(runtime.TERMS)


def test_a_score_depends_on_the_image_alone(cases, exported):
    """Bit for bit in any batch; where the program is compiled for another number at a time, up to rounding."""
    images = cases["nearest"][1]
    whole = runtime.load(exported / "nearest.anogan").score(images)
    alone = runtime.load(exported / "nearest.anogan").score(images[3:4])
    assert alone.score[0] == whole.score[3]
    np.testing.assert_array_equal(alone.anomaly_map[0], whole.anomaly_map[3])
    few = runtime.load(exported / "nearest.anogan", batch=3).score(images)
    np.testing.assert_allclose(few.score, whole.score, rtol=1e-5)


def test_the_program_is_for_every_platform_and_its_arrays_are_arguments(exported, cases):
    """The file holds no array that the program does not read, and no image of the bank where it is not shown."""
    with np.load(exported / "anogan.anogan") as file:
        program = runtime._program(file["program"].tobytes(), "")
        shapes = [file[name].shape for name in file if name.startswith("leaf")]
    assert program.platforms == ("cpu", "cuda", "tpu")
    detector = cases["anogan"][0]
    images = detector.bank.images.shape
    assert detector.bank.z.shape in shapes
    assert images not in shapes
    with np.load(exported / "nearest.anogan") as file:
        stored = [file[name] for name in file if name.startswith("leaf")]
    assert np.float16 in {array.dtype.type for array in stored if array.shape == images}


def test_nothing_is_overwritten(tiny_run, tmp_path):
    path = tmp_path / "parts.anogan"
    path.write_text("of the user")
    with pytest.raises(UserError, match="exists already"):
        tiny_run.detector.export(path)
    assert path.read_text() == "of the user"
    with pytest.raises(UserError, match="cannot be written"):
        tiny_run.detector.export(path / "inside.anogan")
    assert [each.name for each in tmp_path.iterdir()] == ["parts.anogan"]


def test_missing_flatbuffers_is_named(tiny_run, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"anogan_jax\[export\]"):
        tiny_run.detector.export(tmp_path / "parts.anogan")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ModuleNotFoundError, match="pip install flatbuffers"):
        runtime.load(exported / "nearest.anogan")


@pytest.mark.parametrize("damage", ["cut", "text", "array", "others", "format", "program"])
def test_a_damaged_file_is_refused(exported, tmp_path, damage):
    path, content = tmp_path / "parts.anogan", (exported / "nearest.anogan").read_bytes()
    arrays = dict(np.load(exported / "nearest.anogan"))
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("text")
    else:
        with path.open("wb") as file:
            if damage == "array":
                np.save(file, DIGITS)
            if damage == "others":
                np.savez(file, images=DIGITS)
            if damage == "format":
                np.savez(file, **arrays | {"facts": np.array('{"format": 0}')})
            if damage == "program":
                np.savez(file, **arrays | {"program": arrays["program"][::-1]})
    with pytest.raises(ValueError, match=r"parts\.anogan: .*(export it|copy both) again") as raised:
        runtime.load(path)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.anogan"):
        runtime.load(tmp_path / "none.anogan")


def pillow(mode="L", transparency=None, orientation=1):
    """Return an image of Pillow that a viewer may show otherwise than its array."""
    image = Image.fromarray(DIGITS[0]).convert(mode)
    image.getexif()[0x0112] = orientation
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "empty"),
        (DIGITS[:0], "empty"),
        (DIGITS[0], "image 0: shape"),
        (DIGITS[:2] / 255, "image 0: pixels of type float64"),
        ([DIGITS[0], np.zeros((8, 8, 2), np.uint8)], "image 1: images of 2 channels"),
        ([DIGITS[0], np.zeros((0, 8), np.uint8)], "image 1: shape"),
        (5, "int; give an array"),
        (None, "NoneType; give an array"),
        ("photo.png", "str; give an array"),
        ([Path("photo.png")], "image 0: is a path"),
        ([DIGITS[0], pillow(mode="1")], "image 1: has Pillow's mode 1"),
        ([pillow(transparency=0)], "image 0: has a transparent colour; give image.convert"),
        ([pillow(orientation=6)], "image 0: is rotated by its EXIF tag; give PIL.ImageOps"),
    ],
)
def test_other_images_are_refused(exported, images, message):
    with pytest.raises(ValueError, match=message):
        runtime.load(exported / "nearest.anogan").score(images)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "f4", "?"])
def test_pixels_under_a_window_are_converted_as_in_the_library(dtype, channels):
    """With transparency, which no window is of, unless the model has four channels of its own."""
    image = RNG.uniform(0, 1, (6, 5, 4)) * {"u1": 255, "u2": 65_535, ">u2": 65_535}.get(dtype, 1)
    image, window = (image > 0.5 if dtype == "?" else image.astype(dtype)), (0.1, 0.8 * float(image.max()))
    view = runtime.View(8, channels, False, 1.0, 0.0, False, 4, 0.01, window, None)
    np.testing.assert_array_equal(runtime._listed([image], view)[0], to_grey_levels(image, "", channels, window))


def test_regions_that_are_missing_are_named(exported):
    with pytest.raises(ValueError, match="mask for each image"):
        runtime.load(exported / "masks.anogan").score(of_any_kind((SIZE, SIZE, 3)))
    images, region = of_any_kind((SIZE, SIZE, 3), (SIZE, 9, 3)), np.ones((SIZE, SIZE), bool)
    for regions, message in (
        ([region], "1 for 2 images"),
        ([region, region], "image 1"),
        ([~region, region], "image 0"),
    ):
        with pytest.raises(ValueError, match=message):
            runtime.load(exported / "masks.anogan").score(images, regions)
    with pytest.raises(ValueError, match="batch=0"):
        runtime.load(exported / "masks.anogan", batch=0)
    with pytest.raises(ValueError, match="image 1: has no pixel above the grey level 100"):
        runtime.load(exported / "threshold.anogan").score([np.full((9, 9), 200, np.uint8), np.zeros((9, 9), np.uint8)])


def test_the_program_exports_a_run(tiny_run, tmp_path, run_main):
    path, workdir = tmp_path / "parts.anogan", f"--workdir={tiny_run.workdir}"
    done = run_main(export.main, workdir, f"--output={path}", "--preset=nearest", "--config.alpha=0.3")
    assert done.code == 0, done.errors
    assert f"{path}: 0." in done.errors
    ours = tiny_run.detector.with_config(with_values(tiny_run.detector.config, {"alpha": 0.3})).with_preset("nearest")
    theirs = runtime.load(path)
    assert theirs.alpha == 0.3
    np.testing.assert_allclose(theirs.score(DIGITS[:20]).score, ours.score(DIGITS[:20]).score, rtol=1e-5)
    before = path.read_bytes()
    assert run_main(export.main, workdir, f"--output={path}").code == 1
    assert path.read_bytes() == before
    assert "--output" in run_main(export.main, workdir).errors
    assert run_main(export.main, f"--workdir={tmp_path}", f"--output={tmp_path / 'other'}").code == 1
    assert sorted(each.name for each in Path(tmp_path).iterdir()) == ["parts.anogan"]
