import re
from fractions import Fraction

import pytest

from pipeline.tasks import load_task
from pipeline.tools.protocol import parse_call

TASK = load_task("arithmetic")


def problems(**options):
    return TASK.problems(
        TASK.Data(**({"source": "builtin", "train": 3000, "test": 500, "seed": 0} | options))
    )


def test_train_and_test_share_no_problem():
    splits = problems()
    train, test = ({p["id"] for p in splits[split]} for split in ("train", "test"))
    assert (len(train), len(test)) == (3000, 500)
    assert not train & test
    assert not {"13.1-3", "4*3", "12.1+1", "12.1-20"} & (train | test)


def test_answers_are_right():
    for problem in problems()["train"]:
        left, operator, right = re.fullmatch(r"([\d.]+)([-+*/])([\d.]+)", problem["id"]).groups()
        a, b = Fraction(left), Fraction(right)
        exact = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[operator]
        assert abs(Fraction(problem["answer"]) - exact) <= Fraction(1, 200)
        assert problem["question"] == f"What is {problem['id']}?"


def test_all_operators_integers_and_decimals_occur():
    ids = [p["id"] for p in problems()["test"]]
    assert {re.sub(r"[\d.]", "", i) for i in ids} == set("+-*/")
    assert any("." in i for i in ids)
    assert any("." not in i for i in ids)


def test_the_seed_decides():
    assert problems() == problems()
    assert problems() != problems(seed=1)


def test_the_prompts_demonstrations_are_true():
    tools = TASK.tools(None, {})
    shots, more = TASK.demonstrate(problems()["train"], tools, 5)
    demonstrations = TASK.layout.prompt(shots).split("\n\n")
    assert len(demonstrations) == 4
    (tool,) = tools.values()
    for demonstration in [*demonstrations, *(TASK.layout.text(d).strip() for d in more)]:
        answer = tool(parse_call(demonstration).argument)
        assert f"<call>{answer}<response>\nResult={answer}<submit>" in demonstration
    assert demonstrations[0] == (
        "What is 13.1-3?\n"
        "<request><SimpleCalculatorTool>13.1-3<call>10.1<response>\n"
        "Result=10.1<submit>"
    )
    assert [d.question for d in more] == [p["question"] for p in problems()["train"][:5]]
    assert [author for author, _ in TASK.layout.segments(more[0])] == ["model", "tool", "model"]


@pytest.mark.parametrize(
    ("text", "answer", "reward"),
    [
        ("\nResult=10.1<submit>", "10.1", 1),
        ("Result = 10.10 <submit>", "10.1", 1),
        ("Result=-7.9<submit>", "-7.9", 1),
        ("Result=1,200<submit>", "1200", 1),
        ("Result=.5<submit>", "0.5", 1),
        ("Result=2.333<submit>", "2.33", 0),
        ("Result=10.2<submit>", "10.1", 0),
        ("Result=10.1", "10.1", 0),
        ("10.1<submit>", "10.1", 0),
        ("Result=<submit>", "10.1", 0),
        ("Result=ten<submit>", "10.1", 0),
        ("Result=-,<submit>", "10.1", 0),
        ("Result=-<submit>", "10.1", 0),
        ("", "10.1", 0),
        ("Result=" + "9" * 40 + ".5<submit>", "10.1", 0),
        ("Result=10.1<submit> Result=9<submit>", "10.1", 0),
        ("Result=1,5<submit>", "15", 0),
        ("Result=,,5<submit>", "5", 0),
        ("Result=1,0,1<submit>", "101", 0),
        ("Result=12.50. <submit>", "12.5", 1),
        ("Result=+$12.5<submit>", "12.5", 1),
        ("Result=" + "9" * 10_000 + "<submit>", "10.1", 0),
    ],
)
def test_reward(text, answer, reward):
    assert TASK.reward(text, {"answer": answer}) == reward
