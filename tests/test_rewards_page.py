"""docs/rewards.md: each of its examples earns what the page says."""

import re
from pathlib import Path

import pytest

from pipeline.tasks import load_task

PAGE = Path(__file__).parents[1] / "docs/rewards.md"
ROW = re.compile(r"^\| (\w+) \| `(.+?)` \| `(.+?)` \| ([01]) \|$", re.MULTILINE)
EXAMPLES = ROW.findall(PAGE.read_text(encoding="utf-8").partition("## Examples")[2])


def written(text):
    """The text of a cell, in which `\\n` and `\\u0308` stand for characters."""
    return text.replace(r"\n", "\n").replace(r"\u0308", "\u0308")


@pytest.mark.parametrize(("task", "right", "text", "pays"), EXAMPLES)
def test_each_example_earns_what_the_page_says(task, right, text, pays):
    question = "What is the capital of Albania?" if right == "Tirana" else "Which?"
    problem = {"question": question, "answer": right, "aliases": [right]}
    assert load_task(task).reward(written(text), problem) == float(pays)


def test_every_row_of_the_table_is_an_example():
    table = PAGE.read_text(encoding="utf-8").partition("## Examples")[2]
    assert len(EXAMPLES) == len(re.findall(r"^\|", table, re.MULTILINE)) - 2  # the head
    assert {task for task, *_ in EXAMPLES} == {"arithmetic", "gsm8k", "trivia"}
    assert {pays for *_, pays in EXAMPLES} == {"0", "1"}
