import gzip
import json
from fractions import Fraction
from pathlib import Path

import datasets
import pytest

from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.tasks import load_task

TASK = load_task("triviaqa")
CASES = json.loads(Path(__file__).with_name("triviaqa_cases.json").read_text(encoding="utf-8"))


def data(**options):
    committed = load_params().task("triviaqa").data.model_dump()
    return TASK.Data(**(committed | {"test": 1} | options))


def test_questions_from_files(tmp_path):
    rows = [
        {"id": str(i), "question": f"Question {i}?", "answers": [f"A{i}", "b"]} for i in range(9)
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": path, "test": path}
    problems = TASK.problems(data(source="path", path=files, train=4, test=9))
    assert len(problems["train"]) == 4
    assert sorted(p["id"] for p in problems["test"]) == [str(i) for i in range(9)]
    problem = problems["train"][0]
    row = rows[int(problem["id"])]
    assert (problem["question"], problem["aliases"]) == (row["question"], row["answers"])
    assert problem["answer"] == f"A{problem['id']}"
    assert set(problem) == {"id", "question", "answer", "aliases"}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, suffix):
    path = tmp_path / f"q{suffix}"
    text = b'\xef\xbb\xbf{"id": "0", "question": "q", "answers": ["a"]}\n'
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    (problem,) = TASK.problems(data(source="path", path={"train": path, "test": path}))["test"]
    assert problem["id"] == "0"


def test_blank_answers_beside_others_are_left_out(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "0", "question": "q", "answers": [" ", "The The", ""]}\n')
    (problem,) = TASK.problems(data(source="path", path={"train": path, "test": path}))["test"]
    assert (problem["answer"], problem["aliases"]) == ("The The", ["The The"])
    assert TASK.reward("Result=The The<submit>", problem) == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"q\.jsonl:2: not JSON"),
        ("[]", r"q\.jsonl:2: no good 'id'"),
        ('{"id": "1", "answers": ["a"]}', r"q\.jsonl:2: no good 'question'"),
        ('{"id": "1", "question": "q", "answers": []}', r"q\.jsonl:2: no good 'answers'"),
        ('{"id": "1", "question": "q", "answers": "a"}', r"q\.jsonl:2: no good 'answers'"),
        ('{"id": "1", "question": "q", "answers": [1]}', r"q\.jsonl:2: no good 'answers'"),
        (
            '{"id": "1", "question": "q", "answers": ["", " "]}',
            r"q\.jsonl:2: all of the 'answers' are blank",
        ),
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


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_exact_match_and_f1_are_those_of_triviaqas_own_script(case):
    """Worked out by hand from the script's rules: lower case, _ and punctuation to spaces, no articles."""
    problem = {"aliases": case["aliases"]}
    text = f"Result={case['text']}<submit>"
    for name in ("exact_match", "f1"):
        assert TASK.measures[name].of(text, problem) == pytest.approx(float(Fraction(case[name])))


def test_what_contains_an_answer_somewhere_is_a_measure_and_may_be_what_training_pays_for():
    problem = {"question": "Q", "aliases": ["Tirana"]}
    text = "Result=" + "word " * 30 + "Tirana<submit>"
    assert TASK.reward(text, problem) == TASK.reward_for("right")(text, problem) == 0
    assert TASK.reward_for("contains")(text, problem) == 1
    assert TASK.reward_for("exact_match")(text, problem) == 0
    assert TASK.reward_for("f1")(text, problem) == pytest.approx(2 / 32)
