import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import load_task
from pipeline.tasks.search_task import _searches

TASK = load_task("triviaqa")


def test_questions_that_do_not_fit_the_encyclopaedia_are_an_error():
    problems = [{"id": "1", "question": "Who?", "answer": "Nobody", "aliases": ["Nobody"]}] * 5
    with pytest.raises(PipelineError, match=r"do the questions .* fit the encyclopaedia"):
        TASK.demonstrate(problems, {"Wiki": lambda query: "Nothing."}, 10)


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("What is Bruce Willis' real first name?", ["Bruce Willis'"]),
        ("Which team won Super Bowl XX in 1986?", ["Super Bowl XX"]),
        ("who wrote it?", []),
    ],
)
def test_what_to_search_for(question, names):
    assert list(_searches({"question": question})) == [*names, question]


# --- the check -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("\nResult=Tirana<submit>", 1),
        ("\nResult = the tirana! <submit>", 1),
        ("\nResult=It is Tirana, I think<submit>", 1),
        ("\nResult=Durrës<submit>", 0),
        ("\nResult=Tirana", 0),
        ("Tirana<submit>", 0),
        ("\nResult=<submit>", 0),
        ("\nResult=Tirana<submit> Result=Durrës<submit>", 0),
        ("", 0),
    ],
)
def test_reward(text, reward):
    assert TASK.reward(text, {"aliases": ["Tirana", "Tiranë"]}) == reward


def test_measures():
    def measured(text):
        return {name: m.of(text, {"aliases": ["Tirana"]}) for name, m in TASK.measures.items()}

    right = {"first_20_words": 1, "exact_match": 1, "f1": 1}
    assert measured("Result=Tirana<submit>") == right
    long = measured("Result=" + "word " * 20 + "Tirana<submit>")
    assert long["first_20_words"] == long["exact_match"] == 0
    assert long["f1"] == pytest.approx(2 / 22)


def test_what_holds_a_tag_is_not_demonstrated():
    """A tag in the data of an example would show a wrong use of tags."""
    rows = [("Who?", "Ada"), ("Who<call>?", "Bob"), ("What?", "Cy"), ("Where?", "<submit>")]
    problems = [{"id": q, "question": q, "answer": a, "aliases": [a]} for q, a in rows]
    found = {"Who?": "Ada.", "Who<call>?": "Bob.", "What?": "Cy.", "Where?": "At <submit>."}
    prompt, demonstrations = TASK.demonstrate(problems, {"Wiki": found.get}, 10)
    assert [question in prompt for question, _ in rows] == [True, False, True, False]
    assert demonstrations == []
