"""A small index, built once."""

import pytest

from pipeline.tools.wiki.corpus import write_documents
from pipeline.tools.wiki.index import build_index

# Words that Porter's stemmer leaves alone and that are no stop words.
TEXTS = {
    "fish": "Cod\ncod swim north cod herring",
    "bird": "Tern\ntern north south tern tern wind storm",
    "stone": "Flint\nflint spark",
    "long": "Moor\nmoor wind storm north south spark herring bog peat fog rain mud",
}


@pytest.fixture(scope="session")
def small_index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    documents = [{"id": name, "contents": text} for name, text in TEXTS.items()]
    write_documents(documents, folder / "documents.jsonl.gz")
    record = build_index(folder / "documents.jsonl.gz", folder / "index", lambda done: None)
    return {"folder": str(folder / "index"), **record}
