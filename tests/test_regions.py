"""Regions of interest: nothing outside has an effect, and nothing is found there; masks that cannot be used."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image
from scipy import ndimage

from anogan_jax import fit, load, runtime
from anogan_jax.config import Config, DataConfig, ModelConfig, PatchConfig, with_values
from anogan_jax.data import from_user, is_readable, load_one_class, make_draw, read_inputs, within
from anogan_jax.detector import Regions, findings_of, in_regions
from anogan_jax.errors import UserError
from anogan_jax.evaluation import score_to_folder
from anogan_jax.runtime import largest_parts, middle, resize_region

RNG = np.random.default_rng(0)
KINDS = ("mask", "folder", "threshold")
SIZE = 24
REGION = np.hypot(*(np.mgrid[:SIZE, :SIZE] - 11.5)) < 8  # a disc, to which the threshold's largest part is equal


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def discs(count):
    """Return images (N, H, W) uint8: a bright textured disc on a dark ground, with another bright spot outside."""
    images = RNG.integers(0, 90, (count, SIZE, SIZE), np.uint8)
    images[:, REGION] = RNG.integers(110, 250, (count, REGION.sum()), np.uint8)
    images[:, 1:3, 1:4] = 240
    return images


def changed(images):
    """Return the images with other pixels outside the region, which leave its threshold as it is."""
    return np.where(REGION, images, RNG.integers(0, 90, images.shape, np.uint8))


def write(folder, images):
    for i, image in enumerate(images):
        save(folder / f"{i % 2}" / f"{i}.png", image)
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with images in normal/ and new/, those with other pixels outside in changed/, a region of each kind."""
    folder, new = tmp_path_factory.mktemp("regions"), discs(6)
    write(folder / "normal", discs(40))
    write(folder / "new", new)
    write(folder / "changed", changed(new))
    save(folder / "mask.png", REGION.astype(np.uint8))
    for i in range(40):
        save(folder / "masks" / f"{i % 2}" / f"{i}_mask.png", REGION)
    return folder


def roi_of(kind, places):
    return {"mask": f"{places}/mask.png", "folder": f"{places}/masks", "threshold": "threshold:100"}[kind]


def config_of(kind, places, **values):
    data = DataConfig(source="folder", dir=str(places / "normal"), normal="*", roi=roi_of(kind, places), held_out=0.5)
    config = replace(tiny_config({"encoder.steps": 0, "segmenter.steps": 0, "rotation.steps": 0}), data=data)
    return with_values(config, {"patches.enabled": kind != "mask", "patches.scale": 0.8, **values})


@pytest.fixture(scope="module", params=KINDS)
def trained(request, places, tmp_path_factory):
    """A detector of each kind of region, and its work directory; those of a folder and a threshold cut patches."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    return fit(config=config_of(request.param, places), workdir=workdir), workdir


def test_pixels_outside_change_neither_score_nor_map(trained, places):
    """Bit for bit; map and reconstruction are 0 outside, and the map is not 0 inside."""
    found, other = (trained[0].score(places / name) for name in ("new", "changed"))
    for one, two in zip(found, other, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not found.anomaly_map[:, ~REGION].any()
    assert not found.reconstruction[:, ~REGION].any()
    assert (found.anomaly_map[:, REGION] > 0).mean() > 0.9
    assert len(set(found.score)) == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patches", [False, True])
def test_pixels_outside_are_not_trained_on(places, tmp_path, kind, patches):
    """They change no example, and every patch has a pixel of the region."""
    originals = [np.asarray(Image.open(path)) for path in sorted((places / "normal").rglob("*.png"))]
    names = [path.relative_to(places / "normal") for path in sorted((places / "normal").rglob("*.png"))]
    for name, image in zip(names, originals, strict=True):
        save(tmp_path / name, changed(image))
    config = config_of(kind, places, **{"patches.enabled": patches, "patches.scale": 2.0})
    other = with_values(config, {"data.dir": str(tmp_path)})
    one, two = (make_draw(load_one_class(each).train, each) for each in (config, other))
    for place in range(60):
        example = one(place)
        np.testing.assert_array_equal(example, two(place))
        assert np.ptp(example) > 0


def test_calibration_scores_held_out_images_as_any_other(trained, tmp_path):
    """In patches at another scale too; again after loading, when a setting is changed and changed back."""
    detector, workdir = trained
    held_out = load_one_class(detector.config).held_out
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    for name in held_out.names:
        shutil.copy(f"{detector.config.data.dir}/{name}", tmp_path / name)
    scores = detector.score(tmp_path).score
    np.testing.assert_array_equal(np.sort(detector.calibration.scores), np.sort(scores))
    loaded = load(workdir)
    again = loaded.with_config(with_values(loaded.config, {"pooling.share": 0.5})).with_config(loaded.config)
    for ours, theirs in zip(again.calibration, detector.calibration, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("patches", [False, True])
def test_held_out_images_are_cropped_once(patches, tmp_path):
    """The middle of 12 pixels is seen at 16 pixels, or in patches at twice the size: larger than the crop."""
    networks: dict = {"encoder.steps": 0, "segmenter.steps": 0, "rotation.steps": 0}
    config = tiny_config({**networks, "data.crop": 12, "patches.enabled": patches, "patches.scale": 2.0})
    config.data = replace(config.data, source="arrays", normal=None, held_out=0.5)
    images = discs(12)
    detector = fit(images, config)
    assert detector.held_out[0].shape[:2] == ((24, 24) if patches else (16, 16))
    assert set(detector.calibration.scores.tolist()) <= set(detector.score(images).score.tolist())


@pytest.mark.parametrize("trained", ["mask"], indirect=True)
def test_map_levels_are_of_the_region_alone(trained):
    """The quantile of the whole map, much of which is 0, is lower."""
    detector, inside = trained[0], resize_region(REGION, 16, 16)
    held_out = from_user(detector.held_out, 1)._replace(region=lambda *_: inside)
    maps = np.stack([finding.anomaly_map for finding in findings_of(detector, held_out)])
    np.testing.assert_array_equal(detector.calibration.map_levels, [np.quantile(each[inside], 0.99) for each in maps])
    assert (detector.calibration.map_levels > np.quantile(maps, 0.99, axis=(1, 2))).all()


@pytest.mark.parametrize("trained", ["mask"], indirect=True)
def test_detector_keeps_the_one_mask(trained, places, tmp_path):
    """It scores on without the file, images of any size, and by the script's way too; the file cannot be replaced."""
    detector, workdir = trained
    result = detector.score(places / "new")
    loaded, images = load(workdir), discs(2)
    assert loaded.score(images).score.tolist() == detector.score(images).score.tolist()
    moved = loaded._replace(config=with_values(loaded.config, {"data.roi": str(tmp_path / "gone.png")}))
    np.testing.assert_array_equal(moved.score(places / "new").score, result.score)
    large = np.repeat(np.repeat(images, 2, axis=1), 3, axis=2)
    assert not moved.score(large).anomaly_map[:, ~np.repeat(np.repeat(REGION, 2, axis=0), 3, axis=1)].any()
    summary = score_to_folder(moved, read_inputs([places / "new"], 1), tmp_path / "scores", "new")
    assert summary["unreadable"] == 0
    for other in (f"{places}/masks", "", "threshold:3"):
        with pytest.raises(UserError, match=r"data\.roi=.*only a folder of masks"):
            loaded.with_config(with_values(loaded.config, {"data.roi": other}))


@pytest.mark.parametrize("trained", ["folder"], indirect=True)
def test_folder_of_masks_is_given_for_new_images(trained, places, tmp_path):
    detector, new = trained[0], places / "new"
    shutil.copytree(places / "masks", tmp_path / "masks")
    with pytest.raises(UserError, match="only a folder of masks can be replaced"):
        detector.with_config(with_values(detector.config, {"data.roi": ""}))
    other = detector.with_config(with_values(detector.config, {"data.roi": str(tmp_path / "masks")}))
    np.testing.assert_array_equal(other.score(new).score, detector.score(new).score)
    save(tmp_path / "masks/0/2_mask.png", np.zeros((SIZE, SIZE), np.uint8))
    (tmp_path / "masks/1/3_mask.png").write_text("not a picture")
    (tmp_path / "masks/1/5_mask.png").unlink()
    queries = read_inputs([new], 1)
    summary = score_to_folder(other, queries, tmp_path / "scores", "new")
    assert (summary["images"], summary["unreadable"]) == (3, 3)
    reasons = {
        "0/2": r"0/2_mask\.png: is all black",
        "1/3": r"1/3_mask\.png: not a readable",
        "1/5": "1/5: no mask of this",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason):
            within(queries, other.config.data.roi).read(queries.names.index(f"{name}.png"))
    with pytest.raises(UserError, match="masks"):
        other.score(new)
    with pytest.raises(UserError, match=r"data\.roi=.*images of an array have no names"):
        other.score(discs(2))
    shutil.rmtree(tmp_path / "masks")
    with pytest.raises(UserError, match=r"data\.roi=.*masks: no such file or folder.*folder of these images' masks"):
        other.score(new)
    with pytest.raises(UserError, match="only a folder of masks"):
        detector.with_config(with_values(detector.config, {"data.roi": str(tmp_path / "none")}))


def test_arrays_have_one_mask_or_a_threshold(places):
    given = from_user(discs(4), 1)
    for kind in ("mask", "threshold"):
        data = load_one_class(Config(data=DataConfig(source="arrays", roi=roi_of(kind, places))), given)
        seen = data.train.read(0)[..., 0]
        np.testing.assert_array_equal(data.train.region(0), REGION)
        np.testing.assert_array_equal(seen[~REGION], np.rint(seen[REGION].mean()))
    with pytest.raises(UserError, match="no names"):
        load_one_class(Config(data=DataConfig(source="arrays", roi=roi_of("folder", places))), given)


@pytest.mark.parametrize(
    "roi",
    [
        "threshold:",
        "threshold:x",
        "threshold:-1",
        "threshold:255",
        "threshold:nan:1",
        "threshold:9:0",
        "threshold:9:1:1",
        "threshold:9:1.5",
    ],
)
def test_malformed_threshold_is_named(roi):
    with pytest.raises(UserError, match=f"data.roi={roi}: must be threshold:LEVEL"):
        within(from_user(discs(2), 1), roi)


def test_regions_that_cannot_be_used_are_named(places, tmp_path):
    images = from_user(discs(2), 1)
    save(tmp_path / "black.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "broken.png").write_text("not a picture")
    for name, reason in (("black.png", "is all black"), ("broken.png", "not a readable"), ("none.png", "no such file")):
        with pytest.raises(UserError, match=f"{name}: {reason}"):
            within(images, str(tmp_path / name))
    with pytest.raises(UserError, match=r"0: has no pixel above the grey level 254 of data\.roi"):
        within(images, "threshold:254").read(0)
    shutil.copytree(places / "masks", tmp_path / "masks")
    save(tmp_path / "masks/0/2_mask.bmp", REGION)
    with pytest.raises(UserError, match=r"2_mask\.png: is a mask of the same images as 2_mask\.bmp"):
        within(read_inputs([places / "new"], 1), str(tmp_path / "masks"))
    settings = DataConfig(source="folder", dir=str(places), roi=f"{places}/masks")
    with pytest.raises(UserError, match=r"data\.roi=.*would be trained on"):
        load_one_class(Config(data=settings))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crop", [None, 16])
def test_an_image_is_read_once_for_its_pixels_and_its_region(tiny_run, places, kind, crop):
    """However often regions and the crop are applied; the region is that of the image before it is filled."""
    detector, reads = tiny_run.detector, []
    given = read_inputs([places / "new"], 1)
    queries = given._replace(read=lambda i: (reads.append(i), given.read(i))[1], folder="")
    detector = detector._replace(config=config_of(kind, places, **{"data.crop": crop}), regions=Regions(None, []))
    queries = in_regions(detector, in_regions(detector, queries.take(np.arange(6))))
    for i in range(6):
        np.testing.assert_array_equal(queries.region(i), middle(REGION, crop))
        outside = queries.read(i)[~middle(REGION, crop)]
        assert np.unique(outside).tolist() == [round(given.read(i)[REGION].mean())]
    assert reads == list(range(6))


@pytest.mark.parametrize("patches", [False, True])
def test_image_whose_region_is_cropped_away_cannot_be_read(patches, tiny_run, tmp_path):
    """Training leaves such an image out; scoring and an exported detector refuse it in one line."""
    bright = np.zeros((20, 20), np.uint8)
    for name, place in (("corner", 0), ("corner2", 1), *((f"middle{i}", 6 + i) for i in range(5))):
        image = bright.copy()
        image[place : place + 3, place : place + 3] = 200
        save(tmp_path / f"images/{name}.png", image)
    data = DataConfig(source="folder", dir=str(tmp_path / "images"), roi="threshold:100", crop=12)
    found = load_one_class(Config(data=data, patches=PatchConfig(enabled=patches)))
    parts = (found.train, found.held_out)
    readable = [name for part in parts for i, name in enumerate(part.names) if is_readable(part, i)]
    assert sorted(readable) == [f"middle{i}.png" for i in range(5)]
    values = {"data.roi": "threshold:100", "data.crop": 12, "patches.enabled": patches}
    detector = tiny_run.detector._replace(config=with_values(tiny_run.detector.config, values))
    with pytest.raises(UserError, match=r"corner\.png: its region of interest lies outside of data\.crop=12"):
        detector.score(tmp_path / "images/corner.png")
    detector.export(tmp_path / "parts.anogan")
    with pytest.raises(ValueError, match=r"image 0: its region lies outside of data\.crop=12"):
        runtime.load(tmp_path / "parts.anogan").score([np.pad(np.full((3, 3), 200, np.uint8), (0, 17))])


def test_masks_of_training_and_test_images_of_one_name_are_told_apart(tmp_path):
    """Each image has its own region, held-out images too."""
    for split, half in (("train", slice(4)), ("test", slice(4, 8))):
        for i in range(4):
            region = np.zeros((8, 8), bool)
            region[half, i] = True
            save(tmp_path / "data" / split / f"good/{i}.png", np.full((8, 8), 200, np.uint8))
            save(tmp_path / "masks" / split / f"good/{i}.png", region)
    settings = DataConfig(source="folder", dir=str(tmp_path / "data"), roi=str(tmp_path / "masks"), held_out=0.5)
    data = load_one_class(Config(data=settings))
    for images, half in ((data.train, slice(4)), (data.held_out, slice(4)), (data.test, slice(4, 8))):
        for place, name in enumerate(images.names):
            expected = np.zeros((8, 8), bool)
            expected[half, int(name.removeprefix("good/")[0])] = True
            np.testing.assert_array_equal(images.region(place), expected)


def test_threshold_finds_the_largest_parts():
    """In agreement with a search that grows one part after the other."""
    noise = ndimage.gaussian_filter(RNG.normal(size=(40, 50, 3)), (2, 2, 0))
    image = np.clip(128 + 600 * noise, 0, 255).astype(np.uint8)
    bright = image.mean(axis=-1) > 140
    parts, rest = [], bright.copy()
    while rest.any():
        seed = np.zeros_like(rest)
        seed[np.unravel_index(rest.argmax(), rest.shape)] = True
        parts.append(ndimage.binary_propagation(seed, mask=bright))
        rest &= ~parts[-1]
    parts.sort(key=lambda part: -part.sum())
    assert len(parts) > 4
    for count in (1, 3, len(parts) + 5):
        expected = np.any(parts[:count], axis=0)
        outside = ndimage.binary_propagation(
            np.pad(np.zeros_like(bright), 1, constant_values=True), mask=np.pad(~expected, 1, constant_values=True)
        )
        found = largest_parts(image, 140, count)
        np.testing.assert_array_equal(found, ~outside[1:-1, 1:-1])


def test_resized_region_loses_no_pixel():
    """A pixel of the smaller one counts exactly if it covers one that counts; a larger one shows the nearest."""
    region = RNG.random((37, 50)) < 0.02
    small = resize_region(region, 5, 8)
    expected = np.zeros((5, 8), bool)
    for row, column in np.argwhere(region):
        expected[
            next(i for i in range(4, -1, -1) if i * 37 // 5 <= row),
            next(i for i in range(7, -1, -1) if i * 50 // 8 <= column),
        ] = True
    np.testing.assert_array_equal(small, expected)
    np.testing.assert_array_equal(resize_region(small, 10, 24), np.repeat(np.repeat(small, 2, axis=0), 3, axis=1))
    np.testing.assert_array_equal(resize_region(region, 37, 50), region)


def test_patches_show_some_of_the_region():
    """A region of two pixels in a large image is drawn each time, anywhere in the patch; around it is its mean."""
    image = RNG.integers(0, 256, (60, 80), np.uint8)
    image[50, 3:5] = 0, 100
    region = np.zeros((60, 80), bool)
    region[50, 3:5] = True
    config = Config(model=ModelConfig(image_size=8), patches=PatchConfig(enabled=True))
    images = within(from_user(image[None], 1), "mask.png", region)
    draw = make_draw(images, config)
    patches = np.stack([draw(place)[..., 0] for place in range(200)])
    assert np.unique(patches).tolist() == [0, 50, 100]
    assert (patches != 50).any(axis=(1, 2)).all()
    assert len(np.unique((patches != 50).reshape(200, -1).argmax(axis=1))) > 20
