import pytest
import torch

from pipeline.chance import Place
from pipeline.models.sampler import StopReason
from pipeline.models.sampling import TorchSampler, _draw
from pipeline.models.scoring import TokenBatch, score
from tests.tiny import random_ids


def contexts_of(lengths, prefix=12):
    shared = random_ids(prefix, 0).tolist()
    return [shared + random_ids(n, 100 + n).tolist() for n in lengths]


def places(count, seed=0):
    return [Place(seed, 0, episode) for episode in range(count)]


def test_greedy_continuations_equal_those_of_transformers(any_model, tokenizer):
    contexts = contexts_of([1, 6, 3])
    sampler = TorchSampler(any_model, tokenizer, do_sample=False)
    continuations = sampler.generate(contexts, [15, 15, 15], ["<call>"], places(3))
    for context, continuation in zip(contexts, continuations):
        expected = any_model.generate(
            torch.tensor([context]), max_new_tokens=15, do_sample=False, pad_token_id=0
        )[0, len(context) :].tolist()
        assert continuation.tokens == expected


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_equal_the_trainers(any_model, tokenizer, temperature):
    contexts = contexts_of([2, 5, 9, 4])
    sampler = TorchSampler(any_model, tokenizer, temperature=temperature)
    continuations = sampler.generate(contexts, [20, 7, 13, 20], ["<call>"], places(4, seed=3))
    batch = TokenBatch.of(
        [context + c.tokens for context, c in zip(contexts, continuations)],
        [len(context) for context in contexts],
    )
    with torch.no_grad():
        scores = score(any_model, batch, temperature=temperature)
    for row, (continuation, end) in enumerate(zip(continuations, batch.lengths)):
        recomputed = scores.logprobs[row, end - len(continuation.tokens) : end]
        difference = (recomputed - torch.tensor(continuation.logprobs)).abs().max()
        assert difference < 1e-4


def test_each_sequence_stops_at_its_own_limit(model, tokenizer):
    sampler = TorchSampler(model, tokenizer)
    continuations = sampler.generate(contexts_of([3, 4, 5]), [1, 9, 4], [], places(3))
    assert [len(c.tokens) for c in continuations] == [1, 9, 4]
    assert {c.stop_reason for c in continuations} == {StopReason.LENGTH}


class Typist(torch.nn.Module):
    """A vocabulary head that makes a model write a given text: position by position, one token is certain."""

    def __init__(self, tokenizer, text):
        super().__init__()
        self.tokens = tokenizer(text).input_ids
        self.vocabulary = len(tokenizer)
        self.step = 0

    def forward(self, hidden):
        logits = torch.full((len(hidden), self.vocabulary), -1e9)
        logits[:, self.tokens[self.step]] = 0
        self.step += 1
        return logits


@pytest.mark.parametrize(
    ("text", "written", "reason"),
    [
        ("a<call>b", "a<call>", StopReason.STOP_STRING),
        ("a<call>\nb", "a<call>\n", StopReason.STOP_STRING),  # ">\n" is one token
        ("a<cal>b<call>c", "a<cal>b<call>", StopReason.STOP_STRING),
        ("a<submit>b", "a<submit>", StopReason.STOP_STRING),
        ("a<eos>b", "a<eos>", StopReason.END_OF_TEXT),
        ("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnop", StopReason.LENGTH),
    ],
)
def test_stops_with_the_token_that_completes_a_stop_string(model, tokenizer, text, written, reason):
    sampler = TorchSampler(model, tokenizer)
    model.set_output_embeddings(Typist(tokenizer, text))
    (continuation,) = sampler.generate([[5, 6]], [16], ["<call>", "<submit>"], places(1))
    assert continuation.text == written
    assert continuation.stop_reason == reason


def test_the_seed_decides(model, tokenizer):
    def sample(seed):
        sampler = TorchSampler(model, tokenizer, temperature=3.0)
        continuations = sampler.generate(contexts_of([3, 4]), [12, 12], [], places(2, seed))
        return [c.tokens for c in continuations]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_an_episode_does_not_depend_on_its_batch_mates(any_model, tokenizer):
    """Their number, their order, the length that they may have, and whether they have left."""
    contexts = contexts_of([3, 7, 5, 4, 6])
    sampler = TorchSampler(any_model, tokenizer, temperature=2.0)

    def sample(chosen, limits):
        given = [Place(3, 2, number) for number in chosen]
        found = sampler.generate([contexts[i] for i in chosen], limits, ["e"], given)
        return {number: c.tokens for number, c in zip(chosen, found)}

    together = sample([0, 1, 2, 3, 4], [20] * 5)
    assert len({tuple(tokens) for tokens in together.values()}) == 5
    assert sample([4, 2, 0, 3, 1], [20] * 5) == together
    for number, tokens in together.items():
        assert sample([number], [20]) == {number: tokens}
    # Batch mates that leave after one token.
    assert sample([0, 1, 2], [1, 20, 1])[1] == together[1]


def test_what_it_could_not_do_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="temperature 0: it must be above 0"):
        TorchSampler(model, tokenizer, temperature=0)
    for stop in ("end\n", "é", ""):
        with pytest.raises(ValueError, match="its last character must be"):
            TorchSampler(model, tokenizer).generate([[5]], [1], ["<call>", stop], places(1))


def test_nothing_to_continue(model, tokenizer):
    assert TorchSampler(model, tokenizer).generate([], [], [], []) == []


def uniform(count):
    return torch.rand(count, 1, generator=torch.Generator().manual_seed(0))


def test_tokens_are_drawn_as_often_as_they_are_probable():
    row = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    drawn = _draw(row.expand(20_000, -1), uniform(20_000))
    assert drawn.shape == (20_000, 1)
    shares = torch.bincount(drawn[:, 0], minlength=6) / 20_000
    assert shares == pytest.approx(row, abs=0.012)  # more than three standard deviations
    assert all(shares[row == 0] == 0)


def test_rows_that_do_not_quite_add_up_to_one_are_drawn_from_too():
    rows = torch.tensor([[0.0, 0.4, 0.4, 0.0], [0.7, 0.7, 0.0, 0.0]]).repeat(2000, 1)
    drawn = _draw(rows, uniform(len(rows)))[:, 0]
    assert set(drawn[::2].tolist()) == {1, 2}
    assert drawn[1::2].float().mean() == pytest.approx(0.5, abs=0.05)
