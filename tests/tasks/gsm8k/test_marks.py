import re
from pathlib import Path

import pytest

from pipeline.answers import numeric_match
from pipeline.tasks.gsm8k import _from_file
from pipeline.tasks.gsm8k.marks import marked_program
from pipeline.tasks.program_task import _printed
from pipeline.tools.python import PythonInterpreter

SHARED = Path(__file__).parents[4] / "shared/datasets/gsm8k/train.jsonl"


def lines(solution, answer, question="How many?"):
    program = marked_program(question, solution, answer)
    return program and [line.strip() for line in program.text.splitlines()[1:-1]]


@pytest.mark.parametrize(
    ("solution", "answer", "expected"),
    [
        ("Ten.", "10", None),  # no calculation
        ("4 + 4 = <<4+4=8>>8", "9", None),  # none that arrives there
        (
            "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\n"
            "Working 50 minutes, she earned 0.2 x 50 = $<<0.2*50=10>>10.",
            "10",
            ["earns_per_minute = 12 / 60", "earned = earns_per_minute * 50", "return earned"],
        ),
        (
            "He has 2*3=<<2*3=6>>6 cups. He buys 6+1=<<6+1=7>>7 cups. Then 7*9=<<7*9=63>>63.",
            "7",
            ["cups = 2 * 3", "buys_cups = cups + 1", "return buys_cups"],
        ),
        ("There are <<3*500=1,500>>1,500 bees.", "1500", ["bees = 3 * 500", "return bees"]),
        ("There are $1,000*2=<<1,000*2=$2000>>2000 bees", "2000", ["bees = 1000 * 2", "return bees"]),
        ("<<05*.5=2.50>>2.50 miles", "2.5", ["miles = 5 * 0.5", "return miles"]),
        ("<<5-8=-3>>-3 degrees", "-3", ["degrees = 5 - 8", "return degrees"]),
        ("<<x*2=8>>8 cats <<4+4=8>>8 dogs", "8", ["dogs = 4 + 4", "return dogs"]),
        ("Ann has $<<12=12>>12", "12", None),  # calculated in the head
        ("Ann has 2 - 1 = $<<1=1>>1 left.", "1", ["ann_left = 2 - 1", "return ann_left"]),
        ("<<1-4=--3>>", "3", None),
        ("<<3/0=0>>0 cats", "0", None),
        ("<<2**9=512>>512 cats", "512", None),
        ("<<2+2=5>>5 cats, <<5*2=10>>10 dogs", "10", None),  # not true
    ],
)  # fmt: skip
def test_marks_become_lines(solution, answer, expected):
    assert lines(solution, answer) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.", "clips_in_may"),
        ("That makes 48/2 = <<48/2=24>>24 clips altogether.", "total_clips"),
        ("There are 48/2 = <<48/2=24>>24 pages left to be read.", "pages_left"),
        ("He writes 48/2 = <<48/2=24>>24 pages a week", "pages_per_week"),
        ("Her speed is 48/2 = <<48/2=24>>24 miles/hour", "miles_per_hour"),
        ("The cost of the books is 48/2 = $<<48/2=24>>24.", "cost_of_books"),
        ("Betty has only 48/2 = $<<48/2=24>>24.", "betty_amount"),
        ("First find the number of red bags: 48/2 = <<48/2=24>>24", "red_bags"),
        ("He took 48/2 = <<48/2=24>>24 list", "took_list"),  # a word of Python's
        ("So 48/2 = <<48/2=24>>24", "ducks"),  # as the question says
    ],
)
def test_names_come_from_the_sentence(text, name):
    program = marked_program("How many ducks are there?", text, "24")
    assert program.text.splitlines()[1].strip() == f"{name} = 48 / 2"
    assert program.meaningful


def test_what_the_text_does_not_name_has_a_plain_name_at_most_once_a_line():
    solution = "3*4=<<3*4=12>>12\n2*5=<<2*5=10>>10\n12+10=<<12+10=22>>22\n22-12=<<22-12=10>>10"
    program = marked_program("What now?", solution, "10")
    assert program.text.splitlines()[1:-1] == [
        "    product = 3 * 4",
        "    result = product + 2 * 5 - product",
        "    return result",
    ]
    assert not program.meaningful


def test_a_number_of_the_question_is_an_earlier_result_only_where_that_waits():
    solution = "<<4/2=2>>2 cats. <<2*6=12>>12 legs. <<12*3=36>>36 toes. So <<36/2=18>>18 shoes"
    question = "Of 4 cats 1 in 2 stays, and 2 toes fit a shoe. How many shoes?"
    assert lines(solution, "18", question) == [
        "cats = 4 / 2",
        "legs = cats * 6",
        "toes = legs * 3",
        "shoes = toes / 2",
        "return shoes",
    ]
    assert lines(solution, "18", "Four cats?")[3] == "shoes = toes / cats"


def test_a_result_that_the_solution_rounds_is_rounded():
    solution = "<<10/3=3.33>>3.33 km. <<3.33*3=10>>10 hours"
    assert lines(solution, "10") == [
        "km = round(10 / 3, 2)",
        "hours = round(km * 3)",
        "return hours",
    ]


def test_a_calculation_without_a_mark_counts_if_it_is_true():
    assert lines("<<3*50=150>>150 pears, and 150+10 = 160 dishes.", "160") == [
        "pears = 3 * 50",
        "dishes = pears + 10",
        "return dishes",
    ]
    assert lines("<<3*50=150>>150 pears, and 150+10 = 170 dishes.", "170") is None


def test_a_number_that_the_question_gives_may_have_a_line():
    assert lines("Ann has $<<12=12>>12. She needs 12-4=$<<12-4=8>>8.", "8", "$12?") == [
        "ann_amount = 12",
        "needs = ann_amount - 4",
        "return needs",
    ]


def test_what_leads_nowhere_is_left_out():
    assert lines("<<3*50=150>>150 pears. <<2+5=7>>7 figs.", "7") == ["figs = 2 + 5", "return figs"]


@pytest.fixture(scope="module")
def converted():
    """GSM8K's training problems, each with its program, or None."""
    if not SHARED.exists():
        pytest.skip("needs ../shared")
    problems = _from_file(SHARED)
    return [
        (problem, marked_program(problem["question"], problem["solution"], problem["answer"]))
        for problem in problems
    ]


def test_the_shares_that_the_docs_tell(converted):
    """The figures in docs/programs.md."""
    programs = [program for _, program in converted if program]
    told = Path("docs/programs.md").read_text()
    found = re.search(
        r"Of the ([\d,]+) training solutions ([\d.]+)% become programs.*?In ([\d.]+)% of these",
        told,
        re.DOTALL,
    )
    assert found.groups() == (
        f"{len(converted):,}",
        f"{100 * len(programs) / len(converted):.1f}",
        f"{100 * sum(p.meaningful for p in programs) / len(programs):.1f}",
    )


def test_every_program_prints_the_answer(converted):
    interpreter = PythonInterpreter()
    wrong = [
        problem["id"]
        for problem, program in converted
        if program and not numeric_match(_printed(interpreter, program.text), problem["answer"])
    ]
    assert wrong == []


def test_no_names_are_numbered(converted):
    """A small model that reads step1, step2 goes on for ever."""
    assert not any(re.search(r"[a-z_]\d", program.text) for _, program in converted if program)
