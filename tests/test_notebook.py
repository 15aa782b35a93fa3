"""The quickstart notebook: it runs from its first cell to its last, and shows what it says."""

import copy
import os

import pytest
from conftest import ROOT

nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
NOTEBOOK = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)


@pytest.fixture(scope="module")
def outputs():
    """The outputs of each code cell, by their types: texts, and pages of HTML."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client = nbclient.NotebookClient(copy.deepcopy(NOTEBOOK), timeout=300, kernel_name="python3")
    client.create_kernel_manager()
    client.start_new_kernel(env=environment)
    client.execute(cleanup_kc=True)
    return [cell.outputs for cell in client.nb.cells if cell.cell_type == "code"]


def data_of(outputs, kind):
    return "".join(each.data.get(kind, "") for each in outputs if each.output_type == "execute_result")


def test_notebook_shows_detectors_results_and_progress(outputs):
    _, detector, result, shares, trained, found = outputs
    assert data_of(detector, "text/plain").startswith("Detector: 16x16 pixels")
    assert data_of(trained, "text/plain").startswith("Detector: 8x8 pixels")
    for each in (result, found):
        assert data_of(each, "text/html").count("data:image/webp;base64") == 12
    assert "of the zeros and" in shares[0].text
    assert "training: 100%" in "".join(each.text for each in trained if each.output_type == "stream")


def test_notebook_is_kept_without_outputs():
    assert not any(cell.get("outputs") for cell in NOTEBOOK.cells)
