"""Hostile transcripts, from the environment to the report: nothing raises, and what is promised holds.

`make test` plays three thousand, always the same. `make fuzz` plays 100,000 new ones.
"""

import io
import math
import os
from collections import Counter

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.chance import number_of
from pipeline.environment import EndReason, EpisodeBatch
from pipeline.environment.protocol import Tags
from pipeline.evaluation.analysis import analyse
from pipeline.evaluation.evaluate import EvaluationSettings, evaluate
from pipeline.evaluation.labels import Label
from pipeline.models.machine import Machine
from pipeline.models.text import well_formed
from pipeline.reporting.report import COLUMNS, render
from pipeline.reporting.results import UNTRAINED, TaskResults
from pipeline.reporting.tables import accuracy_table, labels_table, results_markdown
from pipeline.tools.protocol import CALL, RESPONSE, SUBMIT, ending_tag, parse_call
from tests import hostile
from tests.hostile import SHOT, TOOL_NAMES
from tests.tokenizers import FAITHFUL, FAMILIES

MACHINE = Machine(device="cpu", precision="float32")
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "45"))
"""How many batches, of about 70 transcripts each. If the number is given, each run draws others."""

SEEN: Counter[str] = Counter()
"""How many transcripts were played, and what became of them."""


@pytest.mark.parametrize("task", TOOL_NAMES)
@settings(
    max_examples=EXAMPLES // len(TOOL_NAMES),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="HOSTILE_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.generate],
)
@given(data=st.data())
def test_hostile_transcripts(task, data):
    name = data.draw(st.sampled_from(sorted(FAMILIES)))
    transcripts = hostile.RARE + data.draw(st.lists(hostile.transcript, min_size=20, max_size=60))
    outputs = hostile.RARE_OUTPUTS + data.draw(st.lists(hostile.output, min_size=1, max_size=10))
    max_length = data.draw(st.none() | st.integers(140, 240))
    stage = hostile.stage(name, task, transcripts, outputs, max_length=max_length)
    rows = []

    def on_batch(batch):
        rows.extend(batch)
        check_episodes(name, stage)

    evaluate(
        {"sampled": stage.env, "greedy": stage.env},
        stage.problems,
        EvaluationSettings(batch_size=len(transcripts), seed=0),
        MACHINE,
        on_batch,
    )
    table = pd.DataFrame(rows).assign(training_seed=1)
    analysed = analyse(table, stage.task, stage.tools)
    assert set(analysed["label"]) <= {str(each) for each in Label}
    assert len(analysed) == len(rows) == 2 * len(transcripts)
    file = io.BytesIO()
    analysed.to_parquet(file, index=False)
    check_report(pd.read_parquet(file), stage.task)
    SEEN.update(analysed["label"])
    SEEN.update(analysed["end_reason"])
    SEEN["transcripts"] += len(rows)


def check_episodes(name, stage):
    _, codec = hostile.family(name)
    harmless = {codec.tokenizer.unk_token_id} - {codec.tokenizer.eos_token_id}
    added = codec.tokenizer.added_tokens_decoder.items()
    controls = {i for i, token in added if token.special or token.content.strip()} - harmless
    layout = stage.task.layout
    opening = Tags(codec.tokenizer, layout.head, layout, [SHOT])._tokens
    for problem, history in zip(stage.problems, stage.env.episodes, strict=True):
        turns = stage.script.written.get(number_of(problem["id"]), [])
        prompt, *others = history.segments
        own = [segment for segment in others if not segment.system]
        # Mask and tokens.
        assert history.token_ids == [t for s in history.segments for t in s.tokens]
        assert history.mask == [not s.system for s in history.segments for _ in s.tokens]
        assert len(history.sampled_logprobs) == sum(history.mask)
        assert [list(segment.tokens) for segment in own] == turns
        # Data are plain.
        assert list(prompt.tokens[: len(opening)]) == opening
        question = layout.question.format(problem["question"])
        check_plain(codec, controls, name, prompt.tokens[len(opening) :], question)
        for segment in others:
            if segment.system:
                check_tool_segment(codec, controls, name, segment)
        # Only what the model wrote last ends an episode, and only that is paid.
        last = own[-1].text if own else ""
        submitted = ending_tag(last) == SUBMIT
        assert (history.end_reason == EndReason.SUBMITTED) == submitted
        assert history.reward in (0.0, 1.0)
        assert history.answer_text == ("" if history.segments[-1].system else last)
        assert not history.reward or (submitted and "Result" in history.answer_text)
        calls = [parse_call(s.text) for s in own if ending_tag(s.text) == CALL]
        read = [(call.tool, call.argument) if call else ("", "") for call in calls]
        assert [(call.tool, call.argument) for call in history.calls] == read[: len(history.calls)]
        assert len(read) - len(history.calls) in (
            0,
            1,
        )  # an end-of-text token may be spelled as a tag
    EpisodeBatch.of(stage.env.episodes)
    stage.script.written.clear()


def check_tool_segment(codec, controls, name, segment):
    assert segment.text.endswith(RESPONSE)
    tokens = list(segment.tokens)
    if codec.is_token(RESPONSE):
        assert codec.decode(tokens[-1:]) == RESPONSE
        tokens = tokens[:-1]
        check_plain(codec, controls, name, tokens, segment.text.removesuffix(RESPONSE))
    else:
        check_plain(codec, controls, name, tokens, segment.text)


def check_plain(codec, controls, name, tokens, text):
    assert controls.isdisjoint(tokens)
    if name in FAITHFUL and "\ufffd" not in text:
        spaces = str.maketrans("▁", " ")  # pieces cannot tell the one from the other
        assert codec.decode(tokens).translate(spaces) == well_formed(text).translate(spaces)


def check_report(table, task):
    assert not table["label"].isna().any()
    for measure in ("reward", *task.measures):
        assert table[measure].map(lambda value: math.isfinite(value) and 0 <= value <= 1).all()
    results = TaskResults(
        name=task.name,
        columns={"base": {UNTRAINED: table}, "rl": {1: table}},
        curves={"rl": {}},
        records={"rl": {}},
        prompt=task.layout.prompt([SHOT]),
        find=task.find,
        measures={name: measure.title for name, measure in task.measures.items()},
        diagnoses=task.diagnoses,
    )
    metrics = {task.name: results.metrics()}
    shares = labels_table([results])
    assert (
        shares.groupby(["mode", "checkpoint"])["share"].sum().map(lambda s: abs(s - 1) < 1e-9).all()
    )
    accuracy_table(metrics)
    results_markdown(metrics)
    if len(table) % 16:
        return  # a page takes half a second
    drawn = ["accuracy", *(f"{task.name}-{of}" for of in ("curve", "labels", "lengths"))]
    page = render([results], COLUMNS, dict.fromkeys(drawn, "<svg/>"))
    assert "</html>" in page


def test_the_transcripts_get_everywhere():
    print(f"{SEEN['transcripts']} transcripts: {dict(SEEN)}")
    assert not SEEN or set(map(str, [*Label, *EndReason])) <= set(SEEN)
