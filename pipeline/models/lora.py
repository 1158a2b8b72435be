"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): small trained matrices beside frozen weights.

`peft` does the work. The model keeps its class: its layers are replaced by ones that add what the adapter
says, so every pass of `pipeline.models` runs as before. The parameters are read without torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import PipelineError
from pipeline.workspace import ADAPTER_FILE

PREFIX = "base_model.model."
"""What peft puts before the names of an adapter's weights in its file."""


class LoraSettings(BaseModel):
    """The adapter's size and place."""

    model_config = ConfigDict(extra="forbid")
    r: int = Field(ge=1)  # rank
    alpha: float = Field(gt=0, allow_inf_nan=False)  # the adapter's output is scaled by alpha / r
    dropout: Literal[0] = 0  # a policy has none: see `CausalLMWithValueHead`
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] | None = (
        None  # None: peft's for the family; where it knows none, all linear layers
    )

    def describe(self) -> dict[str, Any]:
        """What decides a result: the settings and peft's version."""
        require_peft()
        return {**self.model_dump(mode="json"), "peft": importlib.metadata.version("peft")}


def require_peft() -> None:
    """Raises PipelineError if peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise PipelineError(
            "model.lora: it needs the package peft: pip install 'learning-tools[lora]'"
        )


def attach(model: Any, settings: LoraSettings, seed: int = 0, base: Path | None = None) -> None:
    """Gives a causal language model a fresh adapter, the only part of it that is trained from then on.

    The adapter changes nothing at first. One that the model has is merged before. So the policy with its
    adapter off is always the one that the training starts from.

    Args:
        model: changed in place.
        seed: decides the first of the adapter's two matrices; the other is 0.
        base: the folder in which the model lies, for `load_policy`; by default where it was loaded from.

    Raises:
        PipelineError: if peft is not installed, or the model has no such modules.
    """
    require_peft()
    import torch
    from peft import LoraConfig

    merged(model)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft says int, and takes any number
        target_modules=_targets(model, settings.target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Of GPT-2's layers, whose matrices lie the other way round: peft sees it and does right.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        torch.manual_seed(seed)
        try:
            model.add_adapter(config)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise PipelineError(f"model.lora.target_modules: {reason}") from error
    if base is not None:
        config.base_model_name_or_path = str(base)
    for parameter in model.parameters():
        if parameter.requires_grad:  # updates of 2e-5 would be lost in bfloat16's eight bits
            parameter.data = parameter.data.float()


def load_adapter(model: Any, folder: Path, base: str) -> list[str]:
    """Gives a model the adapter that is kept in the folder, to be trained further.

    Args:
        base: see `attach`.

    Returns:
        The names of weights that the file lacks.

    Raises:
        Exception: of the libraries' kinds, for a file that is broken or of another model.
    """
    import torch
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    with torch.random.fork_rng(devices=[]):
        model.add_adapter(config)
    config.base_model_name_or_path = base
    weights = load_file(folder / ADAPTER_FILE)
    report: Any = set_peft_model_state_dict(
        model, {name.removeprefix(PREFIX): x for name, x in weights.items()}
    )
    if unknown := report.unexpected_keys:
        raise ValueError(f"there is no place for {unknown[0]}")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return sorted(trained & set(report.missing_keys))


def set_trained(
    model: Any, settings: LoraSettings | None, precision: str, seed: int, base: Path
) -> None:
    """Makes ready what a stage trains: an adapter, or without settings all of the model.

    An adapter that the model has, of a warm start, becomes part of its weights. See `attach`.

    Args:
        precision: of matrix products; for "bfloat16" the frozen weights are kept in it, see `halve`.
    """
    if settings is None:
        merged(model)
        return
    attach(model, settings, seed, base)
    if precision == "bfloat16":
        halve(model)


def _targets(model: Any, wanted: Any) -> Any:
    """The target modules for peft. Raises PipelineError for those that the model does not have, or ties."""
    import torch
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as FAMILIES
    from transformers.pytorch_utils import Conv1D

    if wanted is None:
        return FAMILIES.get(model.config.model_type, "all-linear")
    if isinstance(wanted, str):
        return wanted
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D)
    }
    for target in wanted:
        found = [layer for name, layer in layers.items() if f".{name}".endswith(f".{target}")]
        if not found:
            there = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise PipelineError(
                f"model.lora.target_modules: {type(model).__name__} has no linear layer {target!r}; "
                f"there is {there}"
            )
        if any(layer.weight is model.get_input_embeddings().weight for layer in found):
            raise PipelineError(
                f"model.lora.target_modules: {target} shares its weights with the embedding of "
                f"{type(model).__name__}, which merging would change, too; leave it out"
            )
    return wanted


def has_adapter(model: Any) -> bool:
    """Whether the causal language model has an adapter of peft's."""
    return bool(getattr(model, "peft_config", None))


def without_wrapper(model: Any) -> Any:
    """The causal language model itself, adapter included, of one that `peft.get_peft_model` has wrapped.

    Raises ValueError for an adapter that is no part of the layers: the passes here would leave it out.
    """
    if not hasattr(model, "get_base_model"):
        return model
    config = model.active_peft_config
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ValueError(
            f"adapters of the kind {config.peft_type.value} are not supported; LoRA is"
        )
    inner = model.get_base_model()
    # As after `add_adapter`, so that the adapter is saved alone.
    inner._hf_peft_config_loaded = True
    return inner


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Meanwhile, the model computes without its adapter: as it was before it got one.

    Raises ValueError for an adapter with which more is trained than itself.
    """
    for config in model.peft_config.values():
        if getattr(config, "bias", "none") != "none":
            raise ValueError(
                f"adapters with bias={config.bias!r} are not supported: the biases that are trained stay "
                "where the adapter is off; bias='none' is"
            )
    on = [layer for layer in _adapted(model) if not layer.disable_adapters]
    trained = [p for layer in on for p in layer.parameters() if p.requires_grad]
    for layer in on:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in on:
            layer.enable_adapters(True)
            layer.requires_grad_(False)  # peft has thawed also what was frozen
        for parameter in trained:
            parameter.requires_grad_(True)


def merged(model: Any) -> Any:
    """The model with its adapter added to its weights, in float32, and gone. It is changed in place.

    All parts of it are trained again, as those of a model just loaded.
    """
    if not has_adapter(model):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    model.float()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    del model.peft_config
    return model.requires_grad_(True)


def halve(model: Any) -> None:
    """Keeps frozen weights in bfloat16 that matrix products in bfloat16 would round to it anyway.

    No digit changes under `Machine.autocast` in bfloat16, and the weights take half the memory. The
    embedding stays as it is, and what shares its weights: it is looked up, not multiplied by.
    """
    import torch

    embedding = model.get_input_embeddings().weight
    for layer in model.modules():
        frozen = type(layer) is torch.nn.Linear and not layer.weight.requires_grad
        if frozen and layer.weight is not embedding:
            layer.bfloat16()


def _adapted(model: Any) -> list[Any]:
    """The layers that have a part of the adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return [layer for layer in model.modules() if isinstance(layer, kinds)]
