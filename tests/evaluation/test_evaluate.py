import pandas as pd
import pytest

from pipeline.environment import CallRecord, EndReason, TaskEnvironment, TextHistory
from pipeline.environment.environment import EnvironmentSettings
from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import EvaluationSettings, _row, evaluate
from pipeline.models.machine import Machine
from pipeline.models.sampler import Continuation, StopReason
from pipeline.models.sampling import TorchSampler
from pipeline.tasks import load_task, problem_of

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


@pytest.mark.parametrize(("failing", "stops"), [(8, False), (9, True), (16, True)])
def test_an_evaluation_without_its_tool_is_stopped(failing, stops, tokenizer):
    task = load_task("arithmetic")
    problems = task.problems(task.Data(source="builtin", train=1, test=16, seed=0))["test"]
    calls = iter(range(16))

    def tool(text):
        if next(calls) < failing:
            raise ConnectionError("the service is down")
        return "1"

    limits = EnvironmentSettings(max_turns=1, max_new_tokens=99, max_tool_response=5)
    env = TaskEnvironment(Calling(tokenizer), tokenizer, task, [], {"T": tool}, limits)
    settings = EvaluationSettings(batch_size=16, seed=0)
    machine = Machine(device="cpu", precision="float32")
    rows = []
    if stops:
        with (
            pytest.raises(PipelineError, match=rf"T failed in {failing} of 16 calls.*is down"),
            pytest.warns(RuntimeWarning, match="T failed"),
        ):
            evaluate({"sampled": env}, problems, settings, machine, rows.extend)
        assert rows == []
    else:
        with pytest.warns(RuntimeWarning, match="T failed"):
            evaluate({"sampled": env}, problems, settings, machine, rows.extend)
        assert len(rows) == 16


class Calling:
    """A sampler that calls the tool."""

    def __init__(self, tokenizer):
        self.tokens = tokenizer("<request><T>1<call>").input_ids

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        written = (self.tokens, [-1.0] * len(self.tokens), "<request><T>1<call>")
        return [Continuation(*written, StopReason.STOP_STRING) for _ in contexts]
