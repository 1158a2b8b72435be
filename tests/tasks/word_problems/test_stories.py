import random
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

from pipeline.answers import numeric_match
from pipeline.tasks.word_problems.stories import MEN, STORIES, WOMEN, _for_test, tell
from pipeline.tools.python import PythonInterpreter


def told(story, seed, test=False):
    return tell(story, random.Random(seed), test)


def test_there_are_forty_stories_and_more_a_quarter_of_them_unseen_a_third_of_the_others_shown():
    count = Counter(story.role for story in STORIES)
    assert len(STORIES) >= 40
    assert len({story.text for story in STORIES}) == len(STORIES)
    assert count["unseen"] == len(STORIES) / 4
    assert count["demonstrated"] == (len(STORIES) - count["unseen"]) / 3


@pytest.mark.parametrize("role", ["demonstrated", "trained", "unseen"])
def test_every_role_has_stories_of_one_to_four_steps(role):
    assert {len(s.calculation.steps) for s in STORIES if s.role == role} == {1, 2, 3, 4}


def test_some_stories_mention_numbers_that_do_not_matter():
    distracting = Counter()
    for story in STORIES:
        in_text, in_steps = (
            set(re.findall(r"{([a-z]+)}", text))
            for text in (story.text, " ".join(story.calculation.steps))
        )
        assert in_steps <= in_text  # nobody can solve it otherwise
        distracting[story.role] += bool((in_text & story.calculation.numbers.keys()) - in_steps)
    assert distracting["trained"] >= 1
    assert distracting["unseen"] >= 6


@pytest.mark.parametrize("index", range(len(STORIES)))
def test_the_program_prints_the_answer_and_it_is_a_whole_number_above_zero(index):
    interpreter = PythonInterpreter()
    problems = [told(STORIES[index], seed) for seed in range(60)]
    for problem, printed in zip(problems, interpreter.batch([p.program for p in problems])):
        assert numeric_match(str(printed), problem.answer), (problem, printed)
        assert Fraction(problem.answer) > 0, problem
        assert Fraction(problem.answer).denominator == 1, problem
        assert not re.search(r"[{}]", problem.question)


# What the stories ask for, read from their texts: n are the numbers in the order in which they stand there.
ASKED = [
    *[lambda n: n[0] - n[1]] * 6,
    lambda n: n[1] - n[2],
    lambda n: n[0] - n[1],
    *[lambda n: n[0] * n[1]] * 2,
    lambda n: n[1] * n[2],
    *[lambda n: n[0] * n[1]] * 3,
    lambda n: n[1] * n[2],
    lambda n: n[0] * n[1],
    *[lambda n: n[0] - n[1] * n[2]] * 6,
    lambda n: n[1] - n[2] * n[3],
    lambda n: n[0] - n[1] * n[2],
    *[lambda n: (n[0] + n[1]) / n[2]] * 6,
    lambda n: (n[1] + n[2]) / n[3],
    lambda n: (n[0] + n[1]) / n[2],
    *[lambda n: n[0] * n[1] + n[2] * n[3]] * 6,
    lambda n: n[1] * n[2] + n[3] * n[4],
    lambda n: n[0] * n[1] + n[2] * n[3],
    *[lambda n: n[0] - n[1] * n[2] - n[3] * n[4]] * 6,
    lambda n: n[1] - n[2] * n[3] - n[4] * n[5],
    lambda n: n[0] - n[1] * n[2] - n[3] * n[4],
]


@pytest.mark.parametrize(("story", "asked"), list(zip(STORIES, ASKED, strict=True)))
def test_the_answer_is_what_the_question_asks_for(story, asked):
    for seed in range(20):
        problem = told(story, seed)
        numbers = [int(number) for number in re.findall(r"\d+", problem.question)]
        assert asked(numbers) == Fraction(problem.answer), problem
        assert not re.search(r"(?<!\d)1 [a-z]+s\b", problem.question)


def test_a_story_told_again_is_the_same_and_told_anew_another():
    assert told(STORIES[0], 1) == told(STORIES[0], 1)
    assert len({told(STORIES[0], seed).question for seed in range(20)}) == 20


def test_names_and_pronouns():
    story = replace(STORIES[0], text="{name} {She} {she} {friend}")
    for seed in range(200):
        name, *pronouns, friend = told(story, seed).question.split()
        assert pronouns == (["She", "she"] if name in WOMEN.split() else ["He", "he"])
        assert name != friend


def test_the_test_has_names_of_its_own():
    story = replace(STORIES[0], text="{name} {friend}")

    def names(test):
        return {n for seed in range(300) for n in told(story, seed, test).question.split()}

    assert not names(True) & names(False)
    everybody = {*WOMEN.split(), *MEN.split()}
    assert not set(WOMEN.split()) & set(MEN.split())
    assert names(True) == {name for name in everybody if _for_test(name)}
    assert len(names(True)) >= 30
