"""Data: every source and every conversion, and what is said when it is not there."""

import gzip
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from anogan_jax.config import Config, DataConfig, ModelConfig
from anogan_jax.data import load_one_class, read_input, sources, to_model_range, to_pixels
from anogan_jax.data.images import from_array, read_folder, read_image
from anogan_jax.errors import UserError

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


def test_idx_with_one_normal_class(idx_folder):
    data = load_one_class(config(source="idx", name="mnist", dir=str(idx_folder), normal=1, held_out=0.25))
    assert len(data.train.images) == 15
    assert len(data.held_out.images) == 5
    seen = np.sort([int(i[0, 0, 0]) for i in (*data.train.images, *data.held_out.images)])
    np.testing.assert_array_equal(seen, np.arange(1, 60, 3))  # every normal image once, and no other
    np.testing.assert_array_equal(data.test.labels, np.arange(30) % 3 != 1)
    assert data.test.names[7] == "7"


def test_idx_with_one_anomalous_class(idx_folder):
    data = load_one_class(config(source="idx", name="mnist", dir=str(idx_folder), anomalous=2))
    assert len(data.train.images) + len(data.held_out.images) == 40
    np.testing.assert_array_equal(data.test.labels, np.arange(30) % 3 == 2)


def test_a_test_sample_is_fixed(idx_folder):
    one, two = (
        load_one_class(config(source="idx", dir=str(idx_folder / "mnist"), normal=0, test_limit=9)) for _ in "ab"
    )
    assert len(one.test.images) == 9
    assert one.test.names == two.test.names


def test_an_unknown_class_names_the_field(idx_folder):
    with pytest.raises(UserError, match=r"data\.normal.*class 7"):
        load_one_class(config(source="idx", dir=str(idx_folder / "mnist"), normal=7))
    with pytest.raises(UserError, match=r"data\.normal: say which"):
        load_one_class(config(source="idx", dir=str(idx_folder / "mnist")))


def test_damaged_idx_files(idx_folder):
    file = next((idx_folder / "mnist").glob("train-images*"))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UserError, match="train-images"):
        load_one_class(config(source="idx", dir=str(idx_folder / "mnist"), normal=1))
    with pytest.raises(UserError, match=r"data\.dir"):
        load_one_class(config(source="idx", name="mnist", dir=str(idx_folder / "nothing"), normal=1))


def test_npz_in_medmnist_layout(tmp_path):
    images = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8)
    path = tmp_path / "data.npz"
    np.savez(
        path, train_images=images, train_labels=np.zeros((20, 1)), test_images=images, test_labels=np.ones((20, 1))
    )
    data = load_one_class(config(channels=3, source="npz", dir=str(path), normal=0))
    assert data.train.images.shape == (18, 8, 8, 3)
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
    (tmp_path / "notes.txt").write_text("not an image, not looked at")
    data = load_one_class(config(source="folder", dir=str(tmp_path), held_out=0.5))
    assert len(data.train.images) == len(data.held_out.images) == 2
    assert data.test is None


def test_folder_in_mvtec_layout(tmp_path):
    for name in ("train/good/a", "train/good/b", "test/good/c", "test/crack/d", "test/dent/e"):
        save(tmp_path / f"{name}.png", RNG.integers(0, 256, (8, 8), np.uint8))
    data = load_one_class(config(source="folder", dir=str(tmp_path), held_out=0.5))
    assert dict(zip(data.test.names, data.test.labels.tolist(), strict=True)) == {
        "crack/d.png": 1,
        "dent/e.png": 1,
        "good/c.png": 0,
    }


def test_unreadable_files_are_named_and_left_out(tmp_path):
    save(tmp_path / "good.png", RNG.integers(0, 256, (32, 32), np.uint8))
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:300])
    read = read_folder(tmp_path, 8, 1)
    assert read.names == ["good.png"]
    assert sorted(read.unreadable) == ["cut.png", "text.png"]
    assert all(str(tmp_path) in reason for reason in read.unreadable.values())
    queries = read_input(tmp_path, 8, 1)
    assert queries.names == ["cut.png", "good.png", "text.png"]
    np.testing.assert_array_equal(queries.read(1), read.images[0])
    with pytest.raises(UserError, match=r"cut\.png"):
        queries.read(0)
    (tmp_path / "good.png").unlink()
    for reader in (read_folder, read_input):
        with pytest.raises(UserError, match="none of its 2 images"):
            reader(tmp_path, 8, 1)


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
def test_every_mode_is_converted(tmp_path, make, expected):
    make().save(tmp_path / "image.png")
    for channels in (1, 3):
        pixels = read_image(tmp_path / "image.png", 8, channels)
        assert pixels.shape == (8, 8, channels)
        assert pixels.dtype == np.uint8
        assert abs(float(pixels.mean()) - expected) <= (1 if channels == 1 else 60)


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 0, 0, 128)).save(tmp_path / "image.jpg")
    assert abs(float(read_image(tmp_path / "image.jpg", 8, 3).mean()) - 127) < 5


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
        (np.full((2, 8, 8), "a"), "type"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(UserError, match=message) as raised:
        from_array(array, 8, 1, "file.npz")
    assert str(raised.value).startswith("file.npz")


def test_input_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.png", tmp_path / "none.npz", tmp_path / "none"):
        with pytest.raises(UserError, match="none"):
            read_input(path, 8, 1)
    with pytest.raises(UserError, match="holds no image"):
        read_input(tmp_path, 8, 1)
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 broken")
    with pytest.raises(UserError, match=r"broken\.npz"):
        read_input(tmp_path / "broken.npz", 8, 1)


def test_packaged_sets_are_real_and_split_by_class():
    for name, images in (("digits", 1797), ("mnist", 5000)):
        data = load_one_class(config(source="packaged", name=name, normal=3))
        total = sources.load_splits(DataConfig(source="packaged", name=name), ModelConfig(image_size=8))
        assert len(total.train.images) + len(total.test.images) == images
        assert abs(np.mean(data.test.labels == 0) - 0.1) < 0.01


def test_offline_the_packaged_images_stand_in_quickly_and_say_so(tmp_path, monkeypatch):
    def never_answers(address, timeout):
        time.sleep(timeout)
        raise TimeoutError

    monkeypatch.setattr(sources.socket, "create_connection", never_answers)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: object())  # TensorFlow at hand
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    began = time.monotonic()
    splits = sources.load_splits(DataConfig(name="mnist", dir=str(tmp_path)), ModelConfig(image_size=8))
    assert "5,000 MNIST images" in splits.origin
    assert "--config.data.dir" in splits.warning
    with pytest.raises(UserError, match=r"fashion_mnist.*--config\.data\.dir"):
        sources.load_splits(DataConfig(name="fashion_mnist", dir=str(tmp_path)), ModelConfig(image_size=8))
    with pytest.raises(UserError, match="cannot be downloaded"):
        sources.load_splits(DataConfig(source="tfds", name="mnist", dir=str(tmp_path)), ModelConfig(image_size=8))
    assert time.monotonic() - began < 30  # three data sets, 10 seconds each at most


def test_idx_files_are_preferred_to_packaged_ones(idx_folder):
    splits = sources.load_splits(DataConfig(name="mnist", dir=str(idx_folder)), ModelConfig(image_size=8))
    assert splits.origin.startswith("idx files")
    assert not splits.warning


@pytest.mark.parametrize("normalize", [False, True])
def test_model_range_and_back(normalize):
    images = RNG.integers(0, 256, (5, 8, 8, 1), np.uint8)
    seen = to_model_range(images, normalize)
    assert seen.dtype == np.float32
    assert np.abs(seen).max() <= 1
    np.testing.assert_array_equal(to_pixels(seen, images, normalize), images)


def test_normalised_contrast_ignores_brightness_and_contrast():
    image = RNG.integers(100, 150, (1, 8, 8, 1)).astype(np.uint8)
    brighter = (image - 100) * 2 + 20
    np.testing.assert_allclose(to_model_range(image, True), to_model_range(brighter.astype(np.uint8), True), atol=1e-6)
    mean_deviation = np.abs(to_model_range(image, True)).mean()
    np.testing.assert_allclose(mean_deviation, 1 / 8, rtol=1e-5)
    assert not to_model_range(np.full((1, 8, 8, 1), 77, np.uint8), True).any()


def test_tfds_without_tensorflow(monkeypatch):
    """TFDS's own stand-in for a prepared data set: 28x28 noise with labels, read as array_record is."""
    monkeypatch.setattr(sources, "tfds_is_prepared", lambda data: True)
    with tfds.testing.mock_data(num_examples=40):
        splits = sources.load_splits(DataConfig(source="auto", name="mnist"), ModelConfig(image_size=8))
    assert splits.origin.startswith("TFDS mnist")
    assert splits.train.images.shape == (40, 8, 8, 1)
    assert splits.train.images.std() > 0
    assert set(splits.train.labels.tolist()) <= set(range(10))
