from pathlib import Path

import pytest

from pipeline.answers import contains, numeric_match
from pipeline.evaluation.labels import Label, label
from pipeline.tools import ErrorKind

BRUCE = (
    "Patrick Poivey (born 18 February 1948) is a French actor. He is especially known for his voice: he "
    "is the French dub voice of Bruce Willis since 1988."
)
BROWN = (
    'The Ralph M. Brown Act, located at California Government Code 54950 "et seq.", is an act of the '
    "California State Legislature, authored by Assemblymember Ralph M. Brown and passed in 1953, that "
    "guarantees the public's right to attend and participate in meetings of local legislative bodies."
)


def call(output, tool="Wiki", error_kind=""):
    return {"tool": tool, "argument": "x", "output": output, "error_kind": error_kind, "cut": False}


def episode(*calls, reward=0.0, end="submitted", shown=None, said="\nResult=x<submit>"):
    """Calls one after the other; `shown` is what the last one's output was cut to, if it was."""
    segments = []
    for i, c in enumerate(calls):
        text = c["output"] if shown is None or i < len(calls) - 1 else shown
        segments += [
            {"author": "model", "text": "<request><Wiki>x<call>"},
            {"author": "tool", "text": text + "<response>"},
        ]
    segments.append({"author": "model", "text": said})
    return {"reward": reward, "end_reason": end, "calls": list(calls), "segments": segments}


def of_search(row, aliases=("Walter",)):
    return label(row, lambda text: bool(contains(text, aliases)), computes=False)


def of_program(row, answer="8"):
    return label(row, lambda text: bool(numeric_match(text, answer)), computes=True)


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


GOOD, BAD = call("He is Walter."), call("Tool error: the search is empty", error_kind="refused")


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
        (episode(call("Tool error: ...", tool="", error_kind="malformed")), "malformed call"),
        (episode(call("Tool error: ...", tool="Wikk", error_kind="unknown tool")), "unknown tool"),
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


def failed(kind):
    """A call that failed; what the tool says of it is not read."""
    return call("Tool error: SyntaxError: time-out", tool="Python", error_kind=kind)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (episode(call("8.0", tool="Python")), "right program misreported"),
        (episode(call("8.0", tool="Python"), end="max_new_tokens"), "no submit"),
        (episode(call("9", tool="Python")), "wrong number"),
        (episode(call("8 apples", tool="Python")), "wrong number"),
        (episode(failed("syntax")), "syntax error"),
        (episode(failed("timeout")), "time-out"),
        (episode(failed("runtime")), "runtime error"),
        (episode(failed("crashed")), "tool error"),
        (episode(failed("missing")), "tool error"),
        (episode(failed("refused")), "tool error"),
        (episode(call("8", tool="Python"), reward=1.0), "correct"),
    ],
)
def test_labels_of_programs(row, expected):
    assert of_program(row) == expected


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_of_error_has_a_label(kind):
    name = of_program(episode(failed(kind)))
    assert name not in (Label.CORRECT, Label.WRONG_NUMBER, Label.MISREPORTED)


def test_the_last_failed_call_decides():
    assert of_program(episode(failed("syntax"), failed("timeout"))) == Label.TIME_OUT
    assert of_program(episode(failed("timeout"), failed("syntax"))) == Label.SYNTAX_ERROR


def test_the_docs_table_is_that_of_the_labels():
    docs = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    rest = docs.partition("| label | rule |\n| --- | --- |\n")[2]
    rows = rest.partition("\n\n")[0].splitlines()
    assert rows == [f"| {each} | {each.rule} |" for each in Label]


def test_every_label_can_be_told_from_the_others():
    assert len({each.colour for each in Label}) == len({each.rule for each in Label}) == len(Label)
    assert [each for each in Label if each.right] == ["correct", "correct without the tool"]
