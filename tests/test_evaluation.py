"""Scoring into a folder: its files agree, interrupted scoring resumes, presets and baselines are compared."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, digests, rows_of
from PIL import Image

from anogan_jax import comparison, evaluation, p_values
from anogan_jax.comparison import compare, detectors_of
from anogan_jax.config import DataConfig
from anogan_jax.data import from_user
from anogan_jax.errors import UserError
from anogan_jax.evaluation import score_test_split, score_to_folder
from anogan_jax.report import REPORT

RNG = np.random.default_rng(0)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def scored(tiny_run, tmp_path_factory):
    """The folder with the results of the test split, and its summary."""
    output = tmp_path_factory.mktemp("scores")
    return output, score_test_split(tiny_run.detector, output)


def score_array(detector, images, folder):
    """Score an array into a folder; return the rows of scores.csv."""
    score_to_folder(detector, from_user(images, 1), folder, "an array")
    return rows_of(folder / "scores.csv")


def test_scores_and_summary_agree(scored, tiny_run):
    output, summary = scored
    assert summary == json.loads((output / "summary.json").read_text())
    rows = rows_of(output / "scores.csv")
    assert (
        ",".join(rows[0])
        == "name,label,score,term,residual,discrimination,damage,rotation,appearance,p_value,is_anomaly"
    )
    assert len(rows) == summary["images"] == 40
    assert summary["anomalies"] == sum(int(row["is_anomaly"]) for row in rows)
    values = np.array([float(row["score"]) for row in rows])
    held_out = tiny_run.detector.calibration.scores
    np.testing.assert_array_equal([float(row["p_value"]) for row in rows], p_values(values, held_out))
    labels = np.array([int(row["label"]) for row in rows])
    pairs = [(a > n) + 0.5 * (a == n) for a in values[labels == 1] for n in values[labels == 0]]
    assert summary["auroc"] == pytest.approx(np.mean(pairs))
    for name in ("precision", "recall", "sensitivity", "specificity", "average_precision", "seconds"):
        assert name in summary
    assert {name for name in summary if name.startswith("auroc of")} == {
        "auroc of kNN (k=2)",
        "auroc of kNN (k=2), cosine",
        "auroc of PCA-32",
    }


def test_pictures_and_nothing_unfinished_are_left(scored):
    output, _ = scored
    assert set(digests(output)) == {*REPORT, ".anogan_jax.json", ".scoring.lock"}
    for picture in ("panels.png", "histogram.png", "roc.png"):
        with Image.open(output / picture) as image:
            assert min(image.size) > 300


def test_scoring_again_gives_the_same_bytes(scored, tiny_run, tmp_path):
    score_test_split(tiny_run.detector, tmp_path)
    names = ("scores.csv", "panels.png", "roc.png", "histogram.png", "samples/walk.png")
    ours, theirs = digests(tmp_path), digests(scored[0])
    assert [ours[name] for name in names] == [theirs[name] for name in names]


def test_killed_scoring_resumes_with_the_rest(tiny_run, tmp_path, monkeypatch, caplog):
    images = RNG.integers(0, 256, (330, 16, 16), np.uint8)
    score_array(tiny_run.detector, images, tmp_path / "whole")
    findings_of, read = evaluation.findings_of, []

    def kill_at_300(*args, **settings):
        for number, finding in enumerate(findings_of(*args, **settings)):
            if number == 300:
                raise Killed
            read.append(number)
            yield finding

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "findings_of", kill_at_300)
        with pytest.raises(Killed):
            score_array(tiny_run.detector, images, tmp_path / "killed")
    assert not (tmp_path / "killed" / "scores.csv").exists()
    with caplog.at_level("INFO", "anogan_jax"):
        score_array(tiny_run.detector, images, tmp_path / "killed")
    assert "resuming: 256 of 330 images were scored before" in caplog.text
    ours, theirs = digests(tmp_path / "killed"), digests(tmp_path / "whole")
    assert ours["scores.csv"] == theirs["scores.csv"]
    assert set(ours) == set(theirs)


def test_killed_scoring_of_other_settings_starts_anew(tiny_run, tmp_path, monkeypatch, caplog):
    images = RNG.integers(0, 256, (3, 16, 16), np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_report", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            score_array(tiny_run.detector, images, tmp_path)
    other = tiny_run.detector.with_preset("nearest")
    with caplog.at_level("INFO", "anogan_jax"):
        rows = score_array(other, images, tmp_path)
    assert "resuming" not in caplog.text
    np.testing.assert_array_equal([float(row["score"]) for row in rows], other.score(images).score)


def test_pictures_of_a_killed_run_are_removed(tiny_run, tmp_path, monkeypatch):
    """A later run removes the maps of a killed run, also those of images that its journal does not hold yet.

    It also removes roc.png and embedding.png of a finished run, if it writes none itself.
    """
    images, first = RNG.integers(0, 256, (6, 16, 16), np.uint8), tmp_path / "output"
    findings_of = evaluation.findings_of

    def kill_at_4(*args, **settings):
        for number, finding in enumerate(findings_of(*args, **settings)):
            if number == 4:
                raise Killed
            yield finding

    for folder in ("labelled", "output"):
        labelled = from_user(images, 1)._replace(labels=np.arange(6) % 2)
        score_to_folder(tiny_run.detector, labelled, tmp_path / folder, "", maps=True, embedding=True)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "findings_of", kill_at_4)
        named = from_user(images, 1)._replace(names=[f"old{i}" for i in range(6)])
        with pytest.raises(Killed):
            score_to_folder(tiny_run.detector, named, first, "", maps=True)
    assert (first / "maps/old3.npy").exists()
    score_to_folder(tiny_run.detector, from_user(images[:2], 1), first, "", maps=True)
    assert sorted(path.name for path in (first / "maps").iterdir()) == ["0.npy", "1.npy"]
    gone = {path.name for path in (tmp_path / "labelled").iterdir()} - {path.name for path in first.iterdir()}
    assert gone == {"roc.png", "embedding.png"}


def test_presets_discriminator_and_baselines_are_compared(tiny_run, tmp_path):
    slow = {"paper", "yeh"}
    presets = {name: preset for name, preset in comparison.PRESETS.items() if name not in slow}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "PRESETS", presets)  # without the presets of 500 steps
        scores = compare(tiny_run.detector, tmp_path / "comparison.csv")
    rows = rows_of(tmp_path / "comparison.csv")
    methods = [row["method"].split(":")[0] for row in rows]
    baselines = ["kNN (k=2)", "kNN (k=2), cosine", "PCA-32"]
    neighbours = "kNN (k=8) of the training images, by structure"
    parts = ["as configured, without references", "as configured, references instead of the search"]
    parts += ["as configured, without the segmenter", "the segmenter alone"]
    parts += ["as configured, without the rotation network", "the rotation network alone"]
    assert methods == ["as configured", "anogan", "nearest", "encoder", neighbours, *parts, "P_D", *baselines]
    assert all(values.shape == (40,) for values in scores.values())
    assert all(0 <= float(row["auroc"]) <= 1 for row in rows)
    np.testing.assert_array_equal(scores["as configured"], scores_of_the_test_split(tiny_run.detector))


def scores_of_the_test_split(detector):
    data = evaluation.load_one_class(detector.config).test
    return detector.score([data.read(i) for i in range(len(data.names))]).score


def test_configured_preset_is_compared_once(tiny_run):
    names = list(detectors_of(tiny_run.detector.with_preset("nearest")))
    assert [name.split(":")[0] for name in names] == ["anogan", "nearest", "encoder", "paper", "yeh"]


def test_comparison_needs_labels_of_both_kinds(tiny_run, tmp_path):
    config = tiny_run.detector.config
    images = tmp_path / "images.npy"
    np.save(images, RNG.integers(0, 256, (9, 16, 16), np.uint8))
    data = replace(config.data, source="npz", dir=str(images), normal=None)
    for call in (compare, score_test_split):
        with pytest.raises(UserError, match="no test split"):
            call(tiny_run.detector._replace(config=replace(config, data=data)), tmp_path / "output")


def test_test_split_none_of_which_can_be_read_is_named(tiny_run, tmp_path):
    """Or none of one kind: they have labels, but no scores."""
    for split, name in (("train/good", "0.png"), ("test/good", "a.png"), ("test/bent", "b.png")):
        (tmp_path / split).mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / split / name)
    Image.fromarray(RNG.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / "train/good/1.png")
    config = tiny_run.detector.config
    detector = tiny_run.detector._replace(config=replace(config, data=DataConfig(source="folder", dir=str(tmp_path))))
    (tmp_path / "test/good/a.png").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"needs readable normal and anomalous .* of one kind"):
        compare(detector, tmp_path / "comparison.csv")
    (tmp_path / "test/bent/b.png").write_bytes(b"cut")
    for call in (compare, score_test_split):
        with pytest.raises(UserError, match="none of its 2 images can be read"):
            call(detector, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_unreadable_images_of_a_labelled_folder_are_left_out(tiny_run, tmp_path):
    """Unreadable training and test images do not stop a run, and baselines score the same images as the detector."""
    for split, count in (("train/good", 4), ("test/good", 3), ("test/bent", 3)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(RNG.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / "data" / split / f"{i}.png")
    for path in ("train/good/0.png", "test/good/1.png", "test/bent/2.png"):
        (tmp_path / "data" / path).write_text("no picture")
    data = DataConfig(source="folder", dir=str(tmp_path / "data"))
    detector = tiny_run.detector._replace(config=replace(tiny_run.detector.config, data=data))
    summary = score_test_split(detector, tmp_path / "output")
    assert (summary["images"], summary["unreadable"]) == (4, 2)
    assert 0 <= summary["auroc of PCA-32"] <= 1
    scores = compare(detector.with_preset("nearest"), tmp_path / "output" / "comparison.csv")
    assert {values.shape for values in scores.values()} == {(4,)}


def test_comparison_without_held_out_images_says_what_it_leaves_out(tiny_run, tmp_path, caplog):
    compare(tiny_run.detector._replace(held_out=None), tmp_path / "comparison.csv")
    assert "are compared without appearance and rotation terms" in caplog.text


def test_alpha_that_the_held_out_images_cannot_resolve_is_reported(tiny_run, tmp_path, caplog):
    strict = tiny_run.detector.with_config(replace(tiny_run.detector.config, alpha=0.001))
    rows = score_array(strict, np.zeros((2, 16, 16), np.uint8), tmp_path)
    assert "alpha=0.001: too low for 29 held-out images" in caplog.text
    assert "too low" in json.loads((tmp_path / "summary.json").read_text())["warning"]
    assert {row["is_anomaly"] for row in rows} == {"0"}


def test_folder_that_cannot_be_written_is_named(tiny_run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/below.*cannot be written"):
        score_array(tiny_run.detector, np.zeros((2, 16, 16), np.uint8), tmp_path / "file" / "below")


def test_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands for the full disk."""
    (tmp_path / "scores.csv").write_text("old")
    code = (
        "import resource, signal, pathlib\n"
        "from anogan_jax.files import replacing\n"
        "from anogan_jax.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        f"path = pathlib.Path({str(tmp_path / 'scores.csv')!r})\n"
        "try:\n"
        "    with replacing(path) as temporary:\n"
        "        temporary.write_text('x' * 1000)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "scores.csv: cannot be written: File too large" in done.stdout
    assert (tmp_path / "scores.csv").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]
