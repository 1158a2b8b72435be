"""The tiny project, made once for all tests here."""

import os
import signal

import pytest

from tests.project_copy import ROOT
from tests.stages.tiny_project import make_project


@pytest.fixture(scope="session")
def made_project(tmp_path_factory):
    """Takes twenty seconds. The working folder is another one again afterwards."""
    folder = tmp_path_factory.mktemp("tiny-project")
    before = os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        _run_by_hand(patch)
        os.chdir(folder)
        try:
            make_project(folder)
        finally:
            os.chdir(before)
    return folder


@pytest.fixture
def project(made_project, monkeypatch):
    """The tiny project as working folder. A test leaves it as it was."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _run_by_hand(monkeypatch)
    monkeypatch.chdir(made_project)
    yield made_project
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _run_by_hand(patch):
    """A stage that DVC or make runs stops when they do, and these tests are run by make.

    Processes that a stage starts find the code, too.
    """
    for name in ("DVC_STAGE", "MAKELEVEL", "LEARNING_TOOLS_PARENT"):
        patch.delenv(name, raising=False)
    patch.setenv("PYTHONPATH", str(ROOT))
