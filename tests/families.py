"""Families of models, each as a tiny one with random weights: which work here, and by which passes.

`make families` tries all that `transformers` has and writes the table of docs/models.md. The tests try a
dozen: `make test` holds them to their rows of the table.
"""

import copy
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from pipeline.algorithms.grpo import GRPO, GRPOConfig
from pipeline.algorithms.ppo import PPO, PPOConfig
from pipeline.chance import Place
from pipeline.environment import EpisodeBatch
from pipeline.errors import PipelineError
from pipeline.models.check import passes
from pipeline.models.policy import CausalLMWithValueHead, load_policy, save_model
from pipeline.models.sampling import TorchSampler
from pipeline.models.scoring import Scores, score
from pipeline.training import trainer as trainer_module
from pipeline.training.trainer import PolicyTrainer
from tests.tiny import make_tokenizer, random_ids

PAGE = Path(__file__).parents[1] / "docs/models.md"
START, END = "<!-- families -->", "<!-- /families -->"

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LARGEST = 10_000_000
"""Parameters of a model that still counts as tiny."""

VOCABULARY = 288
"""More than the tokenizer has: some families' tokenizers add tokens of their own when they are loaded."""

SIZES: list[tuple[str, Any]] = [
    (r"vocab_size\w*|\w*_vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"moe_k", 2),
    (r"num_kv_shared_layers", 0),
    (r"mamba_d_head|mamba_headdim|mamba_head_dim", 16),
    (r"mamba_d_ssm", 64),
    (r"bos_token_id|eos_token_id", 0),
    (r"\w*_token_id|\w*_token_index", 1),
    (r"(num_)?hidden_layers|n_layers?|num_layers|num_hidden_layers|\w*coder_layers|depth", 2),
    (r"num_key_value_heads|num_kv_heads|\w*num_key_value_heads|n_kv_heads", 2),
    (r"\w*_heads|n_heads?|n_head", 4),
    (r"head_dim|\w*_head_dim|rotary_dim|\w*_head_size|head_size|d_kv|attention_head_dim", 8),
    (r"\w*_lora_rank", 16),
    (r"\w*intermediate_size\w*|\w*ffn_dim|n_inner|d_ff|ffn_hidden_size|\w*ffn_size|dff", 64),
    (r"num_experts_per_tok|\w*top_k|num_experts_per_token|moe_topk|\w*num_selected_experts", 2),
    (r"num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_moe_experts", 4),
    (r"n_group|topk_group|n_shared_experts|num_shared_experts|num_expert_groups?", 1),
    (
        r"hidden_size|d_model|n_embd|dim|embedding_size|word_embed_proj_dim|\w*_hidden_size|emb_dim",
        32,
    ),
    (r"hidden_size_per_layer_input", 16),
]
"""What the sizes in a config become, by their names."""

SPECIAL: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "xlnet": {"d_head": 8},
    "zamba": {"layers_block_type": ["mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1},
    "diffllama": {"attention_dropout": 0.0},
    "reformer": {"is_decoder": True},
}
"""Sizes that have to fit together in ways of one family's own."""


@dataclass(frozen=True)
class Row:
    """What came of a family."""

    family: str
    model: str
    way: str  # fast, plain, refused, not tried, WRONG
    note: str = ""

    def __str__(self) -> str:
        return f"| `{self.family}` | {self.model} | {self.way} | {self.note} |"


def tiny_config(family: str) -> Any:
    """The family's own defaults, made small; everything that may drop does."""
    made = CONFIG_MAPPING[family]
    sizes = _shrunk(made().to_dict()) | SPECIAL.get(family, {})
    for name in ("model_type", "architectures", "transformers_version", "is_encoder_decoder"):
        sizes.pop(name, None)
    return made(**sizes)


def _shrunk(config: dict[str, Any]) -> dict[str, Any]:
    small = {}
    for name, value in config.items():
        if name == "per_layer_config":
            continue
        if isinstance(value, dict) and name.endswith("_config"):
            small[name] = _shrunk(value)
        elif name == "layer_types" and value:
            kinds = list(dict.fromkeys(value))
            small[name] = (kinds * 2)[:2]
        elif name == "is_decoder":
            small[name] = True
        elif isinstance(value, float) and re.search("drop|pdrop", name):
            small[name] = 0.3
        elif isinstance(value, int) and not isinstance(value, bool):
            wanted = next((size for names, size in SIZES if re.fullmatch(names, name)), value)
            small[name] = wanted if name.endswith("token_id") else min(value, wanted)
        elif isinstance(value, list) and name.endswith("_token_id"):
            small[name] = [0]
        elif isinstance(value, list) and len(value) == _layers(config):
            small[name] = value[:2]
        else:
            small[name] = value
    if config.get("num_key_value_heads") == config.get("num_attention_heads") is not None:
        small["num_key_value_heads"] = small["num_attention_heads"]
    return small


def _layers(config: dict[str, Any]) -> int | None:
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    return next((config[name] for name in names if config.get(name)), None)


def tiny_model(family: str) -> Any:
    """A model of the family, with every parameter changed: biases and norms count.

    Raises:
        Exception: of any kind, for a family whose config this does not make small, or not so that it runs.
    """
    torch.manual_seed(0)
    config = tiny_config(family)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its smallest has {size / 1e6:.0f} million parameters")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(parameter.nan_to_num(0, 0, 0).clamp(-1, 1))
                parameter.add_(0.15 * torch.randn_like(parameter))
    _plain(model.eval(), [5, 6, 7])
    return model


# --- what is right ----------------------------------------------------------------------------------


def _plain(model: Any, sequence: list[int]) -> Any:
    """A model's output for one sequence."""
    return model(input_ids=torch.tensor([sequence]), output_hidden_states=True, use_cache=False)


def plain_score(
    model: Any,
    batch: Any,
    mask: Any = None,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
) -> Scores:
    """What `score` computes, from one plain pass for each sequence."""
    language_model = getattr(model, "pretrained_model", model)
    logprobs = torch.zeros(len(batch.sequences), batch.width)
    entropy = torch.zeros_like(logprobs)
    values = torch.zeros(len(batch.sequences), batch.width + 1)
    for row, sequence in enumerate(batch.sequences):
        tokens = torch.tensor([sequence])
        output = _plain(language_model, sequence)
        distribution = (output.logits[0, batch.prefix_length : -1] / temperature).log_softmax(-1)
        own = tokens[0, batch.prefix_length + 1 :, None]
        kept = torch.ones(len(own)).bool() if mask is None else mask[row, : len(own)]
        chosen = torch.where(kept, distribution.gather(1, own)[:, 0], 0.0)
        spread = torch.where(kept, -(distribution.exp() * distribution).sum(-1), 0.0)
        logprobs = logprobs.index_put((torch.tensor(row), torch.arange(len(own))), chosen)
        entropy = entropy.index_put((torch.tensor(row), torch.arange(len(own))), spread.detach())
        if hasattr(model, "v_head"):
            states = output.hidden_states[-1][0, batch.prefix_length :]
            index = (torch.tensor(row), torch.arange(len(states)))
            values = values.index_put(index, model.v_head(states)[:, 0])
    return Scores(logprobs, entropy, values)


PROMPT = (random_ids(7, 0) % 200 + 10).tolist()
QUESTIONS = [(random_ids(n, 50 + n) % 200 + 10).tolist() for n in (2, 4, 1, 3)]


@torch.no_grad()
def check_sampler(model: Any) -> list[list[int]]:
    """Greedy tokens and log-probabilities of sampled ones. Returns episodes."""
    contexts = [PROMPT + question for question in QUESTIONS]
    places = [Place(0, 0, i) for i in range(4)]
    tokenizer = make_tokenizer()
    limits = [3, 6, 6, 5]
    greedy = TorchSampler(model, tokenizer, do_sample=False).generate(contexts, limits, [], places)
    for context, continuation in zip(contexts, greedy):
        sequence = list(context)
        for token in continuation.tokens:
            expected = int(_plain(model, sequence).logits[0, -1].argmax())
            assert token == expected, "greedy tokens differ"
            sequence.append(token)
    sampled = TorchSampler(model, tokenizer).generate(contexts, limits, [], places)
    episodes = []
    for context, continuation in zip(contexts, sampled):
        sequence = context + continuation.tokens
        logits = _plain(model, sequence).logits[0, len(context) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(continuation.tokens)[:, None])[:, 0]
        _close(torch.tensor(continuation.logprobs), chosen, "sampled log-probabilities")
        episodes.append(sequence)
    return episodes


def check_step(algorithm: Any, model: Any, batch: EpisodeBatch) -> None:
    """The weights after a step of plain gradient descent, and after one on plain passes."""
    after = []
    for scorer in (score, plain_score):
        policy = CausalLMWithValueHead(copy.deepcopy(model))
        torch.nn.init.normal_(policy.v_head.weight, generator=torch.Generator().manual_seed(1))
        before = [p.detach().clone() for p in policy.parameters()]
        trainer = PolicyTrainer(
            algorithm, policy, optimizer=torch.optim.SGD(policy.parameters(), lr=1e-2)
        )
        if scorer is score:
            policy.pretrained_model.train()  # must not matter
        genuine, trainer_module.score = trainer_module.score, scorer
        try:
            stats = trainer.step(batch)
        finally:
            trainer_module.score = genuine
        assert stats["objective/kl"] == 0, f"the policy's KL from itself is {stats['objective/kl']}"
        moved = [(p.detach() - b).flatten() for p, b in zip(policy.parameters(), before)]
        after.append(torch.cat(moved))
    assert after[1].norm() > 0, "nothing was learned"
    apart = float((after[0] - after[1]).norm() / after[1].norm())
    assert apart < 2e-3, f"{algorithm.name}: the update is off by {apart:.1g}"


def check_family(model: Any) -> None:
    """Raises AssertionError if a model is not computed as its plain passes say."""
    with tempfile.TemporaryDirectory() as folder:
        policy = CausalLMWithValueHead(model)
        save_model(policy, make_tokenizer(), Path(folder))
        loaded = load_policy(Path(folder))[0].state_dict()
    for name, tensor in policy.state_dict().items():
        assert torch.equal(loaded[name], tensor), f"{name} is not loaded as it was saved"
    episodes = check_sampler(model)
    lengths = [len(PROMPT + question) for question in QUESTIONS]
    masks = [[True] * (len(e) - n) for e, n in zip(episodes, lengths)]
    batch = EpisodeBatch(episodes, lengths, masks, [0.0, 1.0, 1.0, 0.0], [False] * 4)
    check_step(PPO(PPOConfig(epochs=1, mini_batch_size=4, max_grad_norm=1e9)), model, batch)
    config = GRPOConfig(epochs=1, mini_batch_size=4, num_generations=2, beta=0.1, max_grad_norm=1e9)
    grouped = EpisodeBatch(**(vars(batch) | {"group_size": 2}))
    check_step(GRPO(config), model, grouped)


def _close(ours: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    apart = float((ours - expected).abs().max())
    assert apart < 1e-3, f"{what} are off by {apart:.1g}"


def try_family(family: str) -> Row:
    """What comes of a tiny model of the family."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]
    try:
        model = tiny_model(family)
    except Exception as error:
        return Row(family, name, "not tried", _line(error))
    try:
        found = passes(model)
        check_family(model)
    except PipelineError as error:
        return Row(family, name, "refused", _line(error).removeprefix("model: "))
    except Exception as error:
        return Row(family, name, "WRONG", f"{type(error).__name__}: {_line(error)}")
    if not found.fast_up_to:
        note = "" if found.plain_cache else "samples without a cache"
        return Row(family, name, "plain", note)
    limit = found.fast_up_to
    return Row(family, name, "fast", f"up to {limit:,} tokens" if limit < 1e9 else "")


def _line(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    message = re.sub(rf"{tempfile.gettempdir()}/\w+", "the folder", message)
    return message.replace("|", "/")[:160]


# --- the page ---------------------------------------------------------------------------------------


def rows_of_page() -> dict[str, str]:
    """The table's lines by their families."""
    table = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    return {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}


def write_page(rows: list[Row]) -> None:
    """Puts these rows in the table, in the place of their families' old ones."""
    lines = rows_of_page() | {row.family: str(row) for row in rows}
    counts = Counter(line.split("|")[3].strip() for line in lines.values())
    total = ", ".join(f"{count} {way}" for way, count in counts.most_common())
    head = f"Of {len(lines)} families: {total}.\n\n| family | class | way | |\n| --- | --- | --- | --- |\n"
    body = "".join(f"{lines[family]}\n" for family in sorted(lines))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{head}{body}{END}{after}", encoding="utf-8")


def main() -> None:
    """Tries all families, or those named, and writes their rows; fails if one is wrong."""
    logging.disable_progress_bar()
    chosen = sys.argv[1:] or FAMILIES
    rows = []
    for family in chosen:
        rows.append(try_family(family))
        print(rows[-1], flush=True)
    write_page(rows)
    if any(row.way == "WRONG" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
