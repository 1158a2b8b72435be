from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.sources import draw

ROWS = {"train.jsonl": [{"id": i} for i in range(20)], "test.jsonl": [{"id": -i} for i in range(9)]}


def drawn(read=None, **options):
    committed = load_params().task("triviaqa").data
    settings = type(committed).model_validate(
        committed.model_dump() | {"source": "path", "test": 9, "train": 20} | options
    )

    def from_file(path: Path):
        if read is not None:
            read.append(path.name)
        return ROWS[path.name]

    return draw(settings, "triviaqa.data", from_file, lambda source, split: [])


def ids(rows):
    return [row["id"] for row in rows]


def test_validation_rows_are_cut_from_the_trainings_and_leave_the_tests_alone():
    whole, cut = drawn(), drawn(validation=6)
    assert cut["test"] == whole["test"]
    asked = drawn(validation=6, evaluate="validation")
    assert ids(asked["train"]) == ids(cut["train"])
    assert len(asked["test"]) == 6
    assert sorted(ids(asked["train"]) + ids(asked["test"])) == list(range(20))
    assert {row["subset"] for row in asked["test"]} == {"validation"}
    assert not any("subset" in row for row in asked["train"] + cut["test"])


def test_to_evaluate_validation_rows_the_test_is_not_read():
    read = []
    drawn(read, validation=6, evaluate="validation")
    assert read == ["train.jsonl"]


def test_another_seed_draws_others():
    assert ids(drawn(train=9, seed=1)["train"]) != ids(drawn(train=9)["train"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"validation": 20},
            r"triviaqa\.data\.validation: 20 of the 20 problems of train\.jsonl leave none",
        ),
        ({"test": 10}, r"triviaqa\.data\.test: 10 problems are wanted, test\.jsonl has 9"),
    ],
)
def test_numbers_that_the_data_cannot_give_are_refused(options, complaint):
    with pytest.raises(PipelineError, match=complaint):
        drawn(**options)


def test_there_must_be_validation_rows_to_evaluate():
    with pytest.raises(ValidationError, match="validation must be at least 1; it is 0"):
        drawn(evaluate="validation")
