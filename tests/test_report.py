"""The report: one page that needs no network, its gallery in a browser, its tables."""

import base64
import csv
import json
import os
import re
import shutil
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from anogan_jax import figures
from anogan_jax.data import from_user
from anogan_jax.data.images import resize
from anogan_jax.figures import PARTS, _shrunk, overlay, strip
from anogan_jax.journal import Entry, Journal
from anogan_jax.report import record, write_comparison, write_report
from anogan_jax.runtime import TERMS, Finding
from anogan_jax.spaces import Embedding

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MALICE = "<img src=x onerror='document.title=1'>\u202egnp.png"
SQUARE = np.random.default_rng(0).integers(80, 170, (16, 16, 1), np.uint8)
PICTURE = strip(SQUARE, SQUARE // 2, np.linspace(0, 2, 256).reshape(16, 16), 1.0)


@pytest.fixture(scope="module", autouse=True)
def without_panels():
    """A second for each report; tests/test_evaluation.py has reports with all pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anogan_jax.report.save_panels", lambda *_: None)
        yield


def entry(name, score, label=-1, term="reconstruction", picture=PICTURE):
    return Entry(name, label, "", score, 0.0, term, 0.0, 0.0, 0.0, 0.0, b"", picture)


def write(folder, entries, facts, **settings):
    """Write the report of entries, calibrated by the scores 0, 100, ..., 9900; return its page and the page's data."""
    journal = Journal(folder / "unfinished", "")
    for each in entries:
        journal.add(each)
    journal.flush()
    write_report(folder, journal, np.arange(100.0) * 100, 0.05, 1.0, facts, **settings)
    page = folder / "report.html"
    return page, json.loads(re.search(r'id="summary" type="application/json">(.*?)</script>', page.read_text())[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of 10,050 queries, of which the gallery shows 10,000, and one that is unreadable."""
    entries = [
        entry(MALICE if i == 61 else f"{i:05d}.png", float(i), int(i % 10 == 0), TERMS[i % 1000 == 1])
        for i in range(10_050)
    ]
    entries.append(entry("broken.png", float("nan"), picture=b""))
    walk = np.zeros((10, 8, 8, 1), np.float32)
    return write(
        tmp_path_factory.mktemp("page"), entries, {"data": "</script>", "warning": "odd <b>data</b>"}, walk=walk
    )[0]


def test_page_refers_to_no_other_file(page):
    text = page.read_text()
    assert not re.search(
        r"(?:src|href)=[\"']?(?!data:)", text.replace("src: ", "").replace(json.dumps(MALICE)[2:9], "")
    )
    assert "://" not in text
    assert text.count("</script>") == 3


LABELLED = [entry(f"{i}", 1e4 * (i % 4 == 0) + i, int(i % 2 == 0)) for i in range(20)]  # 5 found, all anomalous


@pytest.mark.parametrize(
    ("entries", "figures"),
    [
        ([entry("a", 1.0)], {"Anomalies": "0 of 1"}),
        (LABELLED, {"Anomalies": "5 of 20", "AUROC": "0.7500", "False alarms": "0.0%"}),
        ([each._replace(label=0) for each in LABELLED], {"Anomalies": "5 of 20", "False alarms": "25.0%"}),
        ([each._replace(label=1) for each in LABELLED], {"Anomalies": "5 of 20"}),
    ],
    ids=["unlabelled", "labelled", "all normal", "all anomalous"],
)
def test_page_begins_with_the_figures_that_the_labels_allow(tmp_path, entries, figures):
    _, data = write(tmp_path, entries, {})
    assert {title: value for title, value, _ in data["figures"]} == figures
    assert [text.split(":")[0] for text in data["warnings"]] == ["Not measured"] * (
        len(figures) < 3 and "AUROC" not in figures and entries[0].label >= 0
    )


def test_warnings_name_unreadable_queries_with_control_characters_escaped(tmp_path):
    broken = [entry(f"{i}\n.png", float("nan"), picture=b"") for i in range(7)]
    _, data = write(tmp_path, [entry("a", 1.0), *broken], {"warning": "few images"})
    names = ", ".join(f"{i}\\n.png" for i in range(5))
    assert data["warnings"] == ["few images", f"Unreadable, 7: {names}, ..."]


def test_embedding_is_drawn_by_verdict_where_it_is_given(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "anogan_jax.report.save_embedding", lambda path, groups: (drawn.append(groups), path.write_bytes(b"png"))
    )
    points = np.arange(6.0).reshape(3, 2)
    embedding = Embedding(np.array([0, 1, 4]), points, {"generated": np.zeros((2, 2))})
    _, data = write(tmp_path, LABELLED, {}, embedding=embedding)
    assert base64.b64decode(data["charts"]["embedding"]) == b"png"
    ((names, groups),) = [(list(each), each) for each in drawn]
    assert names == ["generated", "query, normal", "query, anomaly"]
    np.testing.assert_array_equal(groups["query, normal"], points[[1]])
    np.testing.assert_array_equal(groups["query, anomaly"], points[[0, 2]])
    (tmp_path / "again").mkdir()
    assert "embedding" not in write(tmp_path / "again", LABELLED, {})[1]["charts"]


@pytest.mark.parametrize("shape", [(900, 1500), (1500, 900), (3, 2000), (1031, 777)])
def test_pictures_of_large_images_take_less_memory_than_the_image(shape, monkeypatch):
    """They show what resizing the whole image shows, but little is resized: Pillow's memory is not traced."""
    resized = []
    monkeypatch.setattr(figures, "resize", lambda image, *new: resized.append(image.shape) or resize(image, *new))
    rows, columns = (np.arange(length) / 120 for length in shape)
    image = (100 + 90 * np.sin(np.add.outer(rows, columns)))[..., None].astype(np.uint8)
    anomaly_map = image.astype(np.float32) / 50
    for whole in (image, anomaly_map):
        tracemalloc.start()
        shrunk = _shrunk(whole, 16)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < max(0.6 * whole.nbytes, 100_000)
        assert max(shrunk.shape) == 16
        assert max(resized.pop()) < 4 * 16
        expected = resize(whole, *shrunk.shape[:2]).astype(float)
        np.testing.assert_allclose(shrunk, expected, atol=0.05 * np.ptp(expected))
        assert shrunk.dtype == whole.dtype


def test_strip_has_its_parts_side_by_side():
    """Small images without loss; the map on grey and over the query, both the query's and grey alone where it is 0."""
    with Image.open(BytesIO(PICTURE)) as picture:
        query, reconstruction, alone, over = np.split(np.asarray(picture.convert("RGB")), 4, axis=1)
    np.testing.assert_array_equal(query[..., 0], SQUARE[..., 0])
    np.testing.assert_array_equal(reconstruction[..., 0], SQUARE[..., 0] // 2)
    np.testing.assert_array_equal(over[0], query[0])
    assert (alone[0] == 153).all()
    assert (alone[-1] != 153).any()
    assert len(np.unique(over[-1] - over[-1].min(axis=0), axis=0)) > 4  # the query is seen through the heat


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


@pytest.mark.parametrize(("count", "longest"), [(1_000, 256), (1_001, 96)])
def test_pictures_of_few_queries_are_large(tmp_path, count, longest):
    photo = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    found = Finding(photo, photo, photo[..., 0] / 255, np.zeros(2), *[0.0] * 2, TERMS[0], *[0.0] * 4)
    journal = Journal(tmp_path / "unfinished", "")
    record(journal, [found], from_user(photo[None], 3)._replace(names=["a"] * count), 1.0)
    (kept,) = journal.entries()
    with Image.open(BytesIO(kept.picture)) as picture:
        assert picture.size == (4 * round(longest * 2 / 3), longest)


def test_entries_have_the_names_labels_and_kinds_of_their_queries(tmp_path):
    pixels = np.zeros((2, 4, 4, 1), np.uint8)
    found = Finding(pixels[0], pixels[0], np.zeros((4, 4)), np.zeros(2), *[0.0] * 2, TERMS[0], *[0.0] * 4)
    names = ["a.png", os.fsdecode(b"\xff.png"), "c.png"]
    queries = from_user(np.zeros((3, 4, 4), np.uint8), 1)._replace(
        names=names, labels=np.array([0, 1, 1]), kinds=["good", "crack", "spur"]
    )
    path = tmp_path / "unfinished"
    record(Journal(path, ""), [found, found], queries, 1.0)
    journal = Journal(path, "")  # a run that resumes goes on with the third
    record(journal, [found], queries, 1.0)
    kept = [(entry.name, entry.label, entry.kind) for entry in journal.entries()]
    assert kept == list(zip(names, [0, 1, 1], ["good", "crack", "spur"], strict=True))


@pytest.fixture(scope="module")
def browser():
    """Chromium, of playwright or of the machine."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as driver:
        try:
            launched = driver.chromium.launch()
        except api.Error:
            if CHROMIUM is None:
                pytest.skip("no Chromium on this machine")
            launched = driver.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture
def shown(browser, page):
    """The page in a window; an error of its script, or a request beyond the page itself, fails the test."""
    window, wrong = browser.new_page(viewport={"width": 1280, "height": 900}), []
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.on(
        "request", lambda request: wrong.append(request.url) if request.url[:5] not in ("file:", "data:") else None
    )
    window.goto(page.as_uri())
    yield window
    window.close()
    assert not wrong


def first(window):
    return window.locator(".row > span").first.evaluate("element => element.firstChild.textContent")


def test_gallery_is_sorted_and_filtered(shown):
    count = shown.locator("#shown")
    assert (count.inner_text(), first(shown)) == ("10000 of 10000", "10049.png")
    shown.select_option("#sort", "-score")
    assert first(shown) == "00050.png"
    shown.select_option("#label", "1")
    assert count.inner_text() == "1000 of 10000"
    shown.select_option("#verdict", "0")
    assert count.inner_text() == "946 of 10000"  # p > 0.05: not above the fifth highest of 100
    shown.fill("#search", "0123")
    assert (count.inner_text(), first(shown), shown.locator(".row").count()) == ("1 of 10000", "01230.png", 1)
    shown.fill("#search", "")
    shown.select_option("#label", "")
    shown.select_option("#verdict", "")
    shown.select_option("#term", TERMS[1])
    assert (count.inner_text(), first(shown)) == ("10 of 10000", "01001.png")
    assert f"(from {TERMS[1]})" in shown.locator(".row").first.inner_text()


def test_ten_thousand_rows_do_not_freeze_the_page(shown):
    """Elements are those in view; sorting, and a jump to the end, take less than a second."""
    seconds = shown.evaluate("""async () => {
        const frame = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
        const began = performance.now(), sort = document.getElementById("sort");
        for (const order of ["name", "-score", "score"]) {
            sort.value = order;
            sort.dispatchEvent(new Event("input", {bubbles: true}));
            await frame();
        }
        scrollTo(0, 1e9);
        await frame();
        return (performance.now() - began) / 4000;
    }""")
    assert seconds < 1
    assert shown.locator(".row").count() < 60
    assert "00050.png" in shown.locator(".row").last.inner_text()


def test_enlarged_pictures_are_stepped_through_by_keys(shown):
    """Enter opens, arrows step, Escape closes; the focus stays inside, and returns to the row that was shown last."""
    name, place = shown.locator("#name"), shown.locator("#place")
    shown.locator(".row").nth(1).focus()
    shown.keyboard.press("ArrowDown")
    shown.keyboard.press("Enter")
    assert (name.inner_text(), place.inner_text()) == ("10047.png", "3 of 10000")
    for key, expected in (
        ("ArrowRight", "10046.png"),
        ("ArrowLeft", "10047.png"),
        ("End", "00050.png"),
        ("ArrowRight", "00050.png"),
    ):
        shown.keyboard.press(key)
        assert name.inner_text() == expected
        assert shown.evaluate("document.activeElement.closest('dialog') !== null")
    shown.locator("#previous").click()
    assert name.inner_text() == "00051.png"
    shown.keyboard.press("Escape")
    assert not shown.locator("dialog").is_visible()
    shown.wait_for_function(
        "document.activeElement.matches('.row') && document.activeElement.innerText.includes('00051')"
    )


def test_enlarged_picture_shows_each_part_of_the_strip(shown):
    shown.locator(".row").first.click()
    parts = shown.locator("#parts figure")
    assert [text.strip() for text in parts.all_inner_texts()] == list(PARTS)
    with Image.open(BytesIO(PICTURE)) as picture:
        expected = np.split(np.asarray(picture.convert("RGB")), len(PARTS), axis=1)
    for i, part in enumerate(expected):
        element = shown.locator("#parts [role=img]").nth(i)
        box = element.bounding_box()
        assert box["width"] == pytest.approx(box["height"], abs=1)
        with Image.open(BytesIO(element.screenshot())) as seen:
            np.testing.assert_allclose(np.asarray(seen.convert("RGB")).mean((0, 1)), part.mean((0, 1)), atol=3)


def test_texts_of_the_user_are_shown_as_they_are(shown):
    """Names become text, never elements. The right-to-left override, which would reverse the rest, is escaped."""
    assert shown.locator(".warning").all_inner_texts() == ["odd <b>data</b>", "Unreadable, 1: broken.png"]
    assert shown.locator("#data").inner_text() == "</script>"
    shown.fill("#search", "onerror")
    assert first(shown) == MALICE.replace("\u202e", "\\u202e")
    shown.locator(".row").click()
    assert shown.locator("#name").inner_text() == MALICE.replace("\u202e", "\\u202e")
    assert shown.title() == "Anomalies"


CONTRAST = """selector => {
    const light = text => text.match(/[\\d.]+/g).slice(0, 3)
        .map(value => value / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
    let element = document.querySelector(selector), behind = element;
    const text = luminance(light(getComputedStyle(element).color));
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const ground = luminance(light(getComputedStyle(behind).backgroundColor));
    return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
}"""


def test_page_is_dark_or_light_as_preferred_and_readable(shown):
    """Contrast of at least 4.5 (WCAG 2.2, AA) in both."""
    colours = set()
    for scheme in ("light", "dark"):
        shown.emulate_media(color_scheme=scheme)
        colours.add(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
        for selector in ("h1", "#data", ".warning", "#figures .value", "#figures .faint", ".row", ".anomaly"):
            assert shown.evaluate(CONTRAST, selector) >= 4.5, (scheme, selector)
    assert len(colours) == 2
