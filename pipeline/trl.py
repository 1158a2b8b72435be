"""For scripts written for TRL 0.11: its names and arguments, over this project's environment and trainer.

Such a script runs after `from trl import ...` became `from pipeline.trl import ...`. What an argument
asked for is done, or refused with a reason; nothing is left out in silence but what only changes how
fast TRL runs or what it logs. `docs/trl.md` says what differs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from pipeline import environment
from pipeline.algorithms import ppo
from pipeline.algorithms.ppo import PPO
from pipeline.environment.environment import TOOL_TIMEOUT
from pipeline.models.policy import CausalLMWithValueHead, load_value_head, save_model
from pipeline.models.sampling import TorchSampler
from pipeline.tools.calculator import calculate
from pipeline.training.trainer import PolicyTrainer

__all__ = [
    "AutoModelForCausalLMWithValueHead",
    "PPOConfig",
    "PPOTrainer",
    "TextEnvironment",
    "TextHistory",
    "load_tool",
]

HARMLESS: dict[str, tuple] = {"min_length": (-1, 0), "top_k": (0, None), "top_p": (1, None)}
"""`generation_kwargs` that change nothing at these values."""

UNLIMITED = 1e9
"""More than any norm or KL."""


class SimpleCalculatorTool:
    """The calculator, under the name by which TRL's examples call it: the class of the hub's tool."""

    def __call__(self, expression: str) -> str:
        return calculate(expression)


def load_tool(name: str, **options: Any) -> Callable[[str], str]:
    """In place of `transformers.load_tool`: the calculator that TRL's example fetched from the hub."""
    if name != "ybelkada/simple-calculator":
        raise ValueError(
            f"no tool {name!r} here; pass the environment a callable from text to text"
        )
    return SimpleCalculatorTool()


class AutoModelForCausalLMWithValueHead:
    """Makes policies."""

    @staticmethod
    def from_pretrained(model: Any, **options: Any) -> CausalLMWithValueHead:
        """A policy from a causal language model, its folder, or its name on the hub.

        Raises TypeError for options; TRL's quantized the model or added adapters.
        """
        if options:
            raise TypeError(f"from_pretrained takes a model only, not {', '.join(options)}")
        if not isinstance(model, str | Path):
            return CausalLMWithValueHead(model)
        policy = CausalLMWithValueHead(
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        )
        load_value_head(policy, Path(model))
        return policy


@dataclass
class PPOConfig:
    """TRL 0.11's, with its defaults, less what is not supported."""

    learning_rate: float = 1.41e-5
    batch_size: int = 128
    mini_batch_size: int = 128
    ppo_epochs: int = 4
    adap_kl_ctrl: bool = True
    init_kl_coef: float = 0.2
    target: float = 6.0
    horizon: float = 10000.0
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    max_grad_norm: float | None = None
    ratio_threshold: float = 10.0
    early_stopping: bool = False
    target_kl: float = 1.0
    seed: int = 0
    log_with: str | None = None  # one of accelerate's trackers
    tracker_project_name: str = "trl"
    tracker_kwargs: dict[str, Any] = field(default_factory=dict)
    # For the script's own use.
    exp_name: str = ""
    model_name: str = ""
    task_name: str | None = None
    steps: int = 20000
    query_dataset: str = ""
    reward_model: str = ""
    remove_unused_columns: bool = True
    # What only made TRL faster, or smaller in memory.
    gradient_checkpointing: bool = False
    optimize_cuda_cache: bool | None = None
    optimize_device_cache: bool = False

    def ours(self) -> ppo.PPOConfig:
        """What it means to our trainer."""
        return ppo.PPOConfig(
            learning_rate=self.learning_rate,
            mini_batch_size=self.mini_batch_size,
            epochs=self.ppo_epochs,
            adap_kl_ctrl=self.adap_kl_ctrl,
            init_kl_coef=self.init_kl_coef,
            target_kl_episode=self.target,
            horizon=self.horizon,
            gamma=self.gamma,
            lam=self.lam,
            cliprange=self.cliprange,
            cliprange_value=self.cliprange_value,
            vf_coef=self.vf_coef,
            max_grad_norm=self.max_grad_norm or UNLIMITED,
            ratio_threshold=self.ratio_threshold,
            target_kl_update=self.target_kl if self.early_stopping else UNLIMITED,
        )


class PPOTrainer(PolicyTrainer):
    """Our trainer, made by TRL's arguments; `step` takes TRL's lists."""

    def __init__(
        self,
        config: PPOConfig,
        model: CausalLMWithValueHead,
        ref_model: CausalLMWithValueHead | None = None,
        tokenizer: Any = None,
        dataset: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        data_collator: Callable[[list], Any] | None = None,
        *,
        lr_scheduler: Any = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.accelerator = Accelerator(log_with=config.log_with, cpu=not torch.cuda.is_available())
        model.to(self.accelerator.device)
        super().__init__(
            PPO(config.ours()),
            model,
            ref_model and ref_model.pretrained_model.to(self.accelerator.device),
            optimizer or torch.optim.Adam(model.parameters(), lr=config.learning_rate),
            lr_scheduler,
            seed=config.seed,
        )
        self.tokenizer = tokenizer
        self.dataloader = dataset and torch.utils.data.DataLoader(
            dataset, config.batch_size, shuffle=True, drop_last=True, collate_fn=data_collator
        )
        self.accelerator.init_trackers(
            config.tracker_project_name, asdict(config), config.tracker_kwargs
        )

    def step(  # type: ignore[override]
        self,
        queries: Sequence[torch.Tensor],
        responses: Sequence[torch.Tensor],
        scores: Sequence[float] | Sequence[torch.Tensor],
        response_masks: Sequence[torch.Tensor] | None = None,
    ) -> dict[str, float]:
        """One iteration of PPO on B episodes.

        Args:
            queries: B tensors of token ids, each of at least one token.
            responses: B tensors of token ids; an empty one contributes nothing.
            scores: B numbers, the task's rewards.
            response_masks: B tensors like `responses`, 1 on the model's tokens; None for all of them.

        Returns:
            Statistics by TRL's names.

        Raises:
            ValueError: if the lengths of the arguments do not fit together.
        """
        return super().step(batch_of(queries, responses, scores, response_masks))

    @property
    def model(self) -> CausalLMWithValueHead:
        """The policy."""
        return self.policy

    @property
    def ref_model(self) -> Any:
        """The reference, without a value head."""
        return self.reference

    def log_stats(
        self,
        stats: Mapping[str, float],
        batch: Mapping[str, Sequence],
        rewards: Sequence[float] | Sequence[torch.Tensor],
        columns_to_log: Sequence[str] = ("query", "response"),
    ) -> None:
        """Tells the tracker `log_with` of a step's statistics and rewards, not of its texts."""
        given = torch.tensor([float(reward) for reward in rewards])
        self.accelerator.log(
            {
                **stats,
                "env/reward_mean": float(given.mean()),
                "env/reward_std": float(given.std()),
            }
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the policy and the tokenizer."""
        save_model(self.policy, self.tokenizer, Path(folder))


class TextHistory(environment.TextHistory):
    """An episode, with TRL's tensors."""

    @classmethod
    def of(cls, episode: environment.TextHistory) -> "TextHistory":
        history = cls.__new__(cls)
        vars(history).update(vars(episode))
        return history

    @property
    def tokens(self) -> torch.Tensor:
        """All token ids, shape (length,), int64."""
        return torch.tensor(self.token_ids)

    @property
    def token_masks(self) -> torch.Tensor:
        """1 on the model's tokens, 0 elsewhere, shape (length,), int64."""
        return torch.tensor(self.mask).long()

    def split_query_response_tokens(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The prompt's tokens, all tokens after it, and the latter's mask."""
        split = len(self.segments[0].tokens)
        return self.tokens[:split], self.tokens[split:], self.token_masks[split:]


class TextEnvironment(environment.TextEnvironment):
    """Our environment, made by TRL's arguments; `max_tool_reponse`, as it was spelled, is in tokens.

    `tool_timeout` is ours. `generation_kwargs` may hold `max_new_tokens` (a turn's limit), `do_sample` and `seed`; others are
    refused, but for values that change nothing.
    """

    def __init__(
        self,
        model: CausalLMWithValueHead,
        tokenizer: Any,
        tools: Any,
        reward_fn: Callable[..., Sequence],
        prompt: str,
        max_turns: int = 4,
        max_tool_reponse: int = 100,
        max_length: int | None = None,
        generation_kwargs: Mapping[str, Any] | None = None,
        *,
        tool_timeout: float = TOOL_TIMEOUT,
    ) -> None:
        options = {"do_sample": False, **(generation_kwargs or {})}  # the default of `generate`
        options.pop("pad_token_id", None)
        end = options.pop("eos_token_id", None)
        if end not in (None, -1, tokenizer.eos_token_id):
            raise ValueError(
                f"eos_token_id {end}: a turn ends at a tag or the tokenizer's end of text "
                f"({tokenizer.eos_token_id})"
            )
        for name, harmless in HARMLESS.items():
            if options.get(name) in harmless:
                options.pop(name, None)
        if options["do_sample"] and options.get("temperature", 1) != 1:
            raise ValueError(
                f"temperature {options['temperature']}: `step` takes episodes to be sampled at 1; "
                "PolicyTrainer of pipeline.training.trainer has an argument for others"
            )
        known = {"do_sample", "max_new_tokens", "seed", "temperature"}
        if unknown := options.keys() - known:
            raise ValueError(
                f"unknown generation_kwargs {sorted(unknown)}; known are {sorted(known)}"
            )
        self.seed = options.get("seed", 0)
        self.runs = 0
        super().__init__(
            TorchSampler(model.pretrained_model, tokenizer, do_sample=options["do_sample"]),
            tokenizer,
            tools,
            reward_fn,
            prompt,
            max_turns,
            options.get("max_new_tokens", 32),
            max_tool_reponse,
            max_length,
            tool_timeout,
        )

    def run(
        self, tasks: Sequence[str], **reward_kwargs: Any
    ) -> tuple[
        list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[float], list[TextHistory]
    ]:
        """Rolls out one episode for each task.

        Returns:
            queries: the prompts' token ids, each of shape (query length,).
            responses: all token ids after them, each of shape (response length,).
            masks: 1 on the model's tokens in `responses`, 0 on the tools'; all 0 for an episode in
                which a tool failed by itself, which `step` then does not learn from.
            rewards: a number for each episode.
            histories: the episodes themselves.
        """
        episodes = self.rollout(tasks, self.seed, self.runs, **reward_kwargs)
        self.runs += 1
        histories = [TextHistory.of(episode) for episode in episodes]
        queries, responses, masks = zip(*(h.split_query_response_tokens() for h in histories))
        trained = [
            torch.zeros_like(mask) if history.outage else mask
            for mask, history in zip(masks, histories)
        ]
        rewards = [history.reward for history in histories]
        return list(queries), list(responses), trained, rewards, histories


def batch_of(
    queries: Sequence[torch.Tensor],
    responses: Sequence[torch.Tensor],
    scores: Sequence[float] | Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor] | None = None,
) -> environment.EpisodeBatch:
    """TRL's lists as a batch. Raises ValueError if they are not of the same length."""
    given = [torch.ones_like(r) for r in responses] if masks is None else masks
    counts = [len(queries), len(responses), len(scores), len(given)]
    if len(set(counts)) != 1:
        raise ValueError(
            "step needs as many queries, responses, scores and masks as episodes; got "
            + ", ".join(map(str, counts))
        )
    return environment.EpisodeBatch(
        sequences=[[*q.tolist(), *r.tolist()] for q, r in zip(queries, responses)],
        prompt_lengths=[len(query) for query in queries],
        masks=[mask.bool().tolist() for mask in given],
        rewards=[float(score) for score in scores],
        truncated=[False] * len(scores),
    )
