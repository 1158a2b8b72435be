import pandas as pd
import pytest

from pipeline.evaluation.analysis import analyse
from pipeline.tasks import RECORDED, load_task
from pipeline.tools.wiki.diagnosis import DIAGNOSES
from pipeline.tools.wiki.process import Hit

PARAGRAPHS = {"a": "Atown\nAtown is in Albania.", "b": "Btown\nBtown is large.\nIt is in Belgium."}


class FakeSearcher:
    """Finds the document whose name is in the query."""

    def search(self, queries, k=1):
        return [
            [
                Hit(name, 1.0, text)
                for name, text in PARAGRAPHS.items()
                if f"{name}town" in q.lower()
            ]
            for q in queries
        ]


class FakeWiki:
    searcher = FakeSearcher()
    shown = 1


def episode(number, query, answer, found, reward=0.0):
    return {
        "id": str(number),
        "question": f"In which country is {query}?",
        "answer": answer,
        "aliases": [answer],
        "kind": "country",
        "subset": "",
        "reward": reward,
        "end_reason": "submitted",
        "segments": [
            {"author": "model", "text": f" x\nA2: <request><Wiki>{query}<call>", "tokens": 9},
            {"author": "tool", "text": f"{found}<response>", "tokens": 5},
            {"author": "model", "text": "\nResult=x<submit>", "tokens": 5},
        ],
        "calls": [
            {"tool": "Wiki", "argument": query, "output": found, "error_kind": "", "cut": False}
        ],
    }


@pytest.fixture
def table():
    return pd.DataFrame(
        [
            episode(1, "Atown", "Albania", "Atown is in Albania.", reward=1.0),
            episode(2, "Atown", "Albania", "Atown is in Albania."),
            episode(3, "Btown", "Belgium", "Btown is large."),
            episode(4, "Btown", "France", "Btown is large."),
        ]
    )


def test_every_episode_gets_a_label_and_bad_searches_a_diagnosis(table, tmp_path):
    table.to_parquet(tmp_path / "t.parquet")
    stored = pd.read_parquet(tmp_path / "t.parquet")  # lists come back as arrays
    analysed = analyse(stored, load_task("trivia"), {"Wiki": FakeWiki()})
    assert analysed["label"].tolist() == ["correct", "misread", "bad search", "bad search"]
    assert analysed.loc[:1, list(DIAGNOSES)].isna().all(axis=None)
    assert analysed["in_article"].tolist()[2:] == [True, False]
    assert analysed["question_finds"].tolist()[2:] == [False, False]
    assert analysed["rank"].isna().all()
    analysed.to_parquet(tmp_path / "analysed.parquet")


def test_a_task_without_a_diagnosis_has_no_such_columns(table):
    table["answer"], table["reward"] = "7", 0.0
    analysed = analyse(table, load_task("word_problems"), {"Wiki": lambda program: "8"})
    assert set(analysed["label"]) == {"wrong number"}
    assert set(analysed.columns) - set(table.columns) == {"label"}


def test_a_task_that_diagnoses_always_has_its_columns(table):
    analysed = analyse(table[:2], load_task("trivia"), {"Wiki": FakeWiki()})
    assert set(analysed.columns) - set(table.columns) == {"label", *DIAGNOSES}
    assert analysed[list(DIAGNOSES)].isna().all(axis=None)


def test_a_task_gets_the_problem_and_nothing_else_of_an_episode(table):
    class Asks(type(load_task("gsm8k"))):
        def find(self, text, problem):
            assert set(problem) == set(RECORDED)
            return None

    analyse(table, Asks(), {"Wiki": lambda program: "8"})


def test_triviaqas_episodes_say_whether_a_search_for_the_question_could_answer(table):
    analysed = analyse(table, load_task("triviaqa"), {"Wiki": FakeWiki()})
    assert analysed["answerable"].tolist() == [True, True, False, False]
    assert "answerable" not in analyse(table, load_task("trivia"), {"Wiki": FakeWiki()})
