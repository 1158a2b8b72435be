"""A dozen families of models, each right by the fast or the plain way, as docs/models.md says."""

import pytest

from tests import families
from tests.families import FAMILIES, Row, rows_of_page, try_family, write_page

TRIED = (
    "bloom",
    "cohere",
    "falcon",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_bigcode",
    "llama",
    "mamba",
    "mistral",
    "mixtral",
    "mpt",
    "opt",
    "qwen2_moe",
    "qwen3_moe",
)


@pytest.mark.parametrize("family", TRIED)
def test_a_family_is_computed_right_in_the_way_that_the_page_tells(family):
    row = try_family(family)
    assert row.way in ("fast", "plain"), row
    assert str(row) == rows_of_page()[family]


def test_the_page_has_every_family_and_none_is_wrong():
    rows = rows_of_page()
    assert list(rows) == FAMILIES
    assert [line for line in rows.values() if "WRONG" in line] == []


def test_rows_take_their_places_in_the_page(tmp_path, monkeypatch):
    page = tmp_path / "models.md"
    page.write_text(f"# Before\n{families.START}\n{families.END}\nafter\n")
    monkeypatch.setattr(families, "PAGE", page)
    write_page([Row("llama", "LlamaForCausalLM", "fast"), Row("x", "X", "refused", "why")])
    write_page([Row("a", "A", "fast"), Row("x", "X", "plain")])
    text = page.read_text()
    assert text.startswith("# Before\n<!-- families -->\nOf 3 families: 2 fast, 1 plain.\n")
    assert text.endswith("| `x` | X | plain |  |\n<!-- /families -->\nafter\n")
    assert list(rows_of_page()) == ["a", "llama", "x"]
    assert "refused" not in text


def test_a_family_that_is_computed_wrongly_is_found(monkeypatch):
    """As if nothing were compared before the fast passes are taken."""
    monkeypatch.setattr("pipeline.models.check._fast_is_right", lambda *_: True)
    assert try_family("cohere").way == "WRONG"
    monkeypatch.setattr("pipeline.models.check._cache_is_right", lambda *_: True)
    monkeypatch.setattr("pipeline.models.check._fast_is_right", lambda *_: False)
    assert try_family("mamba").way == "WRONG"
