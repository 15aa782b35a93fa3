"""Make pages of the site of files outside docs/, and the reference of the package's public names.

MkDocs calls this module as a hook, and Griffe, which reads the docstrings, calls its class ``Comments``.
"""

import ast
import posixpath
import re
from functools import partial
from pathlib import Path
from typing import Any

from griffe import Attribute, Docstring, Extension, Object
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {  # of the site, by their files in the repository
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
FIRST = ("fit", "detector", "sklearn", "config", "errors")  # modules that a user meets first
DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)]*)?\)")
SOURCE = re.compile(r'(?<=<img src=")docs/')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "api.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page whose links lead to pages of the site; what is none is named without a link."""
    name = page.file.src_uri
    source = next((source for source, made in PAGES.items() if made == name), f"docs/{name}")
    return LINK.sub(partial(relinked, posixpath.dirname(source)), SOURCE.sub("", markdown))


def relinked(folder: str, link: re.Match) -> str:
    """Return a link of a file in this folder of the repository as one of the site; of a file that is no page, its text.

    A link to a file that does not exist is left as it is, for MkDocs to complain of.
    """
    path = posixpath.normpath(posixpath.join(folder, link["target"]))
    target = PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
    if not target:
        return link["text"] if (ROOT / path).exists() else link[0]
    return f"{link['image']}[{link['text']}]({target}{link['anchor'] or ''})"


def reference() -> str:
    """Return the page of the public names: those that the package's ``__init__`` imports, by module."""
    modules = {"sklearn": ["AnoGAN"]}
    for node in ast.parse((ROOT / "anogan_jax" / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module != "anogan_jax.version":
            modules[(node.module or "").removeprefix("anogan_jax.")] = [alias.name for alias in node.names]
    text = "# API\n\nAll names but `AnoGAN` are imported as `anogan_jax.NAME`.\n"
    for module in (*FIRST, *(name for name in modules if name not in FIRST)):
        text += f"\n## {module}\n\n" + "\n\n".join(f"::: anogan_jax.{module}.{name}" for name in modules[module]) + "\n"
    return text


class Comments(Extension):
    """Show the comment behind a field as its docstring, and doctests as code."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Take the comment of a field's line."""
        line = attr.lines_collection[attr.filepath][(attr.lineno or 1) - 1]
        if not attr.docstring and (comment := line.partition("  # ")[2]):
            attr.docstring = Docstring(comment, lineno=attr.lineno, parent=attr)

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Fence the doctests of a docstring."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub("```pycon\n\\g<0>\n```", obj.docstring.value)
