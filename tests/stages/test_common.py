import sys

import pytest

from pipeline.files import read_jsonl
from pipeline.workspace import write_jsonl
from stages.common import run_stage


def test_every_character_survives_writing_and_reading(tmp_path):
    rows = [{"text": "a\u2028b\x85c\x1cd\re\nf 🚁"}, {"text": "g"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl", dict[str, str], "prepare") == rows


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(2, "No such file", "a.txt"), "error: a.txt: No such file"),
        (OSError("out of order"), "error: out of order"),
    ],
)
def test_what_the_system_refused_is_told_in_a_line(monkeypatch, tmp_path, error, told):
    def main():
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit, match=told):
        run_stage(main)
