from pathlib import Path

import pytest

from pipeline.dependencies import SHARED, sources


@pytest.fixture
def project(tmp_path):
    """Writes modules, by their paths, and returns the names of what one of them uses."""

    def used(module, files):
        for path, code in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(code)
        return [str(file.relative_to(tmp_path)) for file in sources(module, tmp_path)]

    return used


@pytest.mark.parametrize(
    "code",
    [
        "import p.b",
        "from p import b",
        "from p.b import name",
        "from . import b",
        "from .b import name",
        "def f():\n    from p.b import name",
        "if False:\n    import json, p.b as other",
        "COMMAND = ['python', '-m', 'p.b']",
    ],
)
def test_whatever_names_a_module_uses_it(project, code):
    files = {"p/__init__.py": "", "p/a.py": code, "p/b.py": "name = 1", "p/c.py": ""}
    assert project("p.a", files) == ["p/a.py", "p/b.py"]


def test_imports_are_followed_and_may_be_circular(project):
    files = {
        "p/a.py": "import p.b",
        "p/b.py": "import p.c.d",
        "p/c/__init__.py": "import p.e",
        "p/c/d.py": "import p.a",
        "p/e.py": "",
    }
    assert project("p.a", files) == ["p/a.py", "p/b.py", "p/c/d.py"]


def test_a_package_counts_where_a_name_is_imported_from_it(project):
    files = {"p/c/__init__.py": "from p.e import name", "p/c/d.py": "", "p/e.py": "name = 1"}
    assert project("p.a", files | {"p/a.py": "from p.c import d"}) == ["p/a.py", "p/c/d.py"]
    assert project("p.a", {"p/a.py": "from p.c import d, name"}) == [
        "p/a.py",
        "p/c/__init__.py",
        "p/c/d.py",
        "p/e.py",
    ]


def test_what_lies_elsewhere_or_is_shared_does_not_count(project):
    files = {"pipeline/a.py": "import json, torch, pipeline.errors\nTEXT = 'pipeline.b is.no name'"}
    files |= {"pipeline/errors.py": "import pipeline.b", "pipeline/b.py": ""}
    assert project("pipeline.a", files) == ["pipeline/a.py"]


def test_what_is_shared_is_there():
    assert all(Path(__file__).parents[1].joinpath(file).is_file() for file in SHARED)
