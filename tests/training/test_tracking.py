import json
import math

import pandas as pd
import pytest

from pipeline.errors import PipelineError
from pipeline.training.tracking import tracking

CONFIG = {"ppo": {"lam": 0.95, "mask": True}, "seeds": [1, 2], "path": None}


def test_steps_can_be_watched_in_a_folder(tmp_path):
    with tracking([], "arithmetic-1", tmp_path / "live", CONFIG) as log:
        log({"env/reward_mean": 0.25, "objective/kl": math.nan}, 1)
        log({"env/reward_mean": 0.5, "objective/kl": 0.5}, 2)
        so_far = json.loads((tmp_path / "live/metrics.json").read_text())
        assert so_far["env"]["reward_mean"] == 0.5
    curve = pd.read_csv(tmp_path / "live/plots/metrics/env/reward_mean.tsv", sep="\t")
    assert curve[["step", "reward_mean"]].to_numpy().tolist() == [[1, 0.25], [2, 0.5]]
    assert (tmp_path / "live/report.html").exists()
    assert "ppo.lam: 0.95" in (tmp_path / "live/params.yaml").read_text()


def test_a_run_begins_its_folder_anew(tmp_path):
    for rewards in ([0.1, 0.2, 0.3], [0.7]):
        with tracking([], "arithmetic-1", tmp_path / "live", CONFIG) as log:
            for step, reward in enumerate(rewards, 1):
                log({"env/reward_mean": reward}, step)
    curve = pd.read_csv(tmp_path / "live/plots/metrics/env/reward_mean.tsv", sep="\t")
    assert curve["reward_mean"].tolist() == [0.7]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("wanb", "no tracker 'wanb'; there is aim, "),
        ("comet_ml", "the package of comet_ml is not installed"),
    ],
)
def test_a_tracker_that_is_not_there(tmp_path, name, complaint):
    with pytest.raises(PipelineError, match=complaint), tracking([name], "run", tmp_path, CONFIG):
        pass
