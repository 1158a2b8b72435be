"""Steps of a policy with an adapter, beside passes written out with peft alone."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from pipeline.algorithms import load_algorithm
from pipeline.environment import EpisodeBatch
from pipeline.models.lora import LoraSettings, attach
from pipeline.models.policy import CausalLMWithValueHead, trained_state
from pipeline.training.stability import BestPolicy
from pipeline.training.trainer import PolicyTrainer, make_optimizer
from tests.tiny import make_model, random_ids

R, ALPHA, TARGETS = 3, 6, ["q_proj", "up_proj"]
REWARDS = [1.0, 0.0, 0.0, 1.0]
KL_COEF, VF_COEF, LAM = 0.3, 0.5, 0.9

CONFIGS = {
    "ppo": {"init_kl_coef": KL_COEF, "vf_coef": VF_COEF, "lam": LAM, "whiten_advantages": False},
    "grpo": {"num_generations": 2, "beta": KL_COEF, "scale_rewards": "none"},
    "rloo": {"num_generations": 2, "kl_coef": KL_COEF},
}


def randomized(model, std=0.1):
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora" in name or "v_head" in name:
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model


def make_policy():
    policy = CausalLMWithValueHead(make_model())
    attach(policy.pretrained_model, LoraSettings(r=R, alpha=ALPHA, target_modules=TARGETS), seed=4)
    return randomized(policy)


def episodes(group_size=1):
    prompt = random_ids(8, 0).tolist()
    sequences, masks = [], []
    for i, tool in enumerate((2, 0, 4, 1)):
        sequences.append([*prompt, *random_ids(2, 10 + i // 2).tolist()])
        sequences[-1] += random_ids(5 + tool, 20 + i).tolist()
        masks.append([True] * 3 + [False] * tool + [True] * 2)
    return EpisodeBatch(sequences, [10] * 4, masks, REWARDS, [False] * 4, group_size=group_size)


def plain_loss(name, model, v_head, batch):
    """An algorithm's loss where nothing has moved yet, episode by episode, with a `PeftModel`."""
    each = []
    for sequence, start, mask in zip(batch.sequences, batch.prompt_lengths, batch.masks):
        output = model(torch.tensor([sequence]), output_hidden_states=True)
        with torch.no_grad(), model.disable_adapter():
            frozen = model(torch.tensor([sequence])).logits
        own = [start + i for i, kept in enumerate(mask) if kept]
        before = [i - 1 for i in own]
        tokens = torch.tensor([sequence[i] for i in own])
        policy, reference = (
            logits[0, before].log_softmax(-1)[range(len(own)), tokens]
            for logits in (output.logits, frozen)
        )
        values = v_head(output.hidden_states[-1][0, before])[:, 0]
        each.append((policy, reference, values))
    kl = [(policy - reference).detach() for policy, reference, _ in each]
    if name == "ppo":
        losses, value_losses = [], []
        for (policy, _, values), nats, reward in zip(each, kl, batch.rewards):
            old, n = values.detach(), len(nats)
            rewards = -KL_COEF * nats
            rewards[-1] += reward
            advantages, following = torch.zeros(n), 0.0
            for i in reversed(range(n)):
                delta = rewards[i] + (old[i + 1] if i + 1 < n else 0.0) - old[i]
                advantages[i] = following = delta + LAM * following
            losses.append(-advantages * (policy - policy.detach()).exp())
            value_losses.append((values - advantages - old) ** 2 / 2)
        return torch.cat(losses).mean() + VF_COEF * torch.cat(value_losses).mean()
    losses = []
    for i, (policy, reference, _) in enumerate(each):
        other = i ^ 1  # of the same problem
        ratio = (policy - policy.detach()).exp()
        if name == "rloo":
            own, others = (batch.rewards[j] - KL_COEF * kl[j].sum() for j in (i, other))
            losses.append(-(own - others) * ratio)
        else:
            advantage = (batch.rewards[i] - batch.rewards[other]) / 2
            less = reference - policy
            losses.append(-advantage * ratio + KL_COEF * ratio * (less.exp() - less - 1))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_that_of_plain_passes_with_peft(name):
    algorithm = load_algorithm(name)
    config = algorithm.Config(**CONFIGS[name], mini_batch_size=4, max_grad_norm=1e9)
    policy = make_policy()
    batch = episodes(getattr(config, "num_generations", 1))

    torch.manual_seed(4)
    wrapped = get_peft_model(
        make_model(), LoraConfig(r=R, lora_alpha=ALPHA, target_modules=TARGETS)
    ).eval()
    v_head = copy.deepcopy(policy.v_head)
    theirs = dict(wrapped.named_parameters())
    for key, parameter in policy.pretrained_model.named_parameters():
        theirs[f"base_model.model.{key}"].data = parameter.data.clone()
    loss = plain_loss(name, wrapped, v_head, batch)
    loss.backward()

    before = copy.deepcopy(policy.state_dict())
    trained = [p for p in policy.parameters() if p.requires_grad]
    trainer = PolicyTrainer(algorithm(config), policy, optimizer=torch.optim.SGD(trained, lr=1.0))
    stats = trainer.step(batch)
    assert trainer.reference is policy.pretrained_model  # no second copy
    assert stats["objective/kl"] > 0.01
    assert stats[f"{name}/loss/total"] == pytest.approx(loss.item(), abs=1e-5)
    moved = 0
    for key, after in policy.state_dict().items():
        step = before[key] - after
        if key.startswith("v_head"):
            expected = dict(v_head.named_parameters())[key.removeprefix("v_head.")].grad
            if name == "ppo":
                torch.testing.assert_close(step, expected, atol=1e-5, rtol=1e-4)
            else:
                assert not step.any()
        elif "lora" in key:
            key = key.replace("pretrained_model.", "base_model.model.")
            torch.testing.assert_close(step, theirs[key].grad, atol=1e-5, rtol=1e-4)
            moved += bool(step.abs().max() > 1e-4)
        else:
            assert not step.any()
    assert moved == 8


@pytest.mark.parametrize("name", CONFIGS)
def test_optimizer_and_states_hold_what_is_trained_alone(name):
    algorithm = load_algorithm(name)(load_algorithm(name).Config(**CONFIGS[name]))
    policy = make_policy()
    optimizer = make_optimizer(algorithm, policy)
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    adapter = {id(p) for key, p in policy.named_parameters() if "lora" in key}
    head = {id(p) for p in policy.v_head.parameters()}
    assert optimized == (adapter | head if name == "ppo" else adapter)
    trainer = PolicyTrainer(algorithm, policy, optimizer=optimizer)
    trainer.step(episodes(algorithm.group_size))
    state = trainer.state_dict()
    assert set(state["policy"]) == set(trained_state(policy))
    assert all("lora" in key or "v_head" in key for key in state["policy"])

    other = make_policy()
    again = PolicyTrainer(algorithm, other)
    again.load_state_dict(copy.deepcopy(state))
    for key, tensor in policy.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor)
    trainer.step(episodes(algorithm.group_size))
    again.step(episodes(algorithm.group_size))
    for key, tensor in policy.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor)


def test_the_best_policy_is_its_adapter_and_its_head():
    policy = make_policy()
    best = BestPolicy(policy)
    expected = copy.deepcopy(policy.state_dict())
    for step in (1, 2, 3):
        best.rolled_out(step, [1.0])
    assert set(best.state_dict()["policy"]) == set(trained_state(policy))
    randomized(policy, std=0.5)
    best.restore()
    for key, tensor in policy.state_dict().items():
        assert torch.equal(expected[key], tensor)
