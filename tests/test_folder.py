"""From a folder with masks to heatmaps, as users do it; scoring that is killed; the report in a browser."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_script
from PIL import Image

from anogan_jax.figures import HeatScale, triptych
from anogan_jax.journal import Entry, Journal
from anogan_jax.report import write_report

TINY_PATCHES = (
    "--config=configs/mvtec.py",
    "--config.model.image_size=16",
    "--config.model.channels=1",
    "--config.model.width=4",
    "--config.model.latent_size=4",
    "--config.patches.scale=0.5",
    "--config.train.steps=10",
    "--config.train.batch_size=8",
    "--config.train.rotate",
    "--config.train.tensorboard",
    "--config.search.steps=3",
    "--config.search.bank_size=64",
    "--config.data.held_out=0.4",
)
RNG = np.random.default_rng(0)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def texture(height, width, *channels):
    return RNG.integers(80, 170, (height, width, *channels), np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Grey and colour images of mixed sizes, down to 16x16, in MVTec AD's layout; blotches are the defects."""
    folder = tmp_path_factory.mktemp("parts")
    for i in range(6):
        save(folder / f"train/good/{i}.png", texture(40 + 8 * i, 60, *[3] * (i % 2)))
    for name, shape in (("good/a.png", (16, 16)), ("good/b.jpg", (50, 90, 3)), ("good/c.tiff", (33, 47))):
        save(folder / "test" / name, texture(*shape))
    for name, shape in (("blotch/d.png", (64, 48)), ("blotch/e.bmp", (30, 100)), ("scratch/f.webp", (70, 40))):
        image, mask = texture(*shape), np.zeros(shape, np.uint8)
        image[10:25, 12:30], mask[10:25, 12:30] = 255, 255
        save(folder / "test" / name, image)
        save(folder / "ground_truth" / f"{name.split('.')[0]}_mask.png", mask)
    (folder / "train/good/broken.png").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "parts"
    done = run_script("train.py", *TINY_PATCHES, f"--config.data.dir={parts}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("scores")
    done = run_script("score.py", "--workdir", run[0], "--output", output, "--heatmaps", "--maps")
    assert done.returncode == 0, done.stderr
    return output, done


def test_training_names_what_it_leaves_out_and_writes_events(run):
    workdir, done = run
    assert "left out" in done.stderr
    assert "broken.png: not a readable image" in done.stderr
    (events,) = (workdir / "tensorboard").iterdir()
    content = events.read_bytes()
    for name in (b"generator_loss", b"gradient_norm", b"samples"):
        assert name in content
    assert "tensorflow" not in (ROOT / "requirements.txt").read_text().split()


def test_defects_are_measured_by_image_and_by_pixel(scored):
    output, done = scored
    summary = json.loads((output / "summary.json").read_text())
    assert list(summary["defects"]) == ["all", "blotch", "scratch"]
    for found in summary["defects"].values():
        assert list(found) == ["image_auroc", "pixel_auroc", "pixel_ap", "pro"]
        assert found["pixel_auroc"] > 0.7  # even untrained: white on grey
    assert summary["pro"] == summary["defects"]["all"]["pro"]
    assert "By defect" in done.stdout
    assert len(rows(output / "scores.csv")) == 6


def test_heatmaps_and_maps_are_of_the_querys_size(scored, parts):
    output, _ = scored
    for row in rows(output / "scores.csv"):
        with Image.open(parts / "test" / row["name"]) as image:
            size = (image.height, image.width)
        found = np.load(output / "maps" / f"{row['name']}.npy")
        assert (found.shape, found.dtype) == (size, np.float32)
        assert found.min() >= 0
        with Image.open(output / "heatmaps" / f"{row['name']}.png") as picture:
            assert min(picture.size) > 200


def test_a_tiled_image_scores_the_same_in_any_company(scored, run, parts, tmp_path):
    """Alone, among others, in another order of files: bit for bit."""
    scores = {row["name"]: row["score"] for row in rows(scored[0] / "scores.csv")}
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(parts / "test/scratch/f.webp", few / "0.webp")
    shutil.copy(parts / "test/good/b.jpg", few / "1.jpg")
    shutil.copy(parts / "test/blotch/d.png", few / "2.png")
    done = run_script("score.py", "--workdir", run[0], "--input", few, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["score"] for row in rows(tmp_path / "scores.csv")] == [
        scores["scratch/f.webp"],
        scores["good/b.jpg"],
        scores["blotch/d.png"],
    ]


def test_a_bad_mask_is_said_before_the_search(run, parts, tmp_path):
    shutil.copytree(parts, tmp_path / "parts")
    shutil.copytree(run[0], tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"]["dir"] = str(tmp_path / "parts")
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    mask = tmp_path / "parts/ground_truth/scratch/f_mask.png"
    save(mask, np.zeros((40, 70), np.uint8))
    done = run_script("score.py", "--workdir", tmp_path / "run")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"{mask}: 70x40 pixels, but its image test/scratch/f.webp has 40x70" in error
    assert "Traceback" not in done.stderr


def test_scoring_that_was_killed_goes_on_with_what_is_left(trained_run, tmp_path):
    folder = tmp_path / "folder"
    for i in range(700):
        save(folder / f"{i:03d}.png", RNG.integers(0, 256, (16, 16), np.uint8))
    flags = ["--workdir", trained_run, "--input", folder]
    whole = run_script("score.py", *flags, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "score.py"), *map(str, flags), "--output", str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(killed.glob("unfinished/0*.npz")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "scores.csv").exists()
    again = run_script("score.py", *flags, "--output", killed)
    assert again.returncode == 0, again.stderr
    assert int(re.search(r"going on: (\d+) of 700 were scored before", again.stderr)[1]) >= 1
    assert (killed / "scores.csv").read_bytes() == (tmp_path / "whole/scores.csv").read_bytes()
    assert not (killed / "unfinished").exists()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of 10,050 queries, of which the gallery shows 10,000."""
    folder = tmp_path_factory.mktemp("page")
    journal = Journal(folder / "unfinished", "")
    square = texture(16, 16, 1)
    picture = triptych(square, square, square[..., 0] / 255, HeatScale(1.0))
    for i in range(10_050):
        name = f"<b>{i}</b>.png" if i == 61 else f"{i:05d}.png"
        journal.add(Entry(name, int(i % 10 == 0), "", float(i), 0.0, 0.0, picture))
    journal.flush()
    write_report(folder, journal, np.arange(100.0) * 100, 0.05, HeatScale(1.0), {"data": "</script>"})
    return folder / "report.html"


def test_the_report_needs_nothing_else(page):
    text = page.read_text()
    assert not re.search(r"(?:src|href)=[\"']?(?!data:)", text.replace("src: ", ""))
    assert "http" not in text
    assert text.count("</script>") == 3


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_report_renders_sorts_and_filters(page):
    """In headless Chromium: what a script sees of the page as it is used."""
    steps = """<script>
    const seen = {}, look = () => ({
      shown: at("shown").textContent, elements: document.querySelectorAll(".row").length,
      first: document.querySelector(".row p")?.firstChild.textContent});
    const set = (id, value) => { at(id).value = value; at(id).dispatchEvent(new Event("input", {bubbles: true})); };
    seen.start = look();
    set("sort", "-score"); seen.lowest = look();
    set("sort", "name"); seen.name = look();
    set("label", "1"); seen.anomalous = look();
    set("verdict", "0"); seen.missed = look();
    set("search", "0123"); seen.found = look();
    set("label", ""); set("verdict", ""); set("search", ""); set("sort", "score");
    document.querySelector(".row").click(); seen.large = at("large").open;
    at("large").close();
    scrollTo(0, 1e9); draw(); seen.last = [...document.querySelectorAll(".row p")].at(-1).firstChild.textContent;
    seen.elements = document.querySelectorAll(".row").length;
    document.body.dataset.seen = JSON.stringify(seen);
    </script>"""
    used = page.with_name("used.html")
    used.write_text(page.read_text() + steps)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", used.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    attribute = re.search(r'data-seen="(.*?)"', done.stdout)
    assert attribute, done.stderr[-2000:]
    seen = json.loads(attribute[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">"))
    assert seen["start"]["shown"] == "10000 of 10000"
    assert seen["start"]["first"] == "10049.png"
    assert seen["start"]["elements"] < 60
    assert seen["lowest"]["first"] == "00050.png"
    assert seen["name"]["first"] == "00050.png"
    assert seen["anomalous"]["shown"] == "1000 of 10000"
    assert seen["missed"]["shown"] == "946 of 10000"  # p > 0.05: not above the fifth highest of 100
    assert seen["found"] == {"shown": "1 of 10000", "elements": 1, "first": "01230.png"}
    assert seen["large"]
    assert seen["last"] == "00050.png"
    assert seen["elements"] < 60
