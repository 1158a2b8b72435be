import json
from pathlib import Path

import datasets
import pytest

from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.sources import FileSplits
from pipeline.tasks import load_task
from pipeline.tasks.gsm8k import OLIVIA
from pipeline.tasks.gsm8k import TASK as GSM8K

TASK = GSM8K()
SHARED = Path(__file__).parents[4] / "shared/datasets/gsm8k"


def data(**options):
    settings = load_params(Path(__file__).parents[3] / "params.yaml").task("gsm8k").data
    return settings.model_copy(update=options)


def _from(path):
    return data(source="path", path=FileSplits(train=path, test=path), test=1)


@pytest.fixture(scope="module")
def tools():
    return TASK.tools(
        load_params(Path(__file__).parents[3] / "params.yaml").task("gsm8k").tools, {}
    )


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("#### 72", "72"),
        ("So <<2*36=72>>72.\n#### 72", "72"),
        ("#### 1,250", "1250"),
        ("#### $1,250.50", "1250.50"),
        ("#### -3", "-3"),
        ("#### -$3", "-3"),
        ("#### −4", "-4"),
        ("#### .5 ", ".5"),
        ("#### 12.50.", "12.50"),
        ("#### 7.", "7"),
        ("#### 1 #### 2", "2"),
    ],
)
def test_gold_answers(tmp_path, solution, answer):
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps({"question": "Q?", "answer": solution}) + "\n")
    (problem,) = TASK.problems(_from(path))["test"]
    assert problem["answer"] == answer
    assert TASK.reward(f"Result = {answer} <submit>", problem) == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"g\.jsonl:2: not JSON"),
        ('{"answer": "#### 1"}', r"g\.jsonl:2: no good 'question'; expected {question: str, answer: str}"),
        ('{"question": "q"}', r"g\.jsonl:2: no good 'answer'"),
        ('{"question": "q", "answer": 7}', r"g\.jsonl:2: no good 'answer'"),
        ('{"question": "q", "answer": "####"}', r"g\.jsonl:2: no good 'answer'; it must end in ####"),
        ('{"question": "q", "answer": "#### many"}', r"g\.jsonl:2: no good 'answer'; it must end in ####"),
        ('{"question": "q", "answer": "#### 1,2"}', r"g\.jsonl:2: no good 'answer'; it must end in ####"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "g.jsonl"
    path.write_text('{"question": "q", "answer": "#### 1"}\n' + line + "\n")
    with pytest.raises(PipelineError, match=complaint):
        TASK.problems(_from(path))


def test_without_marks_there_is_nothing_to_demonstrate(tmp_path, tools):
    path = tmp_path / "g.jsonl"
    path.write_text('{"question": "q", "answer": "#### 1"}\n' * 3)
    with pytest.raises(
        PipelineError, match=r"1 problems can .*: the prompt has 4, .*marks like <<12/60=0\.2>>"
    ):
        TASK.demonstrate(TASK.problems(_from(path))["train"], tools, 10)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"gsm8k\.data\.path: there is no file .*none\.jsonl"):
        TASK.problems(_from(tmp_path / "none.jsonl"))


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_the_real_gsm8k(tools):
    files = {"train": SHARED / "train.jsonl", "test": SHARED / "test.jsonl"}
    problems = TASK.problems(data(source="path", path=FileSplits(**files), train=1024, test=660))
    assert (len(problems["train"]), len(problems["test"])) == (1024, 660)
    shots, demonstrations = TASK.demonstrate(problems["train"], tools, 96)
    assert (len(shots), len(demonstrations)) == (TASK.shot_count, 96) == (4, 96)


def test_the_prompt_begins_with_olivia_and_goes_on_with_short_and_various_programs(tools):
    def problem(question, solution, answer):
        return {"id": question, "question": question, "answer": answer, "solution": solution}

    short = problem("12 in 60?", "12/60 = <<12/60=0.2>>0.2 red pears", "0.2")
    two = problem(
        "Of 8 bags 4 hold 2 pears?",
        "8-4=<<8-4=4>>4 full bags. 4+2=<<4+2=6>>6 red pears.",
        "6",
    )
    two_of_the_same = problem(
        "Of 9 bags 3 hold 3?", "9*3=<<9*3=27>>27 full bags. 27-3=<<27-3=24>>24 red pears.", "24"
    )
    three = problem(
        "8 bags, 4, 2, 3?",
        "8/4=<<8/4=2>>2 full bags. 2*3=<<2*3=6>>6 red pears. 6*8=<<6*8=48>>48 red figs.",
        "48",
    )
    four = problem(
        "8 bags, 4, 3, 5?",
        "8/4=<<8/4=2>>2 full bags. 2*3=<<2*3=6>>6 red pears. 6*8=<<6*8=48>>48 red figs."
        " 48+5=<<48+5=53>>53 red cows.",
        "53",
    )
    nameless = problem("3 and 4 and 5?", "<<3*4=12>>12 <<12/5=2.4>>2.4", "2.4")
    head = problem("6 pears?", "8+4=<<8+4=12>>12 full bags. 12/3=<<12/3=4>>4 red pears.", "4")
    problems = [nameless, head, short, two_of_the_same, two, three, four]
    shots, rest = TASK.demonstrate(problems, tools, 9)
    questions = [shot.question for shot in shots]
    assert questions == [OLIVIA["question"], *(p["question"] for p in (two, three, four))]
    assert len(rest) == 4  # the others, none of them twice
    prompt = TASK.layout.prompt(shots)
    assert "\n    money_left = money_initial - money_spent\n" in prompt
    assert "<call>8<response>\nResult = 8 <submit>" in prompt


def test_problems_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, config, split, revision):
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list([{"question": "q", "answer": "<<1+1=2>>\n#### 2"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    problems = TASK.problems(data(source="hub", test=1))
    revision = "740312add88f781978c0658806c59bc2815b9866"
    assert asked == [("openai/gsm8k", "main", split, revision) for split in ("train", "test")]
    assert problems["test"][0]["answer"] == "2"


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def load_dataset(*arguments, **options):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        PipelineError, match=r"gsm8k\.data\.hub: cannot load openai/gsm8k: no route"
    ):
        TASK.problems(data(source="hub", test=1))


def test_built_in_word_problems_are_mixed_into_the_warm_start(tools):
    assert TASK.demonstrate_more(tools, 0) == []
    more = TASK.demonstrate_more(tools, 72)
    assert len({shown.question for shown in more}) == 72
    assert all(shown.calls[0].output == shown.result for shown in more)
    own = load_task("word_problems")
    told = own.problems(load_params().task("word_problems").data)
    assert {shown.question for shown in more}.isdisjoint(p["question"] for p in told["test"])
    with pytest.raises(PipelineError, match=r"trivia\.warm_start\.mix: .* 3 are wanted"):
        load_task("trivia").demonstrate_more({}, 3)
