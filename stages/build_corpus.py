"""Writes down the documents of the encyclopaedia."""

from tqdm import tqdm

from pipeline.params import load_params
from pipeline.tools.wiki.corpus import documents, write_documents
from pipeline.workspace import DOCUMENTS
from stages.common import outputs, run_stage


def main() -> None:
    """Writes data/wiki/documents.jsonl.gz; it is empty for a prebuilt index."""
    settings = load_params().corpus
    with outputs(DOCUMENTS, inputs=lambda: load_params().corpus.model_dump(mode="json")) as (new,):
        rows = tqdm(documents(settings), f"corpus ({settings.source})", unit=" documents")
        write_documents(rows, new)


if __name__ == "__main__":
    run_stage(main)
