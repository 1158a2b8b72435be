from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.workspace import checkpoint_path, checkpoint_stage, episodes_stage, seed_of


@pytest.mark.parametrize(
    ("checkpoint", "seed", "folder", "made_by", "rolled_out_by"),
    [
        ("base", None, "base", "fetch_model", "evaluate_base@trivia"),
        ("sft", None, "trivia-sft", "warm_start@trivia", "evaluate_sft@trivia"),
        ("rl-12", 12, "trivia-rl-12", "train@trivia-12", "evaluate_rl@trivia-12"),
    ],
)
def test_a_checkpoint_has_a_seed_a_folder_and_stages(
    checkpoint, seed, folder, made_by, rolled_out_by
):
    assert seed_of(checkpoint) == seed
    assert checkpoint_path("trivia", checkpoint) == Path("data/models") / folder
    assert checkpoint_stage("trivia", checkpoint) == made_by
    assert episodes_stage("trivia", checkpoint) == rolled_out_by


@pytest.mark.parametrize("name", ["before", "rl", "rl-", "rl-x", "sft-1", ""])
def test_another_name_is_refused(name):
    with pytest.raises(PipelineError, match=f"no checkpoint '{name}'; there is base, sft and rl-"):
        seed_of(name)
