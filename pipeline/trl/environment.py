"""TRL 0.11's text environment and its episodes, over `pipeline.environment`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline import environment
from pipeline.chance import Place
from pipeline.environment.calling import Answer
from pipeline.environment.environment import TOOL_TIMEOUT
from pipeline.environment.history import STYLES, EndReason, Segment, coloured_text
from pipeline.environment.protocol import CUT_MARK, Protocol, Tags, Turn
from pipeline.models.policy import CausalLMWithValueHead
from pipeline.models.sampling import TorchSampler
from pipeline.tools.protocol import CALL, REQUEST, RESPONSE, SUBMIT, ending_tag
from pipeline.trl.models import require_policy

HARMLESS: dict[str, tuple] = {
    "bad_words_ids": (None,),
    "diversity_penalty": (0, None),
    "early_stopping": (False, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1, None),
    "epsilon_cutoff": (0, None),
    "eta_cutoff": (0, None),
    "length_penalty": (1, None),
    "max_length": (None,),
    "min_length": (-1, 0, None),
    "min_new_tokens": (-1, 0, None),
    "no_repeat_ngram_size": (0, None),
    "num_beam_groups": (1, None),
    "num_beams": (1, None),
    "num_return_sequences": (1, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
    "output_scores": (False, None),
    "penalty_alpha": (0, None),
    "repetition_penalty": (1, None),
    "return_dict_in_generate": (False, None),
    "top_k": (0, None),
    "top_p": (1, None),
    "typical_p": (1, None),
    "use_cache": (True, False, None),
}
"""`generation_kwargs` that change nothing at these values."""

WARPERS = ("top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "temperature")
"""`generation_kwargs` that change nothing where nothing is sampled."""

KNOWN = ("do_sample", "max_new_tokens", "seed", "temperature")
"""`generation_kwargs` that are done."""

REPLACEABLE = ("run", "generate", "step", "compute_reward")
"""Methods that a subclass may have of its own: they are asked in every run."""


@dataclass(frozen=True)
class Sampling:
    """What `generation_kwargs` come to."""

    do_sample: bool
    max_new_tokens: int
    seed: int | None


def sampling(generation_kwargs: Mapping[str, Any], tokenizer: Any) -> Sampling:
    """What the arguments of `generate` ask for.

    Raises:
        ValueError: for what is not supported, and would change what is sampled.
    """
    options = {"do_sample": False, **generation_kwargs}  # the default of `generate`
    for name in ("pad_token_id", "bos_token_id"):
        options.pop(name, None)
    end = options.pop("eos_token_id", None)
    for token in end if isinstance(end, list | tuple) else [end]:
        if token not in (None, tokenizer.eos_token_id) and 0 <= token < len(tokenizer):
            raise ValueError(
                f"eos_token_id {token}: a turn ends at a tag or the tokenizer's end of text "
                f"({tokenizer.eos_token_id})"
            )
    for name in list(options):
        if options[name] in HARMLESS.get(name, ()) or (
            name in WARPERS and not options["do_sample"]
        ):
            del options[name]
    if options.get("temperature", 1) not in (1, None):
        raise ValueError(
            f"temperature {options['temperature']}: `step` takes episodes to be sampled at 1; "
            "PolicyTrainer of pipeline.training.trainer has an argument for others"
        )
    if unknown := sorted(options.keys() - set(KNOWN)):
        raise ValueError(
            f"unknown generation_kwargs {unknown}; known are {sorted(KNOWN)}, and others at values that "
            "change nothing"
        )
    return Sampling(
        bool(options["do_sample"]), options.get("max_new_tokens") or 32, options.get("seed")
    )


class TextHistory(environment.TextHistory):
    """An episode, with TRL's tensors and spans.

    `tokens` may be a tensor, too. `reward` is what the reward function returned.
    """

    reward: Any
    place: Place | None = None
    """Where the environment rolls it out."""

    @property
    def tokens(self) -> torch.Tensor:
        """All token ids, shape (length,), int64."""
        return torch.tensor(self.token_ids)

    @property
    def token_masks(self) -> torch.Tensor:
        """1 on the model's tokens, 0 elsewhere, shape (length,), int64."""
        return torch.tensor(self.mask).long()

    @property
    def text_spans(self) -> list[tuple[int, int]]:
        """Each segment's first character and the one after its last."""
        return _spans([len(segment.text) for segment in self.segments])

    @property
    def token_spans(self) -> list[tuple[int, int]]:
        """Each segment's first token and the one after its last."""
        return _spans([len(segment.tokens) for segment in self.segments])

    @property
    def system_spans(self) -> list[bool]:
        """Which segments the environment wrote."""
        return [segment.system for segment in self.segments]

    @property
    def last_token_segment(self) -> torch.Tensor:
        """The token ids of the last segment."""
        return torch.tensor(self.segments[-1].tokens)

    def complete(self, reason: EndReason | None = None, truncated: bool = False) -> None:
        """Ends the episode; without a reason, because the model has ended it, or a length limit."""
        ended = EndReason.MAX_LENGTH if truncated else EndReason.END_OF_TEXT
        if not truncated and ending_tag(self.last_text_segment) == SUBMIT:
            ended = EndReason.SUBMITTED
        super().complete(ended if reason is None else reason)

    def split_query_response_tokens(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The prompt's tokens, all tokens after it, and the latter's mask."""
        split = len(self.segments[0].tokens)
        return self.tokens[:split], self.tokens[split:], self.token_masks[split:]

    def show_colour_legend(self) -> None:
        """Prints what the colours of `show_text` mean."""
        from rich.console import Console

        Console().print(coloured_text([(name, f"{name.capitalize()} ") for name in STYLES]))


def _spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return list(zip([0, *ends[:-1]], ends))


class TextEnvironment(environment.TextEnvironment):
    """Our environment, made by TRL's arguments.

    Args:
        model: the policy.
        tokenizer: the model's.
        tools: a mapping, or a list of tools that go by the names of their classes; see `environment`.
        reward_fn: called as `reward_fn(answers, **reward_kwargs)`; see `environment`.
        prompt: the few-shot prompt before every question.
        max_turns: how many times a model may write in an episode.
        max_tool_reponse: how many characters of a tool's output enter the text. The argument is
            misspelled as it was in TRL; the attribute is `max_tool_response`.
        max_length: how many tokens an episode may have in all.
        generation_kwargs: `max_new_tokens` (a turn's limit), `do_sample` and `seed`; without a seed,
            torch's own, which `set_seed` and `PPOTrainer` set. Others are refused, but for values that
            change nothing. They are read in every run.
        tool_timeout: seconds that a call may take; ours.

    Raises:
        ValueError: for `generation_kwargs` that are not supported, and as `environment` does.
    """

    episode_type = TextHistory

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        unasked = ("parse_tool_call", "task_end_check", "tasks_end_check", "_generate_batched")
        if own := [name for name in unasked if name in vars(cls)]:
            raise TypeError(
                f"{cls.__name__}.{own[0]} would not be asked: a subclass of TextEnvironment may have its own "
                f"{', '.join(REPLACEABLE)}"
            )

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
        self.model = require_policy(model, "TextEnvironment")
        self.tokenizer = tokenizer
        self.generation_kwargs = dict(generation_kwargs or {})
        self.runs = 0
        self._stepping: TextHistory | None = None
        self._sampled = self._sampling()
        self._prompt = prompt
        super().__init__(
            self._make_sampler(),
            tokenizer,
            tools,
            reward_fn,
            prompt,
            max_turns,
            self._sampled[0].max_new_tokens,
            max_tool_reponse,
            max_length,
            tool_timeout,
        )

    @property
    def prompt(self) -> str:
        """The few-shot prompt; a script may give another."""
        return self._prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self._prompt = prompt
        self.protocol: Protocol = Tags(self.tokenizer, prompt)
        self.codec = self.protocol.codec

    request_token = property(lambda self: REQUEST)
    call_token = property(lambda self: CALL)
    response_token = property(lambda self: RESPONSE)
    submit_token = property(lambda self: SUBMIT)

    @property
    def current_device(self) -> torch.device:
        """Where the model lies."""
        return self.model.v_head.weight.device

    def run(
        self, queries: Sequence[str], **rewards_kwargs: Any
    ) -> tuple[
        list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[Any], list[TextHistory]
    ]:
        """Rolls out one episode for each query.

        Returns:
            queries: the prompts' token ids, each of shape (query length,).
            responses: all token ids after them, each of shape (response length,).
            masks: 1 on the model's tokens in `responses`, 0 on the tools'; all 0 for an episode in
                which a tool failed by itself, which `step` then does not learn from.
            rewards: what the reward function returned for each episode.
            histories: the episodes themselves.
        """
        self._take_up_kwargs()
        histories: Any = self.rollout(queries, self.seed, self.runs, **rewards_kwargs)
        self.runs += 1
        split = [history.split_query_response_tokens() for history in histories]
        masks = [
            torch.zeros_like(mask) if history.outage else mask
            for (_, _, mask), history in zip(split, histories)
        ]
        rewards = [history.reward for history in histories]
        return [query for query, _, _ in split], [r for _, r, _ in split], masks, rewards, histories

    def generate(self, histories: list[TextHistory]) -> list[TextHistory]:
        """Lets the model write once in every episode that has not ended, and ends those that are done."""
        self._take_up_kwargs()
        active = [history for history in histories if not history.completed]
        places = [
            history.place or Place(self.seed, self.runs, number)
            for number, history in enumerate(active)
        ]
        super()._model_turn(active, places)  # type: ignore[arg-type]  # they are episodes
        return histories

    def step(self, history: TextHistory) -> TextHistory:
        """Answers the call that the episode's last segment makes, however little room there is for it.

        Ends the episode if there is no call.
        """
        self.tasks_end_check([history])
        if not history.completed:
            self._stepping = history
            super()._tool_turn([history])
            self._stepping = None
        return history

    def parse_tool_call(self, text: str) -> tuple[str | None, str | None]:
        """The tool that a model's turn calls and its input; None and None if that is no call."""
        call = self.protocol.call(text)
        return (call.tool, call.argument) if call else (None, None)

    def compute_reward(
        self, histories: list[TextHistory], **reward_kwargs: Any
    ) -> list[TextHistory]:
        """Gives each episode what the reward function returns for its answer.

        Raises TypeError if that is no number for each.
        """
        rewards = self.reward_fn([history.answer_text for history in histories], **reward_kwargs)
        rewards = list(rewards) if isinstance(rewards, Iterator) else rewards
        self._numbers(rewards, len(histories))
        for history, reward in zip(histories, rewards):
            history.reward = reward
        return histories

    def tasks_end_check(
        self, histories: list[TextHistory], model_turn: bool = True
    ) -> list[TextHistory]:
        """Ends the episodes that `task_end_check` finds at their end."""
        for history in histories:
            truncated, ended = self.task_end_check(history, model_turn)
            if ended:
                history.complete(truncated=truncated)
        return histories

    def task_end_check(self, history: TextHistory, model_turn: bool = True) -> tuple[bool, bool]:
        """Whether an episode is cut off by its length, and whether it ends; after a tool's turn, or the model's."""
        if history.completed:
            return False, False
        if self._room(history) < 0:
            return True, True
        turn = self.protocol.turn(history.last_text_segment)
        return False, turn is Turn.ANSWER or (model_turn and turn is Turn.UNENDED)

    def _generate_batched(
        self, query_tensors: Sequence[torch.Tensor], batch_size: int = 16
    ) -> list[torch.Tensor]:
        """What the model writes after token ids, (length,) each, until a tag or the end of its turn."""
        self._take_up_kwargs()
        written = []
        for start in range(0, len(query_tensors), batch_size):
            contexts = [query.tolist() for query in query_tensors[start : start + batch_size]]
            places = [Place(self.seed, self.runs, start + i) for i in range(len(contexts))]
            limits = [self.max_new_tokens] * len(contexts)
            written += self.sampler.generate(contexts, limits, self.protocol.stop_strings, places)
        return [torch.tensor(continuation.tokens) for continuation in written]

    @property
    def seed(self) -> int:
        """What the samples are drawn from: `generation_kwargs["seed"]`, or the seed that torch has."""
        seed = self._sampled[0].seed
        return torch.initial_seed() % 2**32 if seed is None else seed

    def _sampling(self) -> tuple[Sampling, torch.device]:
        return sampling(self.generation_kwargs, self.tokenizer), self.current_device

    def _make_sampler(self) -> TorchSampler:
        return TorchSampler(
            self.model.pretrained_model, self.tokenizer, do_sample=self._sampled[0].do_sample
        )

    def _take_up_kwargs(self) -> None:
        """A script may have changed `generation_kwargs` since, or moved the model."""
        if (now := self._sampling()) != self._sampled:
            self._sampled = now
            self.sampler = self._make_sampler()
            self.max_new_tokens = now[0].max_new_tokens

    # --- what our environment does in a rollout, by TRL's methods ---------------------------------

    def _model_turn(self, histories: Any, places: list[Place]) -> None:
        for history, place in zip(histories, places):
            history.place = place
        self.generate(histories)
        self.tasks_end_check(histories)

    def _tool_turn(self, histories: Any) -> None:
        if type(self).step is TextEnvironment.step:
            super()._tool_turn(histories)  # side by side
            return
        for history in histories:
            self.step(history)
            if self._room(history) < 0:  # an answer without room would have no positions
                history.segments.pop()
                history.complete(truncated=True)

    def _room(self, history: Any) -> float:
        return math.inf if history is self._stepping else super()._room(history)

    def _reward(self, episodes: Any, **reward_kwargs: Any) -> None:
        self.compute_reward(episodes, **reward_kwargs)

    def _response(self, said: str, answer: Answer) -> tuple[list[Segment], bool]:
        """What follows a turn with a call, and whether the answer was cut: the limit is in characters."""
        cut = answer.cut or len(answer.text) > self.max_tool_response
        text = answer.text
        if cut:
            text = text[: max(0, self.max_tool_response - len(CUT_MARK))] + CUT_MARK
        return self.protocol.response(said, text), cut
