import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pandas as pd
import pytest

from pipeline.reporting.figures import correct_rates, episode_picture, learning_curves
from pipeline.reporting.report import COLUMNS, TaskResults, render


def episodes(rewards, text="Result=1<submit>"):
    """A table of one sampled and one greedy episode for each reward."""
    return pd.DataFrame(
        {
            "mode": mode,
            "subset": "",
            "id": str(i),
            "question": f"Question {i}?",
            "answer": "1",
            "reward": float(reward),
            "end_reason": "submitted",
            "segments": [{"author": "model", "text": text}],
        }
        for mode in ("sampled", "greedy")
        for i, reward in enumerate(rewards)
    )


@pytest.fixture
def results():
    curve = pd.DataFrame(
        {
            "step": [1, 2],
            "episodes": [8, 16],
            "env/reward_mean": [0.2, 0.9],
            "objective/kl": [0.0, 1.0],
        }
    )
    return TaskResults(
        name="arithmetic",
        before=episodes([0, 1, 0, 1], text="<script>alert(1)</script> & more"),
        warm_start=None,
        after={1: episodes([1, 0, 0, 1]), 2: episodes([1, 1, 1, 1])},
        curves={1: curve, 2: curve},
        records={1: {"ppo": {"lam": 0.95}}, 2: {"ppo": {"lam": 0.95}}},
    )


def page_of(results):
    overview = correct_rates({results.name: results.metrics()}, COLUMNS)
    return render([results], overview, {results.name: learning_curves(results.curves)})


def test_rates(results):
    metrics = results.metrics()
    assert metrics["before"]["sampled"]["correct_rate"] == 0.5
    assert metrics["after"]["greedy"]["correct_rate"] == 0.75
    assert metrics["after"]["greedy"]["n"] == 8


def test_examples_are_sorted_by_what_training_did(results):
    questions = {
        kind: [pair["question"] for pair in pairs] for kind, pairs in results.examples().items()
    }
    assert questions == {
        "fixed": ["Question 0?"],
        "broken": ["Question 1?"],
        "still wrong": ["Question 2?"],
    }


def test_with_a_warm_start_there_are_three_columns_and_ppo_is_compared_with_it(results):
    warm = episodes([1, 0, 0, 0]).assign(f1=0.25)
    before, after = results.before.assign(f1=0.0), {1: results.after[1].assign(f1=0.75)}
    warmed = replace(results, before=before, warm_start=warm, after=after)
    metrics = warmed.metrics()
    assert list(metrics) == ["before", "warm_start", "after"]
    assert metrics["warm_start"]["sampled"]["correct_rate"] == 0.25
    assert [metrics[column]["greedy"]["f1"] for column in metrics] == [0.0, 0.25, 0.75]
    assert [pair["question"] for pair in warmed.examples()["fixed"]] == ["Question 3?"]
    page = page_of(warmed)
    assert "<th>warm start</th>" in page
    assert "75.0%" in page


def test_a_subset_of_the_test_has_rows_of_its_own(results):
    def with_subset(table):
        return pd.concat([table, table.assign(subset="unseen", id=table["id"] + "u", reward=1.0)])

    after = {seed: with_subset(table) for seed, table in results.after.items()}
    divided = replace(results, before=with_subset(results.before), after=after)
    assert divided.metrics()["after"]["unseen greedy"]["correct_rate"] == 1
    assert divided.metrics()["after"]["greedy"]["correct_rate"] == 0.75
    page = page_of(divided)
    assert page.count("<th>unseen ") == 2


def test_without_a_warm_start_there_are_two_columns(results):
    assert list(results.metrics()) == ["before", "after"]
    assert "f1" not in results.metrics()["before"]["sampled"]
    assert "<th>warm start</th>" not in page_of(results)


def test_the_page_shows_rates_curves_and_text_as_text(results):
    page = page_of(results)
    assert "50.0%" in page
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page


def test_figures_are_the_same_from_the_same_data(results):
    assert learning_curves(results.curves) == learning_curves(results.curves)


def test_every_rate_has_a_line_in_the_overview(results):
    metrics = {"arithmetic": results.metrics(), "trivia": results.metrics()}
    svg = correct_rates(metrics, COLUMNS)
    for line in ("arithmetic, sampled", "trivia, sampled", "trivia, greedy", *COLUMNS.values()):
        assert f">{line}<" in svg
    assert correct_rates(metrics, COLUMNS) == svg


def test_an_episodes_picture_is_valid_whatever_the_model_writes():
    picture = episode_picture([("model", "a\x01\x1b\ufffe<b>&c")], "after")
    ElementTree.fromstring(picture)
    assert "http" not in picture.replace("http://www.w3.org", "").replace(
        "https://www.textualize.io", ""
    )
