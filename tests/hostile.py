"""Hostile transcripts: drawn by Hypothesis, played through the environment by a scripted sampler."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from pipeline.chance import number_of
from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
from pipeline.environment.tokens import EpisodeCodec
from pipeline.models.sampler import Continuation, StopReason
from pipeline.models.stops import Stops
from pipeline.models.text import well_formed
from pipeline.tasks import Demonstration, ShownCall, Task, load_task
from pipeline.tools import BatchTool, ErrorKind, ToolError, ToolResponse
from pipeline.tools.protocol import STOP_STRINGS, TAGS
from pipeline.tools.wiki.process import Hit
from tests.tokenizers import FAMILIES

TOOL_NAMES = {
    "arithmetic": "SimpleCalculatorTool",
    "gsm8k": "PythonInterpreter",
    "trivia": "Wiki",
    "triviaqa": "Wiki",
    "word_problems": "PythonInterpreter",
}

CONTROLS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<eos>", "<bos>", "<pad>"),
    *("<unk>", "[CLS]", "[SEP]", "[UNK]", "[INST]", "<|sep|>", "<tool_call>", "<think>"),
)
PARTS = ("<", ">", "<cal", "l>", "<submit", "it>", "<|im_", "_end|>", "</", "s>", "[", "<0x3C>")
CHARACTERS = (
    *(
        " ",
        "\n",
        "\t",
        "    ",
        "\0",
        "\x1b",
        "\x7f",
        "\r\n",
        "\u2028",
        "\ufeff",
        "\ufffd",
        "\ufdd0",
    ),
    *(
        "é",
        "e\u0301",
        "日本",
        "😀",
        "\ud83d",
        "\ude00",
        "\u202e",
        "＜call＞",
        "＜s＞",
        "ﬁ",
        "▁",
        "Ġ",
    ),
    *("&amp;", "<b>", "</script>", "{{", "%s", "\\", '"', "'", ",", "."),
)
TALK = ("Result=", "Result = ", "7.5", "7", ",5", "-", "1" * 40, "the", "Tirana", "nan", "e9", "٧")
TEXTS = (*TAGS, *CONTROLS, *PARTS, *CHARACTERS, *TALK)
CALLS = ("<request><TOOL>", "<request><TOOL>7+1<call>", "<request><NONE>x<call>")
ENDINGS = ("Result=7.5<submit>", "\nResult = 7.5 <submit>", "Result=Tirana<submit>")

text = st.lists(st.sampled_from(TEXTS), max_size=6).map("".join) | st.text(max_size=8)
END = "END"
"""Stands for the end-of-text token in a turn."""

turn = st.lists(
    st.sampled_from((*TEXTS, *CALLS))
    | st.integers(0, 400)
    | st.sampled_from((*CALLS, *ENDINGS, END)),
    min_size=1,
    max_size=8,
) | st.sampled_from([["<request><TOOL>7+1<call>"], ["<request><TOOL>x>y<call>"], ["a", END]])
"""What a model writes in a turn: texts, and tokens by number, control tokens and unknown ones among them."""

output = st.one_of(
    text,
    st.sampled_from(["7.5", "Tirana", "x " * 40 + "Tirana", "1\n7.5\n<submit>" + " " * 99]),
    text.map(ToolResponse),
    st.builds(ToolError, text, st.sampled_from(ErrorKind)),
)


@dataclass(frozen=True)
class Transcript:
    """An episode to be: the question, what counts as right, and the model's turns."""

    question: str
    alias: str
    turns: Sequence[Sequence[str | int]]


RARE_OUTPUTS = ["7.5", *(ToolError("x", kind) for kind in ErrorKind)]
RARE = [Transcript("", "7.5", [["<request><TOOL>7+1<call>"], ["Result=8<submit>"]])] * len(
    RARE_OUTPUTS
)
"""A right output that is misreported, and each kind of error: drawn too seldom. The first calls get the first outputs."""

transcript = st.builds(
    Transcript,
    text,
    st.sampled_from(["7.5", "Tirana", "A", "!!!"]) | text,
    st.lists(turn, min_size=1, max_size=3),
)


@functools.cache
def family(name: str) -> tuple[Any, EpisodeCodec]:
    """A tokenizer and its codec."""
    tokenizer = FAMILIES[name]()
    return tokenizer, EpisodeCodec(tokenizer)


class Script:
    """A sampler that writes turns as drawn, episode by episode, and stops as the real one does."""

    def __init__(self, family_name: str, tool: str, turns: Mapping[int, Sequence]) -> None:
        tokenizer, self.codec = family(family_name)
        self.stops = _stops(family_name)
        self.vocabulary = len(tokenizer)
        end = tokenizer.eos_token_id
        self.end_of_text = [] if end is None else [end]
        self.turns = turns  # by the episode's number
        self.tool = tool
        self.filler = self.codec.data("a") or self.codec.data("x")
        self.written: dict[int, list[list[int]]] = {}  # by the episode's number, turn by turn

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        assert tuple(stop_strings) == STOP_STRINGS
        return [
            self._continuation(limit, place.episode, place.turn)
            for limit, place in zip(max_new_tokens, places, strict=True)
        ]

    def _continuation(self, limit: int, episode: int, turn: int) -> Continuation:
        turns = self.turns[episode]
        moves = turns[turn] if turn < len(turns) else ["Result=7.5<submit>"]
        tokens: list[int] = []
        reason = None
        for token in itertools.chain(*map(self._tokens, moves), itertools.cycle(self.filler)):
            tokens.append(token)
            reason = self.stops.reason(tokens, limit)
            if reason is not None:
                break
        self.written.setdefault(episode, []).append(tokens)
        stop_reason = StopReason(reason)
        return Continuation(tokens, [-1.0] * len(tokens), self.codec.decode(tokens), stop_reason)

    def _tokens(self, move: str | int) -> list[int]:
        if isinstance(move, int):
            return [move % (self.vocabulary + 3)]
        if move == END:
            return self.end_of_text
        return self.codec.written(move.replace("TOOL", self.tool))


@functools.cache
def _stops(name: str) -> Stops:
    return Stops(*family(name), STOP_STRINGS)


class HostileTool(BatchTool):
    """Puts out what was drawn, call by call; its searcher finds it, too."""

    def __init__(self, outputs: Sequence[str | ToolResponse | ToolError]) -> None:
        self.outputs = itertools.cycle(outputs)
        self.searcher, self.shown = self, 1

    def batch(self, arguments):
        return [next(self.outputs) for _ in arguments]

    def search(self, queries, count):
        contents = (str(next(self.outputs)) for _ in queries)
        return [[Hit("1", 1.0, f"title\n{c}")] * min(count, 2) for c in contents]


class Recorder(TaskEnvironment):
    """Keeps the episodes that it rolls out."""

    def rollout_problems(self, *arguments, **options):
        self.episodes = super().rollout_problems(*arguments, **options)
        return self.episodes


@dataclass(frozen=True)
class Stage:
    """A task with a hostile tool, and a sampler that plays transcripts."""

    task: Task
    tools: dict[str, HostileTool]
    problems: list[dict[str, Any]]
    script: Script
    env: Recorder


SHOT = Demonstration("<s>", [ShownCall("X", "1", "2.")], "2")
"""What the prompt shows."""


def stage(
    family_name: str,
    task_name: str,
    transcripts: Sequence[Transcript],
    outputs: Sequence[Any],
    **limits: Any,
) -> Stage:
    """What it takes to play transcripts. The problems hold no half of a surrogate pair: `sources` refuses it."""
    task, tool = load_task(task_name), TOOL_NAMES[task_name]
    number = "7.5" if task.computes else ""
    problems = [
        {
            "id": well_formed(f"{t.question}{i}"),
            "question": well_formed(t.question),
            "answer": number or well_formed(t.alias),
            "aliases": [number or well_formed(t.alias), "Tirana"],
        }
        for i, t in enumerate(transcripts)
    ]
    tools = {tool: HostileTool(outputs)}
    numbers = [number_of(problem["id"]) for problem in problems]
    script = Script(family_name, tool, dict(zip(numbers, (t.turns for t in transcripts))))
    settings = EnvironmentSettings(
        **({"max_turns": 3, "max_new_tokens": 60, "max_tool_response": 12} | limits)
    )
    tokenizer, _ = family(family_name)
    return Stage(
        task, tools, problems, script, Recorder(script, tokenizer, task, [SHOT], tools, settings)
    )
