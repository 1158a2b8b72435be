"""Fetches the pretrained model that every task starts from."""

from typing import Any

from pipeline.models.fetch import fetch_model
from pipeline.params import load_params
from pipeline.workspace import BASE
from stages.common import outputs, run_stage


def main() -> None:
    """Writes data/models/base."""

    def inputs() -> dict[str, Any]:
        return load_params().model.model_dump(mode="json", exclude={"lora"})

    source = load_params().model
    print(f"fetching the pretrained model (source: {source.source}) ...", flush=True)
    with outputs(BASE, inputs=inputs) as (new,):
        fetch_model(source, new)


if __name__ == "__main__":
    run_stage(main)
