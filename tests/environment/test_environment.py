"""The environment around a sampler that writes what a test tells it to."""

import functools
import time

import pytest
import torch

from pipeline.chance import Place
from pipeline.environment import CallRecord, EndReason, EpisodeBatch, TextEnvironment
from pipeline.environment.outage import asked_in
from pipeline.errors import PipelineError
from pipeline.models.sampler import Continuation, StopReason
from pipeline.models.sampling import TorchSampler
from pipeline.models.scoring import TokenBatch, score
from pipeline.tools import BatchTool, ToolError, ToolResponse
from tests.tiny import make_model


class Script:
    """Stands in for the sampler: writes given texts, a list for each turn, and keeps the contexts."""

    def __init__(self, tokenizer, turns):
        self.tokenizer, self.turns = tokenizer, list(turns)
        self.contexts, self.places = [], []

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        self.contexts.append(contexts)
        self.places.append(places)
        continuations = []
        for text, limit in zip(self.turns.pop(0), max_new_tokens, strict=True):
            # Character by character: not the tokens that the tokenizer would make of the text.
            tokens = [t for c in text for t in self.tokenizer(c).input_ids]
            reason = StopReason.END_OF_TEXT
            if "<call>" in text or "<submit>" in text:
                reason = StopReason.STOP_STRING
            if len(tokens) >= limit and reason != StopReason.STOP_STRING:
                tokens, reason = tokens[:limit], StopReason.LENGTH
            continuations.append(
                Continuation(tokens, [-1.0] * len(tokens), self.tokenizer.decode(tokens), reason)
            )
        return continuations


@pytest.fixture
def run(tokenizer):
    """Runs one scripted episode per row of each turn; returns the episodes and the script."""

    def run(turns, tools=None, queries=None, max_new_tokens=200, **options):
        script = Script(tokenizer, turns)
        env = TextEnvironment(
            script,
            tokenizer,
            {"Calc": lambda text: text.upper()} if tools is None else tools,
            lambda answers, **_: [float("right" in answer) for answer in answers],
            "PROMPT",
            max_new_tokens=max_new_tokens,
            **options,
        )
        return env.rollout(queries or ["?"] * len(turns[0]), seed=0), script

    return run


CALL = "<request><Calc>ab<call>"


def test_the_parts_of_an_output_that_is_too_long_are_cut_alike(run, tokenizer):
    parts = ["a b " * 40, "short", "c d " * 40]
    tools = {"Calc": lambda _: ToolResponse("\n".join(parts), parts=parts)}
    limit = len(tokenizer(parts[0]).input_ids)
    (history,), _ = run([[CALL], ["<submit>"]], tools=tools, max_tool_response=limit)
    first, second, third = history.segments[2].text.removesuffix("<response>").split("\n")
    assert first.startswith("a b a b")
    assert first.endswith("...")
    assert second == "short"
    assert len(third) == len(first)
    assert len(history.segments[2].tokens) <= limit + len(tokenizer("<response>").input_ids)
    assert history.calls[0].cut
    assert history.calls[0].output == "\n".join(parts)
    (whole,), _ = run([[CALL], ["<submit>"]], tools=tools, max_tool_response=9 * limit)
    assert whole.segments[2].text == "\n".join(parts) + "<response>"
    assert not whole.calls[0].cut


def test_a_call_its_answer_and_a_submit(run, tokenizer):
    (history,), _ = run([[CALL], ["right<submit>"]])
    assert history.text == f"PROMPT?{CALL}AB<response>right<submit>"
    by_author = {True: [], False: []}
    for token, models in zip(history.token_ids, history.mask, strict=True):
        by_author[models].append(token)
    assert tokenizer.decode(by_author[True]) == f"{CALL}right<submit>"
    assert tokenizer.decode(by_author[False]) == "PROMPT?AB<response>"
    assert history.reward == 1.0
    assert history.end_reason == EndReason.SUBMITTED


def test_sampled_ids_are_kept_as_they_are(run, tokenizer):
    (history,), script = run([[CALL + "\n"], ["\nright<submit>"]])
    written = [t for s in history.segments if not s.system for t in s.tokens]
    sampled = [t for c in CALL + "\n" + "\nright<submit>" for t in tokenizer(c).input_ids]
    assert sampled != tokenizer(CALL + "\n" + "\nright<submit>").input_ids
    ours = [token for token, models in zip(history.token_ids, history.mask) if models]
    assert written == sampled == ours
    second_context = script.contexts[1][0]
    assert second_context == history.token_ids[: len(second_context)]


def test_finished_episodes_write_no_more(run):
    histories, script = run([["right<submit>", CALL], ["right<submit>"]])
    assert [len(contexts) for contexts in script.contexts] == [2, 1]
    assert [h.text for h in histories] == [
        "PROMPT?right<submit>",
        f"PROMPT?{CALL}AB<response>right<submit>",
    ]


def test_at_the_turn_limit_a_tools_output_earns_nothing(run):
    (history,), _ = run(
        [["<request><Calc>x<call>"]], tools={"Calc": lambda _: "right"}, max_turns=1
    )
    assert history.text.endswith("right<response>")
    assert history.reward == 0.0
    assert history.end_reason == EndReason.MAX_TURNS


def test_no_call_and_no_submit(run):
    (ended, cut), _ = run([["I do not know", "x" * 300]])
    assert ended.end_reason == EndReason.END_OF_TEXT
    assert cut.end_reason == EndReason.MAX_NEW_TOKENS
    assert [ended.truncated, cut.truncated] == [False, True]


@pytest.mark.parametrize(
    ("call", "tools", "answer"),
    [
        ("<request><NOPE>x<call>", None, "Tool error: no tool 'NOPE'; there is Calc"),
        ("<request>x<call>", None, "Tool error: a call is written <request><tool name>input<call>"),
        (CALL, {"Calc": lambda _: 1 / 0}, "Tool error: division by zero"),
        (CALL, {"Calc": lambda _: [].remove(0)}, "Tool error: list.remove(x): x not in list"),
        (CALL, {"Calc": lambda _: next(iter([]))}, "Tool error: StopIteration"),
        (CALL, {"Calc": lambda _: 42}, "42"),
        (CALL, {"Calc": lambda _: None}, "Tool error: the tool returned NoneType, not text"),
        (CALL, {"Calc": lambda _: ""}, ""),
    ],
)
def test_what_goes_wrong_in_a_call_is_told_to_the_model(run, call, tools, answer):
    (history,), _ = run([[call], ["right<submit>"]], tools=tools)
    assert history.segments[2].text == answer + "<response>"
    assert history.end_reason == EndReason.SUBMITTED


def test_tool_answers_are_cut_by_tokens(run, tokenizer):
    (history,), _ = run(
        [[CALL], ["<submit>"]], tools={"Calc": lambda _: "><" * 50}, max_tool_response=10
    )
    # Ten tokens of two characters each, and the mark of the cut.
    assert history.segments[2].text == "><" * 10 + "...<response>"
    assert len(history.segments[2].tokens) == 10 + len(tokenizer("...<response>").input_ids)


@pytest.mark.parametrize("limit", range(1, 9))
def test_a_tool_answer_is_cut_between_characters(run, tokenizer, limit):
    """An emoji is four tokens here."""
    (history,), _ = run(
        [[CALL], ["<submit>"]], tools={"Calc": lambda _: "a😀b😀c"}, max_tool_response=limit
    )
    whole = "a😀b😀c".encode()[:limit].decode(errors="ignore")
    assert history.segments[2].text == whole + "...<response>"
    assert tokenizer.decode(history.segments[2].tokens) == whole + "...<response>"


def test_megabytes_are_cut_before_they_are_tokenized(run):
    long = "x" * 50_000_000
    (history,), _ = run([[CALL], ["<submit>"]], tools={"Calc": lambda _: long}, max_tool_response=5)
    assert history.segments[2].text == "xxxxx...<response>"
    assert len(history.calls[0].output) == 10_000
    assert history.calls[0].cut


def test_a_tool_that_is_down_is_warned_of(run):
    def down(_):
        raise ConnectionError("refused")

    def picky(_):
        raise ToolError("no")

    turns = [[call("a"), call("b"), call("c", "Other"), "x<call>"], ["end<submit>"] * 4]
    with pytest.warns(RuntimeWarning, match="Calc failed in 2 of 2 calls, the last .*refused"):
        histories, _ = run(turns, tools={"Calc": down, "Other": picky})
    assert [history.outage for history in histories] == [True, True, False, False]
    assert {name: (tool.failures, tool.calls) for name, tool in asked_in(histories).items()} == {
        "Calc": (2, 2),
        "Other": (0, 1),  # it has refused; what cannot be read reaches no tool
    }


def test_a_tool_has_so_many_seconds(run):
    """Its episode goes on."""
    turns = [[call("2"), call("0")], ["end<submit>"] * 2]
    with pytest.warns(RuntimeWarning, match="Calc failed in 1 of 2 calls"):
        histories, _ = run(
            turns, tools={"Calc": lambda t: time.sleep(float(t)) or t}, tool_timeout=0.3
        )
    assert [history.segments[2].text for history in histories] == [
        "Tool error: Calc gave no answer within 0.3 seconds<response>",
        "0<response>",
    ]
    assert [history.calls[0].error_kind for history in histories] == ["no answer", ""]
    assert {history.end_reason for history in histories} == {EndReason.SUBMITTED}


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_is_a_number_above_0(tokenizer, seconds):
    with pytest.raises(
        ValueError, match=r"tool_timeout .*: it must be a number of seconds above 0"
    ):
        TextEnvironment(None, tokenizer, {}, len, "", tool_timeout=seconds)


def test_no_episode_is_longer_than_the_model_has_positions(tokenizer):
    """GPT-2 ends at its 512th."""
    sampler = TorchSampler(make_model("gpt2"), tokenizer)
    env = TextEnvironment(sampler, tokenizer, {}, lambda a: [0.0] * len(a), "P", max_new_tokens=20)
    inside, at_the_end, beyond = env.rollout(["x" * 400, "x" * 505, "x" * 600], seed=0)
    assert inside.end_reason != EndReason.MAX_LENGTH
    assert len(at_the_end.token_ids) <= 512
    assert at_the_end.end_reason == EndReason.MAX_LENGTH
    assert beyond.end_reason == EndReason.MAX_LENGTH
    assert not any(beyond.mask)
    batch = EpisodeBatch.of([inside, at_the_end, beyond])
    score(sampler.model, TokenBatch.of(batch.sequences, batch.prompt_lengths))  # as a trainer does


def test_max_length_counts_the_whole_episode(run):
    (history,), _ = run([["x" * 50]], max_length=20)
    assert len(history.token_ids) == 20
    assert history.end_reason == EndReason.MAX_LENGTH


def test_max_length_leaves_out_a_tool_answer_that_does_not_fit(run):
    (history,), _ = run(
        [[CALL]], tools={"Calc": lambda _: "y" * 50}, max_length=60, max_tool_response=100
    )
    assert history.text == f"PROMPT?{CALL}"
    assert history.end_reason == EndReason.MAX_LENGTH
    assert history.truncated


def test_a_prompt_beyond_max_length(run):
    (history,), _ = run([[]], queries=["?" * 100], max_length=50)
    assert not any(history.mask)
    assert history.end_reason == EndReason.MAX_LENGTH
    assert history.reward == 0.0


def test_a_list_of_functions_and_objects_keeps_their_names(tokenizer):
    def double(text):
        return text * 2

    def triple(text):
        return text * 3

    class Wiki:
        def __call__(self, text):
            return text

    env = TextEnvironment(None, tokenizer, [double, triple, Wiki()], len, "")
    assert list(env.tools) == ["double", "triple", "Wiki"]


def test_two_tools_of_one_name_are_refused(tokenizer):
    tools = [functools.partial(int, base=2), functools.partial(int, base=3)]
    with pytest.raises(ValueError, match="two tools are named 'partial': give the tools as a map"):
        TextEnvironment(None, tokenizer, tools, len, "")


@pytest.mark.parametrize("name", ["<lambda>", "", " Calc", "a>b", "a<call>b"])
def test_a_name_that_no_call_can_have_is_refused(tokenizer, name):
    with pytest.raises(ValueError, match="no model can call a tool named"):
        TextEnvironment(None, tokenizer, {name: str}, len, "")


def test_a_tool_that_cannot_be_called_is_refused(tokenizer):
    with pytest.raises(TypeError, match="the tool 'Calc' is no callable but str"):
        TextEnvironment(None, tokenizer, {"Calc": "x"}, len, "")


def test_rewards_get_their_keyword_arguments(tokenizer):
    script = Script(tokenizer, [["a<submit>", "b<submit>"]])
    env = TextEnvironment(
        script, tokenizer, {}, lambda answers, gold: [a == g for a, g in zip(answers, gold)], "P"
    )
    episodes = env.rollout(["", ""], seed=0, gold=["a<submit>", "x"])
    assert [episode.reward for episode in episodes] == [1.0, 0.0]


@pytest.mark.parametrize("returned", [None, [], [1.0], ["a", "b"], [None, 1.0], 1.0])
def test_a_reward_function_that_returns_no_number_for_each_is_named(tokenizer, returned):
    def judge(answers):
        return returned

    script = Script(tokenizer, [["a<submit>", "b<submit>"]])
    env = TextEnvironment(script, tokenizer, {}, judge, "P")
    with pytest.raises(
        TypeError, match="the reward function 'judge' must return a number for each"
    ):
        env.rollout(["", ""], seed=0)


def test_an_episodes_place_is_its_number_and_turn(run, tokenizer):
    """Who else is in the batch, and who has left it, changes nothing."""
    script = Script(tokenizer, [["right<submit>", CALL, CALL], ["a<submit>"] * 2])
    env = TextEnvironment(
        script,
        tokenizer,
        {"Calc": str},
        lambda answers: [0.0] * len(answers),
        "",
        max_new_tokens=99,
    )
    env.rollout(["a", "b", "c"], seed=7, step=5, numbers=[30, 10, 20])
    assert script.places == [
        [Place(7, 5, 30, 0), Place(7, 5, 10, 0), Place(7, 5, 20, 0)],
        [Place(7, 5, 10, 1), Place(7, 5, 20, 1)],
    ]


class Letters:
    """A sampler whose turns end at any letter: a tiny model does not know the tags."""

    def __init__(self, sampler):
        self.sampler = sampler

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        return self.sampler.generate(contexts, max_new_tokens, list("abcdefghij"), places)


def test_what_was_sampled_over_several_turns_is_what_is_scored(model, tokenizer):
    env = TextEnvironment(
        Letters(TorchSampler(model, tokenizer, temperature=3.0)),
        tokenizer,
        {},
        lambda answers: [0.0] * len(answers),
        "PROMPT",
        max_turns=3,
        max_new_tokens=200,
    )
    batch = EpisodeBatch.of(env.rollout(["a", "bcd", "e"], seed=4))
    tokens = TokenBatch.of(batch.sequences, batch.prompt_lengths)
    with torch.no_grad():
        scored = score(model, tokens, temperature=3.0).logprobs
    placed = tokens.place(batch.masks).bool()
    for row, sampled in enumerate(batch.sampled_logprobs):
        assert len(sampled) == int(placed[row].sum())
        assert (scored[row][placed[row]] - torch.tensor(sampled)).abs().max() < 1e-4
    # A malformed call ends most turns: some episode has all three.
    assert any(not all(mask) for mask in batch.masks)


class Batched(BatchTool):
    """Refuses "bad", records what it got."""

    def __init__(self):
        self.batches = []

    def batch(self, arguments):
        self.batches.append(list(arguments))
        return [
            ToolError("no good") if a == "bad" else ToolResponse(a.upper(), {"n": len(a)})
            for a in arguments
        ]


def call(argument, tool="Calc"):
    return f"<request><{tool}>{argument}<call>"


def test_the_calls_of_a_turn_reach_a_batch_tool_together(run):
    tool = Batched()
    turns = [
        [call("a"), call("x", "Other"), "no<submit>", call("bad"), call("bcd"), call("q", "None")],
        ["done<submit>"] * 5,
    ]
    histories, _ = run(turns, tools={"Calc": tool, "Other": lambda text: text * 3})
    assert tool.batches == [["a", "bad", "bcd"]]
    answers = [h.segments[2].text if len(h.segments) > 2 else None for h in histories]
    assert answers == [
        "A<response>",
        "xxx<response>",
        None,
        "Tool error: no good<response>",
        "BCD<response>",
        "Tool error: no tool 'None'; there is Calc, Other<response>",
    ]
    assert histories[5].calls[0].error_kind == "unknown tool"


def test_a_batch_tool_that_raises_answers_all_its_calls_with_that(run):
    class Broken(BatchTool):
        def batch(self, arguments):
            raise ValueError("out of order")

    turns = [[call("a"), call("b"), call("x", "Other")], ["end<submit>"] * 3]
    histories, _ = run(turns, tools={"Calc": Broken(), "Other": lambda text: text})
    assert [(h.calls[0].output, h.calls[0].error_kind) for h in histories] == [
        ("Tool error: out of order", "crashed"),
        ("Tool error: out of order", "crashed"),
        ("x", ""),
    ]


def test_every_call_is_recorded(run):
    turns = [[call("a"), call("bad"), call("longer"), "x<call>", "no<submit>"], ["end<submit>"] * 4]
    histories, _ = run(turns, tools={"Calc": Batched()}, max_tool_response=4)
    good, bad, cut, unread, none = [history.calls for history in histories]
    assert good == [CallRecord("Calc", "a", "A", error_kind="", cut=False, details={"n": 1})]
    assert bad == [
        CallRecord("Calc", "bad", "Tool error: no good", error_kind="refused", cut=True, details={})
    ]
    assert cut == [
        CallRecord("Calc", "longer", "LONGER", error_kind="", cut=True, details={"n": 6})
    ]
    assert (unread[0].tool, unread[0].argument) == ("", "")
    assert (unread[0].error, unread[0].error_kind) == (True, "malformed")
    assert none == []


def test_a_call_whose_answer_has_no_room_is_recorded_too(run):
    (history,), _ = run([[CALL]], max_length=len("PROMPT?" + CALL) + 3)
    assert history.end_reason == EndReason.MAX_LENGTH
    assert history.calls[0].output == "AB"


def test_what_the_user_must_mend_is_not_told_to_the_model(run):
    def broken(_):
        raise PipelineError("the index is broken")

    with pytest.raises(PipelineError, match="index is broken"):
        run([[CALL]], tools={"Calc": broken})
