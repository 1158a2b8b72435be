import json
from collections import Counter
from types import SimpleNamespace

import datasets
import pytest

from pipeline.answers import contains
from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.tasks.triviaqa import DEMONSTRATED, FORMS, _searches
from pipeline.tools import ToolResponse
from pipeline.tools.protocol import parse_call
from pipeline.tools.wiki import first_paragraph
from pipeline.tools.wiki.encyclopaedia import articles, entities

TASK = load_task("triviaqa")


def data(**options):
    committed = load_params().task("triviaqa").data.model_dump()
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


# --- built-in questions ----------------------------------------------------------------------------


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


# --- files and the hub -----------------------------------------------------------------------------


def test_questions_from_files(tmp_path):
    rows = [
        {"id": str(i), "question": f"Question {i}?", "answers": [f"A{i}", "b"]} for i in range(9)
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": path, "test": path}
    problems = TASK.problems(data(source="path", path=files, train=4, test=100))
    assert len(problems["train"]) == 4
    assert sorted(p["id"] for p in problems["test"]) == [str(i) for i in range(9)]
    problem = problems["train"][0]
    row = rows[int(problem["id"])]
    assert (problem["question"], problem["aliases"]) == (row["question"], row["answers"])
    assert problem["answer"] == f"A{problem['id']}"
    assert set(problem) == {"id", "question", "answer", "aliases"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"q\.jsonl:2: not JSON"),
        ("[]", r"q\.jsonl:2: no good 'id'"),
        ('{"id": "1", "answers": ["a"]}', r"q\.jsonl:2: no good 'question'"),
        ('{"id": "1", "question": "q", "answers": []}', r"q\.jsonl:2: no good 'answers'"),
        ('{"id": "1", "question": "q", "answers": "a"}', r"q\.jsonl:2: no good 'answers'"),
        ('{"id": "1", "question": "q", "answers": [1]}', r"q\.jsonl:2: no good 'answers'"),
        ('{"id": "0", "question": "q", "answers": ["a"]}', r"q\.jsonl:2: the id '0' occurs twice"),
        ('{"id": "1", "question": "\\ud83d", "answers": ["a"]}', r"q\.jsonl:2: half of a surr"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "0", "question": "q", "answers": ["a"]}\n' + line + "\n")
    with pytest.raises(PipelineError, match=complaint):
        TASK.problems(data(source="path", path={"train": path, "test": path}))


def test_a_missing_or_empty_file_is_named(tmp_path):
    path = tmp_path / "q.jsonl"
    with pytest.raises(PipelineError, match=r"triviaqa\.data\.path: there is no file .*q\.jsonl"):
        TASK.problems(data(source="path", path={"train": path, "test": path}))
    path.touch()
    with pytest.raises(PipelineError, match=r"q\.jsonl is empty; expected rows of {id"):
        TASK.problems(data(source="path", path={"train": path, "test": path}))


def test_questions_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, config, split, revision):
        asked.append((name, config, split, revision))
        answer = {"value": "Sinclair Lewis", "aliases": ["Harry Lewis", "Sinclair Lewis"]}
        row = {"question_id": f"{split}_1", "question": "Which American?", "answer": answer}
        return datasets.Dataset.from_list([row])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    problems = TASK.problems(data(source="hub"))
    revision = "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f"
    assert asked == [
        ("mandarjoshi/trivia_qa", "rc.nocontext", split, revision)
        for split in ("train", "validation")
    ]
    assert problems["test"] == [
        {
            "id": "validation_1",
            "question": "Which American?",
            "answer": "Sinclair Lewis",
            "aliases": ["Sinclair Lewis", "Harry Lewis"],
        }
    ]


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(PipelineError, match=r"triviaqa\.data\.hub: .*trivia_qa: no route to host"):
        TASK.problems(data(source="hub"))


# --- demonstrations --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught():
    problems = TASK.problems(data())["train"]
    return problems, *TASK.demonstrate(problems, {"Wiki": Titles()}, 96)


def test_demonstrations_are_true(taught):
    problems, prompt, demonstrations = taught
    by_query = {TASK.query(p): p for p in problems}
    wiki = Titles()
    assert len(demonstrations) == 96
    assert len({d.query for d in demonstrations}) == 96
    for demonstration in demonstrations:
        (_, call), (_, answer), (_, result) = demonstration.segments
        assert [author for author, _ in demonstration.segments] == ["model", "tool", "model"]
        problem = by_query[demonstration.query]
        parsed = parse_call(call)
        assert parsed.tool == "Wiki"
        assert answer == f"{wiki(parsed.argument)}<response>"
        assert TASK.reward(result, problem) == 1
        assert problem["kind"] in DEMONSTRATED
        assert demonstration.query not in prompt


def test_most_first_guesses_are_wrong(taught):
    problems, _, demonstrations = taught
    by_query = {TASK.query(p): p for p in problems}
    right = [
        contains(d.segments[0][1].split("\n")[0], by_query[d.query]["aliases"])
        for d in demonstrations
    ]
    assert 0.25 < sum(right) / len(right) < 0.45


def test_the_prompt_has_the_form_of_the_originals(taught):
    _, prompt, _ = taught
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


def measured(text):
    return {name: each.of(text, {"aliases": ["Tirana"]}) for name, each in TASK.measures.items()}


def test_measures():
    assert measured("Result=Tirana<submit>") == {"first_20_words": 1, "exact_match": 1, "f1": 1}
    long = measured("Result=" + "word " * 20 + "Tirana<submit>")
    assert long["first_20_words"] == long["exact_match"] == 0
    assert long["f1"] == pytest.approx(2 / 22)


def test_without_an_index_it_says_what_to_run():
    with pytest.raises(PipelineError, match="dvc repro build_index"):
        TASK.tools(SimpleNamespace(), {})
