import pandas as pd

from pipeline.environment import CallRecord, EndReason, TextHistory
from pipeline.evaluation.evaluate import _row, problem_of
from pipeline.tasks import load_task

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
    task = load_task("triviaqa")
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
