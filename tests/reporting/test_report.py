import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pandas as pd
import pytest

from pipeline.errors import PipelineError
from pipeline.reporting.figures import episode_picture
from pipeline.reporting.report import COLUMNS, figures, render
from pipeline.reporting.results import PER_CELL, UNTRAINED, TaskResults, columns_of
from pipeline.reporting.tables import accuracy_table, episode_pictures, labels_table
from tests.reporting.episodes import episodes


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
        columns={
            "base": {UNTRAINED: episodes([0, 1, 0, 1], text="<script>alert(1)</script> & more")},
            "rl": {1: episodes([1, 0, 0, 1]), 2: episodes([1, 1, 1, 1])},
        },
        curves={"rl": {1: curve, 2: curve}},
        records={"rl": {1: {"ppo": {"lam": 0.95}}, 2: {"ppo": {"lam": 0.95}}}},
        prompt="What is 1+1?",
        find=lambda text, problem: (0, 2) if text.startswith("42") else None,
        measures={},
        diagnoses={},
    )


def page_of(results, differences=None):
    return render([results], COLUMNS, figures([results], COLUMNS), differences)


def with_column(results, column, table):
    """The results with one more column before the last."""
    last = list(results.columns)[-1]
    columns = {**results.columns, column: {UNTRAINED: table}}
    return replace(results, columns=columns | {last: columns.pop(last)})


def test_accuracies(results):
    metrics = results.metrics()
    assert metrics["base"]["sampled"]["accuracy"] == 0.5
    assert metrics["rl"]["greedy"]["accuracy"] == 0.75
    assert metrics["rl"]["greedy"]["n"] == 8


def test_columns_come_from_the_table_by_checkpoint_and_seed(results):
    parts = [
        table.assign(
            checkpoint=checkpoint,
            training_seed=pd.array([seed or None] * len(table), dtype="Int64"),
        )
        for checkpoint, tables in results.columns.items()
        for seed, table in tables.items()
    ]
    columns = columns_of(pd.concat(parts, ignore_index=True))
    assert {checkpoint: list(tables) for checkpoint, tables in columns.items()} == {
        "base": [UNTRAINED],
        "rl": [1, 2],
    }
    assert columns["rl"][1]["reward"].tolist() == results.columns["rl"][1]["reward"].tolist()


def test_the_flow_between_labels_counts_every_pair_of_every_seed(results):
    flow = results.flow("sampled")
    assert flow.loc["correct", "correct"] == 3  # problem 3 twice, problem 1 by seed 2
    assert flow.loc["correct", "wrong number"] == 1
    assert flow.loc["wrong number", "correct"] == 3
    assert flow.loc["wrong number", "wrong number"] == 1
    assert flow.to_numpy().sum() == 8


def test_shares_of_labels_add_up_to_one(results):
    shares = results.label_shares("greedy")
    assert shares["rl"].to_dict() == {"correct": 0.75, "wrong number": 0.25}
    assert shares.sum().tolist() == [1, 1]


def test_the_last_two_columns_are_compared_problem_by_problem(results):
    # Of seed 1 one better and one worse, of seed 2 two better.
    compared = results.comparison("sampled")
    assert (compared.n, compared.only_second, compared.only_first) == (8, 3, 1)
    warmed = with_column(results, "sft", episodes([1, 1, 1, 1]))
    assert warmed.compared == ("sft", "rl")
    assert warmed.comparison("sampled").only_first == 2


def test_runs_on_other_problems_cannot_be_compared(results):
    other = replace(results, columns={**results.columns, "base": {UNTRAINED: episodes([1, 0])}})
    with pytest.raises(PipelineError, match="test problems are not the same: 4 episodes in common"):
        other.comparison("sampled")


def test_seeds_are_compared_with_themselves(results):
    first = {2: episodes([0, 0, 0, 0]), 3: episodes([1, 1, 1, 1])}
    runs = replace(results, columns={"base": first, "rl": results.columns["rl"]})
    assert runs.comparison("sampled").only_second == 4
    for seed in (0, 3):
        before = {seed: first[3]}
        strangers = replace(runs, columns={"base": before, "rl": results.columns["rl"]})
        with pytest.raises(PipelineError, match=f"no seed in common: {seed} there and 1, 2 here"):
            strangers.comparison("sampled")


def test_of_each_change_of_label_a_few_episodes_are_shown_the_wrong_ones_first(results):
    many = 3 * PER_CELL
    columns = {
        "base": {UNTRAINED: episodes([0] * many + [1])},
        "rl": {1: episodes([1] * many + [0])},
    }
    shown = replace(results, columns=columns).shown_pairs()
    sampled = [pair for pair in shown if pair["mode"] == "sampled"]
    assert [pair["change"] for pair in sampled] == ["broken"] + ["fixed"] * PER_CELL
    assert sampled[0]["second"]["label"] == "wrong number"
    assert sampled[0]["second"]["id"] == str(many)


def test_with_a_warm_start_there_are_three_columns(results):
    warm = with_column(results, "sft", episodes([1, 0, 0, 0]))
    columns = {
        column: {seed: table.assign(f1=f1) for seed, table in tables.items()}
        for (column, tables), f1 in zip(warm.columns.items(), (0.0, 0.25, 0.75))
    }
    warmed = replace(warm, columns=columns, measures={"f1": "the F1"})
    metrics = warmed.metrics()
    assert list(metrics) == ["base", "sft", "rl"]
    assert metrics["sft"]["sampled"]["accuracy"] == 0.25
    assert [metrics[column]["greedy"]["f1"] for column in metrics] == [0.0, 0.25, 0.75]
    page = page_of(warmed)
    assert "<th>after the warm start (sft)</th>" in page
    row = re.search(r"the F1</td>\s*(<td.*)<td></td>", page)
    assert re.findall(r"[\d.]+%", row[1]) == ["0.0%", "25.0%", "75.0%"]


def test_the_page_shows_how_much_was_paid_without_an_exact_match(results):
    assert "no exact match" not in page_of(results)
    columns = {
        "base": {UNTRAINED: episodes([0, 0]).assign(exact_match=0.0)},
        "rl": {1: episodes([1, 1]).assign(exact_match=[1.0, 0.0] * 2)},
    }
    page = page_of(replace(results, columns=columns, measures={"exact_match": "exact match"}))
    row = re.search(r"of the right ones, no exact match</td>\s*(<td.*)<td></td>", page)
    assert re.findall(r">([^<]+)</td>", row[1]) == ["none is right", "50.0%"]


def test_a_subset_of_the_test_has_rows_of_its_own(results):
    def with_subset(table):
        return pd.concat([table, table.assign(subset="unseen", id=table["id"] + "u", reward=1.0)])

    divided = replace(
        results,
        columns={
            column: {seed: with_subset(table) for seed, table in tables.items()}
            for column, tables in results.columns.items()
        },
    )
    assert divided.metrics()["rl"]["unseen greedy"]["accuracy"] == 1
    assert divided.metrics()["rl"]["greedy"]["accuracy"] == 0.75
    page = page_of(divided)
    assert page.count("<th>unseen ") == 2


def test_a_group_is_compared_and_explained(results):
    columns = {
        column: {seed: t.assign(easy=t["id"].isin(["0", "1"])) for seed, t in tables.items()}
        for column, tables in results.columns.items()
    }
    grouped = replace(results, columns=columns, groups={"easy": "a child knows"})
    rows = dict(grouped.compared_rows())
    assert list(rows) == ["sampled", "greedy", "easy sampled", "easy greedy"]
    easy = rows["easy sampled"]
    assert (easy.only_first, easy.only_second) == (1, 2)  # of two problems and two seeds
    page = page_of(grouped)
    assert page.count("<th>easy ") == 2
    assert "“easy” are the problems of which this holds: a child knows." in page


def test_the_page_says_what_training_was_paid_for(results):
    assert "Training paid for" not in page_of(results)
    record = {"arithmetic": {"train": {"reward": "f1"}}}
    columns = {
        column: {seed: t.assign(f1=0.5) for seed, t in tables.items()}
        for column, tables in results.columns.items()
    }
    paid = replace(
        results, columns=columns, records={"rl": {1: record, 2: record}}, measures={"f1": "the F1"}
    )
    assert "not for right answers: the F1." in page_of(paid)


def test_without_a_warm_start_there_are_two_columns(results):
    assert list(results.metrics()) == ["base", "rl"]
    assert "f1" not in results.metrics()["base"]["sampled"]
    assert "<th>after the warm start (sft)</th>" not in page_of(results)


def test_the_page_shows_accuracies_figures_and_text_as_text(results):
    page = page_of(results)
    assert "50.0%" in page
    assert "the column “after training (rl)” less the column “base”" in page
    assert page.count("<svg") == 4
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "<mark>42</mark> &lt;b&gt;&lt;response&gt;" in page


def test_the_page_counts_a_tasks_diagnoses(results):
    assert results.diagnosis("sampled") == {}
    assert "no tool's output had the answer" not in page_of(results)
    values = {
        "nearly": [True, True, True, None] * 2,
        "never": [False, False, False, None] * 2,
        "place": [3, None, None, None] * 2,
    }
    diagnosed = replace(
        results,
        columns={
            column: {
                seed: table.assign(
                    **{
                        name: pd.array(v if column == "rl" else [None] * len(v))
                        for name, v in values.items()
                    }
                )
                for seed, table in tables.items()
            }
            for column, tables in results.columns.items()
        },
        diagnoses={name: f"the answer was {name}" for name in values},
    )
    assert diagnosed.diagnosis("greedy") == {
        "rl": {"count": 6, "nearly": 6, "never": 0, "place": 2}  # of two seeds
    }
    page = page_of(diagnosed)
    for name, found in (("nearly", 6), ("never", 0), ("place", 2)):
        row = f'<td>the answer was {name}</td><td class="number">{found} of 6</td>'
        assert row in page


def test_a_comparison_tells_which_params_differ(results):
    page = page_of(results, {"ppo.gae": ("skip", "walk")})
    assert "<th>ppo.gae</th><td>skip</td><td>walk</td>" in page
    assert "Parameters that differ" not in page_of(results)


def test_the_page_tells_which_seed_was_stopped_and_why(results):
    assert "was stopped" not in page_of(results)
    records = {"rl": {1: {}, 2: {"stopped": {"at": "step 9: the mean reward has collapsed"}}}}
    page = page_of(replace(results, records=records))
    assert (
        "after training (rl), seed 2 was stopped</strong> at step 9: the mean reward has collapsed."
        in page
    )
    assert page.count("was stopped") == 1


def test_figures_are_the_same_from_the_same_data(results):
    drawn = figures([results], COLUMNS)
    assert figures([results], COLUMNS) == drawn
    assert set(drawn) == {
        "accuracy",
        "arithmetic-curve",
        "arithmetic-labels",
        "arithmetic-lengths",
    }
    for svg in drawn.values():
        ElementTree.fromstring(svg)


def test_every_accuracy_has_a_line_in_the_overview(results):
    warm = with_column(results, "sft", episodes([1, 0, 0, 0]))
    svg = figures([warm, replace(warm, name="trivia")], COLUMNS)["accuracy"]
    for line in ("arithmetic, sampled", "trivia, sampled", "trivia, greedy", *COLUMNS.values()):
        assert f">{line}<" in svg


def test_the_small_tables_go_by_task_and_checkpoint(results):
    accuracy = accuracy_table({"arithmetic": results.metrics()})
    assert accuracy["checkpoint"].tolist() == ["base", "base", "rl", "rl"]
    assert accuracy["row"].tolist() == ["sampled", "greedy"] * 2
    assert accuracy["accuracy"].tolist() == [0.5, 0.5, 0.75, 0.75]
    labels = labels_table([results])
    chosen = (labels["checkpoint"] == "rl") & (labels["mode"] == "greedy")
    assert labels[chosen].set_index("label")["share"].to_dict() == {
        "correct": 0.75,
        "wrong number": 0.25,
    }


def test_the_pictures_are_of_the_two_checkpoints_that_are_compared(results):
    pictures = episode_pictures([with_column(results, "sft", episodes([1, 0, 0, 0]))])
    assert list(pictures) == ["arithmetic-sft", "arithmetic-rl"]
    assert "after&#160;training&#160;(rl)" in pictures["arithmetic-rl"]


def test_an_episodes_picture_is_valid_whatever_the_model_writes():
    picture = episode_picture([("model", "a\x01\x1b\ufffe<b>&c")], "rl")
    ElementTree.fromstring(picture)
    assert "http" not in picture.replace("http://www.w3.org", "").replace(
        "https://www.textualize.io", ""
    )
