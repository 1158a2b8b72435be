"""Fetches the pretrained model that every task starts from."""

from pipeline import models
from pipeline.files import replacing
from pipeline.params import load_params
from stages.common import PRETRAINED, run_stage


def main() -> None:
    """Writes data/models/pretrained."""
    source = load_params().model
    print(f"fetching the pretrained model (source: {source.source}) ...", flush=True)
    with replacing(PRETRAINED) as beside:
        models.fetch(source, beside)


if __name__ == "__main__":
    run_stage(main)
