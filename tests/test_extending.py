"""docs/extending.md, followed word by word: each recipe is applied to a copy of the project, and run there.

In the copy this file is run as `python -m tests.test_extending <recipe>`, for what its check asserts.
"""

import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from ruamel.yaml import YAML

from pipeline.dependencies import sources
from pipeline.tasks import task_names

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/extending.md"
BLOCK = re.compile(r"^```(python|diff) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COPIED = ("params.yaml", "pyproject.toml", "docs/evaluation.md", "tests/__init__.py", "tests/tiny.py", "tests/test_extending.py")  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------


def recipes():
    """The page's sections that have blocks: for each its blocks, (kind, path, content)."""
    sections = re.split(r"^## (.*)\n", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = {
        title: BLOCK.findall(text)
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }
    return {title: blocks for title, blocks in found.items() if blocks}


def code_files(blocks):
    """The files of code that a recipe writes or edits."""
    return {path for _, path, _ in blocks if path != "params.yaml" and not path.startswith("docs/")}


def edited(text, path, diff):
    """The text of a file after the edits of a block. What they replace must stand in it once."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = [(line[:1], line[1:]) for line in hunk.splitlines()]
        old, new = (
            "".join(rest + "\n" for sign, rest in lines if sign != left_out) for left_out in "+-"
        )
        places = [found.start() for found in re.finditer(f"^{re.escape(old)}", text, re.MULTILINE)]
        if not old or len(places) != 1:
            pytest.fail(
                f"{PAGE.name}: these lines stand {len(places)} times in {path}, not once:\n{old}"
            )
        text = text[: places[0]] + new + text[places[0] + len(old) :]
    return text


def follow(blocks, project):
    """Does in a copy of the project what a recipe says."""
    for kind, path, content in blocks:
        file = project / path
        assert file.exists() == (kind == "diff"), f"{path}: a new file, or one to edit?"
        file.parent.mkdir(exist_ok=True)
        file.write_text(edited(file.read_text(), path, content) if kind == "diff" else content)


# --- what must be true of the copy -------------------------------------------------------------------


class Characters:
    """A tokenizer without torch: each character is a token."""

    def __call__(self, text, **options):
        return SimpleNamespace(input_ids=[ord(character) for character in text])

    def decode(self, tokens, **options):
        return "".join(map(chr, tokens))


class Script:
    """A sampler that writes the same texts in every episode, one each turn."""

    def __init__(self, *turns):
        self.turns = list(turns)

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        from pipeline.models.sampler import Continuation, StopReason

        text = self.turns.pop(0)
        tokens = [ord(character) for character in text]
        one = Continuation(tokens, [-1.0] * len(tokens), text, StopReason.STOP_STRING)
        return [one] * len(contexts)


def environment(task, section, tools, shots, *turns):
    """The task's environment around a model that writes these texts."""
    from pipeline.environment.environment import TaskEnvironment

    limits = section.environment.model_copy(update={"max_tool_response": 100})
    return TaskEnvironment(Script(*turns), Characters(), task, shots, tools, limits)


def check_task():
    from pipeline.params import load_params
    from pipeline.tasks import load_task

    params = load_params()
    assert "capitals" in params.tasks
    assert "capitals" in task_names()
    section, task = params.task("capitals"), load_task("capitals")
    assert task.name == "capitals"
    assert task.resources == ("index",)
    problems = task.problems(section.data)
    assert [len(problems[split]) for split in ("train", "test")] == [7, 3]
    assert not {p["id"] for p in problems["train"]} & {p["id"] for p in problems["test"]}

    capitals = {p["id"]: p["answer"] for split in problems.values() for p in split}
    searched = []

    def wiki(query):
        searched.append(query)
        return f"{query} is a country. Its capital is {capitals[query]}."

    shots, demonstrations = task.demonstrate(
        problems["train"], {"Wiki": wiki}, section.warm_start.demonstrations
    )
    assert searched == [p["id"] for p in problems["train"]]
    assert len(demonstrations) == section.warm_start.demonstrations == 5
    for demonstration, problem in zip(demonstrations, problems["train"][2:], strict=True):
        assert demonstration.question == problem["question"]
        assert demonstration.result == problem["answer"]

    problem = problems["test"][0]
    for result, reward in ((problem["answer"], 1.0), ("Atlantis", 0.0)):
        turns = (
            f" Rome\nA2: <request><Wiki>{problem['id']}<call>",
            f"\nResult={result}<submit>",
        )
        (episode,) = environment(task, section, {"Wiki": wiki}, shots, *turns).rollout_problems(
            [problem], seed=0
        )
        assert episode.reward == reward
        assert [call.output for call in episode.calls] == [wiki(problem["id"])]


def check_tool():
    from pipeline.params import load_params
    from pipeline.tasks import load_task

    section, task = load_params().task("arithmetic"), load_task("arithmetic")
    tools = task.tools(section.tools, {})
    problems = task.problems(section.data)["train"][:1]
    shots, _ = task.demonstrate(problems, tools, 0)
    prompt = task.layout.prompt(shots)
    assert "<request><Percent>15 of 80<call>12<response>\nResult=12<submit>" in prompt
    env = environment(task, section, tools, shots, "<request><Percent>2.5 of 9<call>", "<submit>")
    (episode,) = env.rollout_problems(problems, seed=0)
    assert [(call.output, call.error_kind) for call in episode.calls] == [("0.22", "")]
    env = environment(task, section, tools, shots, "<request><Percent>half of 9<call>", "<submit>")
    (episode,) = env.rollout_problems(problems, seed=0)
    assert [call.error_kind for call in episode.calls] == ["refused"]
    assert "Tool error: write two numbers, as in 15 of 80<response>" in episode.text


def check_algorithm():
    from pipeline.params import load_params

    algorithm = load_params(changes={"train.algorithm": "reinforce"}).algorithm_of("arithmetic")
    assert algorithm.config.kl_coef == 0.02
    assert "torch" not in sys.modules  # params.yaml is checked without it

    import torch

    from pipeline.environment.environment import EnvironmentSettings, TaskEnvironment
    from pipeline.models.machine import Machine
    from pipeline.models.policy import CausalLMWithValueHead
    from pipeline.models.sampling import TorchSampler
    from pipeline.tasks.arithmetic import Arithmetic
    from pipeline.training.algorithm import ScoredBatch
    from pipeline.training.run import train
    from pipeline.training.settings import TrainSettings
    from tests.tiny import make_model, make_tokenizer

    shape = (2, 5)
    batch = ScoredBatch(
        rewards=torch.tensor([1.0, 0.0]),
        truncated=torch.zeros(2).bool(),
        mask=torch.ones(shape).bool(),
        kl=torch.tensor([[1.0], [0.0]]).expand(shape),
        values=torch.zeros(shape),
        end_values=torch.zeros(2),
    )
    credit = algorithm.credit(batch)  # rewards of .9 and 0
    assert torch.allclose(credit.advantages, torch.tensor([[0.45], [-0.45]]).expand(shape))
    assert abs(credit.statistics["reinforce/mean_penalty"] - 0.05) < 1e-6

    class Uneven(Arithmetic):
        """A random model solves no problem: it gets a reward that differs between episodes."""

        def reward(self, answer_text, problem):
            return float(len(answer_text) % 2)

    task, tokenizer, policy = Uneven(), make_tokenizer(), CausalLMWithValueHead(make_model())
    before = [parameter.clone() for parameter in policy.pretrained_model.parameters()]
    curve = []
    train(
        policy,
        TaskEnvironment(
            TorchSampler(policy.pretrained_model, tokenizer),
            tokenizer,
            task,
            [],
            {},
            EnvironmentSettings(max_turns=1, max_new_tokens=5, max_tool_response=5),
        ),
        task.problems(task.Data(source="builtin", train=8, test=1, seed=0))["train"],
        TrainSettings(
            steps=2, episodes_per_step=8, lr_schedule="constant", warmup_steps=0, keep="last"
        ),
        algorithm,
        Machine(device="cpu", precision="float32"),
        seed=1,
        on_step=curve.append,
    )
    assert [stats["step"] for stats in curve] == [1, 2]
    assert all(0 < stats["env/reward_mean"] < 1 for stats in curve)
    assert all("reinforce/mean_penalty" in stats for stats in curve)
    after = policy.pretrained_model.parameters()
    assert not all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def check_measure():
    import pandas as pd

    from pipeline.evaluation.evaluate import EvaluationSettings, evaluate
    from pipeline.evaluation.metrics import accuracies
    from pipeline.params import load_params
    from pipeline.tasks import load_task

    section, task = load_params().task("arithmetic"), load_task("arithmetic")
    problems = task.problems(section.data)["test"][:2]
    texts = {"sampled": "Result=123456<submit>", "greedy": "I do not know<submit>"}
    environments = {mode: environment(task, section, {}, [], text) for mode, text in texts.items()}
    machine = SimpleNamespace(autocast=nullcontext)  # no model, no torch
    settings = EvaluationSettings(batch_size=2, seed=0)
    rows = []
    evaluate(environments, problems, settings, machine, rows.extend)
    assert [(r["mode"], r["reward"], r["hands_in"]) for r in rows] == [
        *[("sampled", 0.0, 1.0)] * 2,
        *[("greedy", 0.0, 0.0)] * 2,
    ]
    assert task.measures["hands_in"].title == "hands in a number"
    metrics = accuracies([pd.DataFrame(rows)], list(task.measures))
    assert [metrics[mode]["hands_in"] for mode in texts] == [1.0, 0.0]


def check_label():
    from pipeline.evaluation.labels import Label, label

    call = {"tool": "Wiki", "argument": "x", "output": "It is Lima.", "error_kind": ""}
    segments = [
        {"author": "model", "text": "<request><Wiki>x<call>"},
        {"author": "tool", "text": "It is Lima.<response>"},
    ]
    found = {
        reason: label(
            {"reward": 0.0, "end_reason": reason, "calls": [call], "segments": segments},
            lambda text: "Lima" in text,
            computes=False,
        )
        for reason in ("max_turns", "end_of_text", "submitted")
    }
    assert list(found.values()) == ["out of turns", "no submit", "misread"]
    assert len({each.colour for each in Label}) == len({each.rule for each in Label}) == len(Label)
    table = Path("docs/evaluation.md").read_text().partition("| label | rule |\n| --- | --- |\n")[2]
    rows = table.partition("\n\n")[0].splitlines()
    assert rows == [f"| {each} | {each.rule} |" for each in Label]


CHECKS = {
    "A task that searches": check_task,
    "A tool": check_tool,
    "An algorithm": check_algorithm,
    "A measure": check_measure,
    "A label": check_label,
}
"""What must be true once a recipe has been followed."""


# --- tests ------------------------------------------------------------------------------------------


def test_every_recipe_is_checked():
    assert list(recipes()) == list(CHECKS)


@pytest.mark.parametrize("recipe", CHECKS)
def test_a_recipe_does_what_it_says(recipe, tmp_path):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=lambda *_: ["__pycache__"])
    for name in COPIED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    blocks = recipes()[recipe]
    follow(blocks, tmp_path)
    code = sorted(code_files(blocks))
    for command in (
        ("tests.test_extending", recipe),
        ("ruff", "check", "--no-cache", *code),
        ("ruff", "format", "--no-cache", "--check", *code),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("recipe", CHECKS)
def test_a_recipe_touches_at_most_two_files_of_code(recipe):
    assert 1 <= len(code_files(recipes()[recipe])) <= 2


@pytest.mark.parametrize("recipe", CHECKS)
def test_the_page_tells_which_tasks_a_recipe_trains_anew(recipe):
    changed = {ROOT / path for path in code_files(recipes()[recipe])}
    deps = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["train"]["deps"]
    if any(file.is_relative_to(ROOT / dep) for file in changed for dep in deps):
        trained = "every task"
    else:  # the hashes of a task's own files are in data/setup/<task>, on which its training depends
        tasks = [t for t in task_names() if changed & set(sources(f"pipeline.tasks.{t}", ROOT))]
        trained = ", ".join(tasks) or "no task"
    assert f"\n| {recipe} | {trained} |\n" in PAGE.read_text()


def test_an_edit_of_lines_that_are_not_there_says_so():
    assert edited("a\nb\nc\n", "x.py", " a\n-b\n+d\n@@\n c\n+e\n") == "a\nd\nc\ne\n"
    for text in ("a\nbb\n", "a\nb\na\nb\n"):
        with pytest.raises(pytest.fail.Exception, match=r"these lines stand [02] times in x\.py"):
            edited(text, "x.py", " a\n-b\n+d\n")


if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
    # Only a model needs torch, which takes seconds.
    assert ("torch" in sys.modules) == (sys.argv[1] == "An algorithm")
