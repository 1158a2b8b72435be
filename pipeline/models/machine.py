"""What to compute on, and in which precision. The parameters are read without torch."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import PipelineError

MAX_TOKENS = 8192
"""How many tokens a training runs through the model at a time, if nothing else is said."""


class Machine(BaseModel):
    """What to compute on, and how exactly. "auto" takes the best that the machine has."""

    model_config = ConfigDict(extra="forbid")
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    max_tokens: int = Field(default=MAX_TOKENS, ge=1)
    gradient_checkpointing: bool = False
    launcher: str = ""

    def resolve_device(self) -> str:
        """ "cuda" or "cpu"; raises PipelineError for a GPU that is not there."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise PipelineError("machine.device: no CUDA device here; use cpu or auto")
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device

    def resolve_precision(self) -> str:
        """ "bfloat16" or "float32"; "auto" is bfloat16 where the hardware multiplies it faster."""
        import torch

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
        import torch

        enabled = self.resolve_precision() == "bfloat16"
        return torch.autocast(self.resolve_device(), dtype=torch.bfloat16, enabled=enabled)

    def describe(self) -> dict[str, str | int]:
        """What it came to on this machine: all that may decide a digit."""
        import torch

        device = self.resolve_device()
        name = (
            torch.cuda.get_device_name()
            if device == "cuda"
            else str(torch.cpu.get_capabilities().get("cpu_name", platform.machine()))
        )
        return {
            "device": device,
            "device_name": name,
            "precision": self.resolve_precision(),
            "max_tokens": self.max_tokens,
        }
