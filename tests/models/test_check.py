"""A model is tried before it is used: the fast passes, or plain ones, or a refusal in one line."""

import copy
import logging

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline.errors import PipelineError
from pipeline.models import check, scoring
from pipeline.models.check import goes_fast, max_positions, passes
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampling import SharedDecoder, TorchSampler
from pipeline.models.scoring import score
from tests.families import check_family, plain_score, tiny_model
from tests.models.test_sampling import contexts_of, places
from tests.tiny import make_tokenizer, random_ids, token_batch

VOCABULARY = len(make_tokenizer())
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(autouse=True)
def untold():
    check._say.cache_clear()


@pytest.fixture
def told(caplog):
    """What the user was told."""
    caplog.set_level(logging.WARNING, check.__name__)
    return lambda: [record.getMessage() for record in caplog.records]


def windowed(window):
    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(**SIZES, sliding_window=window, bos_token_id=0, eos_token_id=0)
    ).eval()


def test_models_of_the_pipelines_kind_go_fast(any_model, told):
    assert goes_fast(any_model, 10**6)
    assert told() == []


def test_a_model_is_tried_once(model, monkeypatch):
    CausalLMWithValueHead(model)
    monkeypatch.setattr(check, "_try", None)
    TorchSampler(model, make_tokenizer())
    score(model, token_batch([random_ids(4, 1)], [random_ids(3, 2)]))


def deaf(model, monkeypatch):
    """A model with a layer that does not hear of the prefix that is shared."""
    attention = model.base_model.layers[1].self_attn
    genuine = attention.forward

    def forward(*arguments, shared_prefix=None, **named):
        before = model.config._attn_implementation
        model.config._attn_implementation = "sdpa"
        try:
            return genuine(*arguments, **named)
        finally:
            model.config._attn_implementation = before

    monkeypatch.setattr(attention, "forward", forward)


def forgetful(model, monkeypatch):
    """One that does something to its logits after the vocabulary head."""
    genuine = model.forward

    def forward(**named):
        output = genuine(**named)
        output.logits = 3 * (output.logits / 3).tanh()
        return output

    monkeypatch.setattr(model, "forward", forward)


@pytest.mark.parametrize("break_it", [deaf, forgetful])
def test_an_architecture_that_is_not_understood_goes_the_plain_way_and_is_right(
    model, monkeypatch, told, break_it
):
    break_it(model, monkeypatch)
    monkeypatch.setattr(SharedDecoder, "logits", None)
    monkeypatch.setattr(scoring, "hidden_states", None)
    tokenizer = make_tokenizer()
    policy = CausalLMWithValueHead(model)
    torch.nn.init.normal_(policy.v_head.weight)
    continuations = TorchSampler(model, tokenizer).generate(
        contexts_of([2, 5, 3]), [3, 9, 6], [], places(3)
    )
    batch = token_batch(
        [torch.tensor(context) for context in contexts_of([2, 5, 3])],
        [torch.tensor(c.tokens) for c in continuations],
    )
    mask = batch.place([torch.ones(len(c.tokens)) for c in continuations]).bool()
    ours, expected = (s(policy, batch, mask, 0.7) for s in (score, plain_score))
    for name in ("logprobs", "entropy", "values"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(expected, name), atol=1e-5, rtol=1e-4
        )
    sampled = plain_score(policy, batch, mask).logprobs[mask]
    given = torch.tensor([x for c in continuations for x in c.logprobs])
    torch.testing.assert_close(given, sampled, atol=1e-5, rtol=1e-4)
    (message,) = told()
    assert message.startswith("LlamaForCausalLM: the shared prompt cannot be used")
    assert "\n" not in message


@pytest.mark.parametrize("cached", [True, False])
def test_plain_sampling_is_the_same_with_and_without_a_cache(model, monkeypatch, cached):
    tokenizer, contexts = make_tokenizer(), contexts_of([2, 5, 3])
    limits = [3, 9, 6]
    expected = TorchSampler(model, tokenizer).generate(contexts, limits, [], places(3))
    monkeypatch.setitem(check._found, model, check.Passes(0, cached, 32))
    found = TorchSampler(model, tokenizer).generate(contexts, limits, [], places(3))
    assert [c.tokens for c in found] == [c.tokens for c in expected]
    for one, other in zip(found, expected):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_window_that_is_not_reached_is_no_reason_to_go_slowly(told):
    model = windowed(14)
    assert goes_fast(model, 14)
    assert told() == []
    assert not goes_fast(model, 15)
    assert not goes_fast(model, 16)
    (message,) = told()
    assert message.startswith("MistralForCausalLM: sequences of more than 14 tokens, its window")


@pytest.mark.parametrize("window", [5, 14])
def test_a_window_that_is_reached_is_masked(window):
    model = windowed(window)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    check_family(model)  # episodes of 14 to 17 tokens
    batch = token_batch([random_ids(12, 1)], [random_ids(9, 2)])
    blind = copy.deepcopy(model)
    blind.config.sliding_window = None
    seeing = [score(m, batch).logprobs for m in (model, blind)]
    assert (seeing[0] - seeing[1]).abs().max() > 1e-2


@torch.no_grad()
def test_weights_of_fewer_bits_are_judged_by_their_precision(any_model):
    assert goes_fast(any_model.bfloat16(), 100)


def test_weights_may_be_of_two_kinds(model):
    """As where frozen layers are kept in bfloat16 beside an adapter."""
    for layer in model.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.bfloat16()
    assert goes_fast(model, 100)


def test_models_for_which_no_way_is_right_are_refused_in_one_line():
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    both_ways = BertLMHeadModel(BertConfig(**sizes))
    with pytest.raises(PipelineError, match=r"^model: BertLMHeadModel looks ahead.*to right$"):
        CausalLMWithValueHead(both_ways)
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=32, d_ff=64, num_layers=1, num_heads=4, d_kv=8)
    )
    with pytest.raises(PipelineError, match=r"^model: T5ForConditionalGeneration is an encoder"):
        TorchSampler(t5, make_tokenizer())


def test_a_model_that_raises_is_refused_in_one_line(model, monkeypatch):
    def broken(**_):
        raise RuntimeError("it needs\na picture")

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(
        PipelineError, match=r"LlamaForCausalLM cannot be run on .* alone: it needs a picture"
    ):
        passes(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(model, value):
    model.model.embed_tokens.weight.data[259, 3] = value
    with pytest.raises(
        PipelineError, match=r"LlamaForCausalLM: its weights model\.embed_tokens\.weight have NaN"
    ):
        CausalLMWithValueHead(model)


def test_a_model_that_computes_nan_is_refused(model):
    model.lm_head.weight.data[5, 3] = 3e38
    with pytest.raises(PipelineError, match="LlamaForCausalLM computes NaN or infinity"):
        passes(model)


def test_the_tries_leave_chance_as_it_was(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    passes(model)
    assert torch.equal(torch.rand(3), expected)


def test_positions_that_a_model_has(any_model):
    expected = {"LlamaForCausalLM": 2048, "GPT2LMHeadModel": 512}
    assert max_positions(any_model) == expected[type(any_model).__name__]
    assert max_positions(tiny_model("mpt")) == 2048
    assert max_positions(tiny_model("mamba")) is None
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    roberta = RobertaForCausalLM(
        RobertaConfig(**sizes, is_decoder=True, max_position_embeddings=20, pad_token_id=1)
    ).eval()
    limit = max_positions(roberta)
    assert limit == 18
    roberta(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        roberta(torch.full((1, limit + 1), 5))
