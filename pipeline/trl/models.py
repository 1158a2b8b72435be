"""Policies by TRL 0.11's names, and the checkpoints that it wrote."""

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import cached_file

from pipeline.models.lora import has_adapter, load_adapter
from pipeline.models.policy import (
    VALUE_HEAD_FILE,
    CausalLMWithValueHead,
    load_value_head,
    save_model,
)
from pipeline.workspace import ADAPTER_CONFIG, base_of

MODEL, HEAD = "pretrained_model.", "v_head.summary."
"""How the names of weights begin: of the language model in our policies, of the value head in TRL's."""

CHECKPOINTS = ("model.safetensors", "pytorch_model.bin")
"""Where TRL put a value head, beside the model's weights; `.index.json` follows if there are several files."""


class ValueHead(torch.nn.Linear):
    """A value head whose weights are found under TRL's name, too."""

    @property
    def summary(self) -> "ValueHead":
        """The layer itself."""
        return self


class AutoModelForCausalLMWithValueHead(CausalLMWithValueHead):
    """A policy, with the methods and the names of weights that it had in TRL.

    The value head starts at zero.

    Args:
        pretrained_model: a causal language model of `transformers`; it may have an adapter, or be a
            `peft.PeftModel`.
    """

    gradient_checkpointing = False

    def __init__(self, pretrained_model: Any) -> None:
        super().__init__(pretrained_model)
        head, self.v_head = self.v_head, ValueHead(self.v_head.in_features, 1)
        self.v_head.load_state_dict(head.state_dict())
        self.v_head.to(head.weight.device)
        self.register_state_dict_post_hook(_to_trls_names)
        self.register_load_state_dict_pre_hook(_to_our_names)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, **options: Any
    ) -> "AutoModelForCausalLMWithValueHead":
        """A policy from a causal language model, its folder, or its name on the hub.

        A folder may hold what TRL or `save_pretrained` wrote there; then the value head comes with it, and
        an adapter on the model that it belongs to.

        Args:
            options: `peft_config`, an adapter's, to be trained; `v_head_init_strategy="normal"` and
                `v_head_initializer_range`; for a folder or a name also what `from_pretrained` of
                `transformers` takes. Weights are float32, if `torch_dtype` says nothing else.

        Raises:
            ValueError: for what cannot be done.
            TypeError: for options beside a model that is loaded already.
        """
        adapter = options.pop("peft_config", None)
        head = {name: options.pop(name, None) for name in HEAD_OPTIONS}
        options = _loading(options)
        if isinstance(pretrained_model_name_or_path, str | Path):
            policy = cls._loaded(str(pretrained_model_name_or_path), options)
        elif options.keys() - {"dtype"}:
            raise TypeError(
                f"from_pretrained: a model that is loaded takes no {', '.join(options.keys() - {'dtype'})}"
            )
        else:
            policy = cls(pretrained_model_name_or_path)
        if adapter is not None:
            policy._adapt(adapter)
        dtype = policy.pretrained_model.dtype
        if dtype != torch.float32 and not policy.is_peft_model:
            warnings.warn(
                f"weights in {dtype}: updates that are too small for its few digits are lost; train in "
                "float32, or an adapter",
                UserWarning,
                stacklevel=2,
            )
        if head["v_head_init_strategy"] == "normal":
            deviation = head["v_head_initializer_range"]
            torch.nn.init.normal_(policy.v_head.weight, std=0.2 if deviation is None else deviation)
        elif head["v_head_init_strategy"] is not None:
            raise ValueError(
                f"v_head_init_strategy {head['v_head_init_strategy']!r}: there is 'normal' and None"
            )
        return policy

    @classmethod
    def _loaded(cls, name: str, options: dict[str, Any]) -> "AutoModelForCausalLMWithValueHead":
        folder = Path(name)
        if (folder / ADAPTER_CONFIG).exists():
            base = base_of(folder)
            model = AutoModelForCausalLM.from_pretrained(base, **options)
            if missing := load_adapter(model, folder, base):
                raise ValueError(f"{folder}: the adapter's weights lack {missing[0]}")
        else:
            model = AutoModelForCausalLM.from_pretrained(name, **options)
        policy = cls(model)
        if (folder / VALUE_HEAD_FILE).exists():
            load_value_head(policy, folder)
        elif saved := trls_value_head(name):
            try:
                policy.v_head.load_state_dict(saved)
            except RuntimeError as error:
                raise ValueError(f"{name}: its value head is of another model") from error
        return policy

    def _adapt(self, adapter: Any) -> None:
        """Adds an adapter, which is then all of the model that is trained."""
        if self.is_peft_model:
            raise ValueError("peft_config: the model has an adapter already")
        self.pretrained_model.add_adapter(adapter)
        for parameter in self.pretrained_model.parameters():
            if parameter.requires_grad:  # small updates would be lost in bfloat16
                parameter.data = parameter.data.float()
        self.pretrained_model.eval()

    @property
    def config(self) -> Any:
        """The language model's."""
        return self.pretrained_model.config

    @property
    def is_peft_model(self) -> bool:
        """Whether an adapter is what is trained."""
        return has_adapter(self.pretrained_model)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """The model's own pass, in evaluation mode.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 on padding.
            options: of the model's `forward`, such as `labels`.

        Returns:
            Logits, (B, T, vocabulary), float32; the loss, or None without labels; values, (B, T).
        """
        options.pop("return_past_key_values", None)
        output = self.pretrained_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=True,
            return_dict=True,
            **options,
        )
        values = self.v_head(output.hidden_states[-1].float())[..., 0]
        return output.logits.float(), getattr(output, "loss", None), values

    def generate(self, *args: Any, **options: Any) -> Any:
        """The model's own `generate`."""
        return self.pretrained_model.generate(*args, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model, or its adapter, and the value head; `from_pretrained` reads them."""
        save_model(self, None, Path(folder))

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Sends what `save_pretrained` writes to the hub; see `push_folder`."""
        return push_folder(self.save_pretrained, repo_id, **options)

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Has a trainer run layers again in the backward pass: less memory, and the same results."""
        self.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Has a trainer keep what layers compute."""
        self.gradient_checkpointing = False


class AutoModelForSeq2SeqLMWithValueHead(torch.nn.Module):
    """An encoder-decoder, which can be loaded and generate. A trainer or an environment refuses it."""

    is_encoder_decoder = True

    def __init__(self, pretrained_model: Any) -> None:
        super().__init__()
        self.pretrained_model = pretrained_model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, **options: Any
    ) -> "AutoModelForSeq2SeqLMWithValueHead":
        """From a model, its folder, or its name on the hub."""
        if not isinstance(pretrained_model_name_or_path, str | Path):
            return cls(pretrained_model_name_or_path)
        return cls(AutoModelForSeq2SeqLM.from_pretrained(pretrained_model_name_or_path, **options))

    def generate(self, *args: Any, **options: Any) -> Any:
        """The model's own `generate`."""
        return self.pretrained_model.generate(*args, **options)


def require_policy(model: Any, what: str) -> CausalLMWithValueHead:
    """The model, if it is a policy. Raises ValueError, in the name of `what`, for anything else."""
    if not isinstance(model, CausalLMWithValueHead):
        kind = " an encoder-decoder:" if getattr(model, "is_encoder_decoder", False) else ""
        raise ValueError(
            f"{what}:{kind} model must be an AutoModelForCausalLMWithValueHead, not {type(model).__name__}"
        )
    return model


def create_reference_model(
    model: torch.nn.Module, num_shared_layers: int | None = None, pattern: str | None = None
) -> Any:
    """A frozen copy of a policy.

    Args:
        num_shared_layers: so many of the model's first layers, and the embedding before them, are frozen in
            `model`, too; None for none of them.
        pattern: how the name of the first layer that is not frozen begins, with `{layer}` for its number.

    Raises:
        ValueError: if no layer has such a name.
    """
    reference = copy.deepcopy(model).requires_grad_(False)
    if num_shared_layers is not None:
        patterns = [pattern] if pattern else [".h.{layer}.", ".layers.{layer}.", ".blocks.{layer}."]
        own = [p.format(layer=num_shared_layers) for p in patterns]
        names = [name for name, _ in model.named_parameters()]
        first = next((i for i, name in enumerate(names) if any(p in name for p in own)), None)
        if first is None:
            raise ValueError(f"num_shared_layers {num_shared_layers}: the model has no such layer")
        for name in names[:first]:
            model.get_parameter(name).requires_grad_(False)
    return reference


HEAD_OPTIONS = ("v_head_init_strategy", "v_head_initializer_range", "summary_dropout_prob")
"""What TRL's value head took. There is no dropout here, whatever its probability."""

PLACES = ("low_cpu_mem_usage", "is_trainable", "reward_adapter_name")
"""What decides nothing here: an adapter is always trained."""


def _loading(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for `from_pretrained` of transformers. Raises ValueError for what cannot be done."""
    left = {name: value for name, value in options.items() if name not in PLACES}
    if left.pop("reward_adapter", None) is not None:
        raise ValueError(
            "reward_adapter: rewards of a second adapter are not supported; compute them with a model of its own"
        )
    quantized = ("load_in_8bit", "load_in_4bit", "quantization_config")
    if asked := [name for name in quantized if left.pop(name, None)]:
        warnings.warn(
            f"{asked[0]}: the weights are not quantized here; they take more memory, and nothing is rounded",
            UserWarning,
            stacklevel=3,
        )
    places = left.pop("device_map", None)
    if isinstance(places, Mapping) and len(set(map(str, places.values()))) > 1:
        raise ValueError(f"device_map {dict(places)}: a model lies on one device, the trainer's")
    token = left.pop("use_auth_token", None)
    if token not in (None, False):
        left.setdefault("token", token)
    given = left.pop("torch_dtype", None)
    left.setdefault("dtype", torch.float32 if given is None else given)
    return left


def trls_value_head(name: str) -> dict[str, torch.Tensor] | None:
    """The state of the value head that TRL saved with a model; None if there is none.

    Args:
        name: the model's folder, or its name on the hub.
    """
    for checkpoint in CHECKPOINTS:
        if file := _file(name, checkpoint):
            return _head_in(file)
        if index := _file(name, f"{checkpoint}.index.json"):
            places: dict[str, str] = json.loads(index.read_text())["weight_map"]
            files = {place for weight, place in places.items() if weight.startswith(HEAD)}
            heads = [_head_in(file) for place in sorted(files) if (file := _file(name, place))]
            return {key: x for head in heads if head for key, x in head.items()} or None
    return None


def _file(name: str, file: str) -> Path | None:
    """A file of a model's folder, or of its copy of what the hub has; None if there is none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.exists() else None
    try:
        found = cached_file(name, file, local_files_only=True)
    except OSError:
        return None
    return Path(found) if found else None


def _head_in(file: Path) -> dict[str, torch.Tensor] | None:
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as weights:
            names = [name for name in weights.keys() if name.startswith(HEAD)]  # noqa: SIM118
            found = {name: weights.get_tensor(name) for name in names}
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
        found = {name: x for name, x in state.items() if name.startswith(HEAD)}
    return {name.removeprefix(HEAD): x.float() for name, x in found.items()} or None


def push_folder(save: Any, repo_id: str, **options: Any) -> Any:
    """Creates a repository on the hub, if need be, and sends it the files that `save(folder)` writes.

    Args:
        options: `private`, `token` and `commit_message`.

    Raises:
        TypeError: for other options.
    """
    import tempfile

    from huggingface_hub import HfApi

    if unknown := options.keys() - {"private", "token", "commit_message"}:
        raise TypeError(f"push_to_hub: {', '.join(sorted(unknown))} is not supported")
    hub = HfApi(token=options.get("token"))
    hub.create_repo(repo_id, private=options.get("private"), exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        return hub.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=options.get("commit_message")
        )


def _to_trls_names(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The language model's weights go by its own names, the value head's by `v_head.summary`."""
    _rename(state, prefix, lambda name: name.removeprefix(MODEL).replace("v_head.", HEAD))


def _to_our_names(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(
        state,
        prefix,
        lambda name: f"v_head.{name.removeprefix(HEAD)}" if name.startswith(HEAD) else MODEL + name,
    )


def _rename(state: dict[str, Any], prefix: str, rename: Callable[[str], str]) -> None:
    for name in list(state):
        if name.startswith(prefix):
            state[prefix + rename(name.removeprefix(prefix))] = state.pop(name)
