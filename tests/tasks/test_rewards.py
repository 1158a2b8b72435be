"""What holds for the reward of every task: it reads any text, in linear time, and pays what is right."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.params import load_params
from pipeline.tasks import load_task, task_names
from tests.tasks.test_trivia import Titles

ROOT = Path(__file__).parents[2]
TRIVIAQA = ROOT.parent / "shared/datasets/triviaqa/train.jsonl"

PROBLEM = {
    "question": "Which is 42, Tirana or A?",
    "answer": "42",
    "aliases": ["42", "234,567", "Tirana", "A", "!!!"],
}
PIECES = st.sampled_from(
    [
        *("Result", "Result=", "\nResult = ", "=", "<submit>", "<sub", "42", "-", "$", ",", ".", "e+99", "%"),
        *("234,567", "9" * 5000, "٤٢", "４２", "²", "½", "Tirana", "or", "not", "A", "!!!", " ", "\n", "\0"),
        *("\ud83d", "\udc00", "\u0301", "\u0327", "İ", "ﷺ", "\u2011", "−", "🚁", "\u2028", "\u200b"),
    ]
)  # fmt: skip
HOSTILE = st.lists(PIECES | st.characters(exclude_categories=[]), max_size=30).map("".join)


@pytest.mark.parametrize("name", task_names())
@settings(max_examples=300, deadline=None)
@given(text=HOSTILE | HOSTILE.map("Result={}<submit>".format))
@example(text="Result=" + "9" * 100_000 + "<submit>")
@example(text="Result=1e+999<submit>")
@example(text="Result=\ud83d<submit>")
def test_a_reward_is_0_or_1_for_any_text(name, text):
    task = load_task(name)
    reward = task.reward(text, PROBLEM)
    assert type(reward) is float
    assert reward in (0.0, 1.0)
    assert all(0 <= measure.of(text, PROBLEM) <= 1 for measure in task.measures.values())
    found = task.find(text, PROBLEM)
    assert found is None or 0 <= found[0] <= found[1] <= len(text)


LONG = ["Result=", "\nResult=", "\nResult \t", "9", ",", "1,", ",234", "x1.", "1.1", "- ", " ", "\n", "a ", "Tirana, ", "\u0301\u0327", "\ud83d", "１"]  # fmt: skip


@pytest.mark.parametrize("name", ["arithmetic", "gsm8k", "trivia"])
@pytest.mark.parametrize("piece", LONG, ids=ascii)
def test_the_time_is_linear_in_the_length(name, piece):
    task, body = load_task(name), piece * (1_000_000 // len(piece))
    for text in (f"{body}<submit>", f"\nResult={body}<submit>", f"Result=1{body}x<submit>"):
        start = time.process_time()
        task.reward(text, PROBLEM)
        assert time.process_time() - start < 2, text[:20]
        start = time.process_time()
        task.find(text[:100_000], PROBLEM)
        for measure in task.measures.values():
            measure.of(f"{text[:100_000]}<submit>", PROBLEM)
        assert time.process_time() - start < 2, text[:20]


@pytest.mark.parametrize("name", ["arithmetic", "trivia", "word_problems"])
def test_every_gold_answer_and_every_demonstration_is_paid(name):
    task, section = load_task(name), load_params(ROOT / "params.yaml").task(name)
    problems = task.problems(section.data)
    for problem in [*problems["train"], *problems["test"]]:
        for right in problem.get("aliases", [problem["answer"]]):
            for text in (f"\nResult={right}<submit>", f"\nResult = {right}. <submit>"):
                assert task.reward(text, problem) == 1, (text, problem)
    tools = {"Wiki": Titles()} if name == "trivia" else task.tools(section.tools, {})
    _, demonstrations = task.demonstrate(problems["train"], tools, 10_000)
    by_question = {problem["question"]: problem for problem in problems["train"]}
    assert len(demonstrations) > 200
    for demonstration in demonstrations:
        _, result = task.layout.segments(demonstration)[-1]
        assert task.reward(result, by_question[demonstration.question]) == 1, demonstration


@pytest.mark.skipif(not TRIVIAQA.exists(), reason="needs ../shared")
def test_every_alias_of_the_real_triviaqa_is_paid():
    task = load_task("triviaqa")
    for line in TRIVIAQA.read_text(encoding="utf-8").split("\n")[:2000]:
        row = json.loads(line)
        for alias in row["answers"]:
            problem = {"question": row["question"], "aliases": [alias]}
            assert task.reward(f"\nResult={alias}<submit>", problem) == 1, problem
