from collections import Counter

import pytest

from pipeline.answers import contains
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.tasks.trivia import DEMONSTRATED, FORMS
from pipeline.tools import ToolResponse
from pipeline.tools.protocol import parse_call
from pipeline.tools.wiki import first_paragraph
from pipeline.tools.wiki.encyclopaedia import articles, entities

TASK = load_task("trivia")


def data(**options):
    committed = load_params().task("trivia").data.model_dump()
    return TASK.Data(**(committed | options))


class Titles:
    """A tool that finds articles by their titles."""

    def __init__(self):
        by_id = {article["id"]: article["contents"] for article in articles()}
        self.articles = {e.title: by_id[e.id] for e in entities()}
        self.asked = []

    def __call__(self, query):
        self.asked.append(query)
        return ToolResponse(first_paragraph(self.articles.get(query, "x\nNothing.")))


# --- questions --------------------------------------------------------------------------------------


def test_no_entity_is_in_both_splits():
    splits = TASK.problems(data(train=5000, test=2000))
    train, test = ({p["id"].split(": ")[1] for p in splits[s]} for s in ("train", "test"))
    assert len(train) > 1000
    assert len(test) > 300
    assert not train & test


def test_kinds_are_balanced_and_forms_vary():
    problems = TASK.problems(data(train=600, test=150))["train"]
    counts = Counter(p["kind"] for p in problems)
    assert set(counts) == set(FORMS)
    assert max(counts.values()) - min(counts.values()) <= 1
    for kind, (_, _, forms) in FORMS.items():
        questions = [p["question"] for p in problems if p["kind"] == kind]
        for form in forms:
            before, after = form.split("{name}")
            assert any(q.startswith(before) and q.endswith(after) for q in questions), form


def test_every_answer_is_in_the_subjects_first_paragraph():
    titles = Titles()
    bearers = Counter(entity.name for entity in entities())
    for split in TASK.problems(data(train=5000, test=2000)).values():
        for problem in split:
            assert problem["answer"] == problem["aliases"][0]
            assert bearers[problem["subject"]] == 1
            assert contains(str(titles(problem["subject"])), problem["aliases"]), problem


def test_no_symbol_is_asked_for_that_is_a_word():
    problems = [p for s in TASK.problems(data(train=5000, test=2000)).values() for p in s]
    symbols = {p["answer"] for p in problems if p["kind"] == "symbol"}
    assert {"O", "Al", "Ho"} <= symbols
    assert not {"He", "In", "No", "I", "Be"} & symbols


def test_the_seed_decides():
    assert TASK.problems(data()) == TASK.problems(data())
    assert TASK.problems(data()) != TASK.problems(data(seed=1))
    assert [len(TASK.problems(data())[s]) for s in ("train", "test")] == [1024, 256]


# --- demonstrations --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught():
    problems = TASK.problems(data())["train"]
    return problems, *TASK.demonstrate(problems, {"Wiki": Titles()}, 96)


def test_demonstrations_are_true(taught):
    problems, shots, demonstrations = taught
    by_question = {p["question"]: p for p in problems}
    wiki = Titles()
    assert len(demonstrations) == 96
    assert len({d.question for d in demonstrations}) == 96
    for demonstration in demonstrations:
        segments = TASK.layout.segments(demonstration)
        (_, call), (_, answer), (_, result) = segments
        assert [author for author, _ in segments] == ["model", "tool", "model"]
        problem = by_question[demonstration.question]
        parsed = parse_call(call)
        assert parsed.tool == "Wiki"
        assert answer == f"{wiki(parsed.argument)}<response>"
        assert TASK.reward(result, problem) == 1
        assert problem["kind"] in DEMONSTRATED
        assert demonstration.question not in {shot.question for shot in shots}


def test_most_first_guesses_are_wrong(taught):
    problems, _, demonstrations = taught
    by_question = {p["question"]: p for p in problems}
    right = [contains(d.guess, by_question[d.question]["aliases"]) for d in demonstrations]
    assert 0.25 < sum(right) / len(right) < 0.45


def test_the_prompt_has_the_form_of_the_originals(taught):
    _, shots, _ = taught
    prompt = TASK.layout.prompt(shots)
    head, first, second = prompt.split("\n\n")
    assert head == "Answer the following question:"
    for shot in (first, second):
        question, guess, search, result = shot.split("\n")
        assert question.startswith("Q: ")
        assert guess.startswith("A: ")
        assert search.startswith("A2: <request><Wiki>")
        assert search.endswith("<response>")
        assert result.startswith("Result=")
        assert result.endswith("<submit>")
