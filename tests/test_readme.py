"""The README: its links, its names, and how it becomes the description of the package."""

import importlib.util
import re
from pathlib import Path

import mfdeq

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
INDEX = (ROOT / "docs" / "index.rst").read_text("utf-8")


def absolute_links():
    spec = importlib.util.spec_from_file_location("links", ROOT / ".ci" / "absolute_links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.with_absolute_links


def links(text):
    return re.findall(r"\]\(([^)]+)\)", text)


def test_links_point_to_files():
    found = [link for link in links(README) if not link.startswith("https:")]
    assert len(found) > 40
    assert [link for link in found if not (ROOT / link).is_file()] == []


def test_links_are_absolute_once_the_repository_has_an_address():
    with_absolute_links = absolute_links()
    assert with_absolute_links(README, "") == README
    absolute = with_absolute_links(README, "https://forge.example/mfdeq")
    assert [link for link in links(absolute) if not link.startswith("https:")] == []
    picture = "https://forge.example/mfdeq/raw/main/docs/_static/groundwater.png"
    assert picture in links(absolute)
    assert "https://forge.example/mfdeq/blob/main/docs/spectrum.rst" in links(absolute)
    # Nothing else has changed.
    assert re.sub(r"https://forge.example/mfdeq/(raw|blob)/main/", "", absolute) == README


def test_the_front_pages_name_public_objects_only():
    for text in (README, INDEX):
        names = set(re.findall(r"\bmfdeq\.([A-Za-z]\w*)", text))
        names -= {"openmdao", "petsc", "plot", "umbridge"}  # packages
        assert len(names) > 20
        assert sorted(names - set(mfdeq.__all__)) == []


def test_both_front_pages_show_the_same_program():
    def program(text):
        return [line.strip() for line in text.splitlines() if line.startswith((">>>", "..."))]

    assert len(program(README)) < 15
    assert program(README) == program(INDEX)
