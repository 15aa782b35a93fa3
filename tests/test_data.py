"""Data: every source, every conversion, and the errors of data that is missing or wrong."""

import gzip
import time
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import read_image
from mocked_tfds import mock_tfds
from PIL import Image

from anogan_jax.config import Config, DataConfig, ModelConfig, PatchConfig, TrainConfig, with_values
from anogan_jax.data import (
    as_array,
    cropped,
    from_user,
    layouts,
    load_one_class,
    make_draw,
    make_resize,
    read_ahead,
    read_inputs,
    sources,
    to_networks,
)
from anogan_jax.data.image_files import read_mask
from anogan_jax.data.images import Images, any_readable, cached, from_array
from anogan_jax.errors import UserError
from anogan_jax.evaluation import folder_of_input
from anogan_jax.runtime import contrast_tables, pad_to, to_model_range, to_pixels
from configs import celeb_a, oct

RNG = np.random.default_rng(0)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(params=["", ".gz"])
def idx_folder(tmp_path, request):
    for name, count in (("train", 60), ("t10k", 30)):
        images = np.repeat(np.arange(count, dtype=np.uint8), 64).reshape(count, 8, 8)
        write_idx(tmp_path / "mnist" / f"{name}-images-idx3-ubyte{request.param}", images)
        write_idx(tmp_path / "mnist" / f"{name}-labels-idx1-ubyte{request.param}", np.arange(count) % 3)
    return tmp_path


def config(channels=1, **data):
    return Config(data=DataConfig(**data), model=ModelConfig(image_size=8, channels=channels))


def test_idx_files_with_one_normal_class(idx_folder):
    data = load_one_class(config(source="idx", name="mnist", dir=str(idx_folder), normal=1, held_out=0.25))
    assert len(data.train.names) == 15
    assert len(data.held_out.names) == 5
    seen = np.sort([int(images.read(i)[0, 0, 0]) for images in data[:2] for i in range(len(images.names))])
    np.testing.assert_array_equal(seen, np.arange(1, 60, 3))  # every normal image once, and no other
    np.testing.assert_array_equal(data.test.labels, np.arange(30) % 3 != 1)
    assert data.test.names[7] == "7"


def test_idx_files_with_one_anomalous_class(idx_folder):
    data = load_one_class(config(source="idx", name="mnist", dir=str(idx_folder), anomalous=2))
    assert len(data.train.names) + len(data.held_out.names) == 40
    np.testing.assert_array_equal(data.test.labels, np.arange(30) % 3 == 2)


def test_sample_of_the_test_split_is_fixed(idx_folder):
    one, two = (
        load_one_class(config(source="idx", dir=str(idx_folder / "mnist"), normal=0, test_limit=9)) for _ in range(2)
    )
    assert len(one.test.names) == 9
    assert one.test.names == two.test.names


def test_unknown_class_names_the_field(idx_folder):
    with pytest.raises(UserError, match=r"data\.normal.*class 7"):
        load_one_class(config(source="idx", dir=str(idx_folder / "mnist"), normal=7))
    with pytest.raises(UserError, match=r"data\.normal: say which"):
        load_one_class(config(source="idx", dir=str(idx_folder / "mnist")))


def test_damaged_or_missing_idx_files_are_named(idx_folder):
    file = next((idx_folder / "mnist").glob("train-images*"))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UserError, match="train-images"):
        load_one_class(config(source="idx", dir=str(idx_folder / "mnist"), normal=1))
    with pytest.raises(UserError, match=r"data\.dir"):
        load_one_class(config(source="idx", name="mnist", dir=str(idx_folder / "nothing"), normal=1))


def test_npz_in_the_layout_of_medmnist(tmp_path):
    images = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8)
    path = tmp_path / "data.npz"
    np.savez(
        path, train_images=images, train_labels=np.zeros((20, 1)), test_images=images, test_labels=np.ones((20, 1))
    )
    settings = config(channels=3, source="npz", dir=str(path), normal=0)
    data = load_one_class(settings)
    assert as_array(data.train, settings).shape == (18, 8, 8, 3)
    assert data.test.labels.tolist() == [1] * 20
    np.savez(path, pictures=images)
    with pytest.raises(UserError, match=r"train_images.*pictures"):
        load_one_class(config(source="npz", dir=str(path)))


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path)


def test_folder_of_normal_images(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", RNG.integers(0, 256, (10, 12), np.uint8))
    (tmp_path / "notes.txt").write_text("not an image, so ignored")
    data = load_one_class(config(source="folder", dir=str(tmp_path), held_out=0.5))
    assert len(data.train.names) == len(data.held_out.names) == 2
    assert data.test is None


def test_folder_in_the_layout_of_mvtec(tmp_path):
    for name in ("train/good/a", "train/good/b", "test/good/c", "test/crack/d", "test/dent/e"):
        save(tmp_path / f"{name}.png", RNG.integers(0, 256, (8, 8), np.uint8))
    data = load_one_class(config(source="folder", dir=str(tmp_path), held_out=0.5))
    assert dict(zip(data.test.names, data.test.labels.tolist(), strict=True)) == {
        "crack/d.png": 1,
        "dent/e.png": 1,
        "good/c.png": 0,
    }


@pytest.mark.parametrize(
    ("path", "message"), [("bottle/train/good/a.png", "several data sets.*bottle"), ("test/good/a.png", "no train/")]
)
def test_folder_of_another_layout_is_refused(tmp_path, path, message):
    save(tmp_path / path, RNG.integers(0, 256, (8, 8), np.uint8))
    with pytest.raises(UserError, match=message):
        load_one_class(config(source="folder", dir=str(tmp_path)))


def with_masks(folder):
    """Write a data set with masks and images of several sizes, one good and two defective; return its config."""
    for name in ("train/good/a", "train/good/b", "test/good/c"):
        save(folder / f"{name}.png", RNG.integers(0, 256, (12, 10), np.uint8))
    for name, size in (("crack/d", (12, 9)), ("dent/deep/e", (20, 30))):
        save(folder / "test" / f"{name}.jpg", RNG.integers(0, 256, size, np.uint8))
        mask = np.zeros(size, np.uint8)
        mask[2:4, 3] = 255
        save(folder / "ground_truth" / f"{name}_mask.png", mask)
    return config(source="folder", dir=str(folder), held_out=0.5)


def test_masks_belong_to_their_images(tmp_path):
    test = load_one_class(with_masks(tmp_path)).test
    assert test.names == ["crack/d.jpg", "dent/deep/e.jpg", "good/c.png"]
    assert test.kinds == ["crack", "dent", "good"]
    assert [test.mask(i).shape for i in range(3)] == [test.read(i).shape[:2] for i in range(3)]
    assert [int(test.mask(i).sum()) for i in range(3)] == [2, 2, 0]
    few = test.take(np.array([2, 1]))
    assert (few.kinds, int(few.mask(1).sum())) == (["good", "dent"], 2)


@pytest.mark.parametrize("window", [None, "auto"])
def test_masks_are_read_once_under_every_window(tmp_path, monkeypatch, window):
    """Each of the two mask files is read once in three passes; an unreadable mask is an error in every pass."""
    settings, read = with_masks(tmp_path), []
    test = load_one_class(with_values(settings, {"data.window": window})).test
    monkeypatch.setattr(layouts, "read_mask", lambda path, *how: (read.append(path.name), read_mask(path, *how))[1])
    for _ in range(3):
        assert [int(test.mask(i).sum()) for i in range(3)] == [2, 2, 0]
    assert sorted(read) == ["d_mask.png", "e_mask.png"]
    (tmp_path / "ground_truth/dent/deep/e_mask.png").write_text("not a picture")
    test = load_one_class(with_values(settings, {"data.window": window})).test
    for _ in range(2):
        with pytest.raises(UserError, match=r"e_mask\.png"):
            test.mask(1)


def test_wrong_masks_are_named(tmp_path):
    settings, mask = with_masks(tmp_path), tmp_path / "ground_truth" / "crack" / "d_mask.png"
    save(mask, np.zeros((9, 12), np.uint8))
    with pytest.raises(UserError, match=r"d_mask\.png: 12x9 pixels, but its image test/crack/d\.jpg has 9x12"):
        load_one_class(settings).test.mask(0)
    for values, shown in (([0, 5, 9], "0, 5, 9"), ([3, 9, 9], "3, 9")):
        save(mask, np.resize(np.array(values, np.uint8), (12, 9)))
        with pytest.raises(UserError, match=rf"d_mask\.png: has the values {shown}; a mask has two"):
            load_one_class(settings).test.mask(0)
    save(mask, np.zeros((12, 9), np.uint8))
    with pytest.raises(UserError, match=r"d_mask\.png: is all black"):
        load_one_class(settings).test.mask(0)
    mask.write_text("not a picture")
    with pytest.raises(UserError, match=r"d_mask\.png: not a readable image"):
        load_one_class(settings).test.mask(0)
    for value in (0, 255):  # one value: nothing is anomalous, or everything
        save(mask, np.full((12, 9), value, np.uint8))
        assert read_mask(mask).all() == (value > 0)


def test_unreadable_files_are_named_and_omitted(tmp_path):
    save(tmp_path / "good.png", RNG.integers(0, 256, (32, 32), np.uint8))
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:300])
    queries = read_inputs([tmp_path], 1)
    assert queries.names == ["cut.png", "good.png", "text.png"]
    for number in (0, 2):
        with pytest.raises(UserError, match=str(tmp_path / queries.names[number])):
            queries.read(number)
    np.testing.assert_array_equal(as_array(queries, config()), [make_resize(config())(queries.read(1))])
    (tmp_path / "good.png").unlink()
    with pytest.raises(UserError, match=f"here: none of its 2 images can be read; the first: {tmp_path}/cut.png"):
        any_readable(read_inputs([tmp_path], 1), "here")
    with pytest.raises(UserError, match=rf"^{tmp_path}/text\.png"):
        any_readable(read_inputs([tmp_path / "text.png"], 1), "here")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Image.fromarray(np.full((8, 8), 257 * 90, np.uint16)), 90),
        (lambda: Image.new("L", (8, 8), 90), 90),
        (lambda: Image.new("LA", (8, 8), (90, 255)), 90),
        (lambda: Image.new("RGB", (8, 8), (100, 200, 50)), round(0.299 * 100 + 0.587 * 200 + 0.114 * 50)),
        (lambda: Image.new("RGBA", (8, 8), (90, 90, 90, 255)), 90),
        (lambda: Image.new("RGBA", (8, 8), (90, 90, 90, 0)), 0),
        (lambda: Image.new("P", (8, 8), 0), 0),
        (lambda: Image.new("1", (8, 8), 1), 255),
    ],
    ids=["16-bit", "grey", "grey with alpha", "RGB", "RGBA", "transparent", "palette", "bilevel"],
)
def test_every_image_mode_is_converted(tmp_path, make, expected):
    make().save(tmp_path / "image.png")
    for channels in (1, 3):
        pixels = read_image(tmp_path / "image.png", channels)
        assert pixels.shape == (8, 8, channels)
        assert pixels.dtype == np.uint8
        assert abs(float(pixels.mean()) - expected) <= (1 if channels == 1 else 60)


@pytest.mark.parametrize(("mode", "color"), [("L", 90), ("RGB", (90, 80, 70)), ("P", 3)])
def test_pixels_of_the_transparent_colour_are_black(tmp_path, mode, color):
    """A PNG may declare one colour transparent, in every mode."""
    image = Image.new(mode, (8, 8), color)
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "image.png", transparency=color)
    assert not read_image(tmp_path / "image.png", 3)[1:].any()


def test_large_colour_image_becomes_grey_as_a_small_one(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 31, 3), np.uint8)
    at_once = from_array(pixels, 1, "image").read(0)
    monkeypatch.setattr("anogan_jax.runtime._CONVERTED", 100)
    np.testing.assert_array_equal(from_array(pixels, 1, "image").read(0), at_once)


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (16, 16), (0, 0, 0, 128)).save(tmp_path / "image.jpg")
    assert abs(float(read_image(tmp_path / "image.jpg", 3).mean()) - 127) < 5


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 8, 8), np.nan), "not finite"),
        (np.full((2, 8, 8), 255.0), r"\[0, 1\]"),
        (np.full((2, 8, 8), 256), r"\[0, 255\]"),
        (np.full((2, 8, 8), -1), r"\[0, 255\]"),
        (np.zeros((2, 8, 8, 5), np.uint8), "5 channels"),
        (np.zeros(7, np.uint8), "shape"),
        (np.zeros((0, 8, 8), np.uint8), "shape"),
        (np.zeros((5, 64), np.uint8), r"\(5, 64\) is not \(N, H, W\); give images.reshape"),
        (np.zeros((5, 1, 8, 8), np.uint8), r"\(1, 8, 8\) seems to be \(C, H, W\).*np\.moveaxis"),
        (np.full((2, 8, 8), "a"), "type"),
    ],
)
def test_arrays_that_are_not_images_are_refused(array, message):
    with pytest.raises(UserError, match=message) as raised:
        from_array(array, 1, "file.npz").read(0)
    assert str(raised.value).startswith("file.npz")


def test_missing_or_damaged_input_is_named(tmp_path):
    for path in (tmp_path / "none.png", tmp_path / "none.npz", tmp_path / "none"):
        with pytest.raises(UserError, match="none"):
            read_inputs([path], 1)
    with pytest.raises(UserError, match="holds no image"):
        read_inputs([tmp_path], 1)
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 broken")
    with pytest.raises(UserError, match=r"broken\.npz"):
        read_inputs([tmp_path / "broken.npz"], 1)


def test_packaged_data_sets_are_split_by_class():
    for name, images in (("digits", 1797), ("mnist", 5000)):
        data = load_one_class(config(source="packaged", name=name, normal=3))
        total = sources.load_splits(DataConfig(source="packaged", name=name), ModelConfig(image_size=8))
        assert len(total.train.names) + len(total.test.names) == images
        assert abs(np.mean(data.test.labels == 0) - 0.1) < 0.01


def test_packaged_images_replace_an_unreachable_data_set_with_a_warning(tmp_path, monkeypatch):
    waited = []

    def never_answer(address, timeout):
        waited.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(sources.socket, "create_connection", never_answer)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: object())  # as if TensorFlow were there
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    splits = sources.load_splits(DataConfig(name="mnist", dir=str(tmp_path)), ModelConfig(image_size=8))
    assert "5,000 MNIST images" in splits.origin
    assert "--config.data.dir" in splits.warning
    with pytest.raises(UserError, match=r"fashion_mnist.*--config\.data\.dir"):
        sources.load_splits(DataConfig(name="fashion_mnist", dir=str(tmp_path)), ModelConfig(image_size=8))
    with pytest.raises(UserError, match="cannot be downloaded"):
        sources.load_splits(DataConfig(source="tfds", name="mnist", dir=str(tmp_path)), ModelConfig(image_size=8))
    assert len(waited) == 3
    assert max(waited) < 10  # seconds


def test_idx_files_are_preferred_to_packaged_images(idx_folder):
    splits = sources.load_splits(DataConfig(name="mnist", dir=str(idx_folder)), ModelConfig(image_size=8))
    assert splits.origin.startswith("idx files")
    assert not splits.warning


@pytest.mark.parametrize("normalize", [False, True])
def test_pixels_survive_the_model_range_and_back(normalize):
    images = RNG.integers(0, 256, (5, 8, 8, 1), np.uint8)
    seen = to_model_range(images, normalize)
    assert seen.dtype == np.float32
    assert np.abs(seen).max() <= 1
    np.testing.assert_array_equal(to_pixels(seen, images, normalize), images)


def test_contrast_normalisation_removes_brightness_and_contrast():
    image = RNG.integers(100, 150, (1, 8, 8, 1)).astype(np.uint8)
    brighter = (image - 100) * 2 + 20
    np.testing.assert_allclose(to_model_range(image, True), to_model_range(brighter.astype(np.uint8), True), atol=1e-6)
    mean_deviation = np.abs(to_model_range(image, True)).mean()
    np.testing.assert_allclose(mean_deviation, 1 / 8, rtol=1e-5)
    assert not to_model_range(np.full((1, 8, 8, 1), 77, np.uint8), True).any()


def test_tfds_is_read_without_tensorflow(monkeypatch):
    """From TFDS's mock of a prepared data set: 28x28 noise with labels."""
    monkeypatch.setattr(sources, "tfds_is_prepared", lambda data: True)
    with mock_tfds(40):
        splits = sources.load_splits(DataConfig(source="auto", name="mnist"), ModelConfig(image_size=8))
    assert splits.origin.startswith("TFDS mnist")
    images = as_array(splits.train, config())
    assert images.shape == (40, 8, 8, 1)
    assert images.std() > 0
    assert set(splits.train.labels.tolist()) <= set(range(10))


@pytest.mark.parametrize("values", [{}, {"data.attribute": "Eyeglasses", "data.normal": "0"}])
def test_celeb_a_is_read_one_image_at_a_time_and_cropped(values, monkeypatch):
    """All faces are normal, or those without an attribute."""
    monkeypatch.setattr(sources, "tfds_is_prepared", lambda data: True)
    settings = with_values(celeb_a.get_config(), values)
    with mock_tfds(30):
        rows = tfds.builder("celeb_a").as_data_source(split="train")
        data = load_one_class(settings)
        is_normal = [not values or not row["attributes"]["Eyeglasses"] for row in rows]
        names = [str(i) for i in np.flatnonzero(is_normal)]
        assert sorted([*data.train.names, *data.held_out.names], key=int) == names
        for images in (data.train, data.held_out):
            whole = rows[int(images.names[0])]["image"]
            np.testing.assert_array_equal(images.read(0), whole[39:179, 19:159])
        with pytest.raises(UserError, match=r"data\.attribute=Nose.*Bald"):
            load_one_class(with_values(settings, {"data.attribute": "Nose", "data.normal": "0"}))


@pytest.mark.parametrize(
    ("name", "values"), [("mnist", {"data.normal": "3"}), ("celeb_a", {"data.attribute": "Bald", "data.normal": "0"})]
)
def test_labels_of_tfds_are_read_without_the_images(name, values, monkeypatch):
    decode, decoded = tfds.features.Image.decode_example_np, []
    monkeypatch.setattr(
        tfds.features.Image, "decode_example_np", lambda *of: (decoded.append(len(decoded)), decode(*of))[1]
    )
    monkeypatch.setattr(sources, "tfds_is_prepared", lambda data: True)
    with mock_tfds(30):
        data = load_one_class(with_values(config(source="tfds", name=name), values))
        assert 1 < len(data.train.names) + len(data.held_out.names) < 30
        assert not decoded
        data.train.read(0)
        assert len(decoded) == 1


def test_octmnist_is_read_with_its_keys(tmp_path):
    sizes, path = {"train": 40, "val": 5, "test": 20}, tmp_path / "octmnist.npz"
    arrays = {f"{split}_images": RNG.integers(0, 256, (count, 28, 28), np.uint8) for split, count in sizes.items()}
    labels = {f"{split}_labels": np.arange(count)[:, None] % 4 for split, count in sizes.items()}
    np.savez(path, **arrays, **{name: each.astype(np.uint8) for name, each in labels.items()})
    for normal in ("3", "0"):
        data = load_one_class(with_values(oct.get_config(), {"data.dir": str(path), "data.normal": normal}))
        assert len(data.train.names) + len(data.held_out.names) == 10
        np.testing.assert_array_equal(data.test.labels, np.arange(20) % 4 != int(normal))


def test_images_masks_and_regions_are_cropped_alike():
    """The middle of each; sides that are shorter stay; a second time changes nothing."""
    image = np.arange(11 * 6, dtype=np.uint8).reshape(11, 6, 1)
    images = Images(["a"], None, lambda i: image, mask=lambda i: image[..., 0] > 30, region=lambda i: image[..., 0] > 9)
    for size, wanted in ((4, np.s_[3:7, 1:5]), (8, np.s_[1:9, :]), (20, np.s_[:, :])):
        once = cropped(images, size)
        for found in (once, cropped(once, size)):
            np.testing.assert_array_equal(found.read(0), image[wanted])
            np.testing.assert_array_equal(found.mask(0), image[wanted][..., 0] > 30)
            np.testing.assert_array_equal(found.region(0), image[wanted][..., 0] > 9)
    assert cropped(images, None) is images


def test_queries_are_cropped_as_the_training_images(tiny_run):
    detector = tiny_run.detector._replace(config=with_values(tiny_run.detector.config, {"data.crop": 8}))
    image = RNG.integers(0, 256, (1, 12, 20), np.uint8)
    ours, theirs = detector.score(image), tiny_run.detector.score(image[:, 2:10, 6:14])
    np.testing.assert_array_equal(ours.score, theirs.score)
    np.testing.assert_array_equal(ours.anomaly_map, theirs.anomaly_map)


def test_whole_images_are_resized_and_patches_are_not():
    image = RNG.integers(0, 256, (40, 24, 1), np.uint8)
    assert make_resize(config())(image).shape == (8, 8, 1)
    patches = config()
    patches.patches = PatchConfig(enabled=True)
    np.testing.assert_array_equal(make_resize(patches)(image), image)
    patches.patches.scale = 0.25
    small = make_resize(patches)(image)
    assert small.shape == (10, 6, 1)
    padded = pad_to(small, 8)  # narrower than a patch, so mirrored
    assert padded.shape == (10, 8, 1)
    np.testing.assert_array_equal(padded[:, 6:], small[:, 5:3:-1])


def numbered(*shapes):
    """Return images, at most 10 wide, in which each pixel's value is its place: ten times its row plus its column."""
    arrays = [np.add.outer(10 * np.arange(h), np.arange(w)).astype(np.uint8)[..., None] for h, w in shapes]
    return Images([str(i) for i in range(len(arrays))], None, arrays.__getitem__)


def test_stream_consists_of_shuffled_epochs():
    images = [np.full((8, 8, 1), i, np.uint8) for i in range(10)]
    one, other = config(), config()
    other.seed = 1
    drawn = [
        [int(draw(place)[0, 0, 0]) for place in range(60)]
        for draw in (make_draw(Images(list("0123456789"), None, images.__getitem__), each) for each in (one, other))
    ]
    epochs = np.array(drawn[0]).reshape(6, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (6, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert drawn[0] != drawn[1]


def test_patches_cover_an_image_evenly_and_depend_on_their_place_alone():
    """Edges are drawn nearly as often as the middle; a patch is a piece of the image."""
    settings = config()
    settings.patches = PatchConfig(enabled=True)
    draw = make_draw(numbered((20, 10)), settings)
    seen = np.zeros(200)
    patches = [draw(place)[..., 0] for place in range(2000)]
    for patch in patches:
        np.testing.assert_array_equal(patch, patch[0, 0] + np.add.outer(10 * np.arange(8), np.arange(8)))
        seen[patch] += 1
    assert seen[[0, 9, 190, 199]].min() > 0.15 * seen[95]  # 0.04 if all corners were equally likely
    np.testing.assert_array_equal(make_draw(numbered((20, 10)), settings)(77)[..., 0], patches[77])


def test_all_flips_and_rotations_are_drawn():
    settings = config()
    settings.train = TrainConfig(flip=True, rotate=True)
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    draw = make_draw(Images(["0"], None, lambda _: image[..., None]), settings)
    found = {draw(place).tobytes() for place in range(200)}
    ways = {np.rot90(way, turns).tobytes() for way in (image, image[::-1]) for turns in range(4)}
    assert found == ways


def test_patches_without_contrast_are_drawn_again():
    image = np.zeros((32, 32, 1), np.uint8)
    image[:16, :16, 0] = RNG.integers(0, 256, (16, 16))
    settings = config()
    for least, empty in ((0.0, True), (20.0, False)):
        settings.patches = PatchConfig(enabled=True, min_contrast=least)
        draw = make_draw(Images(["0"], None, lambda _: image), settings)
        assert any(not draw(place).any() for place in range(50)) == empty


def test_images_read_ahead_keep_their_order_and_errors_their_place():
    def read(i):
        time.sleep(0.002 * (i % 3))
        if i == 4:
            raise UserError("the fifth")
        return i

    found = list(read_ahead(read, range(20), ahead=6))
    assert [i for i in found if not isinstance(i, UserError)] == [i for i in range(20) if i != 4]
    assert str(found[4]) == "the fifth"


def test_cache_keeps_to_its_size():
    reads = []

    def read(i):
        reads.append(i)
        return np.full(100, i, np.uint8)

    get = cached(read, max_bytes=250)
    for i in (0, 1, 0, 2, 0, 1):  # 2 evicts 1, the least recently used
        assert get(i)[0] == i
    assert reads == [0, 1, 2, 1]


def test_contamination_adds_anomalous_training_images(idx_folder):
    def mixed_by(share):
        how = dict(source="idx", name="mnist", dir=str(idx_folder), normal=1, held_out=0.25)
        return load_one_class(config(**how, contamination=share))

    clean, mixed = mixed_by(0.0), mixed_by(0.25)
    assert set(clean.train.names) < set(mixed.train.names)
    assert mixed.held_out.names == clean.held_out.names
    values = np.array([int(mixed.train.read(i)[0, 0, 0]) for i in range(len(mixed.train.names))])
    assert (values % 3 != 1).sum() == 5  # a quarter of 20
    with pytest.raises(UserError, match=r"data\.contamination=0\.9"):
        mixed_by(0.9)


def read_all(images):
    return np.stack([images.read(i) for i in range(len(images.names))])


def test_arrays_from_python_are_read_alike():
    """The same pixels come from uint8 and floats in [-1, 1], with and without channels, in arrays and lists."""
    pixels = RNG.integers(0, 256, (6, 8, 9, 1), np.uint8)
    floats = to_model_range(pixels)
    for given in (pixels, floats, floats.astype(np.float64), pixels[..., 0], list(pixels), list(floats[..., 0])):
        np.testing.assert_array_equal(read_all(from_user(given, 1)), pixels)
    mixed = from_user([pixels[0, :5], floats[1], pixels[2, :, :6, 0]], 1)
    assert [mixed.read(i).shape for i in range(3)] == [(5, 9, 1), (8, 9, 1), (8, 6, 1)]
    np.testing.assert_array_equal(mixed.read(1), pixels[1])
    colours = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(read_all(from_user(colours, 3)), colours)
    assert read_all(from_user(colours, 1)).shape == (2, 8, 8, 1)


def test_floats_of_a_list_are_checked_together():
    """A bright image is read if the list has a value below 0, as in an array, and is refused by itself."""
    bright, dark = np.full((8, 8), 0.5, np.float32), np.full((8, 8), -0.5, np.float32)
    for given in ([bright, dark], [bright, np.zeros((8, 8), np.uint8), dark.astype(np.float64)]):
        assert np.unique(from_user(given, 1).read(0)).tolist() == [191]
    np.testing.assert_array_equal(
        read_all(from_user([bright, dark], 1)), read_all(from_user(np.stack([bright, dark]), 1))
    )
    dark[3, 3] = np.nan
    for given in ([bright, dark], [bright, dark - 1], [bright], [bright, np.zeros((9, 8), np.uint8)]):
        for images in (given, tuple(given)):
            with pytest.raises(UserError, match=r"^images: must be (finite )?floats in \[-1, 1\]"):
                from_user(images, 1)


@pytest.mark.parametrize("first", [0, -1, 9])
def test_the_advice_about_channels_first_gives_the_images(first):
    """An array, and a list, of images with their channels first; what is moved back is accepted."""
    images = RNG.integers(0, 256, (12, 8, 8, 3), np.uint8)
    moved = np.moveaxis(images, -1, -3)
    for given in (moved, list(moved)):
        with pytest.raises(UserError, match="channels first"):
            from_user(given, 3)
    np.testing.assert_array_equal(from_user(np.moveaxis(moved, -3, -1), 3).read(first), images[first])


@pytest.mark.parametrize(
    "labels",
    [
        *(np.full(20, 0.5), np.full(20, 1e300), np.full(20, np.inf), np.full(20, np.nan), np.full(20, 2.0**63)),
        *(np.eye(20), np.arange(3), np.array(["ok"] * 3), np.full((20, 2), "ok"), np.array(3), np.zeros(20, complex)),
        *(np.zeros(20, "datetime64[s]"), np.array(["ok"] * 19 + [""]), np.array([b"\xff"] * 20)),
    ],
    ids=lambda labels: f"{labels.dtype}{labels.shape}",
)
def test_labels_that_are_not_one_whole_number_or_text_an_image_are_refused(labels, tmp_path):
    path = tmp_path / "file.npz"
    np.savez(path, train_images=np.zeros((20, 8, 8), np.uint8), train_labels=labels)
    with pytest.raises(UserError, match=r"file\.npz: train_(labels|images).*(\(N,\)|image 19 .* empty|as text)"):
        load_one_class(config(source="npz", dir=str(path), normal=0))


@pytest.mark.parametrize(
    ("train", "test", "normal"),
    [
        (np.array(["ok", "ng"] * 10), np.array(["ng", "ok"] * 10), "ok"),
        (np.array([["OK"], ["ng"]] * 10), np.array(["scratch", "OK"] * 10), "ok"),
        (np.array([b"ok", b"ng"] * 10), np.array([b"dent", b"ok"] * 10), "ok"),
        (np.array(["cat", "dog"] * 10), np.array(["cow", "bird"] * 10), "cat,bird"),
        (np.array([True, False] * 10), np.array([2.0, 1.0] * 10), 1),
        (np.array(["0", "1"] * 10), np.array([1, 0] * 10, np.uint8), 0),
        (None, np.array(["ng", "ok"] * 10), "ok"),
    ],
)
def test_labels_may_be_texts_or_numbers(train, test, normal, tmp_path):
    """Images of the normal class alone are trained on, of both splits the same class."""
    arrays = {f"{split}_images": np.full((20, 8, 8), 9, np.uint8) for split in ("train", "test")}
    labels = {"test_labels": test} | ({} if train is None else {"train_labels": train})
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    data = load_one_class(config(source="npz", dir=str(tmp_path / "a.npz"), normal=normal))
    used = sorted(map(int, [*data.train.names, *data.held_out.names]))
    assert used == list(range(0, 20, 1 if train is None else 2))
    assert data.test.labels.tolist() == [1, 0] * 10


@pytest.mark.parametrize(
    ("train", "test", "classes"), [("ok", "ng", "ng, ok"), (0, 2, "0, 2"), (None, "ok", "ok"), ("0", 7, "0, 7")]
)
def test_without_a_normal_class_labels_are_0_and_1(train, test, classes, tmp_path):
    arrays = {f"{split}_images": np.full((20, 8, 8), 9, np.uint8) for split in ("train", "test")}
    path, trained = tmp_path / "a.npz", {} if train is None else {"train_labels": np.full(20, train)}
    np.savez(path, **arrays, **trained, test_labels=np.full(20, test))
    with pytest.raises(UserError, match=rf"data\.normal: say which class is normal; .*a\.npz has {classes}$"):
        load_one_class(config(source="npz", dir=str(path)))
    np.savez(path, **arrays, train_labels=np.zeros(20), test_labels=np.arange(20) % 2)
    assert load_one_class(config(source="npz", dir=str(path))).test.labels.tolist() == [0, 1] * 10


def test_member_of_an_npz_that_is_no_array_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as file:
        file.writestr("images", "text")
    with pytest.raises(UserError, match=r"images\.npz: its member images is not an array"):
        read_inputs([tmp_path / "images.npz"], 1)


@pytest.mark.parametrize("name", ["..png", "...png", ".a.png"])
def test_results_of_any_name_have_a_folder_below_inputs(name, tmp_path):
    (tmp_path / name).write_text("")
    assert folder_of_input(tmp_path / "run", tmp_path / name).parent == tmp_path / "run/inputs"


def test_arrays_of_python_objects_are_refused_with_advice(tmp_path):
    """Such as the column of a table, or a list of images of several sizes."""
    path, images = tmp_path / "a.npz", np.zeros((4, 8, 8), np.uint8)
    np.savez(path, train_images=images, train_labels=np.array(["ok"] * 4, object))
    with pytest.raises(UserError, match=r"a\.npz: holds Python objects.*labels\.astype\(str\)"):
        load_one_class(config(source="npz", dir=str(path), normal="ok"))
    for name in ("b.npy", "c.npz"):
        objects = np.array([images[0], images[0, :4]], object)
        np.save(tmp_path / name, objects) if name == "b.npy" else np.savez(tmp_path / name, images=objects)
        with pytest.raises(UserError, match="holds Python objects"):
            read_inputs([tmp_path / name], 1)


def test_narrow_grey_images_are_not_taken_for_colour_images():
    """A list of images (H, W) with W 4 and H different."""
    given = [RNG.integers(0, 256, (height, 4), np.uint8) for height in (8, 9)]
    images = from_user(given, 1)
    np.testing.assert_array_equal(images.read(1)[..., 0], given[1])


def test_paths_from_python_are_read_as_input(tmp_path):
    save(tmp_path / "image.png", RNG.integers(0, 256, (9, 7), np.uint8))
    for path in (tmp_path, str(tmp_path), tmp_path / "image.png"):
        assert from_user(path, 1).read(0).shape == (9, 7, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 8, 8), 0.5), r"\[0, 1\].*2 \* images - 1"),
        (np.linspace(-2, 2, 128).reshape(2, 8, 8), "found -2 to 2"),
        (np.full((2, 8, 8), np.nan), "finite"),
        ([np.full((8, 8), 0.5), np.full((9, 9), 0.5)], r"\[0, 1\]"),
        ([np.zeros((0, 8)), np.zeros((8, 8), np.uint8)], r"image 0: shape \(0, 8\)"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((1, 2, 8, 8, 1), np.uint8), "shape"),
        (np.zeros((0, 8, 8), np.uint8), "empty"),
        ([], "empty"),
        (np.zeros((5, 64), np.float32), "images.reshape"),
        (np.zeros((5, 3, 8, 8), np.uint8), r"np\.moveaxis\(images, -3, -1\)"),
        ([np.zeros((3, 8, 9), np.uint8)], r"\(3, 8, 9\) seems to be \(C, H, W\)"),
        ([[[1, 2], [3]]], "rows of different lengths"),
        ([[1, 2], [3]], r"image 0: shape \(2,\)"),
        (np.array(5), "ndarray; give an array"),
        ({"images": 3}, r"dict; give an array \(N, H, W\[, C\]\), a list of images, or a path"),
        ((image for image in [np.zeros((8, 8))]), "generator; give"),
        (None, "NoneType; give"),
        (np.zeros((2, 8, 8, 5), np.uint8), "5 channels"),
        (np.full((2, 8, 8), 300), r"\[0, 255\]"),
        (np.full((2, 8, 8), "a"), "type"),
        (np.full((2, 8, 8), None), "type"),
    ],
)
def test_arrays_from_python_that_are_not_images_are_refused(images, message):
    with pytest.raises(UserError, match=message) as raised:
        from_user(images, 1).read(0)
    assert str(raised.value).startswith("images")


def test_orientation_of_the_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(np.tile(np.arange(16, dtype=np.uint8) * 16, (8, 1))).save(tmp_path / "image.jpg", exif=exif)
    pixels = read_image(tmp_path / "image.jpg", 1)
    assert pixels.shape == (16, 8, 1)
    assert (np.diff(pixels[:, 4, 0].astype(int)) > 0).all()


def test_data_without_labels_is_all_normal(tmp_path):
    np.save(tmp_path / "images.npy", RNG.integers(0, 256, (20, 8, 8), np.uint8))
    data = load_one_class(config(source="npz", dir=str(tmp_path / "images.npy"), held_out=0.25))
    assert (len(data.train.names), len(data.held_out.names), data.test) == (15, 5, None)
    given = from_user(np.load(tmp_path / "images.npy"), 1)
    same = load_one_class(config(source="arrays", held_out=0.25), given)
    assert same.held_out.names == data.held_out.names
    with pytest.raises(UserError, match=r"data\.source=arrays"):
        load_one_class(config(source="arrays"))


@pytest.mark.parametrize("shape", [(9, 14, 1), (8, 8, 3)])
def test_contrast_tables_agree_with_normalisation(shape):
    """A patch of an image, through the table, is that part of the normalised image; the inverse gives it back."""
    image = np.random.default_rng(0).normal(100, 9, shape).astype(np.uint8)
    table, inverse = contrast_tables(image)
    step = 1 / 127.5
    np.testing.assert_allclose(to_model_range(table[image][None]), to_model_range(image[None], True), atol=0.6 * step)
    assert np.abs(inverse[table[image]].astype(int) - image).max() <= 1
    flat, _ = contrast_tables(np.full(shape, 7, np.uint8))
    assert flat[7] in (127, 128)


def test_patches_lose_the_contrast_of_their_image():
    """Two images that differ in brightness and contrast alone give nearly the same training patches."""
    dark = np.random.default_rng(0).integers(20, 60, (30, 24, 1), np.uint8)
    bright = 3 * dark + 50
    settings = Config(
        data=DataConfig(normalize_contrast=True), model=ModelConfig(image_size=8), patches=PatchConfig(enabled=True)
    )
    for place in range(5):
        patches = [make_draw(Images(["0"], None, lambda _, of=of: of), settings)(place) for of in (dark, bright)]
        assert np.abs(patches[0].astype(int) - patches[1]).max() <= 1
        assert np.abs(to_networks(patches[0][None], settings) - to_networks(patches[1][None], settings)).max() < 0.01
