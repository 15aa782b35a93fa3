"""train.py and score.py as users run them: files, exit codes, and one line for each mistake."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, TINY, run_script
from PIL import Image

from anogan_jax import __version__, p_values


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def fails(done, *words, code=1):
    """One line on stderr that holds the words, no traceback."""
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert str(word) in errors[0]


@pytest.fixture(scope="module")
def scored_run(trained_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("scores")
    done = run_script("score.py", "--workdir", trained_run, "--output", output)
    assert done.returncode == 0, done.stderr
    return output, done


def test_training_leaves_what_it_should(trained_run):
    assert json.loads((trained_run / "config.json").read_text())["train"]["steps"] == 12
    assert sorted(p.name for p in (trained_run / "checkpoints").iterdir()) == ["10", "12", "5"]
    assert sorted(p.name for p in (trained_run / "samples").iterdir()) == ["00000006.png", "00000012.png"]
    logged = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [4, 5, 8, 10, 12]
    assert all(np.isfinite(list(line.values())).all() for line in logged)


def test_compiled_programs_and_the_bank_are_kept(trained_run, tmp_path):
    """In the user's cache folder, and beside the checkpoint; from what was kept, the scores are the same."""
    places = {"JAX_COMPILATION_CACHE_DIR": None, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    scores = []
    for _ in range(2):
        done = run_script("score.py", "--workdir", trained_run, "--output", tmp_path / "scores", **places)
        assert done.returncode == 0, done.stderr
        scores.append((tmp_path / "scores" / "scores.csv").read_text())
    assert scores[0] == scores[1]
    assert any(path.name.startswith("jit_turn") for path in (tmp_path / "cache" / "anogan_jax").iterdir())
    assert np.load(trained_run / "bank" / "12" / "0-64.npz")["images"].shape == (64, 16, 16, 1)


def test_score_csv_and_summary_agree(scored_run, trained_run):
    output, done = scored_run
    scores = rows(output / "scores.csv")
    assert list(scores[0]) == ["name", "label", "score", "residual", "discrimination", "p_value", "is_anomaly"]
    assert len(scores) == 40
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 40
    assert summary["anomalies"] == sum(int(row["is_anomaly"]) for row in scores)
    held_out = np.load(next(trained_run.glob("held_out-*.npz")))["scores"]
    values = np.array([float(row["score"]) for row in scores])
    np.testing.assert_array_equal([float(row["p_value"]) for row in scores], p_values(values, held_out))
    labels = np.array([int(row["label"]) for row in scores])
    pairs = [(a > n) + 0.5 * (a == n) for a in values[labels == 1] for n in values[labels == 0]]
    assert summary["auroc"] == pytest.approx(np.mean(pairs))
    for name in ("precision", "recall", "sensitivity", "specificity", "average_precision", "seconds"):
        assert name in summary
        assert name.replace("_", " ") in done.stdout
    for picture in ("panels.png", "histogram.png", "roc.png"):
        with Image.open(output / picture) as image:
            assert min(image.size) > 300


def test_scoring_again_gives_the_same_bytes(scored_run, trained_run, tmp_path):
    assert run_script("score.py", "--workdir", trained_run, "--output", tmp_path).returncode == 0
    assert (tmp_path / "scores.csv").read_bytes() == (scored_run[0] / "scores.csv").read_bytes()


def test_one_image_scores_as_it_does_in_a_folder_or_an_array(trained_run, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 16, 16), np.uint8)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i}.png")
    np.save(tmp_path / "images.npy", images)
    np.savez(tmp_path / "more.npz", images=images[::-1])
    scores = {}
    for name in ("folder", "images.npy", "more.npz", "folder/1.png"):
        done = run_script(
            "score.py", "--workdir", trained_run, "--input", tmp_path / name, "--output", tmp_path / "out"
        )
        assert done.returncode == 0, done.stderr
        scores[name] = [(row["name"], row["label"], row["score"]) for row in rows(tmp_path / "out" / "scores.csv")]
    assert [name for name, *_ in scores["folder"]] == ["0.png", "1.png", "2.png"]
    values = [value for *_, value in scores["folder"]]
    assert [value for *_, value in scores["images.npy"]] == values
    assert [value for *_, value in scores["more.npz"]] == values[::-1]
    assert scores["folder/1.png"] == [("1.png", "", values[1])]


def test_unreadable_files_are_marked_and_the_exit_code_says_so(trained_run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.new("L", (16, 16), 99).save(folder / "fine.png")
    (folder / "text.png").write_text("not a picture")
    done = run_script("score.py", "--workdir", trained_run, "--input", folder, "--output", tmp_path)
    assert done.returncode == 3
    assert f"skipped {folder / 'text.png'}" in done.stderr
    assert "1: text.png" in (tmp_path / "report.html").read_text()
    assert [(row["name"], row["is_anomaly"]) for row in rows(tmp_path / "scores.csv")][1] == ("text.png", "unreadable")


def test_the_paper_table(trained_run, tmp_path):
    done = run_script("score.py", "--workdir", trained_run, "--compare", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    methods = [row["method"].split(":")[0] for row in rows(tmp_path / "comparison.csv")]
    assert methods == ["anogan", "nearest", "paper", "yeh", "discriminator", "kNN (k=2)", "kNN (k=2), cosine", "PCA-32"]


def test_discriminator_score(trained_run, tmp_path):
    done = run_script("score.py", "--workdir", trained_run, "--method", "discriminator", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    row = rows(tmp_path / "scores.csv")[0]
    assert row["score"] == row["discrimination"]


def test_an_alpha_that_the_held_out_images_cannot_resolve_is_said(trained_run, tmp_path):
    done = run_script("score.py", "--workdir", trained_run, "--alpha=0.001", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "alpha=0.001: too low for 29 held-out images" in done.stderr
    assert {row["is_anomaly"] for row in rows(tmp_path / "scores.csv")} == {"0"}


def test_the_work_directory_wins_over_another_config_and_says_so(trained_run, tmp_path):
    flags = [*TINY, "--config.search.steps=999", "--workdir", trained_run, "--output", tmp_path]
    done = run_script("score.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "search.steps=3, not 999" in done.stderr


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    flags = [*TINY, "--config.train.steps=100000", f"--workdir={tmp_path}"]
    command = [sys.executable, ROOT / "train.py", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "checkpoints" / "5").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "run again to go on" in errors
    assert "Traceback" not in errors


MISTAKES = {
    "no config": (["train.py"], ["--config"], 1),
    "no such config": (["train.py", "--config=configs/none.py"], ["configs/none.py", "no such file"], 1),
    "unknown field": (
        ["train.py", "--config=configs/digits.py", "--config.search.step=3"],
        ["search.step", "no such"],
        2,
    ),
    "wrong type": (["train.py", "--config=configs/digits.py", "--config.search.steps=x"], ["search.steps=x"], 2),
    "impossible value": (["train.py", "--config=configs/digits.py", "--config.model.width=0"], ["model.width=0"], 1),
    "unknown flag": (["score.py", "--nonsense"], ["nonsense"], 2),
    "a stray argument": (["train.py", "configs/digits.py"], ["configs/digits.py"], 2),
    "no run": (["score.py", "--workdir={tmp}/none"], ["none", "holds no run"], 1),
    "no input": (["score.py", "--workdir={run}", "--input={tmp}/none.png"], ["none.png", "no such file"], 1),
    "no folder": (
        ["train.py", "--config=configs/paper.py", "--config.data.dir={tmp}/none", "--workdir={tmp}/run"],
        ["none", "no such folder"],
        1,
    ),
    "empty folder": (["score.py", "--workdir={run}", "--input={tmp}"], ["holds no image"], 1),
    "text as png": (["score.py", "--workdir={run}", "--input={tmp}/text.png"], ["text.png"], 1),
    "cut png": (["score.py", "--workdir={run}", "--input={tmp}/cut.png"], ["cut.png"], 1),
    "wrong key": (["score.py", "--workdir={run}", "--input={tmp}/key.npz"], ["key.npz", "'images'", "pictures"], 1),
    "not finite": (["score.py", "--workdir={run}", "--input={tmp}/nan.npy"], ["nan.npy", "not finite"], 1),
    "channels": (["score.py", "--workdir={run}", "--input={tmp}/five.npy"], ["five.npy", "5 channels"], 1),
    "unwritable": (
        ["score.py", "--workdir={run}", "--input={tmp}/fine.npy", "--output={tmp}/text.png/below"],
        ["text.png", "cannot be written"],
        1,
    ),
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("mistakes")
    bad = tmp / "bad"
    bad.mkdir()
    (bad / "text.png").write_text("hello")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    noise.save(bad / "whole.png")
    (bad / "cut.png").write_bytes((bad / "whole.png").read_bytes()[:500])
    np.savez(bad / "key.npz", pictures=np.zeros((2, 16, 16), np.uint8))
    np.save(bad / "nan.npy", np.full((2, 16, 16), np.nan))
    np.save(bad / "five.npy", np.zeros((2, 16, 16, 5), np.uint8))
    np.save(bad / "fine.npy", np.zeros((2, 16, 16), np.uint8))
    (tmp / "empty").mkdir()
    return tmp


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_gets_one_line(mistake, mistakes, trained_run):
    (script, *flags), words, code = MISTAKES[mistake]
    tmp = mistakes / ("empty" if mistake == "empty folder" else "bad")
    done = run_script(script, *(flag.format(tmp=tmp, run=trained_run) for flag in flags))
    fails(done, *words, code=code)


def test_checkpoints_missing_or_damaged(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for file in (run / "checkpoints" / "12").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    done = run_script("score.py", "--workdir", run)
    assert done.returncode == 0, done.stderr
    assert "12: damaged, falling back" in done.stderr
    assert "stopped at step 10 of 12" in done.stderr
    shutil.rmtree(run / "checkpoints")
    fails(run_script("score.py", "--workdir", run), run, "no checkpoint")


def test_a_full_disk_is_one_line_and_the_old_results_stay(scored_run, tmp_path):
    """The files are written beside their final place first; a limit on file size stands for a full disk."""
    output, _ = scored_run
    before = (output / "scores.csv").read_bytes()
    code = (
        "import resource, signal, pathlib\n"
        "from anogan_jax.files import replacing\n"
        "from anogan_jax.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        f"path = pathlib.Path({str(output / 'scores.csv')!r})\n"
        "try:\n"
        "    with replacing(path) as temporary:\n"
        "        temporary.write_text('x' * 1000)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "scores.csv: cannot be written: File too large" in done.stdout
    assert (output / "scores.csv").read_bytes() == before
    assert not list(output.glob(".scores-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone hands freed memory back so eagerly")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory_is_kept(kept):
    """Page faults of taking and giving back 64 MB once more: without keep_memory some 16,000, with it none."""
    code = (
        "import resource, numpy as np\n"
        "from anogan_jax.cli import keep_memory\n"
        f"keep_memory() if {kept} else None\n"
        "for _ in range(3):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    np.ones(2**23)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=environment
    )
    faults = int(done.stdout.split()[-1])
    assert faults < 100 if kept else faults > 10_000


def test_the_package_says_its_version():
    assert __version__ == "0.2.0"
