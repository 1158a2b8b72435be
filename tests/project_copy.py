"""Runs the project in a copy, with other params: for `make smoke` and the end-to-end test.

python -m tests.project_copy FOLDER [section.key=value ...]
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from scripts.preset import set_params

ROOT = Path(__file__).parents[1]


def copy_project(destination: Path, overrides: dict[str, Any], share_cache: bool) -> None:
    """Copies the files that git knows or would take up, without results, and makes a repository.

    With `share_cache`, what has been computed here is not computed again there.
    """
    destination.mkdir(parents=True, exist_ok=True)
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.splitlines():
        result = name.startswith(("reports/", "studies/runs/")) or name.endswith("dvc.lock")
        if result or not (ROOT / name).is_file():
            continue
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, destination / name)
    if share_cache:
        (destination / ".dvc/config.local").write_text(
            f"[cache]\n    dir = {ROOT / '.dvc/cache'}\n"
        )
    set_params(destination / "params.yaml", overrides)
    if not (destination / ".git").exists():
        git(destination, "init", "-q")
    git(destination, "add", "-A")
    git(destination, "commit", "-qm", "a copy", "--allow-empty")


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True)


if __name__ == "__main__":
    pairs = (argument.split("=", 1) for argument in sys.argv[2:])
    copy_project(
        Path(sys.argv[1]), {key: YAML().load(value) for key, value in pairs}, share_cache=True
    )
