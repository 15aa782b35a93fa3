"""The command line: flags, settings, exit codes, and one line for each mistake. Scripts run in this process."""

import json
import sys
import tomllib
from importlib import import_module

import numpy as np
import pytest
from conftest import ROOT, digests, rows_of, tiny_flags
from PIL import Image

from anogan_jax import __main__ as programs
from anogan_jax import cli, score, train
from anogan_jax.config import with_values
from configs.digits import get_config

DIGITS = f"--config={ROOT / 'configs/digits.py'}"


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder of files that cannot be scored, and of one that can."""
    folder = tmp_path_factory.mktemp("mistakes") / "bad"
    folder.mkdir()
    (folder / "text.png").write_text("hello")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    noise.save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:500])
    (folder / "empty").mkdir()
    (folder / "config.py").write_text("import nowhere")
    (folder / "other.py").write_text("def get_config():\n    return {}")
    (folder / "number.py").write_text("get_config = 3")
    (folder / "syntax.py").write_text("\ndef (")
    (folder / "field.py").write_text("from anogan_jax.config import *\ndef get_config():\n    TrainConfig(stepz=4)")
    (folder / "missing.py").write_text("def get_config():\n    open('/nowhere/it')")
    np.savez(folder / "key.npz", pictures=np.zeros((2, 16, 16), np.uint8))
    np.save(folder / "nan.npy", np.full((2, 16, 16), np.nan))
    np.save(folder / "five.npy", np.zeros((2, 16, 16, 5), np.uint8))
    np.save(folder / "fine.npy", np.zeros((2, 16, 16), np.uint8))
    return folder


SCORE = ["--workdir={run}"]
MISTAKES = {
    "no config": (train.main, [], ["--config"], 1),
    "no such config": (train.main, ["--config=configs/none.py"], ["configs/none.py", "no such file"], 1),
    "no such name": (train.main, ["--config=mnits"], ["mnits", "no such file", "mnist"], 1),
    "config with an error": (train.main, ["--config={bad}/config.py"], ["bad/config.py", "nowhere", "(line 1)"], 2),
    "config of a number": (train.main, ["--config={bad}/number.py"], ["bad/number.py", "no function get_config()"], 2),
    "config with a mistake": (
        train.main,
        ["--config={bad}/syntax.py"],
        ["bad/syntax.py", "SyntaxError", "(line 2)"],
        2,
    ),
    "config of another field": (train.main, ["--config={bad}/field.py"], ["field.py", "'stepz'", "(line 3)"], 2),
    "config of a missing file": (train.main, ["--config={bad}/missing.py"], ["missing.py", "/nowhere/it"], 1),
    "config that is a folder": (train.main, ["--config={bad}/empty"], ["bad/empty", "not a file"], 1),
    "empty class": (train.main, [DIGITS, "--config.data.normal="], ["data.normal: is empty"], 1),
    "output in the detector": (
        score.main,
        [*SCORE, "--input={bad}/fine.npy", "--output={run}/detector/new"],
        ["detector/new", "give another --output"],
        1,
    ),
    "config of another type": (train.main, ["--config={bad}/other.py"], ["other.py", "get_config"], 1),
    "unknown field": (train.main, [DIGITS, "--config.search.step=3"], ["search.step", "--config.search.steps"], 2),
    "field without config.": (score.main, [*SCORE, "--alpha=0.1"], ["--alpha", "--config.alpha"], 2),
    "wrong type": (train.main, [DIGITS, "--config.search.steps=x"], ["search.steps=x"], 2),
    "unknown choice": (train.main, [DIGITS, "--config.search.start=x"], ["search.start='x'"], 1),
    "impossible value": (train.main, [DIGITS, "--config.model.width=0"], ["model.width=0"], 1),
    "unknown class": (
        train.main,
        [DIGITS, "--config.data.normal=0,1,44", "--workdir={bad}/run"],
        ["data.normal=0,1,44", "no class 44"],
        1,
    ),
    "unknown flag": (score.main, ["--nonsense"], ["nonsense"], 2),
    "unknown preset": (score.main, ["--preset=fast"], ["--preset=fast", "anogan"], 2),
    "no such config, with a setting": (train.main, ["--config=foldr", "--config.seed=1"], ["foldr", "mnist"], 1),
    "argument without a flag": (train.main, ["configs/digits.py"], ["configs/digits.py"], 2),
    "comparison of an input": (score.main, [*SCORE, "--compare", "--input={bad}"], ["--compare", "--input"], 1),
    "no run": (score.main, ["--workdir={bad}/none"], ["none", "no trained detector"], 1),
    "no input": (score.main, [*SCORE, "--input={bad}/none.png"], ["none.png", "no such file"], 1),
    "no folder": (
        train.main,
        [f"--config={ROOT / 'configs/paper.py'}", "--config.data.dir={bad}/none", "--workdir={bad}/run"],
        ["none", "no such folder"],
        1,
    ),
    "empty folder": (score.main, [*SCORE, "--input={bad}/empty"], ["holds no image"], 1),
    "text as an image": (score.main, [*SCORE, "--input={bad}/text.png"], ["text.png"], 1),
    "cut image": (score.main, [*SCORE, "--input={bad}/cut.png"], ["cut.png"], 1),
    "wrong key": (score.main, [*SCORE, "--input={bad}/key.npz"], ["key.npz", "'images'", "pictures"], 1),
    "not finite": (score.main, [*SCORE, "--input={bad}/nan.npy"], ["nan.npy", "not finite"], 1),
    "channels": (score.main, [*SCORE, "--input={bad}/five.npy"], ["five.npy", "5 channels"], 1),
    "training setting": (score.main, [*SCORE, "--config.model.width=8"], ["model.width=8", "fixed by training"], 1),
    "output that is a file": (
        score.main,
        [*SCORE, "--input={bad}/fine.npy", "--output={bad}/text.png/below"],
        ["text.png", "cannot be written"],
        1,
    ),
    "output is a file": (score.main, [*SCORE, "--input={bad}/fine.npy", "--output={bad}/text.png"], ["is a file"], 1),
    "another config in the work directory": (
        train.main,
        [DIGITS, "--workdir={run}"],
        ["holds a run with another config", "model.width"],
        1,
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_and_an_exit_code(mistake, bad, tiny_run, run_main):
    main, flags, words, code = MISTAKES[mistake]
    before = digests(tiny_run.workdir)
    done = run_main(main, *(flag.format(bad=bad, run=tiny_run.workdir) for flag in flags))
    assert done.code == code, done.errors
    (error,) = [line for line in done.errors.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in error
    assert done.errors.rstrip().endswith(error)
    assert digests(tiny_run.workdir) == before


def test_unexpected_errors_keep_their_traceback(monkeypatch, run_main):
    def main():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_main(main)


def test_finished_run_is_found_by_train_again(tiny_run, run_main):
    """With the same flags, with the work directory alone, and with the class as a flag."""
    of_class = tiny_flags({"data.normal": 0})
    for flags in ((*flags, "--workdir", tiny_run.workdir) for flags in (tiny_flags(), (), of_class)):
        done = run_main(train.main, *flags)
        assert done.code == 0, done.errors
        assert "the detector is finished" in done.errors


@pytest.mark.parametrize("config", [["--config=digits"], ["--config", "digits"], [DIGITS]])
def test_config_is_given_by_its_name_or_path(config, monkeypatch, run_main, tmp_path):
    """The name also gives the work directory; a folder of that name changes nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    given = []

    def main():
        given.append((cli.given_config(), cli.given_workdir().as_posix()))

    assert run_main(main, *config, "--config.train.steps=7").code == 0
    assert given == [(with_values(get_config(), {"train.steps": 7}), "runs/digits")]


def test_installed_commands_and_the_package_run_the_programs_of_the_scripts(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(cli, "run", ran.append)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name in ("train", "score"):
        module, _, function = scripts[f"anogan-{name}"].partition(":")
        getattr(import_module(module), function)()
        monkeypatch.setattr(sys, "argv", ["anogan_jax", name, "--workdir=run"])
        programs.main()
        assert sys.argv == ["anogan_jax", "--workdir=run"]
    assert ran == [train.main, train.main, score.main, score.main]
    monkeypatch.setattr(sys, "argv", ["anogan_jax", "test"])
    with pytest.raises(SystemExit) as ended:
        programs.main()
    assert ended.value.code == 2
    assert "train, score, export, not 'test'" in capsys.readouterr().err


def test_preset_alpha_and_search_overrides_are_obeyed(tiny_run, run_main, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    np.save(tmp_path / "images.npy", images)
    flags = ("--preset=nearest", "--config.search.starts=3", "--config.search.features=pixels", "--config.alpha=0.5")
    base = ("--workdir", tiny_run.workdir, "--input", tmp_path / "images.npy", "--output", tmp_path / "output")
    done = run_main(score.main, *base, *flags)
    assert done.code == 0, done.errors
    summary = json.loads((tmp_path / "output" / "summary.json").read_text())
    for text in ("steps 0", "starts 3", "features pixels"):
        assert text in summary["search"]
    assert summary["alpha"] == 0.5
    config = tiny_run.detector.with_preset("nearest").config
    config.search.starts, config.search.features, config.alpha = 3, "pixels", 0.5
    expected = tiny_run.detector.with_config(config).score(images)
    rows = rows_of(tmp_path / "output" / "scores.csv")
    np.testing.assert_array_equal([float(row["score"]) for row in rows], expected.score)
    np.testing.assert_array_equal([float(row["p_value"]) for row in rows], expected.p_value)


def test_other_training_settings_of_the_config_file_give_a_warning(tiny_run, run_main, tmp_path, bad):
    """The work directory's settings apply; the scoring settings of the config file do not."""
    flags = ("--workdir", tiny_run.workdir, "--input", bad / "fine.npy", "--output", tmp_path)
    done = run_main(score.main, DIGITS, *flags)
    assert done.code == 0, done.errors
    assert "model.width=4, not 16" in done.errors
    assert "search." not in done.errors
    assert "steps 2" in json.loads((tmp_path / "summary.json").read_text())["search"]


def test_input_is_scored_alike_from_a_folder_an_array_and_a_file(tiny_run, run_main, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i}.png")
    np.save(tmp_path / "images.npy", images)
    np.savez(tmp_path / "more.npz", images=images[::-1])
    scores = {}
    for name in ("folder", "images.npy", "more.npz", "folder/1.png"):
        output = tmp_path / "output"
        done = run_main(score.main, "--workdir", tiny_run.workdir, "--input", tmp_path / name, "--output", output)
        assert done.code == 0, done.errors
        scores[name] = [(row["name"], row["label"], row["score"]) for row in rows_of(output / "scores.csv")]
    assert [name for name, *_ in scores["folder"]] == ["0.png", "1.png", "2.png"]
    values = [value for *_, value in scores["folder"]]
    assert [value for *_, value in scores["images.npy"]] == values
    assert [value for *_, value in scores["more.npz"]] == values[::-1]
    assert scores["folder/1.png"] == [("1.png", "", values[1])]


def test_training_again_without_a_config_obeys_its_settings_or_refuses(tiny_run, run_main, tmp_path):
    """The run's config is taken; a setting that differs from it is named, and so is a folder without a run."""
    workdir = f"--workdir={tiny_run.workdir}"
    assert run_main(train.main, workdir).code == 0
    assert run_main(train.main, workdir, "--config.train.steps=12").code == 0
    for flag, difference in (("train.steps=40", "train.steps=12, not 40"), ("data.dir=elsewhere", "data.dir='', not ")):
        done = run_main(train.main, workdir, f"--config.{flag}")
        assert done.code == 1
        assert f"another config ({difference}" in done.errors
    done = run_main(train.main, f"--workdir={tmp_path}", "--config.data.dir=elsewhere")
    assert done.code == 1
    assert "holds no run to resume; give a config too, such as --config=folder" in done.errors
