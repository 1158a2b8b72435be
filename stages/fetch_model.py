"""Fetches the pretrained model that every task starts from."""

from pipeline.files import replacing
from pipeline.models.fetch import fetch_model
from pipeline.params import load_params
from pipeline.workspace import BASE
from stages.common import run_stage


def main() -> None:
    """Writes data/models/base."""
    source = load_params().model
    print(f"fetching the pretrained model (source: {source.source}) ...", flush=True)
    with replacing(BASE) as beside:
        fetch_model(source, beside)


if __name__ == "__main__":
    run_stage(main)
