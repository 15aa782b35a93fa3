"""Layouts of folders: what each image is taken for, which mask belongs to it, and where it cannot be told."""

import csv
import re
import shlex
from functools import partial

import nibabel
import numpy as np
import pydicom
import pytest
from conftest import ROOT, rows_of
from mocked_tfds import mock_tfds
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from anogan_jax import score, train
from anogan_jax.config import Config, DataConfig, ModelConfig
from anogan_jax.data import load_one_class, read_inputs, sources
from anogan_jax.data.classes import chosen_normal, is_called_normal
from anogan_jax.errors import UserError
from anogan_jax.evaluation import score_to_folder

SIZE = (6, 8)  # height and width


def write(folder, *names, value=None):
    """Write small images, each with pixels of its own, or of one value."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = list(name.encode())
        pixels = np.random.default_rng(seed).integers(1, 256, SIZE, np.uint8) if value is None else np.full(SIZE, value)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_masks(folder, *names, column=0, value=255):
    """Write masks with one defective column of pixels."""
    for name in names:
        mask = np.zeros(SIZE, np.uint8)
        mask[:, column] = value
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(folder / name)


def write_csv(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def numbered(pattern, count):
    return [pattern.format(i) for i in range(count)]


def load(folder, **data):
    settings = DataConfig(source="folder", dir=str(folder), held_out=0.5, **data)
    return load_one_class(Config(data=settings, model=ModelConfig(image_size=8)))


def trained_on(data):
    """Return the names of all normal images, those held out too."""
    return sorted([*data.train.names, *data.held_out.names])


def labels_of(data):
    """Return the names of the test images with their labels."""
    return dict(zip(data.test.names, data.test.labels.tolist(), strict=True))


def masked(data):
    """Return the columns of pixels that the mask of each test image marks, None where it is not known."""
    masks = {name: data.test.mask(i) for i, name in enumerate(data.test.names)}
    return {name: None if mask is None else np.flatnonzero(mask.all(axis=0)).tolist() for name, mask in masks.items()}


@pytest.mark.parametrize(
    "mask",
    [
        "ground_truth/crack/{}_mask.png",
        "ground_truth/crack/{}.png",
        "ground_truth/crack/{}_mask.bmp",
        "ground_truth/crack/{}.jpg",
        "Ground Truth/Crack/{}_gt.tif",
        "masks/{}.png",
        "ground_truth/test/crack/{}_mask.png",
        "test/crack/{}_mask.png",
    ],
)
def test_mvtec_ad(tmp_path, mask):
    write(tmp_path, *numbered("train/good/{:03}.png", 4), "test/good/000.png", "test/crack/a.png", "test/crack/b.png")
    write_masks(tmp_path, mask.format("a"), column=2)
    write_masks(tmp_path, mask.format("b"), column=5)
    data = load(tmp_path)
    assert trained_on(data) == numbered("good/{:03}.png", 4)
    assert labels_of(data) == {"good/000.png": 0, "crack/a.png": 1, "crack/b.png": 1}
    found = masked(data)
    assert found["good/000.png"] == []
    assert 2 in found["crack/a.png"]  # a JPEG blurs
    assert found["crack/b.png"][-1] >= 5
    if not mask.endswith(".jpg"):
        assert (found["crack/a.png"], found["crack/b.png"]) == ([2], [5])
    assert list(data.test.kinds) == ["crack", "crack", "good"]


def test_nested_folders_of_mvtec_ad(tmp_path):
    write(tmp_path, *numbered("train/good/cam1/{}.png", 3), "test/crack/cam1/0.png", "test/crack/cam2/0.png")
    write_masks(tmp_path, "ground_truth/crack/cam1/0_mask.png", column=1)
    write_masks(tmp_path, "ground_truth/crack/cam2/0_mask.png", column=2)
    data = load(tmp_path)
    assert masked(data) == {"crack/cam1/0.png": [1], "crack/cam2/0.png": [2]}
    assert data.test.kinds == ["crack", "crack"]


def test_mvtec_loco(tmp_path):
    """Normal images for validation are trained on; the masks of an image are united."""
    write(tmp_path, *numbered("train/good/{:03}.png", 3), *numbered("validation/good/{:03}.png", 2))
    write(tmp_path, "test/good/000.png", "test/logical_anomalies/000.png", "test/structural_anomalies/000.png")
    for column in (1, 4):
        write_masks(tmp_path, f"ground_truth/logical_anomalies/000/{column:03}.png", column=column, value=column)
    write_masks(tmp_path, "ground_truth/structural_anomalies/000/000.png", column=6)
    data = load(tmp_path)
    assert trained_on(data) == [*numbered("good/{:03}.png", 3), *numbered("validation/good/{:03}.png", 2)]
    assert masked(data) == {
        "good/000.png": [],
        "logical_anomalies/000.png": [1, 4],
        "structural_anomalies/000.png": [6],
    }


def test_btad(tmp_path):
    write(tmp_path, *numbered("train/ok/{:04}.bmp", 3), "test/ok/0000.bmp", "test/ko/0000.bmp")
    write_masks(tmp_path, "ground_truth/ko/0000.png", column=3)
    data = load(tmp_path)
    assert trained_on(data) == numbered("ok/{:04}.bmp", 3)
    assert labels_of(data) == {"ok/0000.bmp": 0, "ko/0000.bmp": 1}
    assert masked(data) == {"ok/0000.bmp": [], "ko/0000.bmp": [3]}


def write_visa(folder):
    write(folder, *numbered("Data/Images/Normal/{:04}.JPG", 10), *numbered("Data/Images/Anomaly/{:03}.JPG", 2))
    write_masks(folder, "Data/Masks/Anomaly/000.png", column=1, value=1)
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 2], mask[:, 3] = 2, 5  # the number of a kind of defect
    Image.fromarray(mask).save(folder / "Data/Masks/Anomaly/001.png")
    write_csv(folder / "image_anno.csv", ("image", "label", "mask"))


def test_visa(tmp_path):
    """Without a split, every fifth normal image is scored."""
    write_visa(tmp_path)
    data = load(tmp_path)
    names = numbered("Data/Images/Normal/{:04}.JPG", 10)
    assert trained_on(data) == [name for name in names if name not in (names[4], names[9])]
    anomalous = numbered("Data/Images/Anomaly/{:03}.JPG", 2)
    assert labels_of(data) == {names[4]: 0, names[9]: 0, anomalous[0]: 1, anomalous[1]: 1}
    assert masked(data) == {names[4]: [], names[9]: [], anomalous[0]: [1], anomalous[1]: [2, 3]}


def test_split_csv_of_visa(tmp_path):
    """It has the rows of all objects; the folder of one is given."""
    rows = [("object", "split", "label", "image", "mask")]
    for each in ("candle", "fryum"):
        write_visa(tmp_path / each)
        images = f"{each}/Data/Images"
        rows += [
            (each, "test" if i < 3 else "train", "normal", f"{images}/Normal/{i:04}.JPG", "")
            for i in reversed(range(9))
        ]
        rows.append((each, "test", "anomaly", f"{images}/Anomaly/001.JPG", f"{each}/Data/Masks/Anomaly/001.png"))
    write_csv(tmp_path / "split_csv/1cls.csv", *rows)
    data = load(tmp_path / "candle")
    assert trained_on(data) == numbered("Data/Images/Normal/{:04}.JPG", 9)[3:]
    labels = dict.fromkeys(numbered("Data/Images/Normal/{:04}.JPG", 3), 0)
    assert labels_of(data) == labels | {"Data/Images/Anomaly/001.JPG": 1}
    assert masked(data)["Data/Images/Anomaly/001.JPG"] == [2, 3]
    with pytest.raises(UserError, match=r"several data sets.*candle"):
        load(tmp_path)


def test_kolektor(tmp_path):
    """A label that is all black is of a normal image."""
    for i in range(6):
        write(tmp_path, *(f"kos{i:02}/Part{j}.jpg" for j in range(2)))
        write(tmp_path, f"kos{i:02}/Part0_label.bmp", value=0)
        write_masks(tmp_path, f"kos{i:02}/Part1_label.bmp", column=i)
    data = load(tmp_path)
    normal = numbered("kos{:02}/Part0.jpg", 6)
    assert trained_on(data) == normal[:4] + normal[5:]
    assert labels_of(data) == {normal[4]: 0} | dict.fromkeys(numbered("kos{:02}/Part1.jpg", 6), 1)
    assert masked(data) == {normal[4]: []} | {f"kos{i:02}/Part1.jpg": [i] for i in range(6)}


def test_masks_decide_without_classes_in_splits_too(tmp_path, caplog):
    """Each image of train/ and test/ has a mask beside it, the layout of KolektorSDD2."""
    for split in ("train", "test"):
        write(tmp_path, *numbered(split + "/{}.png", 4))
        write(tmp_path, *(f"{split}/{i}_GT.png" for i in range(3)), value=0)
        write_masks(tmp_path, f"{split}/3_GT.png")
    data = load(tmp_path)
    assert trained_on(data) == ["0.png", "1.png", "2.png"]
    assert labels_of(data) == {"0.png": 0, "1.png": 0, "2.png": 0, "3.png": 1}
    assert "no mask" not in caplog.text
    (tmp_path / "train/1_GT.png").unlink()
    load(tmp_path)
    assert "1 of 8 images have no mask, such as train/1.png, and count as normal" in caplog.text


def test_hazelnut_toy(tmp_path):
    write(tmp_path, *numbered("good/{:02}.jpg", 5), "crack/00.jpg", "colour/00.jpg", "colour/01.jpg")
    write_masks(tmp_path, "mask/01.png", column=7)
    data = load(tmp_path)
    assert trained_on(data) == numbered("good/{:02}.jpg", 4)
    assert labels_of(data) == {"good/04.jpg": 0, "crack/00.jpg": 1, "colour/00.jpg": 1, "colour/01.jpg": 1}
    assert masked(data) == {"good/04.jpg": [], "crack/00.jpg": None, "colour/00.jpg": None, "colour/01.jpg": [7]}


@pytest.mark.parametrize("name", ["good", "Good", "ok", "OK", "normal", "NORMAL", "0.normal", "00_good", "1 - ok"])
def test_normal_folder_beside_others(tmp_path, name):
    write(tmp_path / "a", *numbered(name + "/{}.png", 5), "1.broken/0.png", "other/0.png")
    data = load(tmp_path / "a")
    assert trained_on(data) == numbered(name + "/{}.png", 4)
    assert labels_of(data) == {f"{name}/4.png": 0, "1.broken/0.png": 1, "other/0.png": 1}
    write(tmp_path / "b", *numbered("train/{}.png", 3), f"test/{name}/0.png", "test/1.broken/0.png")
    assert labels_of(load(tmp_path / "b")) == {f"{name}/0.png": 0, "1.broken/0.png": 1}


@pytest.mark.parametrize("place", ["", "good/", "photos/", "train/", "train/photos/", "train/images/", "Images/"])
def test_folder_of_normal_images(tmp_path, place):
    write(tmp_path, *numbered(place + "{}.png", 5))
    data = load(tmp_path)
    assert len(trained_on(data)) == 5
    assert data.test is None


@pytest.mark.parametrize(
    ("normal", "expected"), [("cat", ["cat"]), ("CAT, dog", ["cat", "dog"]), ("c*", ["cat", "cow"]), ("2", ["2"])]
)
def test_class_folders(tmp_path, normal, expected):
    """In train/ and test/, and without a split: then every anomalous image is scored."""
    classes = ("cat", "cow", "dog", "2")
    for each in classes:
        write(tmp_path / "split", *numbered(f"train/{each}/{{}}.png", 3), f"test/{each}/0.png")
        write(tmp_path / "flat", *numbered(each + "/{}.png", 5))
    data = load(tmp_path / "split", normal=normal)
    assert trained_on(data) == sorted(f"{each}/{i}.png" for each in expected for i in range(3))
    assert labels_of(data) == {f"{each}/0.png": int(each not in expected) for each in classes}
    mixed = load(tmp_path / "split", normal=normal, contamination=0.4).train
    assert len(mixed.names) > len(data.train.names)
    data = load(tmp_path / "flat", normal=normal)
    assert trained_on(data) == sorted(f"{each}/{i}.png" for each in expected for i in range(4))
    assert sum(label == 0 for label in labels_of(data).values()) == len(expected)
    assert sum(label == 1 for label in labels_of(data).values()) == 5 * (4 - len(expected))


@pytest.mark.parametrize("place", ["{kind}/{split}", "images/{kind}/{split}", "{kind}/images/{split}"])
@pytest.mark.parametrize(
    ("normal", "good", "bad"),
    [(None, "good", "bad"), (None, "0.OK", "NG"), ("CAT", "cat", "dog"), ("c*", "cat", "dog"), (0, "0", "1")],
)
def test_splits_in_the_folders_of_classes(tmp_path, normal, good, bad, place):
    train, test, defective = (
        place.format(kind=kind, split=split) for kind, split in ((good, "train"), (good, "test"), (bad, "test"))
    )
    write(tmp_path, *numbered(train + "/{}.png", 3), *numbered(test + "/{}.png", 2), f"{defective}/7.png")
    write_masks(tmp_path, f"ground_truth/{bad}/7_mask.png", column=3)
    data = load(tmp_path, normal=normal)
    assert trained_on(data) == numbered(train + "/{}.png", 3)
    assert labels_of(data) == {f"{test}/0.png": 0, f"{test}/1.png": 0, f"{defective}/7.png": 1}
    assert masked(data)[f"{defective}/7.png"] == [3]


def test_anomalous_class_may_hold_the_splits(tmp_path):
    write(tmp_path, *numbered("cat/train/{}.png", 3), "cat/test/0.png", "dog/test/0.png")
    assert labels_of(load(tmp_path, anomalous="DOG")) == {"cat/test/0.png": 0, "dog/test/0.png": 1}
    assert labels_of(load(tmp_path, normal="*")) == {"cat/test/0.png": 0, "dog/test/0.png": 0}


@pytest.mark.parametrize("train", ["train", "good/train", "train/good"])
def test_defective_images_beside_the_splits_are_scored(tmp_path, train):
    write(tmp_path, *numbered(f"{train}/{{}}.png", 3), "bad/7.png", "spare/8.png")
    data = load(tmp_path)
    assert len(trained_on(data)) == 3
    assert labels_of(data) == {"bad/7.png": 1}


def test_images_to_score_have_names_of_their_own(tmp_path):
    write(tmp_path, *numbered("train/{}.png", 3), "test/bad/7.png", "bad/7.png")
    assert load(tmp_path).test.names == ["bad/7.png", "test/bad/7.png"]


def test_classes_of_the_images_to_score_alone(tmp_path):
    write(tmp_path, *numbered("train/{}.png", 3), "test/fine/0.png", "test/odd/0.png")
    for how in ({"normal": "fine"}, {"anomalous": "odd"}):
        data = load(tmp_path, **how)
        assert trained_on(data) == numbered("{}.png", 3)
        assert labels_of(data) == {"fine/0.png": 0, "odd/0.png": 1}


def test_anomalous_class_is_named_instead(tmp_path):
    write(tmp_path, *numbered("good/{}.png", 3), *numbered("b/{}.png", 5))
    data = load(tmp_path, anomalous="good")
    assert trained_on(data) == numbered("b/{}.png", 4)
    assert dict(zip(data.test.names, data.test.kinds, strict=True))["good/0.png"] == "good (anomalous)"


@pytest.mark.parametrize(("split", "mask"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("header", [True, False])
def test_csv_of_labels(tmp_path, split, mask, header):
    """Its rows decide, whatever the folders are called; images without a row are left out."""
    write(tmp_path, *numbered("a/{}.png", 6), "b/6.png", "b/7.png", "b/8.png")
    write_masks(tmp_path, "c/m.png", column=4)
    rows = [(f"a/{i}.png", "good", "train" if i < 4 else "test", "") for i in range(6)]
    rows += [("b/6.png", "dent", "test", "c/m.png"), ("b/7.png", "dent", "test", "")]
    heads = [("file", "label", "split", "mask")] if header else []
    keep = [0, 1, *([2] if split else []), *([3] if mask else [])]
    write_csv(tmp_path / "labels.csv", *([row[i] for i in keep] for row in heads + rows))
    data = load(tmp_path, labels="labels.csv")
    scored = {"a/4.png", "b/6.png", "b/7.png"} | ({"a/5.png"} if split else set())
    assert labels_of(data) == {name: int(name[0] == "b") for name in sorted(scored)}
    assert trained_on(data) == [name for name in numbered("a/{}.png", 6) if name not in scored]
    if mask:
        found = masked(data)
        assert (found["a/4.png"], found["b/6.png"], found["b/7.png"]) == ([], [4], None)
    else:
        assert data.test.mask is None


def test_labels_of_a_csv_count_more_than_masks(tmp_path):
    """Several rows may name one mask."""
    write(tmp_path, *numbered("a/{}.png", 7))
    write_masks(tmp_path, "masks/m.png", "masks/0.png", column=3)
    splits = ["train"] * 3 + ["test"] * 4
    rows = [(f"a/{i}.png", int(i > 4), split, "masks/m.png") for i, split in enumerate(splits)]
    write_csv(tmp_path / "all.csv", *rows)
    data = load(tmp_path, labels="all.csv")
    assert trained_on(data) == numbered("a/{}.png", 3)
    assert masked(data) == {"a/3.png": [], "a/4.png": [], "a/5.png": [3], "a/6.png": [3]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("normal", "labels", "expected"),
    [(None, "0011", "01"), (None, ["OK", "ok", "NG", "?"], "01"), ("b", "abba", "12"), ("a,b", "abcc", "01")],
)
def test_labels_of_a_csv(tmp_path, normal, labels, expected, delimiter):
    """0 is normal beside 1, and good, ok and normal beside anything; otherwise data.normal says it."""
    write(tmp_path / "images", *numbered("x/{}.png", 4))
    lines = ["\ufeffname,target", *(f"{i},{label}" for i, label in enumerate(labels)), ""]
    (tmp_path / "all labels.txt").write_text("\r\n".join(lines).replace(",", delimiter), encoding="utf-8")
    data = load(tmp_path / "images", labels=str(tmp_path / "all labels.txt"), normal=normal)
    assert trained_on(data) == [f"x/{i}.png" for i in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n0.png,ok\nnone.png,ok", r"labels\.csv, line 3: none\.png matches no image"),
        ("file,label\n0.png,", r"line 2: 0\.png has no label"),
        ("file,label,split\n0.png,ok,later", r"line 2: the split 'later'"),
        ("file,label\n0.png,ok\n0.png,ng", r"line 3: 0\.png has an earlier row"),
        ("file,label\n0.png,a\n1.png,b", r"labels\.csv: has the classes a, b; .*--config\.data\.normal=NAME"),
        ("what,ever\n0.png,ok", r"needs a header"),
        ("", r"needs a header"),
        ("file,label\n0.png,\xff", r"labels\.csv: is not in UTF-8"),
        ("what,ever\n0.png,ok", r"needs a header .*; its first line is what, ever"),
        ("file,label\nbad/0.png,bad\ngood/1.png,ok", r"line 2: bad/0\.png matches no image"),
        ("file,label,split\n0.png,ok,test\n1.png,ok,test", r"holds no image to train on"),
    ],
)
def test_csv_that_cannot_be_used_is_named(tmp_path, text, message):
    write(tmp_path, *numbered("{}.png", 3), *(["good/0.png"] if "bad/" in text else []))
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        load(tmp_path, labels="labels.csv")
    with pytest.raises(UserError, match=r"data\.labels=none\.csv: no such file"):
        load(tmp_path, labels="none.csv")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat/0.png", "dog/0.png"], r"classes cat, dog; .*--config\.data\.normal=NAME"),
        (["train/cat/0.png", "train/dog/0.png"], r"classes cat, dog; .*--config\.data\.normal=NAME"),
        (["0.png", "good/0.png"], r"images next to the folders good.*--config\.data\.labels="),
        (["train/0.png", "train/good/0.png"], r"images next to the folders good.*--config\.data\.labels="),
        (["train/0.png", "test/0.png", "test/good/0.png"], r"images next to the folders good.*--config\.data\.labels="),
        (["good/0.png", "test/0.png"], r"test/ but no train/"),
        (["masks/0.png"], "no image to train on"),
        (["cat/train/0.png", "cat/test/1.png", "dog/test/2.png"], r"several data sets; .*--config\.data\.dir=.*/cat$"),
        (["None/train/0.png", "None/test/1.png"], r"several data sets; .*--config\.data\.dir=.*/None$"),
        (["normal/train/good/0.png", "normal/test/bad/1.png"], r"several data sets; .*--config\.data\.dir=.*/normal$"),
        (["parts/good/0.png", "parts/good/1.png", "parts/bad/2.png"], r"several data sets; .*dir=.*/parts$"),
        (["line/good/train/0.png", "line/bad/test/1.png"], r"several data sets; .*dir=.*/line$"),
        (["images/bottle/train/good/0.png", "images/bottle/test/bad/1.png"], r"several data sets; .*images/bottle$"),
        (["good/0.png", "good/1.png", "good/bad/2.png"], r"several data sets"),
        (["train/cat/good/0.png", "train/cat/bad/1.png"], r"train/cat/bad: lies in the folder of another class"),
        (["ng/0.png"], r"classes ng; .*--config\.data\.normal=NAME"),
        (["train/bad/0.png", "test/good/0.png", "test/bad/0.png"], r"classes bad; .*--config\.data\.normal=NAME"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_classes_of_several_data_sets_are_not_mixed(tmp_path):
    """Where data.normal names one product of MVTec AD, training is refused: its defects must not become normal."""
    for product in ("bottle", "cable"):
        write(tmp_path, *numbered(f"{product}/train/good/{{}}.png", 3), f"{product}/test/broken/0.png")
    with pytest.raises(UserError, match=r"several data sets; .*/bottle$"):
        load(tmp_path, normal="bottle")


@pytest.mark.parametrize("label", ["defective", "bad", "NG"])
def test_images_that_are_called_defective_are_not_trained_on(tmp_path, label):
    """All images of the CSV have one such label: training is refused, unless data.normal names the label."""
    write(tmp_path, *numbered("{}.png", 3))
    write_csv(tmp_path / "labels.csv", ("file", "label"), *((f"{i}.png", label) for i in range(3)))
    with pytest.raises(UserError, match=rf"labels\.csv: has the classes {label}; .*--config\.data\.normal=NAME"):
        load(tmp_path, labels="labels.csv")
    assert len(trained_on(load(tmp_path, labels="labels.csv", normal=label))) == 3


@pytest.mark.parametrize("end", ["mask", "label", "gt", "seg", "segmentation", "annotation"])
def test_masks_beside_images_are_told_by_their_names(tmp_path, end):
    """A file whose whole name is _mask.png is an image, and so is 9-mask.png without an image 9.png."""
    write(tmp_path, *numbered("{}.png", 4), f"_{end}.png", f"9-{end}.png")
    write(tmp_path, *(f"{i}_{end}.png" for i in range(4)), value=0)
    assert set(trained_on(load(tmp_path))) == {*numbered("{}.png", 4), f"_{end}.png", f"9-{end}.png"}


def test_csv_in_use_is_not_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path, *numbered("{}.png", 3))
    write_csv(tmp_path / "labels.csv", ("file", "label"), *((f"{i}.png", "good") for i in range(3)))
    write_csv(tmp_path / "others.csv", ("a", "b"))
    load(tmp_path, labels="labels.csv")
    assert "left out: 1 .csv (such as others.csv)" in caplog.text


def test_masks_of_a_csv_that_are_missing_are_told(tmp_path, caplog):
    """They forbid nothing, and no image is taken for its own mask."""
    write(tmp_path, "good/0.png", "good/1.png", "bad/2.png", "bad/3.png")
    rows = [
        ("good/0.png", "ok", ""),
        ("good/1.png", "ok", ""),
        ("bad/2.png", "ng", "m/2.png"),
        ("bad/3.png", "ng", "3.png"),
    ]
    write_csv(tmp_path / "labels.csv", ("file", "label", "mask"), *rows)
    data = load(tmp_path, labels="labels.csv")
    assert labels_of(data)["bad/2.png"] == 1
    assert "labels.csv: 2 masks do not exist in" in caplog.text
    assert "such as m/2.png in line 4" in caplog.text


def test_mask_that_may_be_of_several_images_is_not_guessed(tmp_path):
    write(tmp_path, *numbered("a/{}.png", 3), *numbered("b/{}.png", 3))
    write_masks(tmp_path, "masks/0.png")
    with pytest.raises(UserError, match=r"0\.png: may be the mask of a/0\.png or of b/0\.png"):
        load(tmp_path)
    (tmp_path / "a").rename(tmp_path / "good")
    (tmp_path / "b").rename(tmp_path / "crack")
    write(tmp_path, "dent/0.png", "dent/1.png", "good/4.png", "good/5.png")
    assert load(tmp_path).test.mask is None


def test_missing_masks_forbid_nothing_and_are_told_once(tmp_path, caplog):
    write(tmp_path, "train/good/0.png", "train/good/1.png", *numbered("test/crack/{}.png", 5), "test/good/0.png")
    write_masks(tmp_path, *numbered("ground_truth/crack/x{}.png", 3))
    data = load(tmp_path)
    assert data.test.mask is None
    assert caplog.text.count("5 of 5 anomalous images have no mask, such as test/crack/0.png") == 1
    write_masks(tmp_path, *numbered("ground_truth/crack/{}_mask.png", 3))
    caplog.clear()
    found = masked(load(tmp_path))
    assert [found[f"crack/{i}.png"] for i in range(5)] == [[0], [0], [0], None, None]
    assert caplog.text.count("2 of 5 anomalous images have no mask, such as test/crack/3.png") == 1


def test_test_images_without_a_class_have_no_labels(tmp_path):
    write(tmp_path, *numbered("train/good/{}.png", 3), *numbered("test/{}.png", 2))
    data = load(tmp_path)
    assert (data.test.names, data.test.labels, data.test.kinds) == (["0.png", "1.png"], None, None)


def test_folders_and_what_is_left_out_are_told(tmp_path, caplog):
    write(tmp_path, *numbered("Good/{}.png", 5), "crack/0.png", "crack/.trash.png", ".git/0.png")
    write_masks(tmp_path, "Masks/crack/0.png")
    for name in ("crack/._0.png", "Good/._1.png", "labels.csv", "Good/notes.heic", "README"):
        (tmp_path / name).write_text("no image")
    with caplog.at_level("INFO", "anogan_jax"):
        load(tmp_path)
    for text in (
        "Good: normal images to train on: 4",
        "Good: normal images to score: 1",
        "crack: anomalous images to score, with masks: 1",
        "Masks: masks: 1",
    ):
        assert text in caplog.text
    (line,) = [message for message in caplog.messages if "left out" in message]
    for text in (
        "1 .csv (such as labels.csv)",
        "1 .heic",
        "2 hidden (such as .git)",
        "2 of macOS",
        "1 without a suffix",
    ):
        assert text in line


def test_input_leaves_out_the_same_files(tmp_path, caplog):
    write(tmp_path, "a.png", "mask/b.png", ".hidden/c.png")
    (tmp_path / "._a.png").write_text("of macOS")
    with caplog.at_level("INFO", "anogan_jax"):
        assert read_inputs([tmp_path], 1).names == ["a.png", "mask/b.png"]
    assert "left out: 1 hidden (such as .hidden), 1 of macOS (such as ._a.png)" in caplog.text


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "dib", "pnm", "jp2", "avif"])
def test_other_suffixes_are_read(tmp_path, suffix):
    write(tmp_path, *numbered("{}." + suffix, 3))
    data = load(tmp_path)
    assert trained_on(data) == numbered("{}." + suffix, 3)
    assert data.train.read(0).shape == (*SIZE, 1)


def test_folder_without_an_image_says_what_it_holds(tmp_path):
    (tmp_path / "a.heic").write_text("no image")
    for read in (lambda: load(tmp_path), lambda: read_inputs([tmp_path], 1)):
        with pytest.raises(UserError, match=r"holds no image .*; left out: 1 \.heic \(such as a\.heic\)"):
            read()


def test_linked_folders_are_read_once_and_loops_end(tmp_path):
    write(tmp_path / "elsewhere", *numbered("{}.png", 3))
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/train/good").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "data")
    assert trained_on(load(tmp_path / "data")) == numbered("good/{}.png", 3)


def test_linked_image_is_trained_on_once(tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path / "data", *numbered("a/{}.png", 3), "b/3.png")
    (tmp_path / "data/latest").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/a/9.png").symlink_to(tmp_path / "data/b/3.png")
    (tmp_path / "data/a/8.png").symlink_to(tmp_path / "nowhere")
    assert trained_on(load(tmp_path / "data", normal="*")) == [*numbered("a/{}.png", 3), "b/3.png"]
    assert "left out: 5 links to other images" in caplog.text
    assert "broken links or no regular files (such as a/8.png)" in caplog.text


def test_masks_of_regions_are_no_masks_of_defects(tmp_path):
    write(tmp_path, *numbered("train/{}.png", 3), "test/good/0.png", "test/bad/0.png")
    write_masks(tmp_path, *numbered("masks/train/{}.png", 3), "masks/test/good/0.png", "masks/test/bad/0.png")
    data = load(tmp_path, roi=str(tmp_path / "masks"))
    assert data.test.mask is None
    assert data.test.region(0).sum() == SIZE[0]


def test_order_is_that_of_the_paths(tmp_path):
    names = ["b/1.png", "b/0.png", "a/2.png", "a-b/0.png"]
    write(tmp_path, *(f"test/{name}" for name in names), *numbered("train/{}.png", 2))
    assert load(tmp_path).test.names == ["a/2.png", "a-b/0.png", "b/0.png", "b/1.png"]


def test_names_of_classes():
    for name in ("good", "OK", "0.normal", "00_Good", "3 - ok"):
        assert is_called_normal(name)
    for name in ("goods", "abnormal", "not ok", "0", "anomaly"):
        assert not is_called_normal(name)
    classes = {"0", "1", "10", "0.normal", "a,b"}
    for wanted, expected in (("1", {"1"}), ("1*", {"1", "10"}), ("0,10", {"0", "10"}), ("NORMAL", {"0.normal"})):
        assert chosen_normal(classes, DataConfig(normal=wanted)) == expected
        assert chosen_normal(classes, DataConfig(anomalous=wanted)) == classes - expected
    assert chosen_normal(classes, DataConfig()) is None
    message = r"anomalous=0,7: there is no class 7; the classes are 0\.normal, a,b, 0, 1, 10"
    with pytest.raises(UserError, match=message):
        chosen_normal(classes, DataConfig(anomalous="0,7"))


def test_several_normal_classes_of_arrays(tmp_path):
    images = np.repeat(np.arange(20, dtype=np.uint8), 64).reshape(20, 8, 8)
    np.savez(
        tmp_path / "a.npz", **{f"{split}_images": images for split in ("train", "test")}, train_labels=np.arange(20) % 5
    )
    settings = DataConfig(source="npz", dir=str(tmp_path / "a.npz"), normal="0,1,4")
    data = load_one_class(Config(data=settings, model=ModelConfig(image_size=8)))
    assert sorted(int(name) % 5 for name in trained_on(data)) == [0] * 4 + [1] * 4 + [4] * 4


@pytest.mark.parametrize(
    ("kept", "known", "unknown"), [("crack", "recall", "specificity"), ("good", "specificity", "recall")]
)
def test_test_split_of_one_kind_is_scored(tiny_run, tmp_path, caplog, kept, known, unknown):
    """With the metrics that mean something; pixels are compared within the defective images."""
    write(tmp_path, *numbered("train/good/{}.png", 3), *numbered(f"test/{kept}/{{}}.png", 4))
    if kept == "crack":
        (tmp_path / "test/good").mkdir()
        write_masks(tmp_path, *numbered("ground_truth/crack/{}_mask.png", 3))
    queries = load(tmp_path).test
    summary = score_to_folder(tiny_run.detector, queries, tmp_path / "output", "")
    assert ("no test image is normal" in caplog.text) == (kept == "crack")
    assert summary["labelled_anomalous"] == (4 if kept == "crack" else 0)
    assert summary[known] in (0, 0.25, 0.5, 0.75, 1)
    assert {"auroc", "precision", unknown}.isdisjoint(summary)
    assert f"AUROC, average precision, precision, {'' if known == 'recall' else 'recall'}" in summary["not_measured"]
    assert summary["not_measured"] in caplog.text
    expected = ["pixel_auroc", "pixel_ap", "pro"] if kept == "crack" else []
    assert list(summary.get("defects", {}).get("all", {})) == expected


def test_metrics_of_pixels_leave_out_images_without_a_mask(tiny_run, tmp_path):
    """They are those of the same folder without these images."""
    names = numbered("test/crack/{}.png", 3) + numbered("test/good/{}.png", 2)
    write(tmp_path, *numbered("train/good/{}.png", 3), *names, "test/dent/0.png")
    write_masks(tmp_path, *numbered("ground_truth/crack/{}_mask.png", 2))
    found = score_to_folder(tiny_run.detector, load(tmp_path).test, tmp_path / "a", "")["defects"]
    assert list(found["dent"]) == ["image_auroc"]
    for name in ("crack/2.png", "dent/0.png"):
        (tmp_path / "test" / name).unlink()
    without = score_to_folder(tiny_run.detector, load(tmp_path).test, tmp_path / "b", "")["defects"]
    for kind in ("all", "crack"):
        for metric in ("pixel_auroc", "pixel_ap", "pro"):
            assert found[kind][metric] == without[kind][metric]


def build_class_folders(folder):
    for each in ("cat", "dog", "cow"):
        write(folder, *numbered(f"train/{each}/{{}}.png", 6), f"test/{each}/0.png")


def build_csv(folder):
    write(folder, *numbered("{}.png", 8))
    write_csv(folder / "labels.csv", ("file", "label"), *((f"{i}.png", "NAME" if i < 6 else "other") for i in range(8)))


def build_visa_with_its_split(folder):
    write_visa(folder)
    images = "candle/Data/Images"
    rows = [("candle", "test" if i == 9 else "train", "normal", f"{images}/Normal/{i:04}.JPG", "") for i in range(10)]
    rows.append(("candle", "test", "anomaly", f"{images}/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png"))
    write_csv(folder.parent / "split_csv/1cls.csv", ("object", "split", "label", "image", "mask"), *rows)


def build_kolektor(folder):
    for i in range(6):
        write(folder, f"kos{i:02}/Part1.jpg", f"kos{i:02}/Part2.jpg")
        write(folder, f"kos{i:02}/Part1_label.bmp", value=0)
        write_masks(folder, f"kos{i:02}/Part2_label.bmp")


def build_mvtec(folder, good="good", bad="crack", mask="crack/0_mask.png"):
    write(folder, *numbered(f"train/{good}/{{}}.png", 6), f"test/{good}/0.png", f"test/{bad}/0.png")
    write_masks(folder, f"ground_truth/{mask}")


def build_loco(folder):
    build_mvtec(folder, bad="logical_anomalies", mask="logical_anomalies/0/000.png")
    write(folder, *numbered("validation/good/{}.png", 2))


def build_good_beside_others(folder):
    write(folder, *numbered("good/{}.png", 10), *numbered("crack/{}.png", 2))
    write_masks(folder, "mask/0.png")


def build_arrays(file, labels):
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), *SIZE), np.uint8)
    splits = {f"{split}_images": pixels for split in ("train", "test")}
    np.savez(file, **splits, train_labels=labels, test_labels=labels)


def build_12_bits(folder):
    for i in range(6):
        Image.fromarray(np.random.default_rng(i).integers(0, 4096, SIZE).astype(np.uint16)).save(folder / f"{i}.png")


def build_pages(folder):
    pages = [Image.fromarray(np.random.default_rng(i).integers(0, 256, SIZE, np.uint8)) for i in range(4)]
    for i in range(3):
        pages[0].save(folder / f"{i}.tif", save_all=True, append_images=pages[1:])


def build_dicom(folder):
    """Write six series of one slice, from one that pydicom ships."""
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    for i in range(6):
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[str(i)])
        dataset.save_as(folder / f"{i}.dcm")


def build_nifti(folder):
    for i in range(3):
        volume = np.random.default_rng(i).integers(0, 4000, (8, 6, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"{i}.nii.gz")


# The rows of the README's table: what builds the layout, and how many normal images each of the commands trains on;
# where it is -1, the command is refused for want of data.normal, and None stands for an unknown number.
ROWS = (
    (lambda folder: write(folder, *numbered("{}.png", 6)), [6]),
    (build_good_beside_others, [8]),
    (build_class_folders, [6, 12, 18]),
    (build_mvtec, [6, 6]),
    (build_loco, [8]),
    (lambda folder: build_mvtec(folder, "ok", "ko", "ko/0.png"), [6]),
    (write_visa, [8]),
    (build_visa_with_its_split, [9]),
    (build_kolektor, [5]),
    (build_csv, [-1, 5]),
    (partial(build_arrays, labels=np.arange(40) % 10), [4, 12]),
    (partial(build_arrays, labels=np.array(["ok", "ng"] * 8)), [8]),
    (build_12_bits, [6, 6]),
    (build_pages, [12]),
    (build_dicom, [6]),
    (build_nifti, [12]),
    (partial(build_arrays, labels=np.arange(40) % 4), [10]),
    (lambda folder: None, [20, None]),  # CelebA, mocked
)


def commands_of(row):
    """Return the flags of each command of a row: the first, and those that change its last value or add flags."""
    texts = [shlex.split(text) for text in re.findall("`(.+?)`", row)]
    first, *others = [text for text in texts if text[0] != "pip"]
    value = first[-1].rpartition("=")[-1]
    changed = [[*first[:-1], first[-1].removesuffix(value) + other[0]] for other in others if other[0][0] != "-"]
    configs = [[*other, *first] for other in others if other[0] == "--config"]  # before the fields that they set
    return [first, *changed, *configs, *([*first, *other] for other in others if other[0].startswith("--config."))]


TEXT = (ROOT / "README.md").read_text()
README_ROWS = re.search(r"what you type after.*\n\|---.*\n((?:\|.*\n)+)", TEXT)[1].splitlines()
TINY = {"model.image_size": 8, "model.channels": 1, "model.width": 4, "model.latent_size": 4, "segmenter.steps": 0}
TINY |= {"train.steps": 2, "train.batch_size": 4, "bank.size": 16, "bank.inverted": 0, "search.starts": 1}
TINY |= {"search.steps": 0, "data.held_out": 0.2}


@pytest.mark.parametrize("number", range(len(README_ROWS)), ids=[row.split("|")[1][:20] for row in README_ROWS])
def test_commands_of_the_readme_train(run_main, tmp_path, monkeypatch, number):
    """Each command of the table of layouts, as it stands there, trains to the end on the images that it should."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "tfds_is_prepared", lambda data: True)
    build, counts = ROWS[number]
    commands = commands_of(README_ROWS[number].split("|")[-2])
    for i, (command, count) in enumerate(zip(commands, counts, strict=True)):
        config = [] if "--config" in command else ["--config", "configs/folder.py"]
        flags = [flag.replace("configs/", f"{ROOT}/configs/") for flag in [*config, *command]]
        if not any("data.dir" in flag for flag in flags) and "celeb_a" not in " ".join(flags):
            flags += ["--config.data.source=npz", "--config.data.dir=arrays.npz"]
        place = tmp_path / next((flag.rpartition("=")[-1] for flag in flags if "data.dir" in flag), "")
        (place.parent if place.suffix else place).mkdir(parents=True, exist_ok=True)
        build(place)
        tiny = [f"--config.{name}={value}" for name, value in TINY.items()]
        with mock_tfds(20):
            done = run_main(train.main, *flags, *tiny, f"--workdir=run{i}")
        if count == -1:
            assert (done.code, "--config.data.normal=NAME" in done.errors) == (1, True)
            continue
        assert done.code == 0, done.errors
        trained, held_out = re.search(r"training on (\d+) normal images .*; (\d+) held out", done.errors).groups()
        assert count in (int(trained) + int(held_out), None)
        assert "finished" in done.errors


def test_table_of_the_readme_is_tested_as_a_whole():
    assert len(README_ROWS) == len(ROWS)


def test_several_inputs_are_scored_alike(tiny_run, run_main, tmp_path, monkeypatch):
    """Files, folders and patterns, quoted or expanded by the shell, with flags behind them; each image once."""
    write(tmp_path / "new", "a.png", "b.png", "more/c.png", "more/d.png")
    (tmp_path / "new/notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path / "new")
    expected = ["a.png", "b.png", "more/c.png", "more/d.png"]
    ways = {
        "expanded by the shell": ["--input", "a.png", "b.png", "more"],
        "flags": ["--input=a.png", "--input=b.png", "--input=more/c.png", "--input=more/d.png"],
        "pattern": ["--input", "*"],
        "all below": ["--input", "**/*.png", "a.png"],
    }
    scores = []
    for i, (name, given) in enumerate(ways.items()):
        output = tmp_path / f"output{i}"
        done = run_main(score.main, f"--workdir={tiny_run.workdir}", *given, "--preset=nearest", "--output", output)
        assert done.code == (3 if name == "pattern" and "notes" in done.errors and "skipped" in done.errors else 0), (
            name
        )
        rows = rows_of(output / "scores.csv")
        assert [row["name"] for row in rows] == expected, name
        scores.append([row["score"] for row in rows])
    assert scores == [scores[0]] * len(ways)
    np.save("images.npy", np.zeros((2, 8, 8), np.uint8))
    for given, message in (
        (["none.png", "a.png"], "none.png: no such file"),
        (["x*.png"], "x*.png: finds no image"),
        (["a.png", "images.npy"], "images.npy: an array is scored by itself"),
    ):
        done = run_main(score.main, f"--workdir={tiny_run.workdir}", "--input", *given)
        assert done.code == 1
        assert message in done.errors
