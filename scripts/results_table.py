"""Writes the README's table of results anew from reports/metrics.json.

Not a stage: `make repro` ends with it, `make results` runs nothing else.
"""

from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import read_json, replacing
from pipeline.reporting.tables import results_markdown
from pipeline.workspace import REPORTS
from stages.common import run_script

README = Path("README.md")
START, END = "<!-- results -->\n", "<!-- /results -->\n"


def main() -> None:
    """Replaces what stands between the two marks in README.md."""
    metrics = read_json(REPORTS / "metrics.json", dict[str, Any], "report")
    text = with_results(README.read_text(encoding="utf-8"), results_markdown(metrics))
    with replacing(README) as beside:
        beside.write_text(text, encoding="utf-8")


def with_results(text: str, table: str) -> str:
    """The page with the table between its marks.

    Raises PipelineError if the marks are not there once each, in this order.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in after or END in before + after:
        raise PipelineError(
            f"{README}: the table of results goes between one line {START.strip()} and one line "
            f"{END.strip()} after it; add them"
        )
    return f"{before}{START}{table}{END}{after}"


if __name__ == "__main__":
    run_script(main)
