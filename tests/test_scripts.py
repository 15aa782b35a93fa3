"""train.py and score.py as users run them, each in its own process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, assert_trees_equal, rows_of, run_script, tiny_config, tiny_flags
from PIL import Image

from anogan_jax import __version__, load
from anogan_jax.config import PRESETS, to_fields


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory that train.py left; treat it as read-only."""
    workdir = tmp_path_factory.mktemp("run") / "tiny"
    done = run_script("train.py", *tiny_flags(), "--workdir", workdir)
    assert done.code == 0, done.errors
    assert f"python -m anogan_jax score --workdir {workdir}" in done.errors
    return workdir


def test_training_gives_the_detector_that_fit_gives(trained, tiny_run):
    """Bit for bit, in another process."""
    ours, theirs = load(trained), tiny_run.detector
    for name in ("model", "bank", "held_out", "calibration"):
        assert_trees_equal(getattr(ours, name), getattr(theirs, name))


def test_test_split_is_scored_into_the_work_directory(trained, tmp_path):
    """The table on stdout shows the numbers of summary.json; compiled programs are kept in the user's cache folder."""
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "score.py", "--workdir", workdir],
        env=environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert len(rows_of(workdir / "scores.csv")) == summary["images"] == 40
    for name in ("auroc", "precision", "recall", "sensitivity", "specificity", "average_precision", "seconds"):
        assert name in summary
        assert name.replace("_", " ") in done.stdout
    assert (tmp_path / "cache" / "anogan_jax").stat().st_mode & 0o077 == 0  # what lies in there is run
    assert any(path.name.startswith("jit_score_block") for path in (tmp_path / "cache" / "anogan_jax").iterdir())


def test_unreadable_file_gives_exit_code_3_and_settings_are_obeyed(trained, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "text.png").write_text("not a picture")
    flags = ("--preset=nearest", "--config.search.steps=1")
    done = run_script("score.py", "--workdir", trained, "--input", folder, "--output", tmp_path / "output", *flags)
    assert done.code == 3, done.errors
    assert f"skipped {folder / 'text.png'}" in done.errors
    assert "1: text.png" in (tmp_path / "output" / "report.html").read_text()
    rows = rows_of(tmp_path / "output" / "scores.csv")
    assert (rows[2]["name"], rows[2]["is_anomaly"], rows[2]["score"]) == ("text.png", "unreadable", "")
    detector = load(trained).with_preset("nearest")
    config = detector.config
    config.search.steps = 1
    expected = load(trained).with_config(config).score(images)
    np.testing.assert_array_equal([float(row["score"]) for row in rows[:2]], expected.score)


def test_help_names_every_setting():
    done = run_script("score.py", "--help")
    assert (done.code, done.errors) == (0, "")
    for name in to_fields(tiny_config()):
        assert f"--config.{name}=" in done.output
    for name in ("--workdir", "--distributed", "--preset", *PRESETS):
        assert name in done.output


def test_sigterm_saves_and_the_same_command_resumes(tmp_path):
    flags = [*tiny_flags({"train.steps": 100_000, "train.log_every": 100}), f"--workdir={tmp_path}"]
    ends = []
    for _ in range(2):
        command = [sys.executable, ROOT / "train.py", *flags]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        before = last_checkpoint(tmp_path)
        while last_checkpoint(tmp_path) <= before:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert f"saved at step {last_checkpoint(tmp_path)}; run the same command again to resume" in errors
        assert "Traceback" not in errors
        ends.append((last_checkpoint(tmp_path), errors))
    assert f"resuming at step {ends[0][0]}" in ends[1][1]
    assert ends[1][0] > ends[0][0]


def last_checkpoint(workdir):
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal()), default=0)


def test_mistake_is_one_line_without_a_traceback(tmp_path):
    done = run_script("train.py", *tiny_flags(), "--workdir", tmp_path, "--distributed")
    assert done.code == 1
    (line,) = done.errors.splitlines()
    assert line.startswith("error: --distributed: ")
    assert "JAX_COORDINATOR_ADDRESS" in line


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc returns freed memory so eagerly")
def test_freed_memory_is_kept():
    """Page faults of allocating and freeing 64 MB again: some 16,000 without keep_memory, none with it."""
    code = (
        "import resource, numpy as np\n"
        "from anogan_jax.cli import keep_memory\n"
        "def faults():\n"
        "    for _ in range(3):\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        np.ones(2**23)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults())\n"
        "keep_memory()\n"
        "print(faults())\n"
    )
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=environment
    )
    without, kept = map(int, done.stdout.split()[-2:])
    assert without > 10_000
    assert kept < 100


def test_version():
    assert __version__ == "0.3.0"
