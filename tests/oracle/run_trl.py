"""Lets TRL 0.11.4 compute the oracle's cases, and run a script. In an environment of its own: `make oracle`.

Per-token outputs have shape (B, R), a response's tokens from the left and 0 after them.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

from tests.tiny import make_model, make_tokenizer

CASES = Path(__file__).parent / "cases"


def main() -> None:
    settings = json.loads((CASES / "settings.json").read_text())
    weights = load_file(CASES / "models.safetensors")
    for case in ("tools", "no-tools"):
        outputs = run(settings, weights, load_file(CASES / f"{case}.safetensors"))
        save_file(outputs, CASES / f"{case}-trl.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        make_model("gpt2").save_pretrained(f"{folder}/model")
        make_tokenizer().save_pretrained(f"{folder}/model")
        script = [sys.executable, CASES.parent / "script.py", f"{folder}/model", f"{folder}/out"]
        subprocess.run(script, check=True)


def run(settings, weights, episodes) -> dict[str, torch.Tensor]:
    size = len(episodes["scores"])
    queries, responses, masks = (
        [episodes[f"{name}.{i}"] for i in range(size)] for name in ("query", "response", "mask")
    )
    model, reference = (
        with_value_head(settings, weights, each) for each in ("policy", "reference")
    )
    model.v_head.summary.load_state_dict(
        {name: weights[f"v_head.{name}"] for name in ("weight", "bias")}
    )
    options = dict(settings["ppo"])
    optimizer = torch.optim.SGD(model.parameters(), lr=options["learning_rate"])
    config = PPOConfig(**options, batch_size=size, mini_batch_size=size, adap_kl_ctrl=False)
    trainer = PPOTrainer(config, model, reference, tokenizer(settings), optimizer=optimizer)
    # A `filter` object there, empty after the first minibatch: TRL clips no gradient but the first.
    trainer.model_params = list(model.parameters())

    outputs: dict[str, torch.Tensor] = {}
    starts = [len(query) - 1 for query in queries]  # TRL's column t is about token t + 1
    width = max(len(response) for response in responses)

    def keep(name: str, x: torch.Tensor) -> None:
        aligned = torch.zeros(size, width)
        for row, start, response in zip(range(size), starts, responses):
            aligned[row, : len(response)] = x[row, start : start + len(response)]
        outputs.setdefault(name, aligned)  # the first of several calls

    forward, rewards, advantages = (
        trainer.batched_forward_pass,
        trainer.compute_rewards,
        trainer.compute_advantages,
    )

    def batched_forward_pass(which, *arguments, **keywords):
        result = forward(which, *arguments, **keywords)
        if which is trainer.model:
            keep("logprobs", result[0].detach())
            keep("values", result[2].detach())
        else:
            keep("ref_logprobs", result[0].detach())
        return result

    def compute_rewards(*arguments):
        result = rewards(*arguments)
        keep("rewards", result[0])
        keep("kl", result[2])
        return result

    def compute_advantages(*arguments):
        result = advantages(*arguments)
        keep("advantages", result[1])
        keep("returns", result[2])
        return result

    trainer.batched_forward_pass = batched_forward_pass
    trainer.compute_rewards = compute_rewards
    trainer.compute_advantages = compute_advantages

    def first_gradient(optimizer, *_):
        if not any(name.startswith("gradient.") for name in outputs):
            outputs.update(named("gradient", model, lambda parameter: parameter.grad))

    optimizer.register_step_pre_hook(first_gradient)
    stats = trainer.step(queries, responses, list(episodes["scores"]), masks)
    outputs.update(named("after", model, lambda parameter: parameter))
    for name, value in stats.items():
        value = torch.as_tensor(value, dtype=torch.float32)
        if value.numel() == 1 and not name.startswith("time/"):
            outputs[f"stats.{name}"] = value.flatten()
    return outputs


def named(prefix, model, of) -> dict[str, torch.Tensor]:
    """A tensor for each parameter, by our names."""
    return {
        f"{prefix}.{name.replace('v_head.summary.', 'v_head.')}": of(parameter).detach().clone()
        for name, parameter in model.named_parameters()
    }


def with_value_head(settings, weights, which) -> AutoModelForCausalLMWithValueHead:
    model = LlamaForCausalLM(LlamaConfig(**settings["llama"]))
    prefix = f"{which}."
    model.load_state_dict(
        {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)},
        strict=False,  # the vocabulary head is the embedding
    )
    return AutoModelForCausalLMWithValueHead.from_pretrained(model)


def tokenizer(settings) -> PreTrainedTokenizerFast:
    """TRL wants one, to pad with."""
    vocabulary = {str(i): i for i in range(settings["llama"]["vocab_size"])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="0")),
        pad_token="0",
        eos_token="0",
        padding_side="right",
    )


if __name__ == "__main__":
    main()
