from stages.common import read_jsonl, write_jsonl


def test_every_character_survives_writing_and_reading(tmp_path):
    rows = [{"text": "a\u2028b\x85c\x1cd\re\nf 🚁"}, {"text": "g"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl", "prepare") == rows
