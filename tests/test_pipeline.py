"""The DVC graph from end to end, with a tiny model, in a copy of the project."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.evaluation.labels import Label
from pipeline.files import sha256
from pipeline.models.policy import save_model
from pipeline.workspace import WEIGHTS_FILE
from scripts.preset import set_params
from tests.project_copy import copy_project, git
from tests.tiny import make_model, make_tokenizer

pytestmark = pytest.mark.timeout(
    2400
)  # the fixture takes two minutes on two idle cores, ten on a busy one

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
TASKS = ("arithmetic", "triviaqa", "word_problems")
STAGES = (
    "fetch_model",
    "build_corpus",
    "build_index",
    "report",
    *(
        f"{stage}@{task}"
        for task in TASKS
        for stage in (
            "prepare",
            "demonstrate",
            "evaluate_base",
            "warm_start",
            "evaluate_sft",
            "analyse",
        )
    ),
    *(f"{stage}@{task}-1" for task in TASKS for stage in ("train", "evaluate_rl")),
)


def run(project, *command, status=0):
    """Runs a command in the project; returns what it printed, on either stream."""
    done = subprocess.run(
        command,
        cwd=project,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def locked(project):
    """What dvc.lock says of each stage: the hashes of its params, inputs and outputs."""
    return YAML(typ="safe").load(project / "dvc.lock")["stages"]


def write_trivia(folder):
    """A corpus of twenty documents and questions on them."""
    names = [chr(ord("A") + i) + "ville" for i in range(20)]
    documents = [
        {"id": name, "contents": f"{name}\nThe mayor of {name} is Dr {name[0] * 3}."}
        for name in names
    ]
    questions = [
        {"id": name, "question": f"Who is mayor of {name}?", "answers": [name[0] * 3]}
        for name in names
    ]
    for file, rows in (
        ("documents", documents),
        ("train", questions[:14]),
        ("test", questions[14:18]),
    ):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    save_model(make_model(), make_tokenizer(), folder / "tiny-model")
    write_trivia(folder)
    overrides = {
        "tasks": list(TASKS),
        "seeds": [1],
        "model.source": "path",
        "model.path": str(folder / "tiny-model"),
        "machine.precision": "float32",
        "ppo.mini_batch_size": 2,
        "grpo.mini_batch_size": 4,
        "arithmetic.data.train": 16,
        "corpus.source": "path",
        "corpus.path": str(folder / "documents.jsonl"),
        "triviaqa.data.source": "path",
        "triviaqa.data.path.train": str(folder / "train.jsonl"),
        "triviaqa.data.path.test": str(folder / "test.jsonl"),
        "triviaqa.warm_start.steps": 2,
        "triviaqa.warm_start.demonstrations": 5,
        "word_problems.data.train": 36,
        "word_problems.data.unseen": 3,
        "word_problems.warm_start.steps": 2,
    }
    for task in TASKS:
        overrides |= {
            f"{task}.data.test": 4,
            f"{task}.environment.max_new_tokens": 110,
            f"{task}.train.steps": 2,
            f"{task}.train.warmup_steps": 0,
            f"{task}.train.episodes_per_step": 4,
        }
    copy_project(folder / "copy", overrides, share_cache=False)
    run(folder / "copy", "dvc", "repro")
    return folder / "copy"


def head(project):
    """The commit that is checked out."""
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_all_stages_run_and_are_recorded(project):
    assert set(STAGES) == set(locked(project))
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert list(metrics["arithmetic"]) == ["base", "rl"]
    assert list(metrics["triviaqa"]) == ["base", "sft", "rl"]
    assert metrics["word_problems"]["rl"]["unseen greedy"]["n"] == 3
    measures = {"triviaqa": {"contains", "first_20_words", "exact_match", "f1"}}
    for task, columns in metrics.items():
        for modes in columns.values():
            for mode in ("sampled", "greedy"):
                rate = modes[mode]
                assert set(rate) == {"accuracy", "low", "high", "n"} | measures.get(task, set())
                assert rate["n"] == 4
    curves = pd.read_csv(project / "reports/tables/curves.csv")
    assert curves["episodes"].tolist() == [4, 8] * 3
    assert curves["run"].tolist() == [f"{task}-1" for task in TASKS for _ in range(2)]
    assert {"env/reward_mean", "objective/kl"} <= set(curves.columns)
    record = json.loads((project / "data/training/arithmetic-1/record.json").read_text())
    assert record["model"]["source"] == "path"
    assert record["arithmetic"]["train"]["steps"] == 2
    assert "torch" in record["versions"]
    assert record["code"] == {"revision": head(project), "changed": False}
    trivia = json.loads((project / "data/training/triviaqa-1/record.json").read_text())
    hashes = trivia["sha256"]
    assert "data/models/triviaqa-sft/model.safetensors" in hashes
    assert "data/setup/triviaqa/tools.json" in hashes
    assert "data/models/base/model.safetensors" in record["sha256"]


def test_the_wiki_tool_searches_the_corpus_that_was_asked_for(project):
    prompt = (project / "data/setup/triviaqa/prompt.txt").read_text()
    assert re.search(r"<Wiki>(.)ville<call>The mayor of \1ville is Dr \1\1\1\.<response>", prompt)
    tools = json.loads((project / "data/setup/triviaqa/tools.json").read_text())
    assert tools["resources"]["index"]["documents"] == 20
    assert "pipeline/tools/wiki/worker.py" in tools["code"]
    tools = json.loads((project / "data/setup/arithmetic/tools.json").read_text())
    assert tools["resources"] == {}
    assert "pipeline/tools/calculator.py" in tools["code"]
    assert not [file for file in tools["code"] if "wiki" in file or "trivia" in file]
    demonstrations = (project / "data/demonstrations/triviaqa.jsonl").read_text().splitlines()
    assert len(demonstrations) == 5


@pytest.mark.parametrize(
    ("file", "task", "other"),
    [
        ("pipeline/tasks/arithmetic.py", "arithmetic", "triviaqa"),
        ("pipeline/tasks/search_task.py", "triviaqa", "arithmetic"),
        ("pipeline/tools/python.py", "word_problems", "triviaqa"),
    ],
)
def test_changed_code_of_a_task_or_tool_concerns_only_the_tasks_that_use_it(
    project, file, task, other
):
    code = (project / file).read_text()
    try:
        (project / file).write_text(code + "\n# changed\n")
        run(project, "dvc", "repro", f"demonstrate@{task}", f"demonstrate@{other}")
        affected = set(json.loads(run(project, "dvc", "status", "dvc.yaml", "--json")))
    finally:
        (project / file).write_text(code)
        run(project, "dvc", "repro")
    assert {f"train@{task}-1", f"evaluate_base@{task}"} <= affected
    assert not [stage for stage in affected if other in stage]


def test_another_corpus_reruns_the_index_and_what_follows_but_not_arithmetic(project, tmp_path):
    params = (project / "params.yaml").read_text()
    longer = tmp_path / "documents.jsonl"
    copy = project.parent / "documents.jsonl"
    longer.write_text(copy.read_text() + json.dumps({"id": "x", "contents": "X\nMore."}) + "\n")
    try:
        set_params(project / "params.yaml", {"corpus.path": str(longer)})
        printed = run(project, "dvc", "repro", *(f"demonstrate@{task}" for task in TASKS))
        affected = run(project, "dvc", "status", "dvc.yaml", "--json")
    finally:
        (project / "params.yaml").write_text(params)
        run(project, "dvc", "repro")
    assert "'build_index'" in printed
    assert "'demonstrate@triviaqa'" in printed
    assert {stage for stage in json.loads(affected) if "@" in stage} == {
        "evaluate_base@triviaqa",
        "evaluate_sft@triviaqa",
        "evaluate_rl@triviaqa-1",
        "analyse@triviaqa",
        "train@triviaqa-1",
        "warm_start@triviaqa",
    }


def test_the_report_needs_no_network(project):
    page = (project / "reports/index.html").read_text()
    assert "<svg" in page
    assert "Learning tools" in page
    for attribute in ('src="http', 'href="http', "@import", "url(http"):
        assert attribute not in page.replace('xlink:href="http://www.w3.org', "")


def test_a_second_run_does_nothing(project):
    printed = run(project, "dvc", "repro")
    assert "up to date" in printed
    assert "Running stage" not in printed


def test_the_same_seed_gives_the_same_results(project):
    before = locked(project)
    for stage in ("train@arithmetic-1", "evaluate_rl@arithmetic-1"):
        run(project, "dvc", "repro", "--force", "--single-item", stage)
    assert locked(project) == before


@pytest.mark.parametrize(
    ("key", "value", "affected"),
    [
        ("ppo.cliprange", 0.3, {f"train@{task}-1" for task in TASKS}),
        (
            "triviaqa.tools.k1",
            1.2,
            {stage for stage in STAGES if "triviaqa" in stage}
            - {"prepare@triviaqa", "warm_start@triviaqa"},
        ),
        ("arithmetic.data.seed", 5, {"prepare@arithmetic"}),
        ("arithmetic.train.steps", 3, {"train@arithmetic-1"}),
        ("arithmetic.train.ppo", {"lam": 0.9}, {"train@arithmetic-1"}),
        ("word_problems.train.ppo", {}, {"train@word_problems-1"}),
        ("corpus.path", "elsewhere", {"build_corpus"}),
        ("triviaqa.warm_start.steps", 3, {"demonstrate@triviaqa", "warm_start@triviaqa"}),
        ("model.hub.revision", "x", set()),  # as the source is another
        ("model.path", "elsewhere", {"fetch_model"}),
    ],
)
def test_a_param_affects_only_the_stages_that_read_it(project, key, value, affected):
    params = (project / "params.yaml").read_text()
    try:
        set_params(project / "params.yaml", {key: value})
        changed = json.loads(run(project, "dvc", "status", "dvc.yaml", "--json"))
    finally:
        (project / "params.yaml").write_text(params)
    directly = {
        stage
        for stage, reasons in changed.items()
        if any("params.yaml" in reason.get("changed deps", {}) for reason in reasons)
    }
    assert directly == affected


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("ppo.lamm", 0.9, "error: params.yaml: ppo.lamm: no such parameter; did you mean lam?"),
        ("ppo.gamma", 1.5, "error: params.yaml: ppo.gamma: input should be less than"),
    ],
)
def test_a_bad_param_is_named_and_costs_no_output(project, key, value, complaint):
    params = (project / "params.yaml").read_text()
    try:
        set_params(project / "params.yaml", {key: value})
        printed = run(project, "dvc", "repro", status=255)
    finally:
        (project / "params.yaml").write_text(params)
    assert complaint in printed
    assert "Traceback" not in printed
    assert (project / "data/models/arithmetic-rl-1/model.safetensors").exists()
    assert (project / "reports/index.html").exists()
    assert "up to date" in run(project, "dvc", "repro")


def test_a_stage_run_before_its_inputs_exist(project, tmp_path):
    copy_project(tmp_path / "copy", {}, share_cache=False)
    for arguments, missing in (
        (("stages.train", "arithmetic", "1"), "fetch_model"),
        (("stages.analyse", "arithmetic"), "evaluate_base@arithmetic"),
        (("stages.report",), "analyse@arithmetic"),
    ):
        printed = run(tmp_path / "copy", "python", "-m", *arguments, status=1)
        assert f"run `dvc repro {missing}` first" in printed
        assert len(printed.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("table", "stage", "made_by"),
    [
        ("data/episodes/arithmetic/base.parquet", ("analyse", "arithmetic"), "evaluate_base@"),
        ("data/analysis/arithmetic.parquet", ("report",), "analyse@arithmetic"),
    ],
)
def test_a_corrupt_table_leaves_the_last_good_report(project, table, stage, made_by):
    path, kept = project / table, (project / "data/analysis/arithmetic.parquet").read_bytes()
    content, report = path.read_bytes(), (project / "reports/index.html").read_text()
    path.unlink()  # the file is linked to the cache: write a new one
    try:
        path.write_bytes(b"PAR1 nonsense")
        printed = run(project, "python", "-m", f"stages.{stage[0]}", *stage[1:], status=1)
        if stage[0] == "analyse":
            assert (project / "data/analysis/arithmetic.parquet").read_bytes() == kept
    finally:
        path.write_bytes(content)
    assert printed.startswith(f"error: {table} cannot be read as a table")
    assert f"run `dvc repro {made_by}" in printed
    assert (project / "reports/index.html").read_text() == report


def test_an_empty_table_is_no_result(project):
    path = project / "data/episodes/arithmetic/base.parquet"
    content = path.read_bytes()
    path.unlink()
    try:
        pd.DataFrame().to_parquet(path)
        printed = run(project, "python", "-m", "stages.analyse", "arithmetic", status=1)
    finally:
        path.write_bytes(content)
    expected = "base.parquet holds no episodes: run `dvc repro --single-item --force evaluate_base@"
    assert expected in printed


def test_every_episode_has_a_label_and_says_where_it_comes_from(project):
    for task in TASKS:
        table = pd.read_parquet(project / f"data/analysis/{task}.parquet")
        columns = {"arithmetic": 2}.get(task, 3)
        problems = 7 if task == "word_problems" else 4
        assert len(table) == columns * 2 * problems
        assert set(table["label"]) <= set(Label)
        for checkpoint, model in {"base": "base", "rl": f"{task}-rl-1"}.items():
            weights = sha256(project / "data/models" / model / WEIGHTS_FILE)
            assert set(table.loc[table["checkpoint"] == checkpoint, "weights_sha256"]) == {weights}
        assert set(table["training_seed"].dropna()) == {1}
        seeds = table.groupby("checkpoint")["sampling_seed"].agg(set)
        assert seeds["base"] == {0}
        assert seeds["rl"] == {0 + 1}  # evaluation.seed and the training's
        assert (
            table["label"].isin(["correct", "correct without the tool"]) == table["reward"]
        ).all()
        parts = table["segments"].map(lambda parts: sum(part["tokens"] for part in parts))
        assert (parts == table["model_tokens"] + table["tool_tokens"]).all()
        labels = pd.read_csv(project / "reports/tables/labels.csv")
        shares = labels[labels["task"] == task].groupby(["mode", "checkpoint"])["share"].sum()
        assert shares.tolist() == pytest.approx([1.0] * 2 * columns, abs=1e-5)


def test_studies_vary_the_params(project):
    runs = ["arithmetic-no_mask-2", "arithmetic-grpo-1"]
    run(project, "dvc", "repro", *(f"studies/dvc.yaml:calculator@{name}" for name in runs))
    records = [
        json.loads((project / "studies/runs" / name / "record.json").read_text()) for name in runs
    ]
    assert records[0]["ppo"]["mask"] is False
    assert "grpo" in records[1]
    episodes = pd.read_csv(project / "studies/runs/arithmetic-grpo-1/episodes.csv")
    assert len(episodes) == 2 * 4
    printed = run(project, "dvc", "repro", "--single-item", "studies/dvc.yaml:report")
    assert "arithmetic, no_mask: sampled accuracy" in printed
    found = json.loads((project / "reports/studies/metrics.json").read_text())["arithmetic"]
    assert list(found) == ["no_mask", "grpo"]
    assert found["no_mask"]["seeds"] == [2]
    assert found["grpo"]["episodes"] == 8
    page = (project / "reports/studies/index.html").read_text()
    assert "train.algorithm: grpo</span>" in page
    printed = run(project, "python", "-m", "stages.run_arm", "arithmetic", "mask", "1", status=1)
    assert "no arm 'mask'; there is default, no_mask, walk, grpo" in printed


def test_experiments_can_be_run_and_compared(project):
    run(project, "git", "add", "-A")
    git(project, "commit", "-qm", "results")
    changes = ("-S", "tasks=[arithmetic]", "-S", "seeds=[1,2]", "-S", "ppo.cliprange=0.3")
    run(project, "dvc", "exp", "run", "--name", "two", *changes)
    shown = run(project, "dvc", "exp", "show", "--csv", "--only-changed")
    assert "two" in shown
    assert "ppo.cliprange" in shown
    assert "ppo.cliprange" in run(project, "dvc", "params", "diff")
    assert "arithmetic.rl.sampled.n" in run(project, "dvc", "metrics", "diff")
    assert "index.html" in run(project, "dvc", "plots", "diff")
    printed = run(project, "python", "-m", "scripts.compare", "HEAD", "two")
    assert "arithmetic, sampled: two less HEAD" in printed
    page = (project / "reports/comparison.html").read_text()
    assert "<th>ppo.cliprange</th><td>0.2</td><td>0.3</td>" in page
    (project / "reports/comparison.html").unlink()
    printed = run(project, "python", "-m", "scripts.compare", "nonsense", "workspace", status=1)
    assert "error: cannot read the results of 'nonsense'" in printed
    assert not (project / "reports/comparison.html").exists()
    assert (
        run(project, "python", "-m", "scripts.compare", "two", "workspace").count("+0.0 points")
        == 2
    )
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert metrics["arithmetic"]["rl"]["sampled"]["n"] == 8
    curves = pd.read_csv(project / "reports/tables/curves.csv")
    assert set(curves["run"]) == {"arithmetic-1", "arithmetic-2"}
    # A seed decides what is played and how: the two runs differ.
    by_run = curves.groupby("run")["objective/logprobs"].apply(list)
    assert by_run["arithmetic-1"] != by_run["arithmetic-2"]
