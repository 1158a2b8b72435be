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
        ("\nResult=Durrës\nResult=Tirana<submit>", 1),
        ("\nResult=Tirana, Tiranë<submit>", 0),
        ("\nResult=Tirana Tirana<submit>", 0),
        ("\nNoResult=Tirana<submit>", 0),
        ("\nResult=" + "of " * 13 + "Tirana<submit>", 0),
        ("\nResult=Tirana" + "!" * 2000 + "<submit>", 0),
        ("", 0),
    ],
)
def test_reward(text, reward):
    assert TASK.reward(text, {"aliases": ["Tirana", "Tiranë"]}) == reward


PROBLEM = {
    "question": "Which city is not in the north of Albania, West Tirana County's or other?",
    "aliases": ["Durrës", "371,246", "Fier"],
}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("Durrës", 1),
        ("Durrës, Albania", 1),
        ("Durrës (Albania)", 1),
        ("It is Durrës – a city in Albania", 1),
        ("The city is Durrës", 1),
        ("in the year Durrës", 1),
        ("Durrës is in the west of Albania.", 1),
        ("Durrës, Korçë", 0),
        ("Korçë, Durrës", 0),
        ("Durrës and Korçë", 0),
        ("Durrës/Korçë", 0),
        ("Durrës, Fier", 0),  # two of the right ones are a list, too
        ("not Durrës", 0),
        ("it is not in Durrës", 0),  # though the question has the word
        ("Durrës, or other", 0),
        ("West Durrës", 0),
        ("Durrës County", 0),
        ("Durrës Albania", 0),
        ("isn't Durrës", 0),
        ("the mayor of Durrës", 0),
        ("The population is 371246", 0),  # no word of this question
        ("It is 371246", 1),
        ("$371,246", 0),  # an amount of money is another thing
        ("371,246%", 0),
        (">371,246", 0),
        ("-371,246", 0),
        ("- 371,246", 0),
        ("−371,246", 0),
        ("-$371,246", 0),
        ("5,371,246", 0),
        ("371,246,000", 0),
        ("371,246.5", 0),
        ("0.371246", 0),
        (".371246", 0),
        ("3,71,246", 0),
        ("371 246", 0),
        ("٣٧١٬٢٤٦", 0),
        ("３７１,２４６", 0),
        ("３７１２４６", 0),
        ("371,246,0", 0),
    ],
)
def test_what_else_an_answer_may_say(text, reward):
    assert TASK.reward(f"\nResult={text}<submit>", PROBLEM) == reward


@pytest.mark.parametrize("right", ["Paris", "It", "Paris, Texas", "that is it"])
def test_an_answer_that_the_question_names_has_to_stand_alone(right):
    problem = {"question": "Is it Paris or Berlin?", "aliases": [right]}
    assert TASK.reward(f"Result={right}<submit>", problem) == 1
    for text in (f"Berlin, {right}", f"{right}, Berlin", f"it is, {right}"):
        assert TASK.reward(f"Result={text}<submit>", problem) == 0, text


@pytest.mark.parametrize("right", ["The The", "A", "!!!", "The", "🚁", "Vitamin A", "007", "-5", ".5", "1,2,3", "U.S.A.", "O’Neill", "½", "C++", "1990s", "Ⅱ"])  # fmt: skip
def test_an_answer_is_right_whatever_it_is_made_of(right):
    assert TASK.reward(f"Result={right}<submit>", {"question": "Q", "aliases": [right]}) == 1
    assert TASK.reward("Result=x<submit>", {"question": "Q", "aliases": [right]}) == 0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Tirane\u0308", "Tiranë"),
        ("Tiranë", "Tirane\u0308"),
        ("Spider\u2011Man", "Spider-Man"),
        ("1914\u20131918", "1914-1918"),
        ("1914 – 1918", "1914-1918"),
        ("New\u00a0York", "New York"),
        ("O’Neill", "O'Neill"),
        ("\ufb01re", "fire"),
        ("Ｆｉｅｒ", "Fier"),
        ("\u2212\u0035", "-5"),
    ],
)
def test_equal_text_in_another_form_is_right(text, right):
    assert TASK.reward(f"Result={text}<submit>", {"question": "Q", "aliases": [right]}) == 1
    assert TASK.find(f"Well, {text}.", {"aliases": [right]}) == (6, 6 + len(text))


def test_measures():
    def measured(text):
        return {name: m.of(text, {"aliases": ["Tirana"]}) for name, m in TASK.measures.items()}

    right = {"contains": 1, "first_20_words": 1, "exact_match": 1, "f1": 1}
    assert measured("Result=Tirana<submit>") == right
    long = measured("Result=" + "word " * 20 + "Tirana<submit>")
    assert long["contains"] == 1
    assert long["first_20_words"] == long["exact_match"] == 0
    assert long["f1"] == pytest.approx(2 / 22)


def test_what_holds_a_tag_is_not_demonstrated():
    """A tag in the data of an example would show a wrong use of tags."""
    rows = [("Who?", "Ada"), ("Who<call>?", "Bob"), ("What?", "Cy"), ("Where?", "<submit>")]
    problems = [{"id": q, "question": q, "answer": a, "aliases": [a]} for q, a in rows]
    found = {"Who?": "Ada.", "Who<call>?": "Bob.", "What?": "Cy.", "Where?": "At <submit>."}
    shots, demonstrations = TASK.demonstrate(problems, {"Wiki": found.get}, 10)
    assert [shot.question for shot in shots] == ["Who?", "What?"]
    assert demonstrations == []
