"""Faults of input, names, files and events: nothing of the user's is lost, and each costs one line, not a traceback."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, digests, rows_of, run_script
from PIL import Image

import score
import train
from anogan_jax import UserError, evaluation, load
from anogan_jax.data import from_user, read_input
from anogan_jax.evaluation import folder_of_input, score_to_folder
from anogan_jax.files import locked, remove_leftovers, replacing

RNG = np.random.default_rng(0)
NAMES = {
    "mathtext": "$x_$.png",
    "mathtext in part": "a$\\foo$b.png",
    "markup of rich": "[bold[red]x.png",
    "umlaut": "ü.png",
    "no letter of the font": "日本.png",
    "line break": "a\nerror: fake.png",
    "escape sequence": "\x1b[31mred.png",
    "not UTF-8": os.fsdecode(b"\xff\xfe.png"),
    "formula": "=cmd().png",
    "too long for a heatmap": "n" * 250 + ".png",
    "HTML": "<script>alert(1)</script>.png".replace("/", "|"),
    "quotes and commas": "a,\"b\",'c'.png",
}


def noise(path, size=(16, 16)):
    Image.fromarray(RNG.integers(0, 256, size, np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path):
    """A folder with three pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        noise(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("kind", NAMES)
def test_any_file_name_is_scored_shown_and_kept(kind, tiny_run, run_main, tmp_path):
    folder, output, name = tmp_path / "in", tmp_path / "[bold[" / "x]", NAMES[kind]
    folder.mkdir()
    noise(folder / "plain.png")
    (folder / "plain.png").rename(folder / name)
    (folder / f"b{kind}").mkdir()
    (folder / f"b{kind}" / "[bold[.png").write_text("unreadable")
    done = run_main(score.main, "--workdir", tiny_run.workdir, "--input", folder, "--output", output, "--heatmaps")
    assert done.code == 3, done.errors
    assert (output / "report.html").stat().st_size > 1000
    with (output / "scores.csv").open(errors="surrogateescape", newline="") as file:
        text = file.read()
    assert ("./=cmd().png" if kind == "formula" else name.replace('"', '""')) in text
    shown = done.output + done.errors
    assert "\x1b" not in shown
    assert not any(line.startswith("error: fake") for line in shown.splitlines())
    is_drawn = (output / "heatmaps" / f"{name}.png").exists() if kind != "too long for a heatmap" else False
    assert is_drawn or "no picture of" in done.errors


def test_picture_that_cannot_be_drawn_costs_itself_alone(tiny_run, run_main, tmp_path):
    """x.png wants the heatmap x.png.png, and so does the folder x.png.png/ with a picture in it."""
    folder, output = tmp_path / "in", tmp_path / "out"
    (folder / "x.png.png").mkdir(parents=True)
    noise(folder / "x.png")
    noise(folder / "x.png.png" / "y.png")
    done = run_main(score.main, "--workdir", tiny_run.workdir, "--input", folder, "--output", output, "--heatmaps")
    assert done.code == 0, done.errors
    assert "no picture of x.png.png/y.png" in done.errors
    assert len(rows_of(output / "scores.csv")) == 2


USERS_FILES = ["panels.png", "summary.json", "report.html", "heatmaps/mine.png", "maps/thesis.txt", "scores.csv"]


@pytest.mark.parametrize("mine", USERS_FILES)
def test_files_of_the_user_are_never_replaced(mine, tiny_run, run_main, tmp_path, pictures):
    output = tmp_path / "out"
    (output / mine).parent.mkdir(parents=True)
    (output / mine).write_text("mine")
    before = digests(output)
    flags = ("--workdir", tiny_run.workdir, "--input", pictures, "--output", output, "--heatmaps", "--maps")
    done = run_main(score.main, *flags)
    assert done.code == 1
    assert "was not written by this program" in done.errors
    assert {name: each for name, each in digests(output).items() if not name.startswith(".")} == before


def test_other_files_of_the_user_stay(tiny_run, run_main, tmp_path, pictures):
    output = tmp_path / "out"
    (output / "unfinished").mkdir(parents=True)
    (output / "unfinished" / "thesis.txt").write_text("mine")
    flags = ("--workdir", tiny_run.workdir, "--input", pictures, "--output", output, "--heatmaps")
    for _ in range(2):
        assert run_main(score.main, *flags).code == 0
    (output / "heatmaps" / "mine.png").write_text("mine")
    (pictures / "2.png").unlink()
    assert run_main(score.main, *flags).code == 0
    assert (output / "unfinished" / "thesis.txt").read_text() == "mine"
    assert {path.name for path in (output / "heatmaps").iterdir()} == {"0.png.png", "1.png.png", "mine.png"}


@pytest.mark.parametrize("output", [".", "below", "below/it"])
def test_output_among_the_input_is_refused(output, tiny_run, run_main, pictures):
    before = digests(pictures)
    done = run_main(score.main, "--workdir", tiny_run.workdir, "--input", pictures, "--output", pictures / output)
    assert done.code == 1
    assert "the results would be among the images" in done.errors
    assert digests(pictures) == before


def test_each_input_has_a_folder_of_its_own(tiny_run, tmp_path, monkeypatch):
    """Named after the real folder, not after how it was written; and not the folder of another one's results."""
    for name in ("p/same", "q/same"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(2):
            noise(tmp_path / name / f"{i}.png")
    (tmp_path / "run").mkdir()
    folders = []
    for name in ("p/same", "q/same", "p/same"):
        folder = folder_of_input(tmp_path / "run", tmp_path / name)
        score_to_folder(tiny_run.detector, read_input(tmp_path / name, 1), folder, str(tmp_path / name))
        folders.append(folder)
    assert folders[0] == folders[2] != folders[1]
    (tmp_path / "p" / "same" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "p" / "same" / "sub")
    assert folder_of_input(tmp_path / "run", tmp_path.__class__("..")) == folders[0]


def test_two_that_score_into_one_folder_are_told(tiny_run, tmp_path):
    images = from_user(RNG.integers(0, 256, (2, 16, 16), np.uint8), 1)
    with (
        locked(tmp_path, "scoring"),
        pytest.raises(UserError, match=f"process {os.getpid()} on .* is scoring here"),
    ):
        score_to_folder(tiny_run.detector, images, tmp_path, "")
    score_to_folder(tiny_run.detector, images, tmp_path, "")


def test_input_that_is_replaced_after_a_kill_is_scored_anew(tiny_run, tmp_path, pictures, monkeypatch, caplog):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_report", kill)
        with pytest.raises(Killed):
            score_to_folder(tiny_run.detector, read_input(pictures, 1), output, "")
    noise(pictures / "1.png")
    with caplog.at_level("INFO", "anogan_jax"):
        score_to_folder(tiny_run.detector, read_input(pictures, 1), output, "")
    assert "resuming" not in caplog.text
    expected = tiny_run.detector.score(str(pictures)).score
    np.testing.assert_array_equal([float(row["score"]) for row in rows_of(output / "scores.csv")], expected)


def test_temporary_files_of_a_killed_process_are_removed_and_no_others(tmp_path):
    (tmp_path / "heatmaps").mkdir()
    with replacing(tmp_path / "heatmaps" / "a.txt") as temporary:
        left = temporary.with_name(f"{temporary.stem}2.png")  # as a kill leaves it
        left.write_bytes(b"")
        temporary.write_text("a")
    (tmp_path / "heatmaps" / ".mine-1234.png").write_text("mine")
    remove_leftovers(tmp_path)
    assert {path.name for path in (tmp_path / "heatmaps").iterdir()} == {".mine-1234.png", "a.txt"}


@pytest.mark.parametrize("name", [".anogan_jax.json", ".unfinished.sqlite"])
def test_damaged_file_of_a_scoring_run_is_named(name, tiny_run, run_main, tmp_path, pictures):
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text("[" * 100_000)
    done = run_main(score.main, "--workdir", tiny_run.workdir, "--input", pictures, "--output", output)
    assert done.code == 1
    assert name in done.errors
    assert "give another --output" in done.errors


def test_scores_that_are_not_finite_are_not_given_out(tiny_run):
    weights = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), tiny_run.detector.model.weights)
    broken = tiny_run.detector._replace(model=tiny_run.detector.model._replace(weights=weights))
    with pytest.raises(UserError, match="not finite"):
        broken.score(RNG.integers(0, 256, (2, 16, 16), np.uint8))


CONFIG_FILES = {
    "exit": ("import sys\nsys.exit(0)", ["SystemExit", "line 2"]),
    "syntax": ("x = 1\ndef get_config(:\n", ["SyntaxError", "line 2"]),
    "key": ("y = {}\nz = y['x']\n", ["KeyError", "line 2"]),
    "nothing": ("def get_config():\n    return None\n", ["get_config() must return"]),
    "no function": ("x = 1\n", ["get_config"]),
    "section": (
        "from anogan_jax.config import Config\ndef get_config():\n    return Config(model=None)\n",
        ["model=None"],
    ),
    "text for a number": (
        "from anogan_jax.config import *\ndef get_config():\n    return Config(search=SearchConfig(steps='5'))\n",
        ["search.steps='5'"],
    ),
    "float for a whole number": (
        "from anogan_jax.config import *\ndef get_config():\n    return Config(model=ModelConfig(image_size=16.0))\n",
        ["model.image_size=16.0"],
    ),
    "text for a flag": (
        "from anogan_jax.config import *\ndef get_config():\n    return Config(train=TrainConfig(flip='no'))\n",
        ["train.flip='no'"],
    ),
}


@pytest.mark.parametrize("kind", CONFIG_FILES)
def test_mistake_in_a_config_file_is_one_line(kind, run_main, tmp_path):
    text, words = CONFIG_FILES[kind]
    (tmp_path / "config.py").write_text(text)
    done = run_main(train.main, f"--config={tmp_path / 'config.py'}", "--workdir", tmp_path / "run")
    assert done.code in (1, 2)
    (error,) = [line for line in done.errors.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--input=", "--output=", "--workdir="])
def test_empty_path_is_refused(flag, tiny_run, run_main):
    done = run_main(score.main, "--workdir", tiny_run.workdir, flag)
    assert done.code == 2
    assert "is empty" in done.errors


@pytest.mark.parametrize("flag", ["--config.alpha=nan", "--config.alpha=1", "--config.search.learning_rate=inf"])
def test_value_out_of_range_is_refused_when_scoring(flag, tiny_run, run_main):
    done = run_main(score.main, "--workdir", tiny_run.workdir, flag)
    assert done.code == 1
    assert flag.split("=")[0].removeprefix("--config.") in done.errors


def test_detector_with_a_damaged_description_is_named(tiny_run, tmp_path):
    tiny_run.detector.save(tmp_path)
    for text in ("[" * 100_000, "null", "[1]", '{"digest": 3}', "\x00"):
        (tmp_path / "detector" / "detector.json").write_text(text)
        with pytest.raises(UserError, match=r"detector\.json: damaged"):
            load(tmp_path)


def test_full_output_and_missing_device_are_one_line(tiny_run, tmp_path, pictures):
    flags = ["--workdir", tiny_run.workdir, "--input", pictures, "--output", tmp_path / "out"]
    command = [sys.executable, "score.py", *flags]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    done = run_script("score.py", "--workdir", tiny_run.workdir, JAX_PLATFORMS="cuda")
    assert done.code == 1
    assert done.errors.startswith("error: JAX_PLATFORMS=cuda")
    assert len(done.errors.splitlines()) == 1


@pytest.mark.parametrize("seconds", [0.1, 0.4, 1.0, 2.0])
def test_ctrl_c_in_the_first_seconds_is_no_traceback(seconds, tiny_run):
    process = subprocess.Popen(
        [sys.executable, "score.py", "--workdir", tiny_run.workdir],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in errors


def test_summary_is_json_for_any_name(tiny_run, tmp_path):
    """Nothing of a name is markup in the files either: JSON and HTML are parsed back."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "</script><b>.png".replace("/", "|")).write_text("unreadable")
    noise(folder / "a.png")
    score_to_folder(tiny_run.detector, read_input(folder, 1), tmp_path / "out", "</script>")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["data"] == "</script>"
    assert (tmp_path / "out" / "report.html").read_text().count("</script>") == 3
