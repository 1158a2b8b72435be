"""Builds the Lucene index of the encyclopaedia, or fetches a prebuilt one."""

import json

from tqdm import tqdm

from pipeline.files import replacing, require
from pipeline.params import load_params
from pipeline.tools.wiki.index import build_index, fetch_index
from pipeline.workspace import DOCUMENTS, INDEX, tool_resources_path
from stages.common import run_stage


def main() -> None:
    """Writes data/wiki/index and, for the task that searches it, its record."""
    settings = load_params().corpus
    with (
        replacing(INDEX) as new_index,
        replacing(tool_resources_path("triviaqa")) as new_resources,
    ):
        if settings.source == "prebuilt":
            print(f"fetching pyserini's index {settings.prebuilt} ...", flush=True)
            record = fetch_index(settings.prebuilt)
            new_index.mkdir()
            (new_index / "README").write_text(f"The index in use is {record['folder']}.\n")
        else:
            documents = require(DOCUMENTS, "build_corpus")
            with tqdm(desc="indexing", unit=" documents") as bar:
                record = {"folder": str(INDEX), **build_index(documents, new_index, bar.update)}
        new_resources.write_text(json.dumps({"index": record}, indent=2) + "\n")


if __name__ == "__main__":
    run_stage(main)
