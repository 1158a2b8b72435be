"""Writes a policy as full weights, an adapter merged into them, for whoever loads it by transformers alone.

`python -m scripts.export data/models/arithmetic-rl-1 exported`
"""

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import replacing, require
from stages.common import run_script


def main(folder: Path, out: Path) -> None:
    """Writes the policy in a folder, without its value head, to another."""
    from pipeline.models.lora import merged
    from pipeline.models.policy import load_policy, save_model

    require(folder, "train")
    if out.exists():
        raise PipelineError(f"{out} is there already: name a folder that is not")
    with replacing(out) as beside:
        policy, tokenizer = load_policy(folder)
        save_model(merged(policy.pretrained_model), tokenizer, beside)
    print(f"{folder} is now in {out}, in full weights")


if __name__ == "__main__":
    run_script(main, folder=Path, out=Path)
