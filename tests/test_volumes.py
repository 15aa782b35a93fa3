"""Files of several pictures: pages, frames, DICOM, NIfTI, NRRD and MetaImage; a row each, and a row for the volume."""

import shutil
import sys
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as itk
from conftest import rows_of, tiny_config
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from anogan_jax import fit, score
from anogan_jax.config import Config, DataConfig, ModelConfig, with_values
from anogan_jax.data import is_readable, load_one_class, read_inputs
from anogan_jax.data.image_files import contents_of, without_suffix
from anogan_jax.data.volumes import read_slice
from anogan_jax.errors import UserError
from anogan_jax.evaluation import folder_of_input, score_to_folder
from anogan_jax.figures import strip
from anogan_jax.journal import Entry, Journal
from anogan_jax.report import write_report
from anogan_jax.runtime import middle

RNG = np.random.default_rng(0)
NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
PICTURE = strip(*[np.zeros((8, 8, 1), np.uint8)] * 2, np.zeros((8, 8), np.float32), 1.0)
WINDOW = (-1000.0, 3000.0)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore::UserWarning:PIL")


def dicom(name):
    """Return a file that pydicom ships, without looking for it elsewhere."""
    return Path(get_testdata_file(name, download=False))


def noise(depth, height=10, width=12, dtype=np.uint16):
    return RNG.integers(0, 4000, (depth, height, width)).astype(dtype)


def save_pages(path, pages):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others, **({"lossless": True} if path.suffix == ".webp" else {}))


def save_nifti(path, array, affine=None, **scaling):
    """Write an array (..., z, y, x) as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array.T, np.diag([2.0, 3, 4, 1]) if affine is None else affine)
    if scaling:
        image.header.set_slope_inter(**scaling)
    nibabel.save(image, path)


def all_slices(path):
    return np.stack([read_slice(path, number) for number in range(contents_of(path).depth)])


def config(folder, **data):
    return Config(data=DataConfig(source="folder", dir=str(folder), **data), model=ModelConfig(image_size=8))


# Pages and frames


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".gif", ".webp", ".png"])
def test_every_page_is_a_row(tmp_path, suffix):
    pages = noise(12).astype(np.uint8)
    save_pages(tmp_path / f"scan{suffix}", pages)
    Image.fromarray(pages[0]).save(tmp_path / "single.png")
    queries = read_inputs([tmp_path], 1)
    assert queries.names == [*(f"scan{suffix}#{number:03}" for number in range(12)), "single.png"]
    for number, page in enumerate(pages):
        assert np.abs(queries.read(number)[..., 0].astype(int) - page).max() <= 1  # a palette's grey may differ by one
    alone = read_inputs([tmp_path / f"scan{suffix}"], 1)
    assert alone.names == queries.names[:12]
    np.testing.assert_array_equal(alone.read(11), queries.read(11))
    several = read_inputs([tmp_path / f"scan{suffix}", tmp_path / "single.png"], 1)
    assert several.names == queries.names


def test_numbers_of_many_pages_have_as_many_digits(tmp_path):
    save_pages(tmp_path / "scan.tif", np.zeros((1001, 1, 1), np.uint8))
    names = read_inputs([tmp_path / "scan.tif"], 1).names
    assert (names[0], names[1000]) == ("scan.tif#0000", "scan.tif#1000")
    assert names == sorted(names)


def test_pages_keep_their_16_bits_under_a_window(tmp_path):
    pages = noise(3)
    save_pages(tmp_path / "scan.tif", pages)
    queries = read_inputs([tmp_path], 1, (0, 255))
    for number, page in enumerate(pages):
        np.testing.assert_array_equal(queries.read(number)[..., 0], np.minimum(page, 255))


@pytest.mark.parametrize("name", ["photo.jpg", "photo.tif"])
def test_a_photo_with_a_preview_is_one_picture(tmp_path, name):
    save_pages(tmp_path / "photo.mpo", noise(2).astype(np.uint8))
    (tmp_path / "photo.mpo").rename(tmp_path / name)
    assert read_inputs([tmp_path], 1).names == [name]
    assert read_inputs([tmp_path / name], 1).read(0).shape == (10, 12, 1)


def test_pages_under_a_suffix_of_single_pictures_are_refused(tmp_path):
    save_pages(tmp_path / "scan.tif", noise(2))
    (tmp_path / "scan.tif").rename(tmp_path / "scan.bmp")
    with pytest.raises(UserError, match=r"scan\.bmp: holds 2 pictures"):
        read_inputs([tmp_path / "scan.bmp"], 1).read(0)


def test_damage_costs_the_damaged_pages_alone(tmp_path, caplog):
    pages = noise(8, 64, 64)
    save_pages(tmp_path / "scan.tif", pages)
    content = (tmp_path / "scan.tif").read_bytes()
    (tmp_path / "scan.tif").write_bytes(content[: len(content) * 6 // 8 + 300])
    queries = read_inputs([tmp_path], 1, WINDOW)
    found = [number for number in range(len(queries.names)) if is_readable(queries, number)]
    with pytest.raises(UserError, match=r"scan\.tif: "):
        queries.read(len(found))
    assert found == list(range(len(found)))
    assert 5 <= len(found) < 8
    assert "pages after the damage are left out" in caplog.text


# Training, labels, masks


def test_labels_of_a_file_are_those_of_its_pages(tmp_path):
    """Labels come from folders or from a CSV. Every fifth normal file is scored, with all its pages."""
    for i in range(10):
        save_pages(tmp_path / "good" / f"{i}.tif", noise(4))
    save_nifti(tmp_path / "bad" / "scan.nii.gz", noise(5))
    rows = [*(f"good/{i}.tif,0" for i in range(10)), "bad/scan.nii.gz,1"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    for labels in ("", "labels.csv"):
        data = load_one_class(config(tmp_path, labels=labels, window=WINDOW))
        assert dict(zip(data.test.names, data.test.labels.tolist(), strict=True)) == {
            **{f"good/{i}.tif#{number:03}": 0 for i in (4, 9) for number in range(4)},
            **{f"bad/scan.nii.gz#{number:03}": 1 for number in range(5)},
        }
        assert len(data.train.names) + len(data.held_out.names) == 8 * 4


def test_whole_volumes_are_held_out(tmp_path, caplog):
    for i in range(6):
        save_pages(tmp_path / f"{i}.tif", noise(10))
    data = load_one_class(config(tmp_path, window=WINDOW))
    volumes = [{name.partition("#")[0] for name in images.names} for images in (data.train, data.held_out)]
    assert len(volumes[1]) == 1
    assert not volumes[0] & volumes[1]
    assert len(data.held_out.names) == 10
    assert {row.volume for row in data.held_out.rows} == volumes[1]
    for i in range(1, 6):
        (tmp_path / f"{i}.tif").unlink()
    single = load_one_class(config(tmp_path, window=WINDOW))
    assert (len(single.train.names), len(single.held_out.names)) == (9, 1)
    assert "one volume" in caplog.text


@pytest.mark.parametrize("suffix", [".tif", ".nii.gz", ".mha"])
def test_masks_are_those_of_the_same_slice(tmp_path, suffix):
    """A mask file of as many slices, or of one for all; the values of masks are not windowed."""
    scans, mask = noise(3), np.zeros((3, 10, 12), np.uint16)
    mask[1, 2:4, 5] = 1

    def save(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".tif":
            save_pages(path, array)
        elif suffix == ".mha":
            itk.WriteImage(itk.GetImageFromArray(array), str(path))
        else:
            save_nifti(path, array)

    for name in ("train/good/a", "train/good/b", "test/good/c", "test/tumour/d"):
        save(tmp_path / f"{name}{suffix}", scans)
    save(tmp_path / f"ground_truth/tumour/d_mask{suffix}", mask)
    test = load_one_class(config(tmp_path, window=(1000, 2000))).test
    numbers = [i for i, kind in enumerate(test.kinds) if kind == "tumour"]
    np.testing.assert_array_equal(np.stack([test.mask(i) for i in numbers]), mask > 0)
    save(tmp_path / f"ground_truth/tumour/d_mask{suffix}", mask[:2])
    with pytest.raises(UserError, match=r"d_mask.* holds 2 (pictures|slices)"):
        load_one_class(config(tmp_path, window=WINDOW)).test.mask(numbers[0])


def test_regions_of_interest_are_those_of_the_same_slice(tmp_path):
    region = RNG.integers(0, 2, (4, 10, 12)).astype(np.uint8)
    save_nifti(tmp_path / "scans" / "a.nii.gz", noise(4))
    save_nifti(tmp_path / "rois" / "a.nii.gz", region)
    data = load_one_class(config(tmp_path / "scans", window=WINDOW, roi=str(tmp_path / "rois")))
    whole = [data.train, data.held_out]
    for images in whole:
        for i, name in enumerate(images.names):
            found = images.region(i)
            np.testing.assert_array_equal(found, region[int(name.partition("#")[2])] > 0)


# Formats of medicine


def test_without_a_split_a_dicom_series_is_kept_together(tmp_path):
    """Every fifth series of the normal class is scored, whichever folder it lies in."""
    dataset = pydicom.dcmread(dicom("CT_small.dcm"))
    for kind, count in (("good", 10), ("bad", 1)):
        for number in range(count):
            dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[kind, str(number)])
            for slice_number in range(3):
                path = tmp_path / kind / f"patient{number // 2}" / f"{number}-{slice_number}.dcm"
                path.parent.mkdir(parents=True, exist_ok=True)
                dataset.save_as(path)
    data = load_one_class(config(tmp_path, window=(0, 1000)))
    normal = [name.split("/")[-1] for name, label in zip(data.test.names, data.test.labels, strict=True) if label == 0]
    assert normal == [f"{number}-{i}.dcm" for number in (4, 9) for i in range(3)]


@pytest.mark.parametrize("how", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless", "expb", "padded"])
def test_dicom_is_read_alike_in_every_encoding(how):
    expected = pydicom.dcmread(dicom("MR_small.dcm")).pixel_array
    np.testing.assert_array_equal(read_slice(dicom(f"MR_small_{how}.dcm"), 0), expected)


def test_dicom_is_rescaled_as_its_modality_says():
    stored = pydicom.dcmread(dicom("CT_small.dcm"))
    assert (stored.RescaleSlope, stored.RescaleIntercept) == (1, -1024)
    np.testing.assert_array_equal(read_slice(dicom("CT_small.dcm"), 0), stored.pixel_array.astype(int) - 1024)
    units = read_inputs([dicom("CT_small.dcm")], 1, (-1000, 1000)).read(0)[..., 0]
    wanted = np.clip((stored.pixel_array.astype(float) - 24) / 2000, 0, 1) * 255
    np.testing.assert_array_equal(units, np.rint(wanted))
    with pytest.raises(UserError, match=r"CT_small\.dcm.*data\.window"):
        read_inputs([dicom("CT_small.dcm")], 1).read(0)


@pytest.mark.parametrize(("signed", "bits"), [(0, 12), (1, 12), (0, 16), (1, 16), (0, 8)])
def test_monochrome1_is_inverted_within_its_bits(tmp_path, signed, bits):
    header = pydicom.dcmread(dicom("MR_small.dcm"))
    least, largest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    stored = np.append(RNG.integers(least, largest, 64 * 64 - 2, endpoint=True), [least, largest]).reshape(64, 64)
    header.PhotometricInterpretation, header.PixelRepresentation, header.BitsStored = "MONOCHROME1", signed, bits
    header.HighBit = bits - 1
    header.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    header.save_as(tmp_path / "image.dcm")
    np.testing.assert_array_equal(read_slice(tmp_path / "image.dcm", 0), least + largest - stored)


def test_each_frame_of_dicom_is_a_row(tmp_path):
    path = dicom("examples_ybr_color.dcm")
    frames = pydicom.dcmread(path).pixel_array
    queries = read_inputs([path], 3)
    assert len(queries.names) == len(frames) == 30
    assert queries.names[7] == "examples_ybr_color.dcm#007"
    np.testing.assert_array_equal(queries.read(7), pydicom.pixels.pixel_array(path, index=7))


def test_frames_are_rescaled_by_their_own_part_of_the_header(tmp_path):
    """Enhanced multi-frame objects say it for each frame, or once for all."""
    header = pydicom.dcmread(dicom("rtdose.dcm"))
    values = header.pixel_array.astype(float)
    transforms = []
    for number in range(header.NumberOfFrames):
        transform, group = pydicom.Dataset(), pydicom.Dataset()
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 2, number, "US"
        group.PixelValueTransformationSequence = [transform]
        transforms.append(group)
    header.PerFrameFunctionalGroupsSequence = transforms
    header.save_as(tmp_path / "image.dcm")
    np.testing.assert_array_equal(read_slice(tmp_path / "image.dcm", 4), 2 * values[4] + 4)
    del header.PerFrameFunctionalGroupsSequence
    header.SharedFunctionalGroupsSequence = transforms[1:2]
    header.save_as(tmp_path / "image.dcm")
    np.testing.assert_array_equal(read_slice(tmp_path / "image.dcm", 4), 2 * values[4] + 1)


def test_dicom_without_suffixes_and_its_series_are_found(tmp_path):
    """The folders of a CD; what has no pixels is left out by its name, or unreadable."""
    folder = dicom("DICOMDIR").parent
    shutil.copytree(folder / "77654033", tmp_path / "77654033")
    shutil.copy(folder / "DICOMDIR", tmp_path)
    (tmp_path / "notes").write_text("no image")
    queries = read_inputs([tmp_path], 1, WINDOW)
    assert len(queries.names) == 7
    assert {row.volume for row in queries.rows} == {"", "77654033/CT2"}
    assert sum(row.volume == "77654033/CT2" for row in queries.rows) == 4
    np.testing.assert_array_equal(read_slice(queries.rows[0].path, 0).shape, queries.read(0).shape[:2])
    assert {row.volume for row in read_inputs([tmp_path / "77654033" / "CT2"], 1, WINDOW).rows} == {"CT2"}


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan.dcm", "badVR.dcm", "JPEG-lossy.dcm"])
def test_dicom_that_cannot_be_read_is_named(name):
    with pytest.raises(UserError, match=name) as raised:
        read_inputs([dicom(name)], 1, WINDOW).read(0)
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named(monkeypatch):
    for module, path in (("pydicom", dicom("MR_small.dcm")), ("nibabel", NIBABEL / "anatomical.nii")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=rf"needs {module}: pip install 'anogan_jax\[medical\]'"):
            read_inputs([path], 1, WINDOW).read(0)


@pytest.mark.parametrize("name", ["anatomical.nii", "example4d.nii.gz", "functional.nii", "standard.nii.gz"])
def test_slices_of_nifti_agree_with_nibabel_and_itk(name):
    """Planes (y, x) along z, and then along time."""
    whole, found = nibabel.load(NIBABEL / name).get_fdata(), all_slices(NIBABEL / name)
    np.testing.assert_array_equal(found.reshape(whole.shape[::-1]), whole.T)
    np.testing.assert_allclose(found.reshape(whole.shape[::-1]), itk.GetArrayFromImage(itk.ReadImage(NIBABEL / name)))


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "<u2", "<i4", ">u4", "<f4", ">f8"])
def test_nifti_of_every_type_is_exact(tmp_path, dtype):
    array = noise(3).astype(dtype)
    save_nifti(tmp_path / "scan.nii", array)
    np.testing.assert_array_equal(all_slices(tmp_path / "scan.nii"), array)
    assert read_slice(tmp_path / "scan.nii", 0).dtype.newbyteorder("=") == np.dtype(dtype).newbyteorder("=")


def test_nifti_is_scaled_as_its_header_says(tmp_path):
    save_nifti(tmp_path / "scan.nii.gz", noise(3).astype(np.int16), slope=2.0, inter=-100.0)
    np.testing.assert_allclose(
        all_slices(tmp_path / "scan.nii.gz"), nibabel.load(tmp_path / "scan.nii.gz").get_fdata().T
    )


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_slices_of_nrrd_and_metaimage_are_exact(tmp_path, suffix, compressed):
    for array in (noise(4), noise(3).astype(np.int16) - 2000, noise(2).astype(np.float32)):
        itk.WriteImage(itk.GetImageFromArray(array), str(tmp_path / f"scan{suffix}"), compressed)
        np.testing.assert_array_equal(all_slices(tmp_path / f"scan{suffix}"), array)
    colours = RNG.integers(0, 256, (2, 7, 8, 3), np.uint8)
    itk.WriteImage(itk.GetImageFromArray(colours, isVector=True), str(tmp_path / f"colours{suffix}"), compressed)
    np.testing.assert_array_equal(all_slices(tmp_path / f"colours{suffix}"), colours)
    assert len(read_inputs([tmp_path], 1, WINDOW).names) == 4
    plane = noise(1)[0]
    itk.WriteImage(itk.GetImageFromArray(plane), str(tmp_path / f"plane{suffix}"), compressed)
    assert read_inputs([tmp_path / f"plane{suffix}"], 1, WINDOW).names == [f"plane{suffix}"]


def test_one_slice_is_in_memory(tmp_path):
    save_nifti(tmp_path / "scan.nii", np.zeros((64, 128, 128), np.float32))
    read_slice(tmp_path / "scan.nii", 0)
    tracemalloc.start()
    for number in range(64):
        read_slice(tmp_path / "scan.nii", number)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 128 * 128 * 4


def test_a_volume_that_changed_is_read_anew(tmp_path):
    for value in (1, 2):
        save_nifti(tmp_path / "scan.nii", np.full((2, 8, 8), value, np.uint8))
        assert read_slice(tmp_path / "scan.nii", 1).max() == value


def test_damaged_volumes_are_named_and_cost_themselves_alone(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", noise(3))
    save_nifti(tmp_path / "b.nii.gz", noise(3))
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes()[:200])
    (tmp_path / "c.nrrd").write_text("NRRD")
    (tmp_path / "d.dcm").write_bytes(b"no image")
    save_nifti(tmp_path / "e.nii", noise(3)[:0])
    nibabel.save(nibabel.Nifti1Image(np.zeros(5, np.int16), np.eye(4)), tmp_path / "f.nii")
    queries = read_inputs([tmp_path], 1, WINDOW)
    unreadable = [i for i in range(len(queries.names)) if not is_readable(queries, i)]
    files = [queries.names[i].partition("#")[0] for i in unreadable]
    assert set(files) == {"b.nii.gz", "c.nrrd", "d.dcm", "e.nii", "f.nii"}
    for i, name in zip(unreadable, files, strict=True):
        with pytest.raises(UserError, match=name):
            queries.read(i)


# Scores


@pytest.fixture
def volumes(tmp_path):
    """Write volumes of several formats, grey levels of 8 bits, and a picture that is no volume."""
    folder = tmp_path / "scans"
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 4, 9], [0, 0, 0, 1]])
    save_nifti(folder / "a" / "scan.nii.gz", noise(3, dtype=np.uint8), affine)
    save_nifti(folder / "four.nii", RNG.integers(0, 256, (2, 3, 9, 8), np.uint8), slope=1.0, inter=0.0)
    for suffix in (".mha", ".nrrd", ".mhd"):
        image = itk.GetImageFromArray(noise(2, dtype=np.uint8))
        image.SetSpacing((0.5, 0.7, 3.0))
        image.SetOrigin((1.0, -2.0, 3.0))
        image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
        itk.WriteImage(image, str(folder / f"scan{suffix}"))
    save_pages(folder / "scan.tif", noise(4, dtype=np.uint8))
    save_pages(folder / "moving.gif", noise(2, dtype=np.uint8))
    Image.fromarray(noise(1, dtype=np.uint8)[0]).save(folder / "single.png")
    shutil.copy(dicom("examples_ybr_color.dcm"), folder / "us.dcm")
    return folder


def test_scores_and_maps_of_volumes(volumes, tiny_run, tmp_path):
    output = tmp_path / "out"
    summary = score_to_folder(tiny_run.detector, read_inputs([volumes], 1), output, "scans", maps=True)
    rows, found = rows_of(output / "scores.csv"), {row["name"]: row for row in rows_of(output / "volumes.csv")}
    names = {"a/scan.nii.gz": 3, "four.nii": 6, "scan.mha": 2, "scan.nrrd": 2, "scan.mhd": 2, "scan.tif": 4}
    names |= {"moving.gif": 2, "us.dcm": 30}
    assert {name: int(row["slices"]) for name, row in found.items()} == names
    assert summary["volumes"] == len(names)
    for name, row in found.items():
        slices = [each for each in rows if each["name"].startswith(f"{name}#")]
        highest = max(slices, key=lambda each: float(each["score"]))
        smallest = min(float(each["p_value"]) for each in slices)
        assert (row["slice"], row["score"]) == (highest["name"], highest["score"])
        assert float(row["p_value"]) == pytest.approx(min(1, len(slices) * smallest))
        assert row["is_anomaly"] == str(int(float(row["p_value"]) <= 0.05))
    maps = {name: [np.load(output / "maps" / f"{name}#{k:03}.npy") for k in range(n)] for name, n in names.items()}
    for name in ("a/scan.nii.gz", "four.nii"):
        ours, theirs = nibabel.load(output / "maps" / name), nibabel.load(volumes / name)
        assert (ours.shape, ours.get_data_dtype()) == (theirs.shape, np.float32)
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        np.testing.assert_array_equal(ours.get_fdata().T.reshape(np.shape(maps[name])), np.float64(maps[name]))
    for name, target in (("scan.mha", "scan.mha"), ("scan.nrrd", "scan.nrrd"), ("scan.mhd", "scan.mhd.mha")):
        ours, theirs = itk.ReadImage(output / "maps" / target), itk.ReadImage(volumes / name)
        for geometry in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(ours, geometry)() == getattr(theirs, geometry)()
        np.testing.assert_array_equal(itk.GetArrayFromImage(ours), maps[name])
    for name, target in (("scan.tif", "scan.tif"), ("moving.gif", "moving.gif.tif")):
        np.testing.assert_array_equal(np.squeeze(read_all(output / "maps" / target)), maps[name])
    assert not (output / "maps" / "us.dcm").exists()

    score_to_folder(tiny_run.detector, read_inputs([volumes / "single.png"], 1), output, "scans")
    assert not (output / "volumes.csv").exists()
    assert not [path for path in (output / "maps").rglob("*") if path.is_file()]


def test_maps_of_cropped_slices_have_the_place_and_size_of_their_volume(tiny_run, volumes, tmp_path):
    config = with_values(tiny_run.detector.config, {"data.crop": 5})
    cropping, scans = tiny_run.detector._replace(config=config), [volumes / "a" / "scan.nii.gz", volumes / "scan.tif"]
    score_to_folder(cropping, read_inputs(scans, 1), tmp_path / "out", "scans", maps=True)
    for name in ("a/scan.nii.gz", "scan.tif"):
        raw, maps = read_all(volumes / name), np.squeeze(read_all(tmp_path / "out" / "maps" / name))
        assert maps.shape == raw.shape[:3]
        for number, found in enumerate(maps):
            inside = middle(found, 5)
            np.testing.assert_array_equal(inside, np.load(tmp_path / "out" / "maps" / f"{name}#{number:03}.npy"))
            assert np.isnan(found).sum() == found.size - inside.size


def read_all(path):
    queries = read_inputs([path], 1, WINDOW)
    return np.stack([queries.raw(i)[0] for i in range(len(queries.names))])


def test_unreadable_slices_are_left_out_of_their_volume(tiny_run, tmp_path):
    save_nifti(
        tmp_path / "in" / "scan.nii", np.where(np.arange(4)[:, None, None] == 2, np.nan, np.full((4, 9, 8), 0.5))
    )
    save_nifti(tmp_path / "in" / "none.nii", np.full((2, 9, 8), np.nan))
    score_to_folder(tiny_run.detector, read_inputs([tmp_path / "in"], 1), tmp_path / "out", "in", maps=True)
    none, scan = rows_of(tmp_path / "out" / "volumes.csv")
    assert (none["name"], none["slices"], none["is_anomaly"]) == ("none.nii", "0", "unreadable")
    assert (scan["slices"], scan["slice"]) == ("3", "scan.nii#000")
    maps = nibabel.load(tmp_path / "out" / "maps" / "scan.nii").get_fdata()
    assert np.isnan(maps).any(axis=(0, 1)).tolist() == [False, False, True, False]
    assert not (tmp_path / "out" / "maps" / "none.nii").exists()


def test_a_folder_of_volumes_is_trained_on_and_scored(tmp_path, run_main):
    """From files to volumes.csv by the command line; the window is that of the training images."""
    for i in range(5):
        save_nifti(tmp_path / "scans" / f"{i}.nii.gz", noise(8, 16, 16).astype(np.int16) - 1000)
    save_nifti(tmp_path / "new.nii.gz", noise(3, 16, 16).astype(np.int16) - 1000)
    fast = {"train.steps": 2, "encoder.steps": 0, "segmenter.steps": 0, "rotation.steps": 0, "bank.inverted": 0}
    config = tiny_config(fast | {"data.normal": None, "data.window": "auto"})
    detector = fit(tmp_path / "scans", config, tmp_path / "run")
    assert -1000 <= detector.config.data.window[0] < detector.config.data.window[1] < 3000
    flags = ["--workdir", tmp_path / "run", "--input", tmp_path / "new.nii.gz", "--maps", "--config.data.window=auto"]
    assert run_main(score.main, *flags, "--output", tmp_path / "out").code == 0
    (volume,) = rows_of(tmp_path / "out" / "volumes.csv")
    assert (volume["name"], volume["slices"]) == ("new.nii.gz", "3")
    assert nibabel.load(tmp_path / "out" / "maps" / "new.nii.gz").shape == (16, 16, 3)


def test_labelled_volumes_have_an_auroc(tmp_path):
    """A volume is as anomalous as its worst slice; p-values are Bonferroni's."""
    journal = Journal(tmp_path / "journal", "")
    for volume, label, scores in (("=a", 0, (1, 2)), ("b", 1, (0, 9, 3)), ("", 0, (8,))):
        for k, value in enumerate(scores):
            entry = Entry(f"{volume}#{k}", label, "", value, 0.0, "reconstruction", 0.0, 0.0, 0.0, 0.0, b"", PICTURE)
            journal.add(entry)
    journal.flush()
    held_out, of = np.arange(99) / 12, ["=a", "=a", "b", "b", "b", ""]
    summary = write_report(tmp_path, journal, held_out, 0.05, 1.0, {}, volumes=of)
    first, second = rows_of(tmp_path / "volumes.csv")
    assert (first["name"], first["slice"], first["label"], first["is_anomaly"]) == ("./=a", "./=a#1", "0", "0")
    assert (second["name"], second["slice"], second["p_value"], second["is_anomaly"]) == ("b", "b#1", "0.03", "1")
    assert (summary["volumes"], summary["anomalous_volumes"], summary["volume_auroc"]) == (2, 1, 1.0)


def test_too_few_held_out_images_for_a_volume_are_told(volumes, tiny_run, tmp_path, caplog):
    score_to_folder(tiny_run.detector, read_inputs([volumes / "us.dcm"], 1), tmp_path / "out", "us")
    assert "volumes of 30 slices: too many for 29 held-out images" in caplog.text
    assert "599 held-out images are needed" in caplog.text


def test_identifiers_as_names_keep_their_last_number(tmp_path):
    """DICOM files without a suffix, 1.2.840.1 and so on, have regions of their own, and masks of defects."""
    for i in range(4):
        for name in (f"train/good/1.2.840.{i}", f"test/bad/1.2.840.{i}"):
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(dicom("CT_small.dcm"), tmp_path / "data" / name)
        mask = np.zeros((128, 128), np.uint8)
        mask[i] = 255
        of_defects = f"data/{'test' if i % 2 else 'ground_truth'}/bad/1.2.840.{i}_mask.png"
        for name in (f"masks/train/good/1.2.840.{i}.png", f"masks/test/bad/1.2.840.{i}.png", of_defects):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(tmp_path / name)
    found = load_one_class(config(tmp_path / "data", window=WINDOW, roi=str(tmp_path / "masks")))
    assert found.test.names == [f"bad/1.2.840.{i}" for i in range(4)]
    for i in range(4):
        assert np.flatnonzero(found.test.mask(i).any(axis=1)).tolist() == [i]
        assert np.flatnonzero(found.test.region(i).any(axis=1)).tolist() == [i]
    assert len(found.train.names) + len(found.held_out.names) == 4


def test_results_of_inputs_with_identifiers_as_names_are_called_after_them(tmp_path):
    for name in ("1.2.840.1", "scan.nii.gz", "photo.1.png", "arrays.npz"):
        shutil.copy(dicom("CT_small.dcm"), tmp_path / name)
    found = [folder_of_input(tmp_path, path).name for path in sorted(tmp_path.iterdir())]
    assert found == ["1.2.840.1", "arrays", "photo.1", "scan"]


def test_suffixes_of_two_parts_are_one():
    for name in ("scan.nii.gz", "scan.NII.GZ", "scan.nii", "scan.dcm"):
        assert without_suffix(Path("a") / name) == Path("a/scan")
    for name in ("1.2.840.113619.2", "a.b.c", ".nii.gz", ".png"):
        assert without_suffix(Path(name)) == Path(name)
