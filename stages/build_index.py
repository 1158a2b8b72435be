"""Builds the Lucene index of the encyclopaedia, or fetches a prebuilt one."""

import json

from tqdm import tqdm

from pipeline.files import require
from pipeline.params import load_params
from pipeline.tools.wiki.index import build_index, fetch_index
from pipeline.workspace import DOCUMENTS, INDEX, INDEX_RECORD
from stages.common import outputs, run_stage


def main() -> None:
    """Writes data/wiki/index, and its record, which the tasks that search it depend on."""
    settings = load_params().corpus
    with outputs(
        INDEX,
        INDEX_RECORD,
        inputs=lambda: load_params().corpus.model_dump(include={"source", "prebuilt"}),
    ) as (new_index, new_record):
        if settings.source == "prebuilt":
            print(f"fetching pyserini's index {settings.prebuilt} ...", flush=True)
            record = fetch_index(settings.prebuilt)
            new_index.mkdir()
            (new_index / "README").write_text(f"The index in use is {record['folder']}.\n")
        else:
            documents = require(DOCUMENTS, "build_corpus")
            with tqdm(desc="indexing", unit=" documents") as bar:
                record = {"folder": str(INDEX), **build_index(documents, new_index, bar.update)}
        new_record.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_stage(main)
