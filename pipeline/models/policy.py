"""The policy, a language model with a value head: loading and saving it, and its optimizer."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.models.lora import has_adapter, load_adapter, merged, require_peft, without_wrapper
from pipeline.workspace import ADAPTER_CONFIG, base_of

VALUE_HEAD_FILE = "value_head.pt"


def from_pretrained(name: str | Path, **options: Any) -> tuple[Any, Any]:
    """A causal language model in float32 and its tokenizer. Raises PipelineError if they cannot be loaded."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **options
        )
        model, report = loaded
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:  # each of the libraries raises of its own kinds for a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PipelineError(f"model: cannot load {name}: {reason}") from error
    if missing := sorted(report["missing_keys"]):  # they are random numbers now
        raise PipelineError(f"model: cannot load {name}: its weights lack {missing[0]}")
    return model, tokenizer


class CausalLMWithValueHead(torch.nn.Module):
    """A causal language model and a linear value head on its last hidden states.

    The head starts at zero: it predicts nothing before it has learned something. The model stays in
    evaluation mode throughout: dropout would make the update's probabilities differ from the
    sampler's.

    Args:
        pretrained_model: may have an adapter, and may be a `peft.PeftModel`. Then the adapter and the head
            are what is trained.
    """

    def __init__(self, pretrained_model: Any) -> None:
        super().__init__()
        self.pretrained_model = without_wrapper(pretrained_model).eval()
        config = self.pretrained_model.config
        self.v_head = torch.nn.Linear(config.hidden_size, 1).to(self.pretrained_model.device)
        torch.nn.init.zeros_(self.v_head.weight)
        torch.nn.init.zeros_(self.v_head.bias)


def load_policy(
    folder: Path, device: str | torch.device = "cpu", made_by: str | None = None
) -> tuple[CausalLMWithValueHead, Any]:
    """The policy (with its value head, where one was saved) and the tokenizer kept in `folder`.

    Where the folder holds an adapter, the model below it is loaded from its own, too.

    Raises PipelineError if one of them is broken; it names the stage `made_by`, if told.
    """
    try:
        model, tokenizer = load_model(folder)
        policy = CausalLMWithValueHead(model.to(device))
        load_value_head(policy, folder)
    except PipelineError as error:
        if made_by is None:
            raise
        raise PipelineError(f"{error}: remove it and run `dvc repro {made_by}`") from error
    return policy, tokenizer


def load_model(folder: Path | str) -> tuple[Any, Any]:
    """The causal language model kept in a folder, its adapter on where it has one, and the tokenizer.

    Raises PipelineError if one of them is broken, or what the adapter was attached to is not there.
    """
    file = Path(folder) / ADAPTER_CONFIG
    if not file.exists():
        return from_pretrained(folder)
    below = base_of(file.parent)
    try:
        model = merged(load_model(below)[0])  # as it was when the adapter was attached
    except PipelineError as error:
        raise PipelineError(f"{file}: base_model_name_or_path: {error}") from error
    require_peft()
    try:
        missing = load_adapter(model, file.parent, below)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # as above
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PipelineError(f"model: cannot load {folder} on {below}: {reason}") from error
    if missing:
        raise PipelineError(f"model: cannot load {folder}: its weights lack {missing[0]}")
    return model, tokenizer


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
    """Writes a causal language model, or a policy with its value head, and the tokenizer, if there is one.

    Of one with an adapter only the adapter is written, and the name of the folder that it was attached to.
    """
    pretrained = getattr(model, "pretrained_model", model)
    if has_adapter(pretrained):
        for config in pretrained.peft_config.values():
            if isinstance(
                config.target_modules, set
            ):  # would be written in another order each time
                config.target_modules = sorted(config.target_modules)
        pretrained.config.save_pretrained(folder)
    pretrained.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if isinstance(model, CausalLMWithValueHead):
        torch.save(model.v_head.state_dict(), folder / VALUE_HEAD_FILE)


def trained_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of a policy or a model, less its frozen weights: of one with an adapter the adapter's alone.

    The tensors are the module's own.
    """
    frozen = {
        name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    return {name: x for name, x in module.state_dict().items() if name not in frozen}


def load_trained_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Takes up what `trained_state` gave of a module of the same making.

    Raises RuntimeError if it was of another.
    """
    if state.keys() != trained_state(module).keys():
        raise RuntimeError("the state is of a module of which other parts are trained")
    module.load_state_dict(state, strict=False)


def adamw(
    parameters: Iterable[Any], learning_rate: float, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.Optimizer:
    """AdamW as every training here uses it, on tensors or groups of them: without weight decay."""
    return torch.optim.AdamW(parameters, learning_rate, betas, weight_decay=0.0, fused=True)
