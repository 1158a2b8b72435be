import math
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.environment import CallRecord, EndReason, TaskEnvironment, TextHistory
from pipeline.environment.environment import EnvironmentSettings
from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import EvaluationSettings, _row, evaluate
from pipeline.models.machine import Machine
from pipeline.models.sampler import Continuation, StopReason
from pipeline.models.sampling import TorchSampler
from pipeline.snapshot import NOWHERE, Snapshot
from pipeline.tasks import Measure, load_task, problem_of
from pipeline.tools import ToolError

PROBLEM = {
    "id": "7",
    "question": "What is the capital of Albania?",
    "answer": "Tirana",
    "aliases": ["Tirana", "Tiranë"],
    "kind": "capital",
}


def rolled_out(answer, call):
    history = TextHistory("prompt", [1, 2, 3])
    history.append_segment(" Durrës\nA2: <request><Wiki>Albania<call>", [4, 5], system=False)
    history.calls.append(call)
    history.append_segment("It is Tirana.<response>", [6, 7, 8], system=True)
    history.append_segment(answer, [9], system=False)
    history.complete(EndReason.SUBMITTED)
    history.reward = 1.0
    return history


def test_a_row_holds_all_of_an_episode(tmp_path):
    hits = [{"id": "country-AL", "score": 5.25}, {"id": "city-1", "score": 1.0}]
    good = CallRecord("Wiki", "Albania", "It is Tirana.", "", True, {"hits": hits})
    bad = CallRecord("Wiki", "", "Tool error: the search is empty", "refused", False, {})
    task = load_task("trivia")
    rows = [
        _row("sampled", task, PROBLEM, rolled_out("\nResult=in Tirana<submit>", call))
        for call in (good, bad)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "table.parquet")
    table = pd.read_parquet(tmp_path / "table.parquet")
    row = table.iloc[0]
    assert (row["mode"], row["id"], row["kind"], row["reward"]) == ("sampled", "7", "capital", 1)
    problem = problem_of(row)
    assert {**problem, "aliases": list(problem["aliases"])} == {**PROBLEM, "subset": ""}
    assert (row["first_20_words"], row["exact_match"]) == (1, 0)
    assert row["end_reason"] == "submitted"
    assert (row["tool_calls"], row["model_tokens"], row["tool_tokens"]) == (1, 3, 3)
    assert [s["author"] for s in row["segments"]] == ["model", "tool", "model"]
    (call,) = row["calls"]
    assert (call["tool"], call["argument"], call["output"]) == ("Wiki", "Albania", "It is Tirana.")
    assert (call["error_kind"], call["cut"]) == ("", True)
    assert list(call["hits"]) == hits
    (call,) = table.iloc[1]["calls"]
    assert (call["error_kind"], call["hits"]) == ("refused", None)


def test_what_is_sampled_for_a_problem_is_its_own(policy, tokenizer):
    """Neither the batch's size, nor the order, nor further problems change it."""
    task = load_task("arithmetic")
    problems = task.problems(task.Data(source="builtin", train=1, test=7, seed=0))["test"]

    def answers(problems, batch_size, seed=3):
        sampler = TorchSampler(policy.pretrained_model, tokenizer)
        limits = EnvironmentSettings(max_turns=1, max_new_tokens=12, max_tool_response=5)
        environments = {"sampled": TaskEnvironment(sampler, tokenizer, task, [], {}, limits)}
        settings = EvaluationSettings(batch_size=batch_size, seed=seed)
        machine = Machine(device="cpu", precision="float32")
        rows = []
        evaluate(environments, problems, settings, machine, rows.extend)
        return {row["id"]: row["segments"][0]["text"] for row in rows}

    everything = answers(problems, 7)
    assert len(set(everything.values())) == 7
    assert answers(problems[::-1], 2) == everything
    few = answers(problems[2:4], 1)
    assert few == {problem["id"]: everything[problem["id"]] for problem in problems[2:4]}
    assert answers(problems, 7, seed=4).keys() == everything.keys()
    assert answers(problems, 7, seed=4) != everything


class Calling:
    """A sampler that calls a tool in each episode, and none where its name is empty."""

    def __init__(self, tokenizer, tools):
        self.tokenizer, self.tools = tokenizer, iter(tools)

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        found = []
        for _ in contexts:
            tool = next(self.tools)
            text = f"<request><{tool}>1<call>" if tool else "Result=1<submit>"
            tokens = self.tokenizer(text).input_ids
            found.append(Continuation(tokens, [-1.0] * len(tokens), text, StopReason.STOP_STRING))
        return found


def rows_until_stopped(tokenizer, calls, batch_size, task=None, snapshot=NOWHERE):
    """Evaluates; the rows, and what it was stopped with, if it was.

    Args:
        calls: for each episode the tool that it calls and whether that is down then.
    """
    task = task or load_task("arithmetic")
    problems = task.problems(task.Data(source="builtin", train=1, test=len(calls), seed=0))["test"]
    states = {name: iter([down for tool, down in calls if tool == name]) for name in ("T", "Other")}

    def tool(name):
        def answer(text):
            if next(states[name]):
                raise ConnectionError("the service is down")
            return "1"

        return answer

    def refuses(text):
        raise ToolError("no")

    tools = {"T": tool("T"), "Other": tool("Other"), "Refuses": refuses}
    limits = EnvironmentSettings(max_turns=1, max_new_tokens=99, max_tool_response=5)
    env = TaskEnvironment(
        Calling(tokenizer, [name for name, _ in calls]), tokenizer, task, [], tools, limits
    )
    settings = EvaluationSettings(batch_size=batch_size, seed=0)
    machine = Machine(device="cpu", precision="float32")
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            evaluate({"sampled": env}, problems, settings, machine, rows.extend, snapshot)
        except PipelineError as error:
            return rows, str(error)
    return rows, None


UP, DOWN, OTHER, NONE = ("T", False), ("T", True), ("Other", False), ("", False)
WRONG = [("Nowhere", False), ("Refuses", False)]


@pytest.mark.parametrize("size", [1, 2, 5, 16, 64])
@pytest.mark.parametrize(
    "calls",
    [
        [*[UP] * 8, *[DOWN] * 8],  # so many failures may be an accident
        [UP, *[DOWN, DOWN, DOWN, UP, UP] * 5],
        [DOWN, DOWN, UP, *[OTHER] * 13],
        [DOWN, DOWN, *[OTHER] * 14],
        [UP, *WRONG * 20],  # the model's own bad calls
        WRONG * 10,
        [*WRONG * 10, DOWN, DOWN, *WRONG * 10],
        [DOWN, *[UP] * 5] * 20,
    ],
)
def test_an_evaluation_goes_on_after_accidents(calls, size, tokenizer):
    rows, error = rows_until_stopped(tokenizer, calls, size)
    assert (len(rows), error) == (len(calls), None)


@pytest.mark.parametrize("size", [1, 2, 5, 16, 64])
@pytest.mark.parametrize(
    ("calls", "after"),  # how many episodes tell that the tool is down
    [
        ([DOWN] * 16, 3),
        ([*[UP] * 40, *[DOWN] * 20], 49),  # it goes down late
        ([UP, DOWN, *[DOWN, OTHER, OTHER] * 10], 24),  # the other tool is fine
        ([NONE, NONE, DOWN, NONE, DOWN, NONE, DOWN, NONE], 7),  # few calls
        ([*WRONG * 3, DOWN, *WRONG, DOWN, *WRONG, DOWN], 13),
    ],
)
def test_an_evaluation_whose_tool_is_down_stops_after_that_batch(calls, after, size, tokenizer):
    rows, error = rows_until_stopped(tokenizer, calls, size)
    assert len(rows) == (after - 1) // size * size
    assert error.startswith("T failed in ")
    assert "the service is down" in error


def test_an_evaluation_that_goes_on_counts_the_calls_before(tokenizer, tmp_path):
    file = tmp_path / "state.pt"
    first, error = rows_until_stopped(tokenizer, [UP, *[DOWN] * 8], 9, snapshot=Snapshot(file, {}))
    assert (len(first), error) == (9, None)
    calls = [DOWN] * 9  # of which the first is the tenth episode's
    problems = 18
    rows, error = rows_until_stopped(
        tokenizer, [*calls, *[NONE] * (problems - 9)], 9, snapshot=Snapshot(file, {})
    )
    assert len(rows) == 9
    assert "T failed in 17 of 18 calls" in error


def measuring(value):
    """A task whose measure `odd` has this value."""
    task = load_task("arithmetic")
    task = type("Measuring", (type(task),), {"measures": {"odd": Measure("odd", lambda *_: value)}})
    return task()


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(1), 1.0),
        (np.bool_(True), 1.0),
        (True, 1.0),
        (torch.tensor(0.5), 0.5),
        (np.array(0.5), 0.5),
        (Fraction(1, 2), 0.5),
    ],
)
def test_a_measure_becomes_a_number_that_a_state_can_keep(value, number, tokenizer, tmp_path):
    snapshot = Snapshot(tmp_path / "state.pt", {})
    rows, _ = rows_until_stopped(tokenizer, [UP] * 2, 1, measuring(value), snapshot)
    assert [type(row["odd"]) for row in rows] == [float] * 2
    assert [row["odd"] for row in rows] == [number] * 2
    again, _ = rows_until_stopped(tokenizer, [UP] * 2, 1, measuring(value), snapshot)
    assert again == rows


@pytest.mark.parametrize("value", [None, "0.5", np.str_("1"), math.nan, np.inf, [1.0, 2.0], {}])
def test_a_measure_that_is_no_number_is_refused_by_its_name(value, tokenizer):
    rows, error = rows_until_stopped(tokenizer, [UP], 1, measuring(value))
    assert rows == []
    assert "the measure 'odd' must be a number" in error
    assert str(value)[:10] in error
    assert type(value).__name__ in error


def test_a_reward_that_is_no_number_is_refused(tokenizer):
    class Odd(type(load_task("arithmetic"))):
        def reward(self, answer_text, problem):
            return next(rewards)

        @property
        def name(self):
            return "odd"

    rewards = iter([math.nan])
    rows, error = rows_until_stopped(tokenizer, [UP], 1, Odd())
    assert rows == []
    assert error.startswith("odd: the reward must be a number, got 'nan' (float) for problem ")
    rewards = iter([None, None])
    with pytest.raises(
        TypeError, match=r"the reward of the task odd must .* 2 episodes, got \[None"
    ):
        rows_until_stopped(tokenizer, [UP] * 2, 2, Odd())


def test_a_row_is_plain_whatever_rewards_and_tools_put_into_it():
    history = rolled_out(
        "x",
        CallRecord(
            "Wiki",
            "a",
            "b",
            "",
            False,
            {"scores": np.array([1.5, 2]), "best": np.str_("c"), "good": np.bool_(True)},
        ),
    )
    history.reward = np.float64(1)
    row = _row("sampled", load_task("trivia"), {**PROBLEM, "kind": np.str_("capital")}, history)
    assert type(row["reward"]) is float
    assert type(row["kind"]) is str
    (call,) = row["calls"]
    assert (call["scores"], call["best"], call["good"]) == ([1.5, 2.0], "c", True)
    assert [type(call[key]) for key in ("scores", "best", "good")] == [list, str, bool]
    history.calls[0] = CallRecord("Wiki", "a", "b", "", False, {"when": {1, 2}})
    with pytest.raises(PipelineError, match=r"what the tool Wiki recorded: .*\(set\)"):
        _row("sampled", load_task("trivia"), PROBLEM, history)
