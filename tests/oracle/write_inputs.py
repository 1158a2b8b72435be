"""Writes the oracle's inputs: the tiny models' weights, episodes of random tokens, and the settings."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

CASES = Path(__file__).parent / "cases"

TOOL_LENGTHS = {"tools": (3, 0, 9, 2, 5, 1), "no-tools": (0,) * 6}
"""How many of a response's tokens are a tool's, episode by episode, in each case."""

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""Of the models: `LlamaConfig`'s."""

SETTINGS = {
    "learning_rate": 0.05,
    "ppo_epochs": 3,  # from the second on ratios differ from 1, and some are clipped
    "gamma": 0.99,
    "lam": 0.9,
    "cliprange": 0.2,
    "cliprange_value": 0.05,
    "vf_coef": 0.1,
    "init_kl_coef": 0.2,
    "max_grad_norm": 1.0,
}
"""By the names that TRL's `PPOConfig` and ours share. Updates are plain gradient descent's."""


def main() -> None:
    CASES.mkdir(exist_ok=True)
    settings = {"ppo": SETTINGS, "llama": SHAPE}
    (CASES / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    generator = torch.Generator().manual_seed(0)
    policy = LlamaForCausalLM(LlamaConfig(**SHAPE))
    weights = {}
    for name, parameter in policy.named_parameters():
        # Larger than at a usual initialisation, so that probabilities are far from uniform.
        drawn = torch.randn(parameter.shape, generator=generator) * 0.1
        weights[f"policy.{name}"] = drawn if parameter.dim() > 1 else 1 + drawn
        noise = torch.randn(parameter.shape, generator=generator) * 0.01
        weights[f"reference.{name}"] = weights[f"policy.{name}"] + noise
    weights["v_head.weight"] = torch.randn(1, SHAPE["hidden_size"], generator=generator) * 0.1
    weights["v_head.bias"] = torch.tensor([0.1])
    save_file(weights, CASES / "models.safetensors")

    def ids(count: int) -> torch.Tensor:
        return torch.randint(1, SHAPE["vocab_size"], (count,), generator=generator)

    prompt = ids(8)
    for name, lengths in TOOL_LENGTHS.items():
        episodes = {"scores": torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])}
        for i, length in enumerate(lengths):
            episodes[f"query.{i}"] = torch.cat([prompt, ids(1 + i % 3)])
            episodes[f"response.{i}"] = ids(4 + length + 3 + i)
            episodes[f"mask.{i}"] = torch.tensor([1] * 4 + [0] * length + [1] * (3 + i))
        save_file(episodes, CASES / f"{name}.safetensors")


if __name__ == "__main__":
    main()
