import pandas as pd
import pytest

from pipeline.evaluation.metrics import accuracies, accuracy


def test_wilson_interval_by_hand():
    # p = 8/10, z = 1.95996: centre (p + z²/2n)/(1 + z²/n), half z sqrt(p(1-p)/n + z²/4n²)/(1 + z²/n)
    rate = accuracy([[1] * 8 + [0] * 2])
    assert rate == {"accuracy": 0.8, "low": 0.4902, "high": 0.9433, "n": 10}


def test_all_correct_still_leaves_room_for_doubt():
    rate = accuracy([[1] * 50])
    assert rate["accuracy"] == rate["high"] == 1
    assert rate["low"] == pytest.approx(50 / (50 + 1.95996**2), abs=1e-4)


def test_seeds_that_differ_widen_the_interval():
    apart = accuracy([[1] * 100, [0] * 100])
    alike = accuracy([[1] * 50 + [0] * 50] * 2)
    assert apart["accuracy"] == alike["accuracy"] == 0.5
    assert (apart["low"], apart["high"]) == (0, 1)
    assert alike["low"] == accuracy([[1] * 100 + [0] * 100])["low"]


def test_the_share_of_paid_episodes_that_are_no_exact_match():
    table = pd.DataFrame(
        {
            "mode": ["sampled"] * 5 + ["greedy"],
            "subset": [""] * 6,
            "reward": [1, 1, 1, 0, 1, 0],
            "exact_match": [1, 0, 1, 0, 1, 0],
        }
    )
    found = accuracies([table], ["exact_match"])
    assert found["sampled"]["paid_inexact"] == 0.25
    assert "paid_inexact" not in found["greedy"]  # nothing was paid
    assert "paid_inexact" not in accuracies([table], [])["sampled"]


def test_modes_and_subsets_are_kept_apart():
    table = pd.DataFrame(
        {
            "mode": ["sampled"] * 4 + ["greedy"] * 2,
            "subset": ["", "", "", "unseen", "", "unseen"],
            "reward": [1, 0, 0, 1, 1, 0],
            "f1": [0.1, 0.3, 0.2, 0.7, 0, 1],
        }
    )
    found = {
        row: (r["accuracy"], r["n"], r["f1"]) for row, r in accuracies([table], ["f1"]).items()
    }
    assert found == {
        "sampled": (0.3333, 3, 0.2),
        "greedy": (1.0, 1, 0.0),
        "unseen sampled": (1.0, 1, 0.7),
        "unseen greedy": (0.0, 1, 1.0),
    }


def test_a_group_has_rows_of_its_own_beside_those_of_all():
    table = pd.DataFrame(
        {
            "mode": ["sampled"] * 4 + ["greedy"] * 2,
            "subset": [""] * 6,
            "reward": [1, 0, 0, 0, 1, 0],
            "answerable": [True, True, False, False, True, False],
            "odd": [False] * 6,
        }
    )
    found = accuracies([table], [], ["answerable", "odd"])
    assert {row: (r["accuracy"], r["n"]) for row, r in found.items()} == {
        "sampled": (0.25, 4),
        "greedy": (0.5, 2),
        "answerable sampled": (0.5, 2),
        "answerable greedy": (1.0, 1),
    }
