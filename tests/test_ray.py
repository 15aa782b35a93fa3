"""Scoring on a Ray cluster: the rows are those of score.py, and a killed run is completed, none twice."""

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, rows_of
from PIL import Image
from sklearn.datasets import load_digits

from anogan_jax.data import read_inputs
from anogan_jax.evaluation import score_contents, score_to_folder
from anogan_jax.report import SCORES

EXAMPLE = ROOT / "examples" / "ray_score.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 500 images with a folder in it, and a file that is not readable."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more images").mkdir()
    digits = (load_digits().images[:500] * (255 / 16)).round().astype(np.uint8)
    for i, digit in enumerate(digits):
        Image.fromarray(digit).save(folder / ("more images" if i % 2 else "") / f"{i:03}#%20.png")
    (folder / "broken.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def expected(images, tiny_run, tmp_path_factory):
    """The rows of scores.csv, by name."""
    output = tmp_path_factory.mktemp("expected")
    score_to_folder(tiny_run.detector, read_inputs([images], 1), output, "")
    return {row["name"]: row for row in rows_of(output / "scores.csv")}


def assert_same(rows, images, expected):
    """Assert that the rows of images are those expected, every number as it is, and none twice."""
    names = [os.path.relpath(name, images) for name in rows["name"]]
    assert len(names) == len(set(names))
    for name, row in zip(names, rows.to_dict("records"), strict=True):
        theirs = expected[name]
        if theirs["is_anomaly"] == "unreadable":
            assert pd.isna(row["score"])
            assert pd.isna(row["p_value"])
            assert (row["term"], row["is_anomaly"]) == ("", False)
        else:
            assert {each: str(row[each]) for each in (*SCORES, "p_value")} == {
                each: theirs[each] for each in (*SCORES, "p_value")
            }
            assert int(row["is_anomaly"]) == int(theirs["is_anomaly"])


def test_rows_of_contents_are_those_of_scores_csv(tiny_run, images, expected):
    """In any order and division."""
    files = sorted(images.rglob("*.png"), key=lambda path: path.name)
    for some in (files[:3], files[3:200:2], [images / "broken.png"]):
        rows = pd.DataFrame(score_contents(tiny_run.detector, ((str(path), path.read_bytes()) for path in some)))
        assert len(rows) == len(some)
        assert_same(rows, images, expected)


def test_pages_of_a_file_are_rows_of_it(tiny_run, tmp_path):
    pages = [Image.fromarray(np.full((16, 16), 60 * i, np.uint8)) for i in range(4)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:3])
    pages[3].save(tmp_path / "a.png")
    files = [(f"s3://bucket/{path.name}", path.read_bytes()) for path in (tmp_path / "scan.tif", tmp_path / "a.png")]
    rows = score_contents(tiny_run.detector, files)
    assert rows["file"] == ["s3://bucket/scan.tif"] * 3 + ["s3://bucket/a.png"]
    assert rows["name"] == [f"s3://bucket/scan.tif#{i:03}" for i in range(3)] + ["s3://bucket/a.png"]
    np.testing.assert_array_equal(rows["score"], tiny_run.detector.score(np.stack(pages)).score)


def test_function_for_spark_scores_tables_of_files(tiny_run, images, expected):
    """The function of docs/clusters.md returns the columns that the page declares, of an empty table too."""
    text = (ROOT / "docs" / "clusters.md").read_text()
    names: dict[str, Any] = {}
    exec(
        re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].replace("/shared/runs/parts", str(tiny_run.workdir)),
        names,
    )
    files = pd.DataFrame([(str(path), path.read_bytes()) for path in images.glob("*.png")], columns=["path", "content"])
    *tables, empty = names["score"](iter([files[:7], files[7:], files[:0]]))
    assert [*map(len, tables), len(empty)] == [7, len(files) - 7, 0]
    assert_same(pd.concat(tables), images, expected)
    declared = re.search('columns = "(.*)"', text)[1].split(", ")
    kinds = {"double": "f", "boolean": "b", "string": "OT"}
    assert [each.split()[0] for each in declared] == list(tables[0])
    for name, kind in map(str.split, declared):
        assert tables[0][name].to_numpy().dtype.kind in kinds[kind] + "U"


def test_a_killed_run_is_completed_and_none_is_scored_twice(tiny_run, images, expected, tmp_path):
    """Two actors score; the process is killed, and the same command is given again. Every file of rows is whole."""
    pytest.importorskip("ray")
    output, environment = tmp_path / "scores", {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    command = [
        sys.executable,
        str(EXAMPLE),
        str(tiny_run.workdir),
        str(output),
        str(images),
        "--actors=2",
        "--batch=50",
    ]
    killed = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not list(output.glob("*.parquet")):
        assert killed.poll() is None
        time.sleep(0.001)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = {path.name: path.read_bytes() for path in output.glob("*.parquet")}
    found = len(pd.read_parquet(output))
    assert 0 < found < 501
    for missing in (501 - found, 0):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert f"{missing} images to score; {501 - missing} were scored before" in done.stdout
    assert before.items() <= {path.name: path.read_bytes() for path in output.glob("*.parquet")}.items()
    rows = pd.read_parquet(output)
    assert len(rows) == 501
    assert rows["detector"].nunique() == 1
    assert_same(rows, images, expected)
