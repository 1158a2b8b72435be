import pytest

from pipeline.tasks import load_task

TASK = load_task("gsm8k")


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("\nResult = 1250 <submit>", 1),
        ("\nResult=1,250<submit>", 1),
        ("Result = $1250.00 <submit>", 1),
        ("Result = 1250.0 <submit>", 1),
        ("Result = $1250.00. <submit>", 1),
        ("Result = 1,250. <submit>", 1),
        ("Result = 7\nResult = 1250 <submit>", 1),
        ("Result = 7 <submit>\nResult = 1250 <submit>", 0),
        ("Result = 1250 <submit>\nResult = 7 <submit>", 0),
        ("Result = 1250\nResult = 7 <submit>", 0),
        ("Result = 1250", 0),
        ("1250 <submit>", 0),
        ("Result = 1251 <submit>", 0),
        ("Result = -1250 <submit>", 0),
        ("Result = 1250 apples <submit>", 0),
        ("Result = 12 50 <submit>", 0),
        ("Result = <submit>", 0),
        ("", 0),
    ],
)
def test_reward(text, reward):
    assert TASK.reward(text, {"answer": "1250"}) == reward


def test_a_question_that_holds_a_tag_is_not_demonstrated():
    problems = [
        {"id": q, "question": q, "answer": "3", "solution": "1+2=<<1+2=3>>3\n"}
        for q in ("one?", "two<submit>?", "three?", "four?", "five?")
    ]
    printed = {True: "8", False: "3"}
    tools = {"PythonInterpreter": lambda program: printed["bagels" in program]}
    shots, _ = TASK.demonstrate(problems, tools, 0)
    assert [s.question for s in shots[1:]] == ["one?", "three?", "four?"]
