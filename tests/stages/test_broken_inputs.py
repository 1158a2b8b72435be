"""Every input of every stage, broken in every way: one line that says what, where and what makes it anew.

Nothing that was there before is changed.
"""

import hashlib
import json
import random
import re
import shutil
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.workspace import read_setup
from tests.project_copy import ROOT
from tests.stages.tiny_project import TASK, run

GARBAGE = b'\x93PAR\xff\x00{"\n' + random.Random(0).randbytes(3000)
TEXT, JSON, JSONL, CSV, YAML, BINARY = "text", "json", "jsonl", "csv", "yaml", "binary"


def missing(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(GARBAGE)


def cut(path):
    """In the midst of a line: half of the file might be whole lines."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 5])


def rewrite(path, change):
    """Changes the last row of JSONL, or the whole of JSON."""
    text = path.read_text()
    rows = text.splitlines() if path.suffix == ".jsonl" else [text]
    rows[-1] = json.dumps(change(json.loads(rows[-1])))
    path.write_text("".join(f"{row}\n" for row in rows))


def wrong_value(path):
    rewrite(path, lambda value: dict.fromkeys(value, 17))


def wrong_type(path):
    rewrite(path, lambda value: [value])


def no_field(path):
    rewrite(path, lambda value: {})


def no_column(path):
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line.partition(',')[2]}\n" for line in lines))


def nested(path):
    path.write_text("[" * 100_000)


BINARY_WAYS = (missing, empty, garbage, cut)
WAYS = {
    TEXT: (missing, empty, garbage),  # half a text is a text
    JSON: (*BINARY_WAYS, wrong_type, wrong_value, no_field, nested),
    JSONL: (*BINARY_WAYS, wrong_type, wrong_value, no_field),
    CSV: (*BINARY_WAYS, no_column),
    YAML: (missing, empty, garbage),
    BINARY: BINARY_WAYS,
}

SETUP = {
    "data/setup/arithmetic/shots.jsonl": (JSONL, f"demonstrate@{TASK}"),
    "data/setup/arithmetic/tools.json": (JSON, f"demonstrate@{TASK}"),
}
TRAINING = {
    **SETUP,
    "data/tasks/arithmetic/train.jsonl": (JSONL, f"prepare@{TASK}"),
    "data/models/arithmetic-sft/model.safetensors": (BINARY, None),
    "data/models/base/source.json": (JSON, "fetch_model"),
}
INPUTS = {
    f"demonstrate {TASK}": {"data/tasks/arithmetic/train.jsonl": (JSONL, f"prepare@{TASK}")},
    f"warm_start {TASK}": {
        "data/setup/arithmetic/shots.jsonl": (JSONL, f"demonstrate@{TASK}"),
        "data/demonstrations/arithmetic.jsonl": (JSONL, None),
        "data/models/base/model.safetensors": (BINARY, "fetch_model"),
        "data/models/base/config.json": (JSON, "fetch_model"),
        "data/models/base/tokenizer.json": (BINARY, "fetch_model"),
    },
    f"train {TASK} 1": TRAINING,
    f"evaluate {TASK} rl-1": {
        **SETUP,
        "data/tasks/arithmetic/test.jsonl": (JSONL, f"prepare@{TASK}"),
        "data/models/arithmetic-rl-1/model.safetensors": (BINARY, f"train@{TASK}-1"),
        "data/models/arithmetic-rl-1/value_head.pt": (BINARY, f"train@{TASK}-1"),
    },
    f"analyse {TASK}": {
        "data/setup/arithmetic/tools.json": (JSON, f"demonstrate@{TASK}"),
        "data/episodes/arithmetic/base.parquet": (BINARY, f"evaluate_base@{TASK}"),
        "data/episodes/arithmetic/sft.parquet": (BINARY, f"evaluate_sft@{TASK}"),
        "data/episodes/arithmetic/rl-1.parquet": (BINARY, f"evaluate_rl@{TASK}-1"),
    },
    "report": {
        "data/setup/arithmetic/prompt.txt": (TEXT, f"demonstrate@{TASK}"),
        "data/analysis/arithmetic.parquet": (BINARY, f"analyse@{TASK}"),
        "data/training/arithmetic-1/curve.csv": (CSV, f"train@{TASK}-1"),
        "data/training/arithmetic-1/record.json": (JSON, f"train@{TASK}-1"),
    },
    f"run_arm {TASK} default 1": {"studies/arms.yaml": (YAML, None)},
    "report_studies": {
        "studies/arms.yaml": (YAML, None),
        "studies/runs/arithmetic-default-1/curve.csv": (CSV, "studies/dvc.yaml"),
        "studies/runs/arithmetic-default-1/episodes.csv": (CSV, "studies/dvc.yaml"),
        "studies/runs/arithmetic-default-1/record.json": (JSON, "studies/dvc.yaml"),
    },
    "prepare triviaqa": {"train.jsonl": (JSONL, None)},
    "demonstrate triviaqa": {"data/wiki/index.json": (JSON, "build_index")},
    "build_corpus": {"documents.jsonl": (JSONL, None)},
    "build_index": {"data/wiki/documents.jsonl.gz": (BINARY, "build_corpus")},
    "fetch_model": {
        "tiny-model/model.safetensors": (BINARY, None),
        "tiny-model/config.json": (JSON, None),
        "tiny-model/tokenizer.json": (BINARY, None),
    },
}
"""The files that a stage reads: what they are, and the stage that makes them, where that is sure to be told."""

HARMLESS = {
    ("data/models/arithmetic-rl-1/value_head.pt", missing),  # the value head is of no use any more
    (
        "data/models/arithmetic-sft/model.safetensors",
        missing,
    ),  # without a warm start there are none
    ("data/demonstrations/arithmetic.jsonl", empty),  # told below
}
CASES = [
    pytest.param(stage, path, way, made_by, id=f"{stage.partition(' ')[0]}-{path}-{way.__name__}")
    for stage, files in INPUTS.items()
    for path, (kind, made_by) in files.items()
    for way in WAYS[kind]
    if (path, way) not in HARMLESS
]


def contents(folder):
    """The hash of each file; those of locks and of what is only watched do not count."""
    return {
        path: hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"locks", "live"} & set(path.relative_to(folder).parts)
    }


@pytest.fixture
def broken(project):
    """Breaks a file, and mends it at the end of the test."""
    kept = {}

    def break_(path, way):
        kept[Path(path)] = Path(path).read_bytes()
        way(Path(path))

    yield break_
    for path, content in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def assert_one_line(ended, printed):
    """What a stage exits with is what is printed on standard error, and its status is then 1."""
    assert isinstance(ended, str), ended
    assert ended.startswith("error: ")
    assert "\n" not in ended
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(("stage", "path", "way", "made_by"), CASES)
def test_a_broken_input_is_told_in_a_line(project, broken, capfd, stage, path, way, made_by):
    broken(path, way)
    before = contents(project)
    ended = run(stage)
    assert_one_line(ended, capfd.readouterr())
    assert Path(path).name in ended or str(Path(path).parent) in ended
    if made_by is not None:
        assert re.search(rf"run `dvc repro (--force )?{re.escape(made_by)}`", ended), ended
    assert contents(project) == before


def test_every_stage_that_reads_a_file_is_here():
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__", "common"}
    assert {stage.split()[0] for stage in INPUTS} == scripts


def test_where_a_row_lacks_a_field_is_told(project, broken):
    broken("data/tasks/arithmetic/train.jsonl", no_field)
    assert run(f"demonstrate {TASK}") == (
        "error: data/tasks/arithmetic/train.jsonl:8: id: field required: remove it and run `dvc repro "
        "prepare@arithmetic`"
    )


def test_no_demonstrations_are_told_with_what_to_change(project, broken, capfd):
    broken("data/demonstrations/arithmetic.jsonl", empty)
    assert "set warm_start.steps to 0" in run(f"warm_start {TASK}")


def test_a_byte_order_mark_is_no_part_of_a_file(project, broken, capfd):
    before = Path("data/analysis/arithmetic.parquet").read_bytes()
    for path in SETUP:
        broken(path, lambda file: file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes()))
    assert run(f"analyse {TASK}") is None
    assert Path("data/analysis/arithmetic.parquet").read_bytes() == before


@pytest.mark.parametrize("name", ["arithmetic-default-x", "arithmetic-1", "a-b-c-2"])
def test_a_folder_that_is_no_run_is_told(project, name):
    folder = project / "studies/runs" / name
    folder.mkdir()
    try:
        ended = run("report_studies")
    finally:
        folder.rmdir()
    if name != "arithmetic-1":  # this is not even looked at
        assert (
            ended
            == f"error: studies/runs/{name} is of no arm in studies/arms.yaml: remove the folder"
        )


# --- the index --------------------------------------------------------------------------------------


def test_an_index_that_was_deleted_or_is_broken_is_told(project, capfd):
    index, kept = project / "data/wiki/index", project / "index-kept"
    before = contents(project / "data/setup")
    index.rename(kept)
    try:
        for make, remedy in (
            (lambda: None, "dvc repro build_index"),
            (index.mkdir, "dvc repro --force build_index"),
        ):
            make()
            ended = run("demonstrate triviaqa")
            assert_one_line(ended, capfd.readouterr())
            assert "data/wiki/index" in ended
            assert f"run `{remedy}`" in ended
    finally:
        shutil.rmtree(index, ignore_errors=True)
        kept.rename(index)
    assert contents(project / "data/setup") == before


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({}, "index: field required"),
        ({"index": {"folder": 3}}, "index: folder: input should be a valid string"),
    ],
)
def test_a_setup_without_the_record_of_the_index_is_told(project, broken, resources, told):
    broken(
        "data/setup/triviaqa/tools.json",
        lambda path: rewrite(path, lambda value: {"resources": resources}),
    )
    with pytest.raises(
        PipelineError,
        match=rf"tools\.json: resources\.{told}: .* run `dvc repro demonstrate@triviaqa`",
    ):
        read_setup("triviaqa", ["index"])
