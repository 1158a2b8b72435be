"""`make gpu-check`: what can be seen of it without a GPU, and what one says where there is one."""

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.params import load_params
from scripts import gpu_check
from tests.stages.conftest import made_project, project  # noqa: F401  (fixtures)
from tests.stages.tiny_project import TASK


def test_without_a_gpu_it_says_so(project, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PipelineError, match="sees no CUDA device"):
        gpu_check.main()


def test_speed_is_measured_and_a_device_agrees_with_itself(project, monkeypatch):  # noqa: F811
    monkeypatch.setattr(gpu_check, "EPISODES", 4)
    params = load_params()
    fast = gpu_check.speed(params, TASK, Machine(device="cpu", precision="float32"))
    assert fast.rollout > 0
    assert fast.update > 0
    first, second = (gpu_check.losses(params, TASK, "cpu") for _ in range(2))
    assert first["ppo/loss/total"] == second["ppo/loss/total"] != 0
    assert gpu_check.differences(first, second) == []


def test_what_differs_is_named():
    cpu = {"ppo/loss/total": 2.0, "objective/kl": 0.0, "ppo/grad_norm": 3.0}
    gpu = {"ppo/loss/total": 2.0019, "objective/kl": 9e-6, "ppo/grad_norm": float("nan")}
    assert gpu_check.differences(gpu, cpu) == ["ppo/grad_norm"]
    assert gpu_check.differences({**cpu, "ppo/loss/total": 2.0021}, cpu) == ["ppo/loss/total"]
    assert gpu_check.differences({**cpu, "objective/kl": 1.1e-5}, cpu) == ["objective/kl"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_what_the_cpu_does(project, capsys):  # noqa: F811
    gpu_check.main()
    assert "alike" in capsys.readouterr().out
