import gzip
import json

import pytest

from pipeline.errors import PipelineError
from pipeline.tools.wiki.corpus import CorpusSettings, documents, read_documents, write_documents

GOOD = '{"id": "a", "contents": "Title\\nText"}'


def settings(**options):
    return CorpusSettings(
        **{"source": "path", "path": "x.jsonl", "prebuilt": "wikipedia-kilt-doc", **options}
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_is_read_gzipped_or_not(tmp_path, zipped):
    lines = GOOD + "\n" + '{"id": "b", "contents": "Ünï 🚁", "more": 1}' + "\n"
    path = tmp_path / ("d.jsonl.gz" if zipped else "d.jsonl")
    path.write_bytes(gzip.compress(lines.encode()) if zipped else lines.encode())
    assert list(documents(settings(path=path))) == [
        {"id": "a", "contents": "Title\nText"},
        {"id": "b", "contents": "Ünï 🚁"},
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"d\.jsonl:2: not JSON"),
        ("", r"d\.jsonl:2: not JSON"),
        ("[1]", r"d\.jsonl:2: no good 'id'"),
        ('{"contents": "x"}', r"d\.jsonl:2: no good 'id'"),
        ('{"id": 7, "contents": "x"}', r"d\.jsonl:2: no good 'id'"),
        ('{"id": "b"}', r"d\.jsonl:2: no good 'contents'"),
        ('{"id": "b", "contents": " "}', r"d\.jsonl:2: no good 'contents'"),
        (GOOD, r"d\.jsonl:2: the id 'a' occurs twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "d.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(PipelineError, match=complaint):
        list(read_documents(path))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"d\.jsonl is empty; expected rows of {id: str, contents: str}"),
        (GOOD.encode() + b"\n\xff\xfe", r"d\.jsonl.*cannot be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, complaint):
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=complaint):
        list(read_documents(path))


def test_a_file_cut_short_is_named(tmp_path):
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress("".join(f"{GOOD}\n" for _ in range(1)).encode())[:-9])
    with pytest.raises(PipelineError, match=r"d\.jsonl\.gz:\d+: cannot be read"):
        list(read_documents(path))
    with pytest.raises(PipelineError, match=r"corpus\.path: there is no file .*none\.jsonl"):
        list(read_documents(tmp_path / "none.jsonl"))


def test_what_is_written_is_the_same_to_the_byte(tmp_path):
    rows = [{"id": str(i), "contents": f"T\n{i}"} for i in range(10)]
    for name in ("a.gz", "b.gz"):
        assert write_documents(rows, tmp_path / name) == 10
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert [
        json.loads(x) for x in gzip.decompress((tmp_path / "a.gz").read_bytes()).splitlines()
    ] == rows


def test_a_prebuilt_index_brings_its_own_documents():
    assert list(documents(settings(source="prebuilt"))) == []
