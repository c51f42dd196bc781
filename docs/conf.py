"""Sphinx configuration. Build with `python -m sphinx -W docs docs/_build/html`."""

import re
from configparser import ConfigParser
from pathlib import Path

from sphinx.util import logging

import mfdeq

here = Path(__file__).parent
metadata = ConfigParser()
metadata.read(here.parent / "setup.cfg", encoding="utf-8")

project = "mfdeq"
author = "the mfdeq developers"
copyright = "2026, the mfdeq developers"
release = metadata["metadata"]["version"]
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Matrix-free derivatives through an equilibrium",
    "page_width": "1000px",
    "fixed_sidebar": True,
}
html_sidebars = {"**": ["about.html", "searchfield.html", "navigation.html"]}

default_role = "autolink"
autosummary_generate = True
autodoc_typehints = "none"  # the docstrings state types, with shapes
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": "Operator, Exception"}
numpydoc_show_class_members = False
toc_object_entries = False


def check_names(app):
    """Warn where a public name is missing from the API page."""
    listed = set(re.findall(r"^ {3}(\w+)$", (here / "api.rst").read_text("utf-8"), re.MULTILINE))
    missing = sorted(set(mfdeq.__all__) - listed - {"__version__"})
    for name in missing:
        logging.getLogger(__name__).warning("docs/api.rst does not list %s", name)


def escape_bars(app, what, name, obj, options, lines):
    """Show |x| and ||x|| as they are written: to docutils a bar starts a substitution."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = re.sub(r"`[^`]+`|(\|)", lambda m: "\\|" if m[1] else m[0], line)


def setup(app):
    """Hook both in."""
    app.connect("builder-inited", check_names)
    app.connect("autodoc-process-docstring", escape_bars, priority=900)
