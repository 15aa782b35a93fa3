"""The one-class benchmark: what it says is the mean is one, and it runs."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from anogan_jax.config import SearchConfig
from benchmarks.choices import choices
from benchmarks.one_class_table import table


def test_a_mean_is_of_all_classes_and_of_whole_seeds():
    def row(label, seed, auroc):
        return {"method": "best", "class": label, "seed": seed, "auroc": auroc, "images": 10, "seconds": 0.1}

    whole = [row(label, seed, 0.9 + 0.02 * seed) for label in range(10) for seed in (0, 1)]
    assert "| 91.00 ± 1.41 | 10 | 10 |" in table("mnist", [*whole, row(0, 2, 0.5)])[2]
    assert "|  | 10 | 10 |" in table("mnist", whole[:18])[2]  # no mean of nine classes
    assert {line.count("|") for line in table("mnist", whole[:4])} == {15}  # nor rows of several lengths


def test_one_of_the_choices_is_what_the_config_says():
    for chosen in (SearchConfig(yardstick="structure", nearest_by="pixels"), SearchConfig(references=0)):
        tried = [{**vars(chosen), **changes} for name, changes, _ in choices(chosen) if name.startswith("**")]
        assert tried == [vars(chosen) | {"nearest_by": chosen.nearest_by or chosen.yardstick}]


def test_the_quick_one_class_benchmark_prints_a_table(tmp_path):
    flags = ["--config=configs/digits.py", "--workdir", tmp_path, "--quick", "--methods=best,sampled,same_knn,knn2cos"]
    command = [sys.executable, "-m", "benchmarks.one_class", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines[:8]] == 2 * ["best", "sampled", "same_knn", "knn2cos"]
    assert lines[8].startswith("| method | 0 | 1 | mean |")


@pytest.mark.parametrize(
    ("program", "message"),
    [("causes", "--figure is needed"), ("one_class --methods=foo", "flag --methods=['foo']: must be among best,")],
)
def test_a_mistaken_flag_is_one_line(program, message):
    command = [sys.executable, "-m", *f"benchmarks.{program}".split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {message}")


def test_rows_of_other_settings_stay(tmp_path):
    row = {
        "method": "best",
        "class": 0,
        "seed": 0,
        "auroc": 0.5,
        "images": 1,
        "seconds": 1,
        "config": ["train.steps=1"],
    }
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path}", f"--results={tmp_path / 'rows.json'}"]
    command = [sys.executable, "-m", "benchmarks.one_class", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == f"error: {tmp_path / 'rows.json'}: its rows are of other settings; give another by --results\n"
    )
    assert json.loads((tmp_path / "rows.json").read_text()) == [row]
