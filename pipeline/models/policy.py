"""The policy, a language model with a value head: loading and saving it, and its optimizer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.models.check import check_config, check_loaded, passes

VALUE_HEAD_FILE = "value_head.pt"


def from_pretrained(name: str | Path, **options: Any) -> tuple[Any, Any]:
    """A causal language model in float32 and its tokenizer. Raises PipelineError if they cannot be loaded."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        check_config(name, tokenizer, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **options
        )
        model, report = loaded
    except PipelineError:
        raise
    except Exception as error:  # each of the libraries raises of its own kinds for a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PipelineError(f"model: cannot load {name}: {reason}") from error
    if missing := sorted(report["missing_keys"]):  # they are random numbers now
        raise PipelineError(f"model: cannot load {name}: its weights lack {missing[0]}")
    check_loaded(name, model, tokenizer)
    return model, tokenizer


class CausalLMWithValueHead(torch.nn.Module):
    """A causal language model and a linear value head on its last hidden states.

    The head starts at zero: it predicts nothing before it has learned something. The model stays in
    evaluation mode throughout: dropout would make the update's probabilities differ from the
    sampler's.
    """

    def __init__(self, pretrained_model: Any) -> None:
        super().__init__()
        self.pretrained_model = pretrained_model.eval()
        width = passes(pretrained_model).hidden_size
        self.v_head = torch.nn.Linear(width, 1).to(pretrained_model.device)
        torch.nn.init.zeros_(self.v_head.weight)
        torch.nn.init.zeros_(self.v_head.bias)

    def train(self, mode: bool = True) -> "CausalLMWithValueHead":
        """Stays in evaluation mode."""
        return super().train(False)


def load_policy(
    folder: Path, device: str | torch.device = "cpu", made_by: str | None = None
) -> tuple[CausalLMWithValueHead, Any]:
    """The policy (with its value head, where one was saved) and the tokenizer kept in `folder`.

    Raises PipelineError if one of them is broken; it names the stage `made_by`, if told.
    """
    try:
        model, tokenizer = from_pretrained(folder)
        policy = CausalLMWithValueHead(model.to(device))
        load_value_head(policy, folder)
    except PipelineError as error:
        if made_by is None:
            raise
        raise PipelineError(f"{error}: remove it and run `dvc repro {made_by}`") from error
    return policy, tokenizer


def load_value_head(policy: CausalLMWithValueHead, folder: Path) -> None:
    """Gives the policy the value head kept in `folder`, if there is one. Raises PipelineError for a broken one."""
    file = folder / VALUE_HEAD_FILE
    if not file.exists():
        return
    device = policy.v_head.weight.device
    try:
        policy.v_head.load_state_dict(torch.load(file, map_location=device, weights_only=True))
    except Exception as error:  # torch's, pickle's and zipfile's
        raise PipelineError(
            f"{file} is no value head of this model ({type(error).__name__})"
        ) from error


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a causal language model, or a policy with its value head, and the tokenizer."""
    pretrained = getattr(model, "pretrained_model", model)
    pretrained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if isinstance(model, CausalLMWithValueHead):
        torch.save(model.v_head.state_dict(), folder / VALUE_HEAD_FILE)


def adamw(
    parameters: Iterable[Any], learning_rate: float, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.Optimizer:
    """AdamW as every training here uses it, on tensors or groups of them: without weight decay."""
    return torch.optim.AdamW(parameters, learning_rate, betas, weight_decay=0.0, fused=True)
