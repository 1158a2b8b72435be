import pytest

from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.tasks.soundness import check_problems

TRIVIAQA = load_task("triviaqa")


def problem(name, question, *answers):
    return {"id": name, "question": question, "answer": answers[0], "aliases": list(answers)}


GOOD = problem("1", "Who?", "Ada")


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        (problem("1", "When?", "1815"), r"triviaqa\.data: 1 of the training .* 1 of the test"),
        (
            problem("2", " who? ", "Ada"),
            r"triviaqa\.data: 1 of the training .* 2 of the test .* 1 in",
        ),
        (problem("3", "What?", "<submit>"), r"no answer to 3 can be right: .*'<submit>'"),
        (problem("4", "What?", "Result=\nResult="), r"no answer to 4 can be right"),
    ],
)
def test_what_makes_results_worthless_is_refused(test, complaint):
    with pytest.raises(PipelineError, match=complaint):
        check_problems(TRIVIAQA, {"train": [GOOD], "test": [test]})


def test_one_answer_that_can_be_right_is_enough():
    test = problem("3", "What?", "<submit>", "A tag")
    check_problems(TRIVIAQA, {"train": [GOOD], "test": [test]})


@pytest.mark.parametrize("name", ["arithmetic", "trivia", "word_problems"])
def test_the_built_in_problems_are_sound(name):
    task = load_task(name)
    check_problems(task, task.problems(load_params().task(name).data))
