"""Writes down the documents of the encyclopaedia."""

from tqdm import tqdm

from pipeline.files import replacing
from pipeline.params import load_params
from pipeline.tools.wiki.corpus import documents, write_documents
from pipeline.workspace import DOCUMENTS
from stages.common import run_stage


def main() -> None:
    """Writes data/wiki/documents.jsonl.gz; it is empty for a prebuilt index."""
    settings = load_params().corpus
    rows = tqdm(documents(settings), f"corpus ({settings.source})", unit=" documents")
    with replacing(DOCUMENTS) as beside:
        write_documents(rows, beside)


if __name__ == "__main__":
    run_stage(main)
