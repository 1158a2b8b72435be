"""The shared prefix is an exact shortcut: same numbers, same gradients as row by row."""

import pytest
import torch
from transformers import DynamicCache

from pipeline.models.forward import (
    SharedPrefix,
    hidden_states,
    pack,
    packed_weights,
    shared_prefix_length,
    vocabulary_head,
)
from pipeline.models.scoring import score
from tests.tiny import make_model, random_ids, token_batch


def test_shared_prefix_leaves_a_token_over():
    assert shared_prefix_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_prefix_length([[1, 2], [1, 2]]) == 1
    assert shared_prefix_length([[1, 2], [3]]) == 0
    assert shared_prefix_length([[7]]) == 0


PREFIX = random_ids(9, 0).tolist()
SEQUENCES = [PREFIX + random_ids(n, i).tolist() for i, n in enumerate((3, 5, 1, 2, 4, 5))]


def whole(model, sequence):
    """The last hidden states of a sequence, computed with nothing shared."""
    return model.base_model(torch.tensor([sequence])).last_hidden_state[0]


@pytest.mark.parametrize("length", [9, 0])
def test_hidden_states_equal_those_of_whole_sequences(any_model, length):
    with torch.no_grad():
        hidden = hidden_states(any_model, SEQUENCES, length)
        sizes = [len(sequence) - length for sequence in SEQUENCES]
        for here, sequence in zip(hidden.split(sizes), SEQUENCES, strict=True):
            expected = whole(any_model, sequence)[length:]
            torch.testing.assert_close(here, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("at_a_time", [2**23, 1])
@pytest.mark.parametrize("length", [9, 0])
def test_going_on_from_a_prefix_equals_whole_sequences(any_model, length, at_a_time, monkeypatch):
    monkeypatch.setattr("pipeline.models.forward.SCORES_AT_A_TIME", at_a_time)
    more = [random_ids(2, 50 + i).tolist() for i in range(len(SEQUENCES))]
    rests = [sequence[length:] for sequence in SEQUENCES]
    width = max(map(len, rests))
    padded = torch.tensor([[7] * (width - len(rest)) + rest for rest in rests])
    mask = torch.tensor([[0] * (width - len(rest)) + [1] * len(rest) for rest in rests])
    before = any_model.config._attn_implementation
    with torch.no_grad():
        prefix, cache = SharedPrefix(any_model, PREFIX[:length]), DynamicCache()
        first = prefix.proceed(padded, mask, cache).last_hidden_state
        mask = torch.cat([mask, torch.ones_like(mask[:, :2])], dim=1)
        second = prefix.proceed(torch.tensor(more), mask, cache).last_hidden_state
        for row, (sequence, added) in enumerate(zip(SEQUENCES, more)):
            here = torch.cat([first[row, width - len(rests[row]) :], second[row]])
            expected = whole(any_model, sequence + added)[length:]
            torch.testing.assert_close(here, expected, atol=2e-5, rtol=1e-4)
    assert any_model.config._attn_implementation == before


def test_a_model_whose_attention_is_not_told_of_the_prefix_is_refused(model, monkeypatch):
    prefix = SharedPrefix(model, PREFIX)
    attention = model.base_model.layers[1].self_attn
    genuine = attention.forward

    def deaf(*arguments, shared_prefix, **named):
        model.config._attn_implementation = "sdpa"
        return genuine(*arguments, **named)

    monkeypatch.setattr(attention, "forward", deaf)
    tokens = torch.tensor([[5, 6]])
    with torch.no_grad(), pytest.raises(ValueError, match="LlamaForCausalLM are not supported"):
        prefix.proceed(tokens, torch.ones_like(tokens), DynamicCache())


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 products here"
)
@torch.no_grad()
def test_packed_weights_give_the_same_products_and_are_packed_anew_each_time(model):
    tokens = torch.tensor(SEQUENCES[:1])
    layer = model.base_model.layers[0].mlp.up_proj
    layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features))
    with packed_weights(model):
        assert "forward" not in vars(layer)  # not outside of autocast
    seen = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            expected = model(tokens).logits
            with packed_weights(model):
                assert "forward" in vars(layer)
                torch.testing.assert_close(model(tokens).logits, expected, atol=0.05, rtol=0.02)
        assert "forward" not in vars(layer)
        seen.append(expected)
        layer.weight *= -1
        layer.bias += 1
    assert (seen[1] - seen[0]).abs().max() > 1


def test_sequences_share_rows_that_are_nearly_equally_full():
    assert pack([3, 5, 1, 2, 4, 5]) == [[1, 4, 2], [5, 0, 3]]
    assert pack([3, 7, 1]) == [[1, 0, 2]]
    assert pack([5]) == [[0]]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_loss_and_gradient_equal_those_of_whole_sequences(kind):
    model = make_model(kind).double()
    prefix = random_ids(11, 0)
    queries = [torch.cat([prefix, random_ids(2, 10 + i)]) for i in range(3)]
    responses = [random_ids(n, 20 + n) for n in (4, 1, 6)]

    score(model, token_batch(queries, responses)).logprobs.sum().backward()
    shared = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for query, response in zip(queries, responses):
        sequence = torch.cat([query, response])
        logprobs = model(sequence[None]).logits[0, :-1].log_softmax(-1)
        chosen = logprobs.gather(1, sequence[1:, None])
        # `score` covers the columns after the shared prefix and one token more.
        chosen[len(prefix) :].sum().backward()
    for here, parameter in zip(shared, model.parameters()):
        torch.testing.assert_close(here, parameter.grad, atol=1e-5, rtol=1e-5)


def test_only_the_tokens_that_are_asked_for_are_scored(model):
    batch = token_batch([random_ids(4, 1)] * 3, [random_ids(n, 20 + n) for n in (4, 1, 6)])
    asked = [torch.tensor(x) for x in ([1, 0, 0, 1], [0], [0, 1, 1, 0, 0, 1])]
    mask = batch.place(asked).bool()
    every = score(model, batch)
    torch.where(mask, every.logprobs, 0.0).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    seen: list[int] = []
    vocabulary_head(model).register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    some = score(model, batch, mask)
    assert seen == [5]
    for name in ("logprobs", "entropy"):
        expected = torch.where(mask, getattr(every, name), 0.0)
        torch.testing.assert_close(getattr(some, name), expected)
    some.logprobs.sum().backward()
    for parameter, expected in zip(model.parameters(), gradients):
        torch.testing.assert_close(parameter.grad, expected, atol=1e-5, rtol=1e-5)
