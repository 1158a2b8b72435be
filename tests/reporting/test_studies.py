from dataclasses import replace

import pandas as pd
import pytest

from pipeline.reporting.studies import StudyRun, difference, figures, render, summarize


def run(rewards, kl=1.0, **record):
    curve = pd.DataFrame(
        {
            "step": [1, 2],
            "episodes": [8, 16],
            "env/reward_mean": [0.2, 0.9],
            "objective/kl": [0.0, kl],
        }
    )
    rows = [
        {"mode": mode, "subset": subset, "reward": reward}
        for mode in ("sampled", "greedy")
        for subset in ("", "unseen")
        for reward in (rewards if (mode, subset) == ("sampled", "") else [0.0, 0.0])
    ]
    machine = {"device_name": "Some CPU", "precision": "float32"}
    code = {"revision": "0123456789abcdef", "changed": "stopped" in record}
    return StudyRun(curve, record | {"machine": machine, "code": code}, pd.DataFrame(rows))


@pytest.fixture
def arms():
    return {
        "default": {1: run([1, 1, 1, 1]), 2: run([1, 1, 1, 0])},
        "walk": {
            1: run([1, 0, 0, 0], kl=2.0, stopped={"at": "step 2: <NaN>"}),
            2: run([0, 0, 0, 0], 4.0),
        },
    }


def test_an_arm_in_numbers(arms):
    found = summarize(arms)
    assert found["default"]["reached"] == {"sampled": 1, "greedy": 0}
    assert found["default"]["accuracies"]["sampled"]["accuracy"] == pytest.approx(7 / 8)
    assert found["default"]["accuracies"]["unseen sampled"]["accuracy"] == 0
    assert found["default"]["difference"] is None
    walk = found["walk"]
    assert (walk["seeds"], walk["stopped"], walk["kl"], walk["episodes"]) == ([1, 2], 1, 3.0, 16)
    assert walk["difference"]["mean"] == -0.75


def test_the_difference_is_welchs():
    # By hand: means 2/3 and 1/3, variances 1/30 and 1/120, so a standard error of sqrt(1/72), 2.941...
    # degrees of freedom, and t(.975) of them 3.2188: the half-width is .3793.
    first, second = (
        [2 / 3 - 30**-0.5, 2 / 3, 2 / 3 + 30**-0.5],
        [1 / 3 - 120**-0.5, 1 / 3, 1 / 3 + 120**-0.5],
    )
    found = difference(first, second)
    assert found["mean"] == pytest.approx(-1 / 3, abs=1e-4)
    assert found["high"] - found["mean"] == pytest.approx(0.3793, abs=2e-4)
    assert found["mean"] - found["low"] == pytest.approx(0.3793, abs=2e-4)


@pytest.mark.parametrize(("first", "second"), [([0.9], [0.1, 0.2]), ([0.9, 0.9], [0.9, 0.9])])
def test_no_difference_is_told_where_there_is_no_spread(first, second):
    assert difference(first, second) is None


def test_the_page(arms):
    tasks = {"arithmetic": arms}
    summaries = {"arithmetic": summarize(arms)}
    page = render(tasks, summaries, {"default": {}, "walk": {"ppo.gae": "walk"}}, figures(tasks))
    assert "ppo.gae: walk</span>" in page
    assert "<strong>-75.0</strong>" in page
    assert "<br>-75.0 <span" in page
    assert "<td>Some CPU, float32</td>" in page
    assert page.count("<td><code>0123456</code></td>") == 3
    assert page.count("<td><code>0123456</code>, changed</td>") == 1
    assert "1, 0 of 2" in page
    assert "step 2: &lt;NaN&gt;" in page
    assert page.count("<svg") == 1


def test_steps_and_episodes_share_an_axis_only_where_all_steps_are_alike(arms):
    other = run([1, 1])
    mixed = {**arms, "walk": {1: replace(other, curve=other.curve.assign(episodes=[4, 8]))}}
    drawn = [figures({"arithmetic": each})["arithmetic-curves"] for each in (arms, mixed)]
    assert [svg.count(">episodes<") for svg in drawn] == [2, 0]
