"""Sphinx configuration. Build with `python -m sphinx -W docs docs/_build/html`."""

import importlib
import os
import re
import shutil
import sys
from configparser import ConfigParser
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent

import matplotlib.pyplot as plt
from sphinx.util import logging
from sphinx_gallery.utils import scale_image
from sphinxcontrib.bibtex.plugin import register_plugin as register
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

import mfdeq

log = logging.getLogger(__name__)
here = Path(__file__).parent
sys.path.insert(0, str(here))
figures = importlib.import_module("figures")
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
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "gallery_header.rst"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"mfdeq {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]


@dataclass
class AuthorsAndYear(AuthorYearReferenceStyle):
    """References in the text as authors and year, in parentheses."""

    bracket_textual: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))
    bracket_parenthetical: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))
    author_year_sep: str = " "


register("sphinxcontrib.bibtex.style.referencing", "authors_and_year", AuthorsAndYear)
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "authors_and_year"
bibtex_default_style = "plain"

# Formulas are shown without a network: what a browser loads of MathJax is copied into the pages.
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}  # the menu would load more of it
MATHJAX_FILES = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")

# Prompts of Python and of shells are not copied, nor is what was printed.
copybutton_prompt_text = r">>> |\.\.\. ?|\$ "
copybutton_prompt_is_regexp = True

default_role = "autolink"
autosummary_generate = True
autodoc_mock_imports = ["petsc4py", "slepc4py", "mpi4py"]  # of mfdeq.petsc
autodoc_typehints = "none"  # the docstrings state types, with shapes
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": "Operator, Exception"}
suppress_warnings = ["config.cache"]  # sphinx_gallery_conf holds functions
numpydoc_show_class_members = False
toc_object_entries = False

# The gallery by subject: a title, what its examples have in common, and their names.
SUBJECTS = {
    "Groundwater under real terrain": (
        "One model of 138,632 unknowns: its derivatives, a calibration, what streams tell about "
        "the conductivities, and a study of two hundred cases.",
        ("groundwater", "calibration", "identifiability", "recharge"),
    ),
    "Inverse problems": (
        "Parameters from data, with their uncertainty: of one state, of many experiments with one "
        "matrix, and of steps in time.",
        ("diffusion", "resistivity", "heat", "water_network"),
    ),
    "Branches and folds": (
        "What happens to an equilibrium and its derivatives as a parameter varies.",
        ("bratu", "bratu_diagram", "power_grid", "reactor"),
    ),
    "Conserved totals and gauges": (
        "Equations that depend on each other, and what makes their solution unique.",
        ("reactions", "cavity"),
    ),
    "Learning and economics": (
        "Implicit layers, inner minima and markets: many small equilibria.",
        ("deq_digits", "deq_layer", "bilevel", "markets"),
    ),
}

# The examples run in a copy of their folder, where what they write can stay.
examples = here.parent / "examples"
scripts = here / "_build" / "examples"
shutil.rmtree(scripts, ignore_errors=True)
for number, (title, (text, names)) in enumerate(SUBJECTS.items()):
    folder = scripts / f"{number}_{title.split()[0].lower()}"
    folder.mkdir(parents=True)
    (folder / "GALLERY_HEADER.rst").write_text(f"{title}\n{'-' * len(title)}\n\n{text}\n", "utf-8")
    for name in names:
        shutil.copy(examples / f"{name}.py", folder)
shutil.copy(here / "gallery_header.rst", scripts / "GALLERY_HEADER.rst")
os.environ["TQDM_DISABLE"] = "1"  # progress bars are not for pages
figures.save_pairs()


def small(gallery_conf, script_vars):
    """Give an example its arguments."""
    return ["--size", "small"]


def take_figures(block, block_vars, gallery_conf):
    """Take the figures of a part of the tutorial, or those that an example saved, as wide as pages.

    Each is there for light and for dark pages, and is a link to its file, which is twice as wide.
    """
    script, paths, taken = Path(block_vars["src_file"]), block_vars["image_path_iterator"], {}
    if scripts in script.parents:
        for saved_dark in sorted(script.parent.glob("*_dark.png")):
            path = Path(next(paths))
            saved = saved_dark.with_stem(saved_dark.stem.removesuffix("_dark"))
            shutil.move(saved, path)
            shutil.move(saved_dark, figures.dark_path(path))
            taken[path] = saved.stem
        if not taken:
            log.warning("examples/%s saved no figure", script.name)
    else:
        for figure in map(plt.figure, plt.get_fignums()):
            path = Path(next(paths))
            figures.save_pair(figure, path)
            taken[path] = ", ".join(filter(None, (title_of(ax) for ax in figure.axes)))
        plt.close("all")
    rst = ""
    for path, name in taken.items():
        if path.stem.endswith("_001"):
            thumbnail = path.parent / "thumb" / f"sphx_glr_{script.stem}_thumb_dark.png"
            thumbnail.parent.mkdir(parents=True, exist_ok=True)
            scale_image(figures.dark_path(path), thumbnail, *gallery_conf["thumbnail_size"])
        place = path.relative_to(here).as_posix()
        rst += both_themes(f"/{place}", f"   :width: 100%\n   :alt: {name}\n")
    return rst


def title_of(ax):
    """Return the title of axes, centred or not."""
    return ax.get_title() or ax.get_title("left")


def both_themes(place, options):
    """Return a picture for light pages and the same for dark ones, as reStructuredText."""
    light, dark = place, figures.dark_path(Path(place)).as_posix()
    return "".join(
        f".. image:: {name}\n{options}   :class: only-{theme}\n\n"
        for name, theme in ((light, "light"), (dark, "dark"))
    )


NOTEBOOK_START = """import sys

sys.argv = ["notebook", "--size", "small"]  # the command line of an example
%matplotlib inline"""

sphinx_gallery_conf = {
    "examples_dirs": [str(scripts), str(examples / "tutorial")],
    "gallery_dirs": ["gallery", "tutorial"],
    "filename_pattern": "",  # all are run
    "within_subsection_order": "FileNameSortKey",
    "reset_argv": small,
    "image_scrapers": (take_figures,),
    "first_notebook_cell": NOTEBOOK_START,
    "download_all_examples": False,
    "write_computation_times": False,
    "show_signature": False,
}


def thumbnails_of_both_themes(app, docname, source):
    """Show the thumbnails of dark pages beside those of light ones."""
    if docname.startswith(("gallery/", "tutorial/")) and docname.endswith("index"):
        source[0] = re.sub(
            r"^  \.\. image:: (/\S+_thumb\.png)\n    :alt:\n",
            lambda m: indent(both_themes(m[1], "   :alt:\n"), "  ") if dark_exists(m[1]) else m[0],
            source[0],
            flags=re.MULTILINE,
        )


def dark_exists(place):
    """Say whether there is a picture for dark pages."""
    return figures.dark_path(here / place[1:]).exists()


def barred(line):
    """Show |x| and ||x|| as they are written: to docutils a bar starts a substitution."""
    return re.sub(r"`[^`]+`|(\|)", lambda m: "\\|" if m[1] else m[0], line)


def page_of_example(app, docname, source):
    """Make a page of an example's docstring: a title from its first line, code where indented."""
    if docname.startswith("gallery/") and not docname.endswith("/index"):
        head, label, rest = source[0].partition(".py:\n\n")
        text, mark, code = rest.partition(".. GENERATED FROM")
        title = re.match(r"[^:.?]+\??", text)[0]
        text = text.removeprefix(title).lstrip(":. ").lstrip("\n")
        text = text[:1].upper() + text[1:]
        text = "\n".join(
            line if line.startswith(" ") else barred(line) for line in text.split("\n")
        )
        text = re.sub(r"\n\n(?= )", "\n\n.. code-block:: text\n\n", text)
        source[0] = f"{head}{label}{title}\n{'=' * len(title)}\n\n{text}{mark}{code}"


def check_names(app):
    """Warn where a public name is missing from the API page, or an example from the gallery."""
    shown = {name for _, names in SUBJECTS.values() for name in names}
    for name in sorted({script.stem for script in examples.glob("*.py")} - shown):
        log.warning("SUBJECTS of docs/conf.py does not list examples/%s.py", name)
    listed = set(re.findall(r"^ {3}(\w+)$", (here / "api.rst").read_text("utf-8"), re.MULTILINE))
    missing = sorted(set(mfdeq.__all__) - listed - {"__version__"})
    for name in missing:
        log.warning("docs/api.rst does not list %s", name)


def escape_bars(app, what, name, obj, options, lines):
    """Escape the bars of a docstring, but for its examples."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = barred(line)


def copy_mathjax(app, error):
    """Copy the files of MathJax that pages load."""
    if error is None and app.builder.format == "html":
        source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
        for name in MATHJAX_FILES:
            place = Path(app.outdir, "_static", "mathjax", name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (source / name).is_dir():
                shutil.copytree(source / name, place, dirs_exist_ok=True)
            else:
                shutil.copy(source / name, place)


def setup(app):
    """Hook them in."""
    app.connect("build-finished", copy_mathjax)
    app.connect("builder-inited", check_names)
    app.connect("source-read", page_of_example)
    app.connect("source-read", thumbnails_of_both_themes)
    app.connect("autodoc-process-docstring", escape_bars, priority=900)
