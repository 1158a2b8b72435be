"""Fixtures: the tiny tokenizer and models of `tests.tiny`."""

import os
import signal

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

import pytest
import torch

from pipeline.lifetime import STOPS
from pipeline.models.policy import CausalLMWithValueHead
from tests.tiny import make_model, make_tokenizer


def pytest_collection_modifyitems(items):
    """The pipeline's tests first: they take as long as all others together, beside which they run."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(params=["llama", "gpt2"])
def any_model(request):
    return make_model(request.param)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def policy(model):
    policy = CausalLMWithValueHead(model)
    torch.nn.init.normal_(policy.v_head.weight, generator=torch.Generator().manual_seed(1))
    return policy


@pytest.fixture(autouse=True)
def signals():
    """Ctrl-C works, also where the tests run in the background, and no test leaves a handler behind."""
    before = {number: signal.getsignal(number) for number in STOPS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
