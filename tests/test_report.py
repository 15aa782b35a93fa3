"""The report: one page that needs no network, its gallery in a browser, its tables."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from anogan_jax.figures import overlay, triptych
from anogan_jax.journal import Entry, Journal
from anogan_jax.report import write_comparison, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of 10,050 queries, of which the gallery shows 10,000."""
    folder = tmp_path_factory.mktemp("page")
    journal = Journal(folder / "unfinished", "")
    square = np.random.default_rng(0).integers(80, 170, (16, 16, 1), np.uint8)
    picture = triptych(square, square, square[..., 0] / 255, 1.0)
    for i in range(10_050):
        name = f"<b>{i}</b>.png" if i == 61 else f"{i:05d}.png"
        journal.add(Entry(name, int(i % 10 == 0), "", float(i), 0.0, "reconstruction", 0.0, 0.0, 0.0, 0.0, picture))
    journal.flush()
    write_report(folder, journal, np.arange(100.0) * 100, 0.05, 1.0, {"data": "</script>"})
    return folder / "report.html"


def test_page_refers_to_no_other_file(page):
    text = page.read_text()
    assert not re.search(r"(?:src|href)=[\"']?(?!data:)", text.replace("src: ", ""))
    assert "http" not in text
    assert text.count("</script>") == 3


@pytest.mark.parametrize("level", [0.05, 1.0, 20.0])
def test_colours_saturate_at_twice_the_level(level):
    query = np.full((1, 4, 1), 100, np.uint8)
    normal, reached, saturated, beyond = overlay(query, level * np.array([[0.0, 1.0, 2.0, 9.0]]), level)[0]
    assert normal.tolist() == [100, 100, 100]
    assert (saturated == beyond).all()
    assert not (reached == saturated).all()


def test_comparison_has_a_row_for_each_method(tmp_path):
    labels = np.array([0, 0, 1, 1])
    scores = {"good": np.array([0.0, 1.0, 2.0, 3.0]), "bad": np.array([3.0, 2.0, 1.0, 0.0])}
    write_comparison(tmp_path / "comparison.csv", labels, scores)
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], float(row["auroc"])) for row in rows] == [("good", 1.0), ("bad", 0.0)]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_gallery_is_shown_sorted_and_filtered(page):
    """In headless Chromium: what a script sees of the page while it uses it."""
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
