"""What the README shows works as printed."""

import re

from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()


def test_the_research_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(example, {})
    assert re.match(r"\[\d", capsys.readouterr().out)


def test_what_it_names_is_there():
    for path in re.findall(r"(?:configs|docs|benchmarks|anogan_jax)/[\w/]+\.\w+", TEXT):
        assert (ROOT / path).exists(), path
