import pytest
import torch

from pipeline.environment import TextEnvironment
from pipeline.environment.protocol import Tags
from pipeline.errors import PipelineError
from pipeline.models.machine import Machine
from pipeline.models.sampling import TorchSampler
from pipeline.tasks import Demonstration, Layout, ShownCall
from pipeline.training.settings import WarmStartSettings
from pipeline.training.warm_start import _tokenized, warm_start

MACHINE = Machine(device="cpu", precision="float32")
PROMPT = "Do as shown.\n"
DEMONSTRATIONS = [
    Demonstration(f"Q{i}", [ShownCall("T", str(i), f"{i}>")], str(i))  # "><" is one token
    for i in range(5)
]
LAYOUT = Layout(question="{}\n", result="{}")


def run(policy, tokenizer, demonstrations=DEMONSTRATIONS, **options):
    settings = WarmStartSettings(
        **({"steps": 30, "batch_size": 5, "learning_rate": 3e-3} | options)
    )
    losses = []
    protocol = Tags(tokenizer, PROMPT, LAYOUT)
    warm_start(policy, protocol, demonstrations, settings, MACHINE, losses.append)
    return losses


def test_without_demonstrations_there_is_no_warm_start(policy, tokenizer):
    with pytest.raises(PipelineError, match="no demonstrations to learn from"):
        run(policy, tokenizer, demonstrations=[])
    assert run(policy, tokenizer, demonstrations=[], steps=0) == []


def test_the_loss_is_the_mean_cross_entropy_of_the_models_own_tokens(policy, tokenizer):
    total, count = 0.0, 0
    for demonstration in DEMONSTRATIONS:
        tokens, own = tokenizer(PROMPT).input_ids, []
        asked = ("system", LAYOUT.question.format(demonstration.question))
        for author, text in (asked, *LAYOUT.segments(demonstration)):
            new = tokenizer(text).input_ids
            own += range(len(tokens), len(tokens) + len(new)) if author == "model" else []
            tokens = tokens + new
        with torch.no_grad():
            logits = policy.pretrained_model(torch.tensor([tokens])).logits[0]
        logprobs = logits.log_softmax(-1)
        total -= sum(float(logprobs[i - 1, tokens[i]]) for i in own)
        count += len(own)
    (loss,) = run(policy, tokenizer, steps=1)
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_the_model_learns_to_call_and_sees_the_tokens_it_learned_from(policy, tokenizer):
    losses = run(policy, tokenizer)
    assert losses[-1] < losses[0] / 10
    env = TextEnvironment(
        TorchSampler(policy.pretrained_model, tokenizer, do_sample=False),
        tokenizer,
        {"T": lambda text: f"{text}>"},
        lambda texts: [0.0] * len(texts),
        PROMPT,
    )
    episodes = env.rollout([f"{d.question}\n" for d in DEMONSTRATIONS], seed=0)
    called = [LAYOUT.segments(d)[0][1] for d in DEMONSTRATIONS]
    assert [e.segments[1].text for e in episodes] == called
    for episode, demonstration in zip(episodes, DEMONSTRATIONS):
        shown = Tags(tokenizer, PROMPT, LAYOUT).shown(demonstration)
        tokens, start, mask = _tokenized(shown)
        tools = [token for token, models in zip(tokens[start:], mask) if not models]
        assert list(episode.segments[2].tokens) == tools


@pytest.mark.parametrize(
    ("schedule", "rates"), [("linear", [1, 0.75, 0.5, 0.25]), ("constant", [1, 1, 1, 1])]
)
def test_the_learning_rate_falls_or_stays(policy, tokenizer, monkeypatch, schedule, rates):
    used = []
    genuine = torch.optim.AdamW.step

    def step(self):
        used.append(self.param_groups[0]["lr"])
        return genuine(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(policy, tokenizer, steps=4, learning_rate=1.0, lr_schedule=schedule)
    assert used == rates


def test_the_same_seed_gives_the_same_losses(tokenizer):
    from pipeline.models.policy import CausalLMWithValueHead
    from tests.tiny import make_model

    losses = [
        run(CausalLMWithValueHead(make_model()), tokenizer, steps=4, batch_size=2, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_tokens_are_those_of_an_episode(policy, tokenizer):
    """Segments are tokenized one by one, as the environment does, not as one text."""
    demonstration = Demonstration("q<", [ShownCall("T", "", "x>")], "<y")
    texts = ("<request><T><call>", "x><response>", "<y<submit>")
    protocol = Tags(tokenizer, "p", Layout(question="{}", result="{}"))
    tokens, start, mask = _tokenized(protocol.shown(demonstration))
    assert tokenizer.decode(tokens[:start]) == "pq<"
    parts = [tokenizer(text).input_ids for text in texts]
    assert tokens[start:] == [token for part in parts for token in part]
    assert mask == [True] * len(parts[0]) + [False] * len(parts[1]) + [True] * len(parts[2])
