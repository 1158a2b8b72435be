"""The page in a real browser: it runs without errors, asks the network for nothing, and its filter filters."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from pipeline.reporting.report import COLUMNS, figures, render
from pipeline.reporting.results import UNTRAINED, TaskResults
from tests.reporting.episodes import episodes

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (Debian: apt install chromium)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    curve = pd.DataFrame(
        {"step": [1], "episodes": [8], "env/reward_mean": [0.5], "objective/kl": [0.0]}
    )
    results = [
        TaskResults(
            name=task,
            columns={
                "base": {UNTRAINED: episodes([0, 1, 0, 1], text=f"{task} <b>&amp;")},
                "rl": {1: episodes([1, 0, 0, 1], text="Zürich {{ 7 }}", label="bad search")},
            },
            curves={"rl": {1: curve}},
            records={"rl": {1: {"ppo": {"lam": 0.95}}}},
            prompt="What is 1+1?",
            find=lambda text, problem: None,
            measures={},
            diagnoses={},
        )
        for task in ("one", "two")
    ]
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(results, COLUMNS, figures(results, COLUMNS)))
    return path


def open_page(path, place="", script=""):
    """Opens a page and runs a script in it; returns the document then, errors, and addresses asked for."""
    file = path.with_name("opened.html")
    file.write_text(path.read_text() + f"<script>{script}</script>")
    net_log = path.with_name("net.json")
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--enable-logging=stderr",
            f"--user-data-dir={path.parent / 'profile'}",
            f"--log-net-log={net_log}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            f"file://{file}{place}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, errors, _addresses(net_log)


def _addresses(net_log: Path):
    """What the page itself asked for: the browser's own housekeeping is not started by a file."""
    events = json.loads(net_log.read_text())["events"]
    urls = {e["params"]["url"] for e in events if "url" in e.get("params", {})}
    return {url for url in urls if "gvt1" not in url and "google" not in url}


def visible(document):
    """(task, mode, change, label) of each pair of episodes that is shown."""
    return [
        re.findall(r'data-\w+="([^"]*)"', tag)
        for tag in re.findall(r"<article [^>]*>", document)
        if " hidden" not in tag
    ]


def choose(**fields):
    """A script that fills in the filters as a user does."""
    lines = [
        f"document.getElementById('filters').elements.{name}.value = {json.dumps(value)};"
        for name, value in fields.items()
    ]
    event = "new Event('input', {bubbles: true})"
    return "".join(lines) + f"document.getElementById('filters').dispatchEvent({event});"


def test_it_opens_without_errors_and_without_the_network(page):
    document, errors, addresses = open_page(page)
    assert errors == []
    assert all(address.startswith("file://") for address in addresses), addresses
    assert len(visible(document)) == 8  # two tasks, four changes, sampled
    assert "8 of 16" in document


def test_errors_and_requests_would_be_seen(page):
    script = "fetch('http://example.invalid/x').catch(() => 0); nonsense();"
    _, errors, _ = open_page(page, script=script)
    assert any("nonsense" in line for line in errors)
    assert any("example.invalid" in line for line in errors)  # refused by the page's own policy


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"task": "two"}, {("two", "sampled")}),
        ({"mode": "greedy", "change": "broken"}, {("one", "greedy"), ("two", "greedy")}),
        (
            {"mode": "", "label": "bad search", "task": "one"},
            {("one", "sampled"), ("one", "greedy")},
        ),
        ({"text": "TWO <B>&AMP;"}, {("two", "sampled")}),
        ({"text": "zürich {{ 7"}, {("one", "sampled"), ("two", "sampled")}),
        ({"text": "not to be found"}, set()),
        ({"label": "misread"}, set()),
    ],
)
def test_the_filter_filters(page, fields, shown):
    document, errors, _ = open_page(page, script=choose(**fields))
    assert errors == []
    pairs = visible(document)
    assert {(task, mode) for task, mode, _, _ in pairs} == shown
    if "change" in fields:
        assert {change for _, _, change, _ in pairs} == {fields["change"]}
    if "label" in fields:
        assert {label for _, _, _, label in pairs} <= {fields["label"]}


def test_a_link_leads_to_what_was_filtered(page):
    document, errors, _ = open_page(page, "#episodes?task=two&mode=sampled&change=fixed")
    assert errors == []
    assert visible(document) == [["two", "sampled", "fixed", "correct"]]
    script = choose(task="two") + "document.title = location.hash;"
    document, _, _ = open_page(page, script=script)
    assert "<title>#episodes?task=two&amp;mode=sampled</title>" in document
