import re
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.tasks import load_task
from pipeline.tasks.word_problems.stories import STORIES
from pipeline.tools.python import PythonInterpreter

TASK = load_task("word_problems")


def data(**options):
    settings = load_params(Path(__file__).parents[3] / "params.yaml").task("word_problems").data
    return settings.model_copy(update=options)


@pytest.fixture(scope="module")
def tools():
    return TASK.tools(
        load_params(Path(__file__).parents[3] / "params.yaml").task("word_problems").tools, {}
    )


@pytest.fixture(scope="module")
def splits():
    return TASK.problems(data())


def index_of(problem):
    return int(problem["kind"].removeprefix("story "))


def test_builtin_problems_by_split(splits):
    train, test = splits["train"], [p for p in splits["test"] if "subset" not in p]
    unseen = [p for p in splits["test"] if p.get("subset") == "unseen"]
    assert (len(train), len(test), len(unseen)) == (1024, 180, 72)
    known = {index for index, story in enumerate(STORIES) if story.role != "unseen"}
    assert {index_of(p) for p in train} == {index_of(p) for p in test} == known
    assert {index_of(p) for p in unseen} == set(range(len(STORIES))) - known
    programs = [p["program"] for split in splits.values() for p in split]
    assert len(programs) == len(set(programs))


def test_builtin_problems_are_the_same_from_the_same_seed(splits):
    assert TASK.problems(data()) == splits
    assert TASK.problems(data(seed=1)) != splits


def test_stories_run_out(tmp_path):
    with pytest.raises(PipelineError, match=r"word_problems\.data: too many problems: story \d+"):
        TASK.problems(data(train=30_000))


def test_the_prompt_has_the_missions_form_and_is_true(splits, tools):
    shown, demonstrations = TASK.demonstrate(splits["train"], tools, 40)
    prompt = TASK.layout.prompt(shown)
    assert len(demonstrations) == 40
    shots = re.findall(
        r"\n\nQ: .*\?\n<request><PythonInterpreter>\n(def solution\(\):\n(?:    .*\n)+print\(solution\(\)\)\n)"
        r"<call>(.*)<response>\nResult = (.*) <submit>",
        prompt,
    )
    assert len(shots) == 2
    for program, answer, result in shots:
        assert str(PythonInterpreter()(program)) == answer == result
    assert prompt.endswith("<submit>")


def test_demonstrations_show_a_third_of_the_stories_and_get_the_reward(splits, tools):
    shots, demonstrations = TASK.demonstrate(splits["train"], tools, 10_000)
    by_question = {p["question"]: p for p in splits["train"]}
    shown = set()
    for demonstration in demonstrations:
        problem = by_question[demonstration.question]
        shown.add(index_of(problem))
        segments = TASK.layout.segments(demonstration)
        assert [author for author, _ in segments] == ["model", "tool", "model"]
        assert TASK.reward(segments[-1][1], problem) == 1
        assert demonstration not in shots
    assert shown == {i for i, story in enumerate(STORIES) if story.role == "demonstrated"}
