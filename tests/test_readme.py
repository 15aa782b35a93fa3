"""The README: its Python examples run as printed, and the files that it names exist."""

import re

import pytest
from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_part_in_python_has_an_example():
    part = re.split(r"^#+ In Python\n", TEXT, flags=re.MULTILINE)[1]
    assert re.split(r"^#", part, flags=re.MULTILINE)[0].count("```python") >= 1


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})


def test_files_that_it_names_exist():
    for path in re.findall(r"(?:configs|docs|benchmarks|anogan_jax)/[\w/]+\.\w+", TEXT):
        assert (ROOT / path).exists(), path
