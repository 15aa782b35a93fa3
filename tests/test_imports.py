"""The structure of the package: no import cycles, scoring apart from training, docstrings everywhere."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import anogan_jax

SCORING = (
    "detector",
    "scoring",
    "search",
    "bank",
    "features",
    "queries",
    "calibration",
    "evaluation",
    "comparison",
    "storage",
    "report",
    "journal",
    "figures",
    "spaces",
    "runtime",
    "portable",
)
TRAINING = {"fit", "loop", "training", "auxiliary", "checkpoint"}


def name_of(path: Path) -> str:
    """Return a module's name within the package, such as "data.images"."""
    return ".".join(path.relative_to(ROOT / "anogan_jax").with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in (ROOT / "anogan_jax").rglob("*.py") if path.parent.name != "__pycache__"}
MODULES.pop("__init__")  # of the package itself, which imports everything


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("anogan_jax"):
            base = node.module.removeprefix("anogan_jax").removeprefix(".")
            found |= {base} | {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
    return found & set(MODULES) - {name_of(path)}


GRAPH = {name: imports_of(path) for name, path in MODULES.items()}


def rows_of_readme() -> dict[str, int]:
    """Return the row of the README's table of modules that names each module or package."""
    table = (ROOT / "README.md").read_text().partition("| module | content |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name: row for row, cell in enumerate(cells) for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)}


def test_no_module_imports_one_of_a_later_row_of_the_readme():
    rows = rows_of_readme()
    assert set(rows) == {name.partition(".")[0] for name in MODULES}
    place = {name: rows[name.partition(".")[0]] for name in MODULES}
    against = {(name, other) for name, imports in GRAPH.items() for other in imports if place[other] > place[name]}
    assert not against


def reached(start: str) -> set[str]:
    """Return every module that a module imports, directly or not."""
    found, waiting = set(), [start]
    while waiting:
        for name in GRAPH[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


def test_the_graph_is_that_of_the_package():
    assert {"search", "features"} <= reached("scoring")
    assert reached("fit") | {"fit"} >= TRAINING


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_no_module_imports_itself_through_others(name):
    if not name.startswith("data"):  # the package data and its modules count as one
        assert name not in reached(name)


def test_the_data_modules_have_no_cycle_among_themselves():
    for name in GRAPH:
        if name.startswith("data."):
            inner = {other for other in GRAPH[name] if other.startswith("data.")}
            assert all(name not in GRAPH[other] for other in inner)


@pytest.mark.parametrize("name", SCORING)
def test_scoring_does_not_import_training(name):
    assert not reached(name) & TRAINING


SLOW = (
    "sklearn",
    "matplotlib",
    "orbax.checkpoint",
    "pandas",
    "scipy.spatial",
    "scipy.ndimage",
    "tensorflow_datasets",
    "IPython",
)


def test_import_leaves_out_what_is_slow_and_seldom_needed():
    """They come with the functions that need them; neither program needs them before it knows its command line."""
    code = (
        "import sys, anogan_jax, anogan_jax.train, anogan_jax.score\n"
        f"print([name for name in {SLOW} if name in sys.modules])\n"
        "import numpy, anogan_jax.metrics\n"
        "anogan_jax.metrics.ranking_metrics(numpy.array([0, 1]), numpy.array([0.1, 0.2]))\n"
        "print('sklearn' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]


PUBLIC = {name: value for name, value in vars(anogan_jax).items() if inspect.getmodule(value) and name[0] != "_"}


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if not inspect.ismodule(value)])
def test_public_names_have_docstrings(name):
    """The first line is a sentence; that of a function is imperative."""
    first = (inspect.getdoc(PUBLIC[name]) or "").partition("\n")[0]
    assert first.endswith((".", ":"))
    if inspect.isfunction(PUBLIC[name]):
        assert not first.split()[0].endswith("s")
