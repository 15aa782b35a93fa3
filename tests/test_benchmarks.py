"""The benchmarks of detection: their tables, their choices, a quick run, mistaken flags."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from anogan_jax.config import BankConfig, Config, DataConfig, differences
from anogan_jax.data import load_one_class
from anogan_jax.data.images import from_list
from anogan_jax.errors import UserError
from benchmarks import blind_spots, boards, damaged
from benchmarks.choices import choices
from benchmarks.choices import table as choices_table
from benchmarks.one_class_table import table


def test_mean_needs_all_classes_of_whole_seeds():
    def row(label, seed, auroc):
        return {"method": "default", "class": label, "seed": seed, "auroc": auroc, "images": 10, "seconds": 0.1}

    whole = [row(label, seed, 0.9 + 0.02 * seed) for label in range(10) for seed in (0, 1)]
    assert "| 91.00 ± 1.41 | 10 | 10 |" in table("mnist", [*whole, row(0, 2, 0.5)])[2]
    assert "|  | 10 | 10 |" in table("mnist", whole[:18])[2]  # no mean of nine classes
    assert {line.count("|") for line in table("mnist", whole[:4])} == {15}  # nor rows of several lengths


def test_choices_change_one_setting_of_the_config():
    for config in (Config(), Config(bank=BankConfig(inverted=0))):
        names, (own, *others) = zip(*choices(config).items(), strict=True)
        assert names[0].startswith("**")
        assert own == config
        assert len(others) == 3 + 5 + 4 + 2 + 3 + 1  # starts, steps, rate, features, weight of references, bank
        assert all(len(differences(other, config)) == 1 for other in others)


def test_table_of_choices_has_a_row_for_each_choice():
    rows = [[{"auroc": 0.9, "images_per_second": 100.0}], [{"auroc": 0.92, "images_per_second": 50.0}]]
    assert choices_table([3, 8], ["steps 4"], rows)[2:] == ["| steps 4 | 90.0 | 92.0 | 91.00 | 75 |"]


def test_quick_one_class_benchmark_prints_a_table(tmp_path):
    tiny = ("--config.model.width=4", "--config.search.steps=0", "--config.rotation.steps=4", f"--workdir={tmp_path}")
    methods = ["default", "rotation", "no_rotation", "random_bank", "same_knn", "knn2cos"]
    done = run_one_class(*tiny, "--quick", "--classes=3", f"--methods=nearest,{','.join(methods)}")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[:6]]
    assert [row[:3] for row in rows] == [["3", "0", name] for name in methods]  # the default is nearest, without a row
    assert len({row[3] for row in rows}) > 3  # AUROC
    assert done.stdout.splitlines()[6].startswith("| method | 3 | mean |")


@pytest.mark.parametrize(
    ("program", "message"),
    [("causes", "--figure is needed"), ("one_class --methods=foo", "flag --methods=['foo']: must be among default,")],
)
def test_mistaken_flag_is_one_line(program, message):
    command = [sys.executable, "-m", *f"benchmarks.{program}".split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {message}")


def test_rows_of_other_settings_are_kept(tmp_path):
    path = tmp_path / "rows.json"
    fields = {"auroc": 0.5, "images": 1, "seconds": 1, "config": ["train.steps=1"]}
    path.write_text(json.dumps([{"method": "default", "class": 0, "seed": 0, **fields}]))
    before = path.read_bytes()
    done = run_one_class(f"--workdir={tmp_path}", f"--results={path}")
    assert done.returncode == 1
    assert done.stderr == f"error: {path}: its rows have other settings; give another file as --results\n"
    assert path.read_bytes() == before


def run_one_class(*flags):
    command = [sys.executable, "-m", "benchmarks.one_class", "--config=configs/digits.py", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)


@pytest.mark.parametrize("channels", [1, 3])
def test_changes_of_blind_spots_keep_shape_and_type(channels):
    image = np.random.default_rng(0).integers(0, 256, (24, 32, channels), np.uint8)
    found = blind_spots.changes(channels)
    assert ("without green" in found) == (channels == 3)
    for name, change in found.items():
        changed = change(image)
        assert changed.dtype == np.uint8, name
        assert changed.shape == (image.shape if "turned" not in name else (32, 24, channels)), name
        assert not np.array_equal(changed, image), name


def test_table_of_blind_spots_has_a_row_for_each_change(tiny_run):
    images = from_list([np.zeros((16, 16, 1), np.uint8)] * 3, 1, "black")
    rows = {"black": blind_spots.called_anomalous(tiny_run.detector, images)}
    assert rows["black"][0] == 1
    assert blind_spots.table({"run": rows, "other": {}})[-1] == f"| black | 100 {rows['black'][1]} |  |"


@pytest.mark.parametrize("defect", boards.DEFECTS)
def test_mask_of_a_board_covers_all_that_its_defects_change(defect):
    rng = np.random.default_rng(0)
    board = boards.draw_board(rng)
    before = np.array(board.image)
    image, mask = boards.with_defects(board, defect, count=2, rng=rng)
    assert np.array_equal(np.array(board.image), before)
    changed = np.array(image) != before
    assert changed.sum() > 100
    assert np.array_equal(np.array(mask) > 0, changed)


def test_boards_are_in_a_layout_with_masks_and_none_is_overwritten(tmp_path, monkeypatch):
    for name in ("_TRAIN", "_TEST", "_OF_DEFECT"):
        monkeypatch.setattr(boards, name, 2)
    boards.write(tmp_path / "boards")
    images = load_one_class(Config(data=DataConfig(source="folder", dir=str(tmp_path / "boards"))))
    assert len(images.train.names + images.held_out.names) == 2
    assert np.bincount(images.test.labels).tolist() == [2, 12]
    assert all(images.test.mask(i).any() for i in np.flatnonzero(images.test.labels))
    with pytest.raises(UserError, match="exists already"):
        boards.write(tmp_path / "boards")


def test_damaged_copies_differ_where_their_masks_say_so():
    held_out = [np.random.default_rng(i).integers(0, 256, (20 + i, 30, 1), np.uint8) for i in range(3)]
    images, masks = damaged.with_damaged_copies([*held_out, held_out[0][:8]], size=16)
    assert len(images) == len(masks) == 9
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        original = held_out[number // 3]
        assert mask.shape == image.shape[:2] == original.shape[:2]
        assert np.array_equal(image, original) == (number % 3 == 0)
        assert mask.any() == (number % 3 > 0)


def test_figures_of_damage_are_perfect_for_its_own_masks():
    masks = [np.zeros((16, 16), bool), np.zeros((16, 16), bool)]
    masks[1][2:6, 2:6] = True
    assert damaged.figures([mask.astype(np.float32) for mask in masks], masks) == [1.0] * 6
