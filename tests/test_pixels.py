"""From pixels of any type to grey levels: the window, and files of more than 8 bits; nothing wraps."""

import zlib

import numpy as np
import pytest
from conftest import read_image, tiny_config
from PIL import Image, PngImagePlugin

from anogan_jax import Config, fit, load
from anogan_jax import config as configs
from anogan_jax.config import DataConfig, ModelConfig, with_values
from anogan_jax.data import from_user, load_one_class, read_inputs, to_networks
from anogan_jax.data.image_files import read_mask
from anogan_jax.data.pictures import read_picture
from anogan_jax.data.pixels import _warn_of_few_levels, find_window, to_grey_levels
from anogan_jax.errors import UserError

RNG = np.random.default_rng(0)
TYPES = ["i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<f4", ">f4", "<f8", ">f2", "<i8"]


def grey(array, window=None, channels=1):
    return to_grey_levels(np.atleast_3d(array), "here", channels, window)


def full_range(dtype, shape):
    """Return values over the whole range of a type, its ends among them."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.linspace(-3000, 3000, np.prod(shape)).astype(dtype).reshape(shape)
    ends = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    drawn = RNG.integers(*ends, np.prod(shape) - 2, dtype=dtype.newbyteorder("="), endpoint=True)
    return np.concatenate([np.array(ends, dtype), drawn.astype(dtype)]).reshape(shape)


@pytest.mark.parametrize("dtype", TYPES)
def test_window_is_linear_for_every_type(dtype):
    """Agreement with Python's exact integers and floats, one pixel at a time; values outside are the nearer end."""
    array = full_range(dtype, (6, 9))
    values = [float(value) for value in array.ravel()]
    for low, high in ((-100.0, 155.0), (0.0, 4095.0), (min(values), max(values)), (1.5, 2.5)):
        wanted = [round(255 * min(max((value - low) / (high - low), 0), 1)) for value in values]
        np.testing.assert_array_equal(grey(array, (low, high)).ravel(), wanted)


def test_levels_of_12_bits_reach_the_network_as_256_levels(tmp_path):
    """A ramp from 1000 to 1510, in files and from Python: under the window its steps of 2 stay apart."""
    ramp = (1000 + 2 * np.arange(256, dtype=np.uint16)).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    np.save(tmp_path / "ramp.npy", ramp[None])
    for image in (ramp[None], [ramp], tmp_path / "ramp.png", tmp_path / "ramp.npy", ramp[None].astype(np.float32)):
        pixels = from_user(image, 1, (1000, 1510)).read(0)
        seen = to_networks(pixels[None], Config(model=ModelConfig(image_size=16)))
        assert len(np.unique(seen)) == 256
        assert (np.diff(seen.ravel()) > 0).all()
    without = from_user(ramp[None], 1).read(0)
    assert len(np.unique(without)) <= 3


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 128, 255]], np.uint8), [0, 128, 255]),
        (np.array([[0, 257 * 90, 65535]], ">u2"), [0, 90, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0, 0.5, 1]], ">f4"), [0, 128, 255]),
        (np.array([[0, 7, 127]], np.int8), [0, 7, 127]),
        (np.array([[0, 255]], ">i4"), [0, 255]),
    ],
)
def test_without_a_window_the_type_says_the_range(array, expected):
    np.testing.assert_array_equal(grey(array).ravel(), expected)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[-1, 5]], np.int8),
        np.array([[0, 256]], np.int16),
        np.array([[0, 2**31]], np.uint32),
        np.array([[-(2**31), 0]], ">i4"),
        np.array([[0, 2**63]], np.uint64),
        np.array([[-1000.0, 3000.0]], np.float32),
    ],
)
def test_what_has_no_grey_level_is_refused_and_the_flag_is_named(array):
    with pytest.raises(UserError, match=r"^here.*data\.window=LOW,HIGH"):
        grey(array)
    with pytest.raises(UserError, match=r"data\.window"):
        from_user(np.tile(array, (5, 4))[None], 1).read(0)


@pytest.mark.parametrize(
    "array", [np.array([[1 + 2j]]), np.array([["a"]]), np.array([[np.nan, 1]]), np.array([[-np.inf]])]
)
def test_a_window_does_not_make_numbers_of_what_is_none(array):
    with pytest.raises(UserError, match=r"^here"):
        grey(array, (0, 1))


def test_transparency_is_not_windowed():
    array = np.array([[[3000, 3000, 3000, 65535], [3000, 3000, 3000, 257 * 128], [3000, 3000, 3000, 0]]], np.uint16)
    np.testing.assert_array_equal(grey(array, (2000, 4000), channels=3)[0], [[128] * 3, [64] * 3, [0] * 3])


def test_colours_are_windowed_before_they_become_grey():
    array = np.array([[[2000, 4000, 3000]]], np.uint16)
    assert grey(array, (2000, 4000)).item() == round(0.587 * 255 + 0.114 * 128)


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_windowed_in_strips(channels, monkeypatch):
    array = RNG.integers(-2000, 2000, (31, 9, channels), np.int16)
    at_once = grey(array, (-500, 900))
    monkeypatch.setattr("anogan_jax.runtime._CONVERTED", 50)
    np.testing.assert_array_equal(grey(array, (-500, 900)), at_once)


def test_few_levels_are_warned_of_once_for_a_folder(tmp_path, caplog):
    """Values may be few though they are high, as those of CT with an offset."""
    _warn_of_few_levels.cache_clear()
    for i, offset in enumerate((0, 32768)):
        Image.fromarray((np.arange(64, dtype=np.uint16) * 60 + offset).reshape(8, 8)).save(tmp_path / f"{i}.png")
    images = read_inputs([tmp_path], 1)
    for i in (0, 1, 1):
        images.read(i)
    warned = [message for message in caplog.messages if "data.window" in message]
    assert len(warned) == 1
    assert str(tmp_path) in warned[0]
    caplog.clear()
    read_inputs([tmp_path], 1, (0, 4095)).read(0)
    assert not caplog.messages


def test_auto_takes_quantiles_of_the_training_images_alone():
    """The window of images that overlap in a range; it does not depend on the test images."""
    images = RNG.integers(1000, 3000, (40, 32, 32)).astype(np.uint16)
    images[0, 0, 0] = 60000
    low, high = find_window([images[i] for i in range(40)], seed=0)
    np.testing.assert_allclose([low, high], [1000 + 2, 3000 - 3], atol=8)
    with pytest.raises(UserError, match=r"data\.window=auto"):
        find_window([np.full((8, 8), 7)], seed=0)


def test_auto_is_found_once_and_kept_in_the_detector(tmp_path):
    """The config in the detector and in the file has the two numbers; scoring with "auto" or with them is the same."""
    images = RNG.integers(1000, 3000, (40, 8, 8)).astype(np.uint16)
    fast = {"train.steps": 2, "encoder.steps": 0, "segmenter.steps": 0, "rotation.steps": 0, "bank.inverted": 0}
    config = tiny_config(fast | {"data.normal": None, "data.window": "auto"})
    detector = fit(images, config, workdir=tmp_path)
    low, high = detector.config.data.window
    assert 1000 <= low < high <= 3000
    assert max(image.max() for image in detector.held_out) > 200  # not windowed again
    np.testing.assert_array_equal(fit(images, config, workdir=tmp_path).held_out[0], detector.held_out[0])
    found = detector.score(images[:3])
    again = load(tmp_path)
    assert again.config.data.window == (low, high)
    np.testing.assert_array_equal(again.score(images[:3]).score, found.score)
    np.testing.assert_array_equal(found.image, grey(images[:3, ..., None], (low, high)))
    assert again.with_config(with_values(again.config, {"data.window": "auto"})).config.data.window == (low, high)
    with pytest.raises(UserError, match=r"data\.window"):
        again.with_config(with_values(again.config, {"data.window": (0, 5)}))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_auto_leaves_out_images_that_cannot_be_read(odd):
    images = [np.full((4, 4, 1), level, np.float32) for level in (1.0, 2.0)]
    broken = images[0].copy()
    broken[0, 0] = odd
    assert find_window([*images, broken, np.full((2, 2, 1), "a")], 0) == find_window(images, 0)
    with pytest.raises(UserError, match=r"data\.window=auto: needs readable training images.*not finite"):
        find_window([broken], 0)
    with pytest.raises(UserError, match=r"data\.window=auto: needs readable training images.*no file can be read"):
        find_window([], 0)


def test_auto_of_a_data_set_is_that_of_its_normal_training_images(tmp_path):
    for name, level in (("good", 3000), ("bad", 50_000)):
        (tmp_path / name).mkdir()
        for i in range(10):
            pixels = RNG.integers(level, level + 1000, (8, 8)).astype(np.uint16)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    settings = DataConfig(source="folder", dir=str(tmp_path), window="auto")
    data = load_one_class(Config(data=settings, model=ModelConfig(image_size=8)))
    assert 3000 <= data.window[0] < data.window[1] <= 4000
    assert all(data.test.read(i).min() == 255 for i in np.flatnonzero(data.test.labels))


@pytest.mark.parametrize(
    ("given", "window"),
    [("0,4095", (0, 4095)), ("(-160, 240)", (-160, 240)), ([0, 1], (0, 1)), ("auto", "auto"), ("", None), (None, None)],
)
def test_window_is_given_as_text_or_numbers(given, window):
    assert configs.validate(Config(data=DataConfig(window=given))).data.window == window


@pytest.mark.parametrize("given", ["5", "5,1", "1,1", "a,b", "1,2,3", 7, (3, 2), ("1",), "nan,1", "0,inf", {}])
def test_a_wrong_window_is_named(given):
    with pytest.raises(UserError, match=r"data\.window="):
        configs.validate(Config(data=DataConfig(window=given)))


def written_tiff(path, array, bits, sample_format, photometric=1, big_endian=False):
    """Write an uncompressed TIFF by hand: Pillow cannot write every type that there is."""
    order = ">" if big_endian else "<"
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    height, width, count = (*array.shape, 1)[:3]
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, count), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format)]
    values = [(tag, kind, 1, value) for tag, kind, value in tags]
    header = (b"MM\0*" if big_endian else b"II*\0") + np.array(8 + len(data), f"{order}u4").tobytes()
    directory = np.array(len(values), f"{order}u2").tobytes()
    for tag, kind, number, value in values:
        packed = np.array(value, f"{order}u{4 if kind == 4 else 2}").tobytes().ljust(4, b"\0")
        directory += np.array([tag, kind], f"{order}u2").tobytes() + np.array(number, f"{order}u4").tobytes() + packed
    path.write_bytes(header + data + directory + bytes(4))


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4"])
def test_tiff_of_every_type_is_exact_or_refused(tmp_path, dtype, big_endian):
    """Pillow alone reads signed bytes as unsigned ones, and unsigned 32 bits as signed ones."""
    array = full_range(dtype, (7, 9))
    bits, sample_format = 8 * array.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    written_tiff(tmp_path / "image.tif", array, bits, sample_format, big_endian=big_endian)
    if dtype == "u4" and big_endian:
        with pytest.raises(UserError, match=r"image\.tif: not a readable image"):
            read_picture(tmp_path / "image.tif", exactly=True)
        return
    for exactly in (False, True):
        found = read_picture(tmp_path / "image.tif", exactly)
        np.testing.assert_array_equal(found, array)
    window = (float(array.min()), float(array.max()))
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif", 1, window), grey(array, window))


def test_tiff_whose_white_is_zero_is_inverted(tmp_path):
    for dtype in ("u1", "u2"):
        array = full_range(dtype, (7, 9))
        written_tiff(tmp_path / "image.tif", array, 8 * array.dtype.itemsize, 1, photometric=0)
        np.testing.assert_array_equal(read_picture(tmp_path / "image.tif", True), np.iinfo(dtype).max - array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_turned_tiff_is_turned_back(tmp_path, dtype, orientation):
    """Uncompressed and compressed files agree; Pillow turns uncompressed pixels wrongly if it opens a file by name."""
    array = full_range(dtype, (7, 9))
    for compression in (None, "tiff_lzw"):
        Image.fromarray(array).save(
            tmp_path / f"{compression}.tif", compression=compression, tiffinfo={274: orientation}
        )
    one, other = (read_picture(tmp_path / f"{compression}.tif", True) for compression in (None, "tiff_lzw"))
    assert one.shape == ((9, 7) if orientation > 4 else (7, 9))
    np.testing.assert_array_equal(one, other)


def test_16_bit_png_is_exact(tmp_path):
    array = full_range("u2", (7, 9))
    Image.fromarray(array).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "image.png", True), array)


@pytest.mark.parametrize("largest", [15, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_under_a_window_has_the_values_of_its_file(tmp_path, largest, plain):
    array = np.append(RNG.integers(0, largest, 62, endpoint=True), [0, largest]).reshape(8, 8)
    data = (
        " ".join(map(str, array.ravel())).encode()
        if plain
        else array.astype("u1" if largest < 256 else ">u2").tobytes()
    )
    (tmp_path / "image.pgm").write_bytes(f"{'P2' if plain else 'P5'} 8 8 {largest}\n".encode() + data)
    np.testing.assert_array_equal(read_picture(tmp_path / "image.pgm", True), array)
    scaled = read_image(tmp_path / "image.pgm", 1)[..., 0]
    assert np.abs(scaled - array * (255 / largest)).max() <= 1


def png_of_colours(path, channels):
    """Write a PNG of 16-bit colours, which Pillow cannot write: chunks by hand."""
    array = RNG.integers(0, 65536, (5, 6, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    kind = {2: 4, 3: 2, 4: 6}[channels]
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        header = np.array([6, 5], ">u4").tobytes() + bytes([16, kind, 0, 0, 0])
        for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            PngImagePlugin.putchunk(file, name, content)
    return array


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colours_in_png_are_not_reduced_under_a_window(tmp_path, channels):
    array = png_of_colours(tmp_path / "image.png", channels)
    if channels == 3:
        assert np.abs(read_image(tmp_path / "image.png", 3) - array / 257).max() <= 1
    if channels == 2:
        with pytest.raises(UserError, match=r"image\.png.*data\.window"):
            read_image(tmp_path / "image.png", 3, (0, 4095))
        return
    pytest.importorskip("SimpleITK")
    found = read_image(tmp_path / "image.png", 3, (10_000, 50_000))
    np.testing.assert_array_equal(found, to_grey_levels(array, "here", 3, (10_000, 50_000)))


def test_formats_that_scale_or_reduce_are_refused_under_a_window(tmp_path):
    (tmp_path / "colours.ppm").write_bytes(b"P6 2 2 4095\n" + bytes(24))
    Image.fromarray(full_range("u2", (8, 8))).save(tmp_path / "image.jp2")
    for name in ("colours.ppm", "image.jp2"):
        read_image(tmp_path / name, 1)
        with pytest.raises(UserError, match=r"data\.window"):
            read_image(tmp_path / name, 1, (0, 4095))


@pytest.mark.parametrize("value", [1, 255, 256, 65535])
def test_masks_of_16_bits_are_not_scaled(tmp_path, value):
    mask = np.zeros((8, 8), np.uint16)
    mask[2:4] = value
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask > 0)
