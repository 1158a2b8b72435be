"""README.md, CONTRIBUTING.md and docs/ name only what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:pipeline|stages|scripts|tests|studies|docs|examples)/[\w./]*)`")
TARGET = re.compile(r"(?:`|^    )make ([a-z-]+)", re.MULTILINE)
HISTORY = {"log.md"}
"""What tells of the past may name what is gone. Its links have to lead somewhere all the same."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def links(text):
    """Where a page's links lead to inside the project."""
    return [target for target in LINK.findall(text) if "://" not in target]


def paths(text):
    """What looks like a file or folder of the project, in backticks."""
    return PATH.findall(text)


def targets(text):
    """What the page tells the reader to make."""
    return TARGET.findall(text)


@pages
def test_each_link_leads_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    assert [target for target in links(text) if not (page.parent / target).exists()] == []


@pages
def test_each_path_is_there(page):
    if page.name in HISTORY:
        return
    text = page.read_text(encoding="utf-8")
    assert [path for path in paths(text) if not (ROOT / path).exists()] == []


@pages
def test_each_make_target_is_there(page):
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets(page.read_text(encoding="utf-8"))) <= set(known)


def test_what_counts_as_a_link_a_path_and_a_target():
    text = (
        "[a](docs/a.md) [b](docs/b.md#part) ![c](c.svg) [d](https://example.org/d) [e](#part)\n"
        "`pipeline/x.py` `pipeline/tasks/<name>.py` `tests/y` data/z.py\n"
        "`make test ARGS=-n0`, they make things\n\n    make repro  # all\n"
    )
    assert links(text) == ["docs/a.md", "docs/b.md", "c.svg"]
    assert paths(text) == ["pipeline/x.py", "tests/y"]
    assert targets(text) == ["test", "repro"]


def test_help_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split()
    assert re.findall(r"^([a-z-]+):.*  ## ", makefile, re.MULTILINE) == phony
