import re
from pathlib import Path

import pytest

from pipeline.answers import contains, numeric_match
from pipeline.evaluation.labels import Label, label

BRUCE = (
    "Patrick Poivey (born 18 February 1948) is a French actor. He is especially known for his voice: he "
    "is the French dub voice of Bruce Willis since 1988."
)
BROWN = (
    'The Ralph M. Brown Act, located at California Government Code 54950 "et seq.", is an act of the '
    "California State Legislature, authored by Assemblymember Ralph M. Brown and passed in 1953, that "
    "guarantees the public's right to attend and participate in meetings of local legislative bodies."
)


def call(answer, tool="Wiki", error=False):
    return {"tool": tool, "argument": "x", "answer": answer, "error": error, "cut": False}


def episode(*calls, reward=0.0, end="submitted", shown=None, said="\nResult=x<submit>"):
    """Calls one after the other; `shown` is what the last one's answer was cut to, if it was."""
    segments = []
    for i, c in enumerate(calls):
        text = c["answer"] if shown is None or i < len(calls) - 1 else shown
        segments += [
            {"author": "model", "text": "<request><Wiki>x<call>"},
            {"author": "tool", "text": text + "<response>"},
        ]
    segments.append({"author": "model", "text": said})
    return {"reward": reward, "end_reason": end, "calls": list(calls), "segments": segments}


def of_search(row, answers=("Walter",)):
    return label(row, lambda text: bool(contains(text, answers)), ["Wiki"], computes=False)


def of_program(row, answer="8"):
    return label(row, lambda text: bool(numeric_match(text, answer)), ["Python"], computes=True)


def test_a_search_for_bruce_willis_that_finds_his_french_voice_is_a_bad_search():
    assert of_search(episode(call(BRUCE))) == Label.BAD_SEARCH


def test_the_brown_act_cut_before_the_answer_is_an_overlong_response():
    row = episode(call(BROWN), shown=BROWN[:120] + "...")
    assert of_search(row, ["1953"]) == Label.OVERLONG_RESPONSE
    assert of_search(episode(call(BROWN)), ["1953"]) == Label.MISREAD


def test_a_text_that_used_up_the_budget_is_overlong():
    row = episode(call("Walter " + BROWN), end="max_length")
    assert of_search(row) == Label.OVERLONG_RESPONSE
    row["segments"] = row["segments"][:1]  # it did not even enter the text
    assert of_search(row) == Label.OVERLONG_RESPONSE


GOOD, BAD = call("He is Walter."), call("Tool error: the search is empty", error=True)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (episode(GOOD, reward=1.0), "correct"),
        (episode(BAD, GOOD, reward=1.0), "correct"),
        (episode(reward=1.0), "correct without the tool"),
        (episode(BAD, reward=1.0), "correct without the tool"),
        (episode(), "no call"),
        (episode(end="max_new_tokens", said=" I know it."), "no call"),
        (episode(end="max_new_tokens", said="<request><Wiki>Bruce Wil"), "malformed call"),
        (episode(call("Tool error: a call is written ...", tool="", error=True)), "malformed call"),
        (episode(call("Tool error: no tool", tool="Wikk", error=True)), "unknown tool"),
        (episode(BAD), "tool error"),
        (episode(GOOD, BAD), "misread"),
        (episode(BAD, call("Nothing of use.")), "bad search"),
        (episode(call("Nothing of use."), end="max_turns"), "bad search"),
        (episode(GOOD, end="max_turns"), "no submit"),
        (episode(GOOD, end="max_new_tokens"), "no submit"),
        (episode(GOOD, end="end_of_text"), "no submit"),
        (episode(GOOD), "misread"),
    ],
)
def test_labels_of_searches(row, expected):
    assert of_search(row) == expected


def failed(text):
    return call(f"Tool error: {text}", tool="Python", error=True)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (episode(call("8.0", tool="Python")), "right program misreported"),
        (episode(call("8.0", tool="Python"), end="max_new_tokens"), "no submit"),
        (episode(call("9", tool="Python")), "wrong number"),
        (episode(call("8 apples", tool="Python")), "wrong number"),
        (episode(failed("SyntaxError: '(' was never closed")), "syntax error"),
        (episode(failed("TimeoutError: the program took longer than 1 s")), "time-out"),
        (episode(failed("NameError: name 'x' is not defined")), "runtime error"),
        (episode(failed("Exception: mine")), "runtime error"),
        (episode(failed("ModuleNotFoundError: No module named 'numpy'")), "tool error"),
        (episode(failed("the program printed nothing")), "tool error"),
        (episode(call("8", tool="Python"), reward=1.0), "correct"),
    ],
)
def test_labels_of_programs(row, expected):
    assert of_program(row) == expected


def test_the_docs_have_a_rule_for_every_label():
    docs = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    rules = "\n".join(line for line in docs.splitlines() if line.startswith("|"))
    for each in Label:
        assert re.search(rf"(?m)^\|(.*, )? ?{each}(,.*)? \|", rules), each
