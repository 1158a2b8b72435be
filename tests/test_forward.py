"""The shared prefix is an exact shortcut: same numbers, same gradients as row by row."""

import pytest
import torch

from pipeline.forward import forward_after_prefix, shared_prefix_length, vocabulary_head
from pipeline.scoring import TokenBatch, score
from tests.tiny import make_model, random_ids


def test_shared_prefix_leaves_a_token_over():
    assert shared_prefix_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_prefix_length([[1, 2], [1, 2]]) == 1
    assert shared_prefix_length([[1, 2], [3]]) == 0
    assert shared_prefix_length([[7]]) == 0


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_hidden_states_equal_those_of_whole_sequences(any_model, padding_side):
    prefix = random_ids(9, 0).tolist()
    sequences = [prefix + random_ids(n, n).tolist() for n in (3, 7, 1)]
    with torch.no_grad():
        output, _, mask = forward_after_prefix(any_model, sequences, 9, padding_side)
        for row, sequence in enumerate(sequences):
            whole = any_model.base_model(torch.tensor([sequence])).last_hidden_state[0, 9:]
            here = output.last_hidden_state[row][mask[row, 9:].bool()]
            torch.testing.assert_close(here, whole, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_loss_and_gradient_equal_those_of_whole_sequences(kind):
    model = make_model(kind).double()
    prefix = random_ids(11, 0)
    queries = [torch.cat([prefix, random_ids(2, 10 + i)]) for i in range(3)]
    responses = [random_ids(n, 20 + n) for n in (4, 1, 6)]

    score(model, TokenBatch.of(queries, responses)).logprobs.sum().backward()
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


def test_models_that_change_logits_after_the_head_are_refused(model):
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        vocabulary_head(model)
