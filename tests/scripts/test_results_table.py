import json
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.reporting.tables import results_markdown
from scripts.results_table import main, with_results

ROOT = Path(__file__).parents[2]


def accuracy(value, low, high):
    return {"accuracy": value, "low": low, "high": high, "n": 100, "f1": 0.5}


def test_a_row_for_each_task_and_subset_and_a_column_for_each_checkpoint_and_mode():
    metrics = {
        "arithmetic": {
            "base": {"sampled": accuracy(0.332, 0.277, 0.392), "greedy": accuracy(0.5, 0.4, 0.6)},
            "rl": {"sampled": accuracy(0.98, 0.955, 0.992), "greedy": accuracy(1.0, 0.985, 1.0)},
        },
        "gsm8k": {
            "sft": {
                "greedy": accuracy(0.1, 0.04, 0.16),
                "long greedy": accuracy(0.0, 0.0, 0.014),
            },
        },
    }
    assert results_markdown(metrics) == (
        "| task | base, greedy | base, sampled | sft, greedy | sft, sampled | rl, greedy | rl, sampled |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| `arithmetic` (built in) | 50% (40–60) | 33% (28–39) |  |  | 100% (98–100) | 98% (96–99) |\n"
        "| `gsm8k` |  |  | 10% (4–16) |  |  |  |\n"
        "| `gsm8k`, long |  |  | 0% (0–1) |  |  |  |\n"
    )


def test_the_readme_shows_the_metrics_of_the_report():
    """After a run that is not `make repro`, `make results` writes the table anew."""
    table = results_markdown(json.loads((ROOT / "reports/metrics.json").read_text()))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_results(readme, table) == readme


def test_the_script_replaces_the_table_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "# A\n<!-- results -->\n{}<!-- /results -->\nb\n"
    Path("README.md").write_text(page.format("old\n"))
    Path("reports").mkdir()
    Path("reports/metrics.json").write_text("{}")
    main()
    assert Path("README.md").read_text() == page.format(results_markdown({}))


@pytest.mark.parametrize(
    "page",
    [
        "no mark\n",
        "<!-- results -->\n",
        "<!-- /results -->\n<!-- results -->\n",
        2 * "<!-- results -->\n<!-- /results -->\n",
    ],
)
def test_a_page_without_the_two_marks_is_refused(page):
    with pytest.raises(PipelineError, match=r"README\.md: the table of results goes between"):
        with_results(page, "")
