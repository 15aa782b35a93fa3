"""Faults of input, names, files and events: nothing of the user's is lost, and each costs one line, not a traceback."""

import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, cli, digests, read_image, rows_of, run_script
from PIL import Image

from anogan_jax import Config, evaluation, load, report, score, train
from anogan_jax.config import DataConfig
from anogan_jax.data import from_user, load_one_class, read_inputs
from anogan_jax.errors import UserError
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


USERS_FILES = [
    "panels.png",
    "summary.json",
    "report.html",
    "heatmaps/mine.png",
    "maps/thesis.txt",
    "scores.csv",
    "samples/walk.png",
]


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


def test_earlier_pictures_are_removed_only_where_this_program_wrote_them(tiny_run, tmp_path, pictures, caplog):
    """They stay in a folder heatmaps/ of the user, and outside of the folder whatever scores.csv says."""
    output = tmp_path / "out"
    score_to_folder(tiny_run.detector, read_inputs([pictures], 1), output, "")
    (output / "heatmaps").mkdir()
    (output / "heatmaps" / "0.png.png").write_text("mine")
    score_to_folder(tiny_run.detector, read_inputs([pictures], 1), output, "")
    assert (output / "heatmaps" / "0.png.png").read_text() == "mine"
    score_to_folder(tiny_run.detector, read_inputs([pictures], 1), output, "", maps=True)
    outside = [tmp_path / "outside.npy", output / "outside.npy"]
    for path in outside:
        path.write_text("mine")
    rows = (output / "scores.csv").read_text()
    (output / "scores.csv").write_text(rows + f"{tmp_path / 'outside'},,,,,,\n../outside,,,,,,\n")
    with caplog.at_level("INFO", "anogan_jax"):
        score_to_folder(tiny_run.detector, read_inputs([pictures], 1), output, "")
    assert "removed 3 heatmaps and maps of an earlier run" in caplog.text
    assert [path.read_text() for path in outside] == ["mine", "mine"]
    assert not list((output / "maps").iterdir())


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
        score_to_folder(tiny_run.detector, read_inputs([tmp_path / name], 1), folder, str(tmp_path / name))
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
            score_to_folder(tiny_run.detector, read_inputs([pictures], 1), output, "")
    noise(pictures / "1.png")
    with caplog.at_level("INFO", "anogan_jax"):
        score_to_folder(tiny_run.detector, read_inputs([pictures], 1), output, "")
    assert "resuming" not in caplog.text
    expected = tiny_run.detector.score(str(pictures)).score
    np.testing.assert_array_equal([float(row["score"]) for row in rows_of(output / "scores.csv")], expected)


def test_temporary_files_of_a_killed_process_are_removed_and_no_others(tmp_path):
    """Temporary files below inputs/ stay: they belong to other runs, which may be writing them."""
    (tmp_path / "heatmaps").mkdir()
    with replacing(tmp_path / "heatmaps" / "a.txt") as temporary:
        left = temporary.with_name(f"{temporary.stem}2.png")  # as a kill leaves it
        left.write_bytes(b"")
        temporary.write_text("a")
    (tmp_path / "heatmaps" / ".mine-1234.png").write_text("mine")
    others = tmp_path / "inputs" / "new" / "heatmaps" / left.name
    others.parent.mkdir(parents=True)
    others.write_bytes(b"")
    (tmp_path / left.name).write_bytes(b"")
    remove_leftovers(tmp_path, ["heatmaps"])
    assert {path.name for path in (tmp_path / "heatmaps").iterdir()} == {".mine-1234.png", "a.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"heatmaps", "inputs"}
    assert others.exists()


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EACCES, 1), (errno.ENAMETOOLONG, 0)])
def test_picture_that_finds_no_room_stops_the_run(number, code, tiny_run, run_main, tmp_path, pictures, monkeypatch):
    """One whose name cannot be used is left out with a warning; what else fails is an error."""

    def fail(name, *_):
        with replacing(tmp_path / f"{name}.npy"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(report, "_write_pictures", fail)
    flags = ("--workdir", tiny_run.workdir, "--input", pictures, "--output", tmp_path / "out", "--maps")
    done = run_main(score.main, *flags)
    assert done.code == code
    assert os.strerror(number) in done.errors
    assert (tmp_path / "out" / "scores.csv").exists() == (code == 0)


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
    for command in (flags, ["--help"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "score.py", *command], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
            )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "No space left on device" in done.stderr
    done = run_script("score.py", "--workdir", tiny_run.workdir, JAX_PLATFORMS="cuda")
    assert done.code == 1
    assert done.errors.startswith("error: JAX_PLATFORMS=cuda")
    assert len(done.errors.splitlines()) == 1


def interrupted(command, ready):
    """Return the exit code and messages of a process that gets a SIGINT when ``ready(process)`` returns."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            ready(process)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, errors


BEGIN = (
    "import runpy, sys; print(flush=True); sys.argv[0] = 'score.py'; runpy.run_path('score.py', run_name='__main__')"
)


@pytest.mark.parametrize("seconds", [0.1, 0.4, 1.0, 2.0])
def test_ctrl_c_in_the_first_seconds_is_no_traceback(seconds, tiny_run):
    def ready(process):
        process.stdout.readline()  # the interpreter has started
        time.sleep(seconds)

    code, errors = interrupted(["-c", BEGIN, "--workdir", tiny_run.workdir], ready)
    assert code in (130, -signal.SIGINT)
    assert "Traceback" not in errors


@pytest.mark.parametrize("blocked", [[], [signal.SIGINT]], ids=["swallowed", "main thread not woken"])
def test_ctrl_c_ends_a_process_that_does_not_notice_it(blocked):
    code = (
        "import signal, time\nfrom anogan_jax import cli\n"
        "def main():\n"
        f"    signal.pthread_sigmask(signal.SIG_BLOCK, {[int(number) for number in blocked]})\n"
        "    while True:\n"
        "        try:\n            print(1, flush=True)\n            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n            pass\n"
        "cli.run(main)\n"
    )
    code, errors = interrupted(["-c", code], lambda process: process.stdout.readline())
    assert (code, errors) == (130, "error: interrupted\n")


def test_log_line_cannot_be_forged(monkeypatch):
    """The handler that cli.run sets shows one line for each message."""
    given = []
    monkeypatch.setattr(logging, "basicConfig", lambda **settings: given.extend(settings["handlers"]))
    for name in ("handle_ctrl_c", "keep_memory", "keep_compiled_programs"):
        monkeypatch.setattr(cli, name, lambda: None)
    monkeypatch.setattr(cli, "_parse_flags", sys.exit)
    with pytest.raises(SystemExit):
        cli.run(lambda: 0)
    (handler,) = given
    handler.setStream(io.StringIO())
    handler.handle(logging.LogRecord("", logging.INFO, "", 0, "skipped %s", ("\x1b[31ma\nerror: b.png",), None))
    assert handler.stream.getvalue() == "skipped \\x1b[31ma\\nerror: b.png\n"


def test_summary_is_json_for_any_name(tiny_run, tmp_path):
    """Nothing of a name is markup in the files either: JSON and HTML are parsed back."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "</script><b>.png".replace("/", "|")).write_text("unreadable")
    noise(folder / "a.png")
    score_to_folder(tiny_run.detector, read_inputs([folder], 1), tmp_path / "out", "</script>")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["data"] == "</script>"
    assert (tmp_path / "out" / "report.html").read_text().count("</script>") == 3


def damaged_exif(path):
    image, exif = Image.new("L", (8, 8), 9), Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"MM\x00*\x00\x00\x00\x08\x00\x01", b"MM\x00*\x00\x00\x00\x08\xff\xff"))


def animation(path):
    frames = [Image.new("L", (8, 8), value) for value in (1, 99, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def deep(values):
    return lambda path: Image.fromarray(np.full((8, 8), values, np.int32)).save(path)


FILES = {  # name: (how it is made, the grey level it is read as, or part of the error)
    "16-bit.png": (lambda path: Image.fromarray(np.full((8, 8), 2570, np.uint16)).save(path), 10),
    "16-bit.tif": (lambda path: Image.fromarray(np.full((8, 8), 2570, np.uint16)).save(path), 10),
    "32-bit.tif": (deep(200), 200),
    "32-bit high.tif": (deep(70_000), "found 70000"),
    "32-bit negative.tif": (deep(-1), "found -1"),
    "float.tif": (lambda path: Image.fromarray(np.full((8, 8), 0.2, np.float32)).save(path), 51),
    "float out of range.tif": (lambda path: Image.fromarray(np.full((8, 8), 2.0, np.float32)).save(path), "[0, 1]"),
    "not a number.tif": (lambda path: Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path), "not finite"),
    "one bit.png": (lambda path: Image.new("1", (8, 8), 1).save(path), 255),
    "grey with alpha.png": (lambda path: Image.new("LA", (8, 8), (200, 0)).save(path), 0),
    "moving.gif": (animation, "holds 3 pictures"),
    "moving.png": (animation, "holds 3 pictures"),
    "pages.tif": (animation, "holds 3 pictures"),
    "moving.webp": (animation, "holds 3 pictures"),
    "pipe.png": (os.mkfifo, "not a regular file"),
    "folder.png": (lambda path: path.mkdir(), "not a regular file"),
    "none.png": (lambda path: None, "no such file"),
    "huge.png": (
        lambda path: Image.new("1", (9000, 8000)).save(path),
        "9000x8000 pixels, more than data.max_pixels=67108864; give --config.data.max_pixels=72000000",
    ),
    "huger.png": (
        lambda path: Image.new("1", (14000, 13000)).save(path),
        "182000000 pixels, more than data.max_pixels=67108864; give --config.data.max_pixels=182000000",
    ),
    "empty.png": (lambda path: path.write_bytes(b""), "not a readable image"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", FILES)
def test_image_file_is_read_exactly_or_refused_by_name(name, tmp_path):
    make, expected = FILES[name]
    make(tmp_path / name)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=re.escape(expected)) as raised:
            read_image(tmp_path / name, 1)
        assert name in str(raised.value)
    else:
        assert np.unique(read_image(tmp_path / name, 1)).tolist() == [expected]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_costs_that_file_at_most(tmp_path):
    damaged_exif(tmp_path / "exif.jpg")
    with contextlib.suppress(UserError):
        assert read_image(tmp_path / "exif.jpg", 1).shape == (8, 8, 1)


ARRAYS = {  # name: (array, the grey level it is read as, or part of the error)
    "big-endian": (np.full((2, 8, 8), 2570, ">u2"), 10),
    "bool": (np.ones((2, 8, 8), bool), 255),
    "int8": (np.full((2, 8, 8), 99, np.int8), 99),
    "negative": (np.full((2, 8, 8), -1, np.int16), "found -1"),
    "int64": (np.full((2, 8, 8), 256), "found 256"),
    "float16": (np.full((2, 8, 8), 1.0, np.float16), 255),
    "percent": (np.full((2, 8, 8), 100.0), "[0, 1]"),
    "complex": (np.full((2, 8, 8), 1j), "complex128"),
    "text": (np.full((2, 8, 8), "a"), "<U1"),
}


@pytest.mark.parametrize("suffix", [".npy", ".NPY"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_array_is_read_exactly_or_refused_by_name(kind, suffix, tmp_path):
    array, expected = ARRAYS[kind]
    path = tmp_path / f"a{suffix}"
    with path.open("wb") as file:
        np.save(file, array)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=re.escape(expected)) as raised:
            read_inputs([path], 1).read(0)
        assert path.name in str(raised.value)
    else:
        assert np.unique(read_inputs([path], 1).read(0)).tolist() == [expected]
        config = Config(data=DataConfig(source="npz", dir=str(path)))
        assert np.unique(load_one_class(config).train.read(0)).tolist() == [expected]


LABELS = {
    "fractions": np.linspace(0, 1, 20),
    "complex": np.zeros(20, complex),
    "not a number": np.full(20, np.nan),
    "one": np.array(0),
    "none": np.zeros(0, int),
    "too few": np.zeros(19, int),
    "two columns": np.zeros((20, 2), int),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_no_whole_numbers_are_refused(kind, tmp_path):
    np.savez(tmp_path / "a.npz", train_images=np.zeros((20, 8, 8), np.uint8), train_labels=LABELS[kind])
    with pytest.raises(UserError, match=r"a\.npz: train_"):
        load_one_class(Config(data=DataConfig(source="npz", dir=str(tmp_path / "a.npz"), normal=0)))


def test_only_needed_arrays_of_an_npz_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8), np.uint8), other=np.array([None], object))  # needs a pickle
    assert len(read_inputs([tmp_path / "a.npz"], 1).names) == 2


def test_few_grey_levels_of_16_bits_are_said_once(tmp_path, caplog):
    for i in range(3):
        Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / f"{i}.png")
        read_image(tmp_path / f"{i}.png", 1)
    assert caplog.text.count("less than an eighth of the range of uint16") == 1
    caplog.clear()
    several = from_user(np.full((3, 8, 8), 9, np.uint16), 1)
    for i in range(3):
        several.read(i)
    assert caplog.text.count("less than an eighth of the range of uint16") == 1


def test_what_a_folder_holds_beside_its_splits_is_said(tmp_path, caplog):
    for name in ("train/good/0.png", "train/good/1.png", "test/bad/0.png", "masks/bad/0.png", "other/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise(tmp_path / name)
    (tmp_path / "labels.csv").write_text("0.png,1")
    with caplog.at_level("INFO", "anogan_jax"):
        load_one_class(Config(data=DataConfig(source="folder", dir=str(tmp_path))))
    assert "train/good: normal images to train on: 2" in caplog.text
    assert "test/bad: anomalous images to score, with masks: 1" in caplog.text
    assert "no test image is normal" in caplog.text
    assert "left out: 1 .csv (such as labels.csv), 1 images in other" in caplog.text
