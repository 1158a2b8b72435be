from pathlib import Path

import pytest

from pipeline.answers import numeric_match
from pipeline.tasks.gsm8k import GSM8K, _from_file
from pipeline.tasks.gsm8k.marks import marked_program
from pipeline.tasks.program_task import _printed
from pipeline.tools.python import PythonInterpreter

SHARED = Path(__file__).parents[4] / "shared/datasets/gsm8k/train.jsonl"


def steps(solution, answer):
    program = marked_program(solution, answer)
    return program and [line.strip() for line in program.splitlines()[1:-1]]


@pytest.mark.parametrize(
    ("solution", "answer", "expected"),
    [
        ("Ten.", "10", None),  # no marks
        ("4 + 4 = <<4+4=8>>8", "9", None),  # none that arrives there
        (
            "12/60 = $<<12/60=0.2>>0.2, and 0.2 x 50 = $<<0.2*50=10>>10.",
            "10",
            ["step1 = 12/60", "step2 = step1*50", "return step2"],
        ),
        ("<<2*3=6>>6 <<6+1=7>>7 <<7*9=63>>63", "7", ["step1 = 2*3", "step2 = step1+1", "return step2"]),
        ("<<1+1=2>>2 <<3-1=2>>2 <<2*5=10>>10", "10", ["step1 = 1+1", "step2 = 3-1", "step3 = step2*5", "return step3"]),
        ("<<05*.5=2.50>>2.50", "2.5", ["step1 = 5*.5", "return step1"]),
        ("<<3*500=1,500>>1,500", "1500", ["step1 = 3*500", "return step1"]),
        ("<<5-8=-3>>-3", "-3", ["step1 = 5-8", "return step1"]),
        ("<<x*2=8>>8 <<4+4=8>>8", "8", ["step1 = 4+4", "return step1"]),
        ("<<12=12>>12", "12", ["step1 = 12", "return step1"]),
        ("<<1-4=--3>>", "3", None),
    ],
)  # fmt: skip
def test_marks_become_steps(solution, answer, expected):
    assert steps(solution, answer) == expected


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_nearly_all_of_gsm8ks_solutions_become_programs_that_print_the_answer():
    problems = _from_file(SHARED)
    assert len(problems) == 7473
    interpreter = PythonInterpreter()
    programs = [marked_program(p["solution"], p["answer"]) for p in problems]
    right = sum(
        bool(program and numeric_match(_printed(interpreter, program), problem["answer"]))
        for problem, program in zip(problems, programs)
    )
    assert right / len(problems) >= 0.92
    shots, demonstrations = GSM8K().demonstrate(problems, {"PythonInterpreter": interpreter}, 10)
    assert len(demonstrations) == 10
    assert shots[0].question == problems[0]["question"]
