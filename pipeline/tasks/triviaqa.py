"""TriviaQA with an encyclopaedia to search (Joshi et al. 2017, https://arxiv.org/abs/1705.03551).

The questions come from the data set on the hub, or from files. What is searched is `corpus`: Wikipedia
fits them, the built-in encyclopaedia does not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pipeline import answers as measure
from pipeline.answers import normalize
from pipeline.errors import PipelineError
from pipeline.sources import DataSet, HubSplits, draw, hub_rows, no_good, read_rows
from pipeline.tasks import Measure, Problem
from pipeline.tasks.search_task import TOOL_NAME, SearchTask, of_result
from pipeline.tools.wiki.diagnosis import question_finds


class TriviaQA(SearchTask):
    """See the module's text. Files have rows of {id, question, answers}."""

    Data = DataSet
    measures: ClassVar[Mapping[str, Measure]] = {
        "contains": of_result("answer contained", measure.contains),
        **SearchTask.measures,
    }
    groups: ClassVar[Mapping[str, str]] = {
        "answerable": "the question itself, as query, shows an answer"
    }

    def problems(self, data: DataSet) -> dict[str, list[Problem]]:
        """Raises PipelineError where the questions cannot be had, or a row is bad."""
        return draw(data, "triviaqa.data", _from_file, _from_hub)

    def grouped(self, problems, tools):
        wiki: Any = tools[TOOL_NAME]
        questions = [problem["question"] for problem in problems]
        aliases = [problem["aliases"] for problem in problems]
        return {"answerable": question_finds(wiki.searcher, questions, aliases, wiki.shown)}


def _from_file(path: Path) -> list[Problem]:
    """Raises PipelineError, naming file and line, for what is no `{id, question, answers}`."""
    fields = {"id": str, "question": str, "answers": list}
    problems = []
    for where, row in read_rows(path, fields, "triviaqa.data.path", unique="id"):
        if not all(isinstance(answer, str) for answer in row["answers"]):
            raise no_good(where, "answers", fields)
        problems.append(_problem(where, row["id"], row["question"], row["answers"]))
    return problems


def _from_hub(source: HubSplits, split: str) -> list[Problem]:
    """A question that is there twice, with other evidence, is taken once."""
    problems = {}
    for line, row in enumerate(hub_rows(source, split, "triviaqa.data.hub"), 1):
        answers = dict.fromkeys([row["answer"]["value"], *row["answer"]["aliases"]])
        name = row["question_id"]
        problems[name] = _problem(f"{split}:{line}", name, row["question"], list(answers))
    return list(problems.values())


def _problem(where: str, name: str, question: str, answers: list[str]) -> Problem:
    """Raises PipelineError if all answers are blank. Blank ones beside others are left out."""
    known = [answer for answer in answers if normalize(answer)]
    if not known:
        raise PipelineError(
            f"{where}: all of the 'answers' are blank; one must hold a word or a sign"
        )
    return {"id": name, "question": question, "answer": known[0], "aliases": known}


TASK = TriviaQA
