"""TRL 0.11's PPO trainer, over `pipeline.training.trainer`."""

import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch.nn.utils.rnn import pad_sequence

from pipeline.algorithms.ppo import KLController
from pipeline.environment import EpisodeBatch
from pipeline.errors import PipelineError
from pipeline.models.lora import adapter_off, has_adapter
from pipeline.models.policy import CausalLMWithValueHead, save_model
from pipeline.models.scoring import TokenBatch, score
from pipeline.training.trainer import PolicyTrainer
from pipeline.trl.algorithm import ScoreScaling, TrlPPO, full_kl, kl_penalty
from pipeline.trl.config import PPOConfig
from pipeline.trl.core import set_seed
from pipeline.trl.models import create_reference_model, push_folder, require_policy

LOGGED = ("label", "query", "response")
"""Columns of a data set that `remove_unused_columns` leaves, beside those that the model takes."""

INNER = ("compute_rewards", "compute_advantages", "loss", "train_minibatch", "_kl_penalty")
"""What a subclass of TRL's trainer may have changed."""


class PPOTrainer:
    """Our trainer, made by TRL's arguments; `step` takes TRL's lists.

    Args:
        config: read anew in each step.
        model: the policy, which is moved to a GPU if there is one.
        ref_model: what the KL is measured from; None for the policy as it is now, or, of a policy with an
            adapter, the policy with its adapter off.
        tokenizer: the model's.
        dataset: comes in shuffled batches as `dataloader`.
        optimizer: None for Adam.
        data_collator: makes a batch of the data set's rows.
        num_shared_layers: so many of the first layers are not trained; only without `ref_model`.
        lr_scheduler: stepped once after each step.

    Raises:
        ValueError: for arguments of other kinds.
        PipelineError: in several processes; for float16.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if own := [name for name in INNER if name in vars(cls)]:
            raise TypeError(
                f"{cls.__name__}.{own[0]} would not be asked: write an algorithm, see docs/extending.md"
            )

    def __init__(
        self,
        config: PPOConfig,
        model: CausalLMWithValueHead,
        ref_model: Any = None,
        tokenizer: Any = None,
        dataset: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        data_collator: Callable[[list], Any] | None = None,
        num_shared_layers: int | None = None,
        lr_scheduler: Any = None,
        training_data_collator: Any = None,
    ) -> None:
        if not isinstance(config, PPOConfig):
            raise ValueError(f"config must be a PPOConfig, not {type(config).__name__}")
        if training_data_collator is not None:
            raise ValueError("training_data_collator: the trainer lines up its batches by itself")
        set_seed(config.seed)
        self.config = config
        self.tokenizer = tokenizer
        self.is_encoder_decoder = False
        self.accelerator = _accelerator(config)
        policy = require_policy(model, "PPOTrainer").to(self.accelerator.device)
        self.is_peft_model = has_adapter(policy.pretrained_model)
        self.ref_model = _reference(policy, ref_model, num_shared_layers)
        if optimizer is None:
            trained = [p for p in policy.parameters() if p.requires_grad]
            optimizer = torch.optim.Adam(trained, lr=config.learning_rate)
        self.model, self.optimizer, self.lr_scheduler = self.accelerator.prepare(
            policy, optimizer, lr_scheduler
        )
        self.dataset = dataset
        self.dataloader = self._loader(dataset, data_collator)
        self.algorithm = TrlPPO(config)
        reference = getattr(self.ref_model, "pretrained_model", self.ref_model)
        self._trainer = PolicyTrainer(
            self.algorithm,
            policy,
            reference and reference.to(self.accelerator.device),
            self.optimizer,
            self.lr_scheduler,
            seed=config.seed,
            autocast=self.accelerator.autocast,
        )
        self._scores = ScoreScaling()
        self._best_score = -np.inf
        self._fill_in(config)
        self.accelerator.init_trackers(
            config.tracker_project_name, config.to_dict(), config.tracker_kwargs
        )

    def _fill_in(self, config: PPOConfig) -> None:
        config.world_size = self.accelerator.num_processes
        config.is_encoder_decoder = self.is_encoder_decoder
        config.is_peft_model = self.is_peft_model
        config.global_backward_batch_size = config.backward_batch_size
        config.global_batch_size = config.batch_size
        if config.push_to_hub_if_best_kwargs and "repo_id" not in config.push_to_hub_if_best_kwargs:
            raise ValueError("push_to_hub_if_best_kwargs: a repo_id is missing")

    def _loader(self, dataset: Any, collate: Callable[[list], Any] | None) -> Any:
        if dataset is None:
            warnings.warn(
                "No dataset is provided: step takes batches of config.batch_size, "
                f"{self.config.batch_size} episodes",
                UserWarning,
                stacklevel=3,
            )
            return None
        if self.config.remove_unused_columns and hasattr(dataset, "remove_columns"):
            used = {*inspect.signature(self.model.forward).parameters, *LOGGED}
            dataset = dataset.remove_columns([c for c in dataset.column_names if c not in used])
        loader: Any = torch.utils.data.DataLoader(
            dataset, self.config.batch_size, shuffle=True, drop_last=True, collate_fn=collate
        )
        return self.accelerator.prepare(loader)

    @property
    def current_device(self) -> torch.device:
        """Where the policy lies."""
        return self.accelerator.device

    @property
    def current_step(self) -> int:
        """How many steps have been done."""
        return self._trainer.steps

    @property
    def kl_ctl(self) -> KLController:
        """What decides the weight of the KL penalty, its `value`."""
        return self.algorithm.kl_controller

    def step(
        self,
        queries: list[torch.Tensor],
        responses: list[torch.Tensor],
        scores: Sequence[float] | Sequence[torch.Tensor],
        response_masks: list[torch.Tensor] | None = None,
    ) -> dict[str, Any]:
        """One iteration of PPO on B episodes, `config.batch_size` of them.

        Args:
            queries: B tensors of token ids, each of at least one token.
            responses: B tensors of token ids; an empty one contributes nothing.
            scores: B numbers, the task's rewards.
            response_masks: B tensors like `responses`, 1 on the model's tokens; None for all of them.

        Returns:
            Statistics by TRL's names. Those that end in `_dist`, and `ppo/policy/advantages`, are arrays;
            the others are numbers.

        Raises:
            ValueError: if the lengths of the arguments do not fit together.
        """
        started = time.perf_counter()
        queries, responses, given, masks = self._step_safety_checker(
            self.config.batch_size, queries, responses, scores, response_masks
        )
        rewards = self._scores.rewards([float(score) for score in given], self.config)
        self._push_if_best(float(np.mean(rewards)))
        batch = batch_of(queries, responses, rewards, masks)
        self.algorithm.take_up()
        self._trainer.config = self.algorithm.config
        # As many tokens at a time as TRL had: it padded all to the longest.
        longest = max(map(len, batch.sequences))
        self._trainer.max_tokens = self.config.mini_batch_size * longest
        self._trainer.gradient_checkpointing = self.config.gradient_checkpointing or getattr(
            self.model, "gradient_checkpointing", False
        )
        if self.config.kl_penalty == "full":
            self.algorithm.full_kl = self._full_kl(batch)
        begun = time.perf_counter()
        stats: dict[str, Any] = self._trainer.step(batch)
        ended = time.perf_counter()
        measured = self.algorithm.measured
        assert measured is not None
        lengths = {
            "queries": np.array([len(query) for query in queries], dtype=float),
            "responses": np.array([len(response) for response in responses], dtype=float),
        }
        return {
            **stats,
            "objective/kl": float(measured.kl.mean()),
            "objective/kl_dist": measured.kl.cpu().numpy(),
            "ppo/policy/advantages": measured.advantages.cpu().numpy(),
            **{
                f"tokens/{name}_len_std": float(x.std(ddof=len(x) > 1))
                for name, x in lengths.items()
            },
            **{f"tokens/{name}_dist": x for name, x in lengths.items()},
            "time/ppo/forward_pass": measured.started - begun,
            "time/ppo/compute_rewards": begun - started,
            "time/ppo/compute_advantages": measured.done - measured.started,
            "time/ppo/optimize_step": ended - measured.done,
            "time/ppo/calc_stats": time.perf_counter() - ended,
            "time/ppo/total": time.perf_counter() - started,
        }

    def _step_safety_checker(
        self,
        batch_size: int | None,
        queries: list[torch.Tensor],
        responses: list[torch.Tensor],
        scores: Sequence[float] | Sequence[torch.Tensor],
        masks: list[torch.Tensor] | None = None,
    ) -> tuple[list, list, list, list | None]:
        """The arguments of `step`, each score without dimensions. Raises ValueError for others."""
        for name, given in {"queries": queries, "responses": responses, "scores": scores}.items():
            if not isinstance(given, list | tuple | torch.Tensor | np.ndarray):
                raise ValueError(f"{name} must be a list, not {type(given).__name__}")
            if batch_size is not None and len(given) != batch_size:
                raise ValueError(
                    f"step takes config.batch_size episodes, {batch_size}; got {len(given)} {name}"
                )
        numbers = [torch.as_tensor(score) for score in scores]
        if wrong := [number for number in numbers if number.dim() > 1 or number.numel() != 1]:
            raise ValueError(f"a score is a number for each episode, not {wrong[0].tolist()}")
        return (
            list(queries),
            list(responses),
            [number.reshape(()) for number in numbers],
            None if masks is None else list(masks),
        )

    def _full_kl(self, batch: EpisodeBatch) -> torch.Tensor:
        own = self.model.pretrained_model
        alone = self.ref_model is None
        tokens = TokenBatch.of(batch.sequences, batch.prompt_lengths)
        with self.accelerator.autocast():
            return full_kl(
                own,
                self._trainer.reference,
                adapter_off(own) if alone else nullcontext(),
                tokens,
                [len(mask) for mask in batch.masks],
            )

    def _kl_penalty(self, logprob: torch.Tensor, ref_logprob: torch.Tensor) -> torch.Tensor:
        return kl_penalty(self.config.kl_penalty, logprob, ref_logprob)

    def _push_if_best(self, score: float) -> None:
        options = self.config.push_to_hub_if_best_kwargs
        due = self.current_step % self.config.compare_steps == 0
        if options and due and score > self._best_score:
            self._best_score = score
            self.push_to_hub(**options)

    def generate(
        self,
        query_tensor: torch.Tensor | list[torch.Tensor],
        length_sampler: Callable[[], int] | None = None,
        batch_size: int = 4,
        return_prompt: bool = True,
        generate_ref_response: bool = False,
        **generation_kwargs: Any,
    ) -> Any:
        """What the model's own `generate` writes after token ids.

        Args:
            query_tensor: one tensor, (length,), or a list of them.
            length_sampler: draws `max_new_tokens`, for each batch.
            batch_size: how many queries of a list go together.
            return_prompt: whether the query stands before what is written.
            generate_ref_response: whether the reference writes, too.
            generation_kwargs: of `generate` in transformers.

        Returns:
            (1, length) for a tensor; for a list a list of tensors, each without padding. With
            `generate_ref_response` a pair, the reference's second.
        """
        alone = isinstance(query_tensor, torch.Tensor)
        queries: list[torch.Tensor] = [query_tensor] if alone else list(query_tensor)  # type: ignore
        if wrong := [query for query in queries if query.dim() != 1]:
            raise ValueError(
                f"query_tensor has the shape {tuple(wrong[0].shape)}: it must be of shape (length,), or a list "
                "of such"
            )
        options = _plain(generation_kwargs, self.model.config.vocab_size)

        def written(model: Any) -> Any:
            outputs = []
            for start in range(0, len(queries), batch_size):
                if length_sampler is not None:
                    options["max_new_tokens"] = length_sampler()
                part = queries[start : start + batch_size]
                outputs += self._written(model, part, return_prompt, options)
            return outputs[0][None] if alone else outputs

        own = self.model.pretrained_model
        response = written(own)
        if not generate_ref_response:
            return response
        with adapter_off(own) if self.ref_model is None else nullcontext():
            return response, written(self._trainer.reference)

    @torch.no_grad()
    def _written(
        self, model: Any, queries: list[torch.Tensor], prompt: bool, options: dict[str, Any]
    ) -> list[torch.Tensor]:
        """What a model writes after queries that go together, each up to its end of text."""
        end = options.get("eos_token_id", self.tokenizer.eos_token_id)
        tokens, mask = (
            pad_sequence(x, batch_first=True, padding_side="left").to(self.current_device)
            for x in (queries, [torch.ones_like(query) for query in queries])
        )
        texts = model.generate(
            input_ids=tokens, attention_mask=mask, **{"pad_token_id": 0, **options}
        )
        outputs = []
        for query, text in zip(queries, texts):
            response = text[tokens.shape[1] :]
            ends = (response == end).nonzero() if isinstance(end, int) else response.new_zeros(0, 1)
            if len(ends):
                response = response[: int(ends[0]) + 1]
            outputs.append(torch.cat([query.to(response), response]) if prompt else response)
        return outputs

    def prepare_model_inputs(
        self, queries: Sequence[torch.Tensor], responses: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """B queries with their responses, padded on the right: `input_ids` and `attention_mask`, (B, T)."""
        rows = [torch.cat([query, response]) for query, response in zip(queries, responses)]
        masks = [torch.ones_like(row) for row in rows]
        return {
            "input_ids": pad_sequence(rows, batch_first=True).to(self.current_device),
            "attention_mask": pad_sequence(masks, batch_first=True).to(self.current_device),
        }

    @torch.no_grad()
    def batched_forward_pass(
        self,
        model: Any,
        queries: Sequence[torch.Tensor],
        responses: Sequence[torch.Tensor],
        model_inputs: Mapping[str, torch.Tensor],
        return_logits: bool = False,
        response_masks: Sequence[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, None, torch.Tensor, torch.Tensor]:
        """What a policy says of B queries with their responses.

        Args:
            model_inputs: what `prepare_model_inputs` makes of them; not needed.
            return_logits: not supported.
            response_masks: 1 on the tokens of the responses that count; None for all.

        Returns:
            Log-probabilities, (B, T - 1); None; values of the states before each token, (B, T - 1); and the
            mask, (B, T - 1). Column t is about token t + 1.
        """
        if return_logits:
            raise ValueError("return_logits: the trainer keeps no logits; call the model for them")
        batch = batch_of(queries, responses, [0.0] * len(queries), response_masks)
        tokens = TokenBatch([list(sequence) for sequence in batch.sequences], 0)
        scores = score(model, tokens)
        mask = tokens.place(batch.masks).long().to(scores.logprobs.device)
        return scores.logprobs, None, scores.values[:, :-1], mask

    def log_stats(
        self,
        stats: Mapping[str, Any],
        batch: Mapping[str, Sequence],
        rewards: Sequence[float] | Sequence[torch.Tensor] | torch.Tensor,
        columns_to_log: Sequence[str] = ("query", "response"),
    ) -> None:
        """Tells the tracker `log_with` of a step's statistics and rewards; W&B of its texts, too.

        Args:
            batch: the step's texts, by column. Columns that it lacks are not logged.
        """
        given = torch.tensor([float(reward) for reward in rewards])
        self.accelerator.log(
            {
                **stats,
                "env/reward_mean": float(given.mean()),
                "env/reward_std": float(given.std(correction=int(len(given) > 1))),
                "env/reward_dist": given.numpy(),
            },
            step=self.current_step,
        )
        columns = [column for column in columns_to_log if column in batch]
        rows = [list(row) for row in zip(*(batch[column] for column in columns), given.tolist())]
        for tracker in self.accelerator.trackers:
            if tracker.name == "wandb":
                tracker.log_table("game_log", [*columns, "reward"], rows, step=self.current_step)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes the policy, or its adapter and value head, and the tokenizer."""
        save_model(self.model, self.tokenizer, Path(save_directory))

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Sends what `save_pretrained` writes to the hub; see `push_folder`."""
        return push_folder(self.save_pretrained, repo_id, **options)


def _accelerator(config: PPOConfig) -> Accelerator:
    """Raises PipelineError for what the trainer cannot do with it."""
    accelerator = Accelerator(
        **{
            "log_with": config.log_with,
            "cpu": not torch.cuda.is_available(),
            "project_config": ProjectConfiguration(**config.project_kwargs),
            **config.accelerator_kwargs,
        }
    )
    if accelerator.num_processes > 1:
        raise PipelineError(
            f"pipeline.trl: {accelerator.num_processes} processes would each train a policy of their own: "
            "start the script in one, or train by the stages, which run in several"
        )
    if accelerator.mixed_precision == "fp16":
        raise PipelineError(
            "mixed_precision fp16: small gradients would be lost; bf16 is supported"
        )
    return accelerator


def _reference(policy: Any, given: Any, num_shared_layers: int | None) -> Any:
    """What the KL is measured from; None for the policy with its adapter off."""
    if given is not None:
        if num_shared_layers is not None:
            warnings.warn(
                "num_shared_layers changes nothing where ref_model is given",
                UserWarning,
                stacklevel=3,
            )
        if not hasattr(getattr(given, "pretrained_model", given), "get_output_embeddings"):
            raise ValueError(
                f"ref_model must be an AutoModelForCausalLMWithValueHead, not {type(given).__name__}"
            )
        return given
    if has_adapter(policy.pretrained_model):
        return None
    return create_reference_model(policy, num_shared_layers)


def _plain(options: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """The arguments of `generate`, less those that TRL's scripts gave to say "none"."""
    plain = dict(options)
    if plain.get("min_length") == -1:
        del plain["min_length"]
    end = plain.get("eos_token_id")
    if isinstance(end, int) and not 0 <= end < vocabulary:
        plain["eos_token_id"] = None
    if "top_k" in plain:
        plain["top_k"] = int(plain["top_k"] or 0)
    return plain


def batch_of(
    queries: Sequence[torch.Tensor],
    responses: Sequence[torch.Tensor],
    scores: Sequence[float] | Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor] | None = None,
) -> EpisodeBatch:
    """TRL's lists as a batch. Raises ValueError if they are not of the same length."""
    given = [torch.ones_like(r) for r in responses] if masks is None else masks
    counts = [len(queries), len(responses), len(scores), len(given)]
    if len(set(counts)) != 1:
        raise ValueError(
            "step needs as many queries, responses, scores and masks as episodes; got "
            + ", ".join(map(str, counts))
        )
    return EpisodeBatch(
        sequences=[[*q.tolist(), *r.tolist()] for q, r in zip(queries, responses)],
        prompt_lengths=[len(query) for query in queries],
        masks=[mask.bool().tolist() for mask in given],
        rewards=[float(score) for score in scores],
        truncated=[False] * len(scores),
    )
