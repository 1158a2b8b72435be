"""Which files of the project a module uses, read from its imports without running it.

DVC compares the files that a stage depends on. A task is a name to DVC, so the stage `demonstrate` writes
down the hashes of the files that the task uses, and stages that run the task depend on that.
"""

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

SHARED = ("pipeline/errors.py", "pipeline/files.py", "pipeline/lifetime.py", "pipeline/nested.py", "pipeline/snapshot.py", "pipeline/workspace.py", "pipeline/params.py", "pipeline/algorithms/names.py", "pipeline/tasks/names.py", "stages/common.py")  # fmt: skip
"""Files that all share and that decide no result. They and what they import are no dependency."""


def sources(module: str, root: Path = Path()) -> list[Path]:
    """The file of a module, and of all that it imports, directly or not, in the folder `root`.

    Imports inside functions count. So does a module that a string names in full, as in `python -m <name>`.
    A package's `__init__.py` counts where a name is imported from it, not for the sake of its modules:
    it is run for them, too, but defines names only. What lies elsewhere does not count, nor does `SHARED`.

    Returns:
        paths that begin with `root`, in alphabetical order.
    """
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        file = _file(name, root)
        if name in found or file is None or str(file.relative_to(root)) in SHARED:
            continue
        found[name] = file
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        todo += _named(ast.parse(file.read_text(encoding="utf-8")), package, root)
    return sorted(found.values())


def _file(module: str, root: Path) -> Path | None:
    """Where a module lies; None if it is none of the folder's."""
    place = root.joinpath(*module.split("."))
    options = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in options if file.is_file()), None)


def _named(tree: ast.AST, package: str, root: Path) -> Iterator[str]:
    """Whatever may be the name of a module in the code: imported, or told in a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                inner = f"{name}.{alias.name}"
                yield inner if _file(inner, root) else name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(".")
            if len(parts) > 1 and all(part.isidentifier() for part in parts):
                yield node.value
