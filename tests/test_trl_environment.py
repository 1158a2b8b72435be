"""TRL 0.11's environment and episodes: what its methods do, and what its arguments change."""

import pytest
import torch

from pipeline import trl
from pipeline.trl import TextEnvironment, TextHistory, set_seed
from tests.environment.test_environment import Script


class Upper:
    def __call__(self, text):
        return text.upper()


@pytest.fixture
def make_env(policy, tokenizer):
    def make(
        tools=None, reward_fn=lambda answers: [0.0] * len(answers), kind=TextEnvironment, **options
    ):
        return kind(policy, tokenizer, tools or [Upper()], reward_fn, "Show:\n", **options)

    return make


# --- episodes ---------------------------------------------------------------------------------------


def test_an_episode_has_tensors_and_spans():
    history = TextHistory("ask", torch.tensor([7, 8]))
    history.append_segment("write", torch.tensor([9, 10, 11]), system=False)
    history.append_segment("answer", torch.tensor([12]))
    assert history.text == "askwriteanswer"
    assert history.tokens.tolist() == [7, 8, 9, 10, 11, 12]
    assert history.token_masks.tolist() == [0, 0, 1, 1, 1, 0]
    assert history.text_spans == [(0, 3), (3, 8), (8, 14)]
    assert history.token_spans == [(0, 2), (2, 5), (5, 6)]
    assert history.system_spans == [True, False, True]
    assert history.last_text_segment == "answer"
    assert history.last_token_segment.tolist() == [12]
    query, response, mask = history.split_query_response_tokens()
    assert [x.tolist() for x in (query, response, mask)] == [[7, 8], [9, 10, 11, 12], [1, 1, 1, 0]]


def test_the_first_segment_may_be_the_models():
    assert TextHistory("x", torch.tensor([1, 2]), system=False).token_masks.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "truncated", "reason"),
    [("a<submit>", False, "submitted"), ("a", False, "end_of_text"), ("a", True, "max_length")],
)
def test_an_episode_ends_without_a_reason(text, truncated, reason):
    history = TextHistory(text, torch.tensor([1]))
    assert not history.completed
    history.complete(truncated=truncated)
    assert history.completed
    assert history.truncated is truncated
    assert history.end_reason == reason


# --- the environment's parts ------------------------------------------------------------------------


def test_it_keeps_what_it_was_given(make_env):
    env = make_env(max_tool_reponse=7, max_turns=3, max_length=99)
    assert list(env.tools) == ["Upper"]
    assert isinstance(env.tools["Upper"], Upper)
    assert env.prompt == "Show:\n"
    assert (env.max_tool_response, env.max_turns, env.max_length) == (7, 3, 99)
    tags = (env.request_token, env.call_token, env.response_token, env.submit_token)
    assert tags == ("<request>", "<call>", "<response>", "<submit>")
    with pytest.raises(AttributeError):
        env.call_token = "<go>"


def test_what_is_written_does_not_depend_on_the_batch(make_env):
    env = make_env(generation_kwargs={"max_new_tokens": 5})
    queries = [torch.tensor(ids) for ids in ([5, 6, 7], [9, 8, 7, 6, 5, 4], [20])]
    together = [x.tolist() for x in env._generate_batched(queries, batch_size=2)]
    alone = [env._generate_batched([query])[0].tolist() for query in queries]
    assert together == alone
    assert [len(tokens) for tokens in alone] == [5, 5, 5]


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("so <request><Add>1 + <2><call>", ("Add", "1 + <2>")),
        ("<Add>1<call>", (None, None)),
        ("<request><Add>1", (None, None)),
        ("<request>[Add]1<call>", (None, None)),
        ("><><", (None, None)),
    ],
)
def test_calls_are_read(make_env, text, call):
    assert make_env().parse_tool_call(text) == call


@pytest.mark.parametrize(("limit", "length"), [(10, 10), (59, 59), (60, 60), (500, 60)])
def test_a_tools_output_is_cut_at_so_many_characters(make_env, limit, length):
    env = make_env({"Sixty": lambda _: "ab" * 30})
    env.max_tool_response = limit  # it may be changed at any time
    history = env.step(TextHistory("<request><Sixty>x<call>", torch.tensor([1])))
    text = history.last_text_segment.removesuffix("<response>")
    assert len(text) == length
    assert text.endswith("...") is (limit < 60)
    assert (
        env.protocol.codec.decode(history.last_token_segment.tolist()) == history.last_text_segment
    )


def test_a_step_answers_calls_only(make_env):
    env = make_env()
    history = env.step(TextHistory("I am done<submit>", torch.tensor([1])))
    assert history.completed
    assert len(history.segments) == 1
    assert env.step(history) is history
    assert len(history.segments) == 1


def test_a_step_answers_where_there_is_no_room_but_a_run_does_not(make_env, tokenizer):
    env = make_env({"Long": lambda _: "z" * 40}, max_length=60)
    asked = TextHistory("<request><Long>x<call>", torch.tensor([1] * 50))
    assert env.step(asked).text.endswith("z<response>")

    class Own(TextEnvironment):
        def step(self, history):
            return super().step(history)

    env = make_env({"Long": lambda _: "z" * 40}, max_length=60, kind=Own)
    env.sampler = Script(tokenizer, [["<request><Long>x<call>"]])
    ((history,)) = env.run(["a"])[4]
    assert history.truncated
    assert history.text.endswith("<call>")


def test_rewards_stay_what_the_function_returned(make_env):
    env = make_env(reward_fn=lambda answers: [torch.tensor(i / 2) for i, _ in enumerate(answers)])
    histories = [TextHistory(letter, torch.tensor([1])) for letter in "abc"]
    assert [h.reward.item() for h in env.compute_reward(histories)] == [0, 0.5, 1]
    rewards = env.run(["a", "b"])[3]
    assert torch.equal(torch.stack(rewards), torch.tensor([0, 0.5]))
    generator = make_env(reward_fn=lambda answers: (1.0 for _ in answers))
    assert generator.run(["a", "b"])[3] == [1.0, 1.0]


def test_a_reward_that_is_no_number_is_refused(make_env):
    with pytest.raises(TypeError, match="must return a number for each of 2 episodes"):
        make_env(reward_fn=lambda answers: [None, 1.0]).run(["a", "b"])


# --- a whole run ------------------------------------------------------------------------------------


def calls(histories):
    """In the place of `generate`: the model calls the tool in every turn."""
    for history in histories:
        history.append_segment("<request><Upper>go<call>", torch.tensor([1, 2, 3]), system=False)
    return histories


@pytest.mark.parametrize("turns", [1, 3])
def test_generate_can_be_replaced(make_env, monkeypatch, turns):
    monkeypatch.setattr(TextEnvironment, "generate", staticmethod(calls))
    env = make_env(reward_fn=lambda answers: [torch.tensor(len(answer)) for answer in answers])
    env.max_turns = turns
    queries, responses, masks, rewards, histories = env.run(["one", "other"])
    assert [h.text for h in histories] == [
        f"Show:\n{query}" + "<request><Upper>go<call>GO<response>" * turns
        for query in ("one", "other")
    ]
    assert [len(query) for query in queries] == [9, 11]
    assert [int(mask.sum()) for mask in masks] == [3 * turns] * 2
    assert all(len(mask) == len(response) for mask, response in zip(masks, responses))
    assert rewards == [0, 0]  # the last to speak was the tool
    assert all(history.end_reason == "max_turns" for history in histories)


def test_a_subclass_with_a_step_of_its_own_is_asked(make_env, tokenizer):
    class Polite(TextEnvironment):
        def step(self, history):
            history = super().step(history)
            if not history.completed:
                history.append_segment("Thanks.", self.protocol.codec.data("Thanks."))
            return history

    env = make_env(kind=Polite)
    env.sampler = Script(tokenizer, [["<request><Upper>a<call>"], ["ok<submit>"]])
    ((history,)) = env.run(["?"])[4]
    assert history.text.endswith("<call>A<response>Thanks.ok<submit>")


def test_a_subclass_that_would_not_be_asked_is_refused():
    with pytest.raises(TypeError, match="parse_tool_call would not be asked"):

        class Mine(TextEnvironment):
            def parse_tool_call(self, text):
                return "Tool", text


def test_the_prompt_may_change_between_runs(make_env):
    env = make_env()
    env.prompt = "Other:\n"
    assert env.run(["a"])[4][0].segments[0].text == "Other:\na"


# --- generation_kwargs ------------------------------------------------------------------------------

NOTHING = {
    "num_beams": 1,
    "use_cache": True,
    "repetition_penalty": 1.0,
    "eos_token_id": 100_000,
    "pad_token_id": 0,
    "min_length": -1,
    "top_k": 0.0,
    "top_p": 1.0,
    "temperature": 1.0,
    "num_return_sequences": 1,
    "no_repeat_ngram_size": 0,
}


def test_values_that_change_nothing_change_nothing(make_env):
    texts = [
        make_env(generation_kwargs={"do_sample": True, "seed": 1, **more}).run(["a"])[4][0].text
        for more in ({}, NOTHING)
    ]
    assert texts[0] == texts[1]


def test_what_shapes_a_distribution_changes_nothing_where_nothing_is_drawn(make_env):
    shaped = {"top_k": 5, "top_p": 0.3, "temperature": 0.7}
    texts = [make_env(generation_kwargs=more).run(["a"])[4][0].text for more in ({}, shaped)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "asked",
    [{"num_beams": 4}, {"repetition_penalty": 1.2}, {"top_p": 0.9}, {"eos_token_id": [0, 5]}],
)
def test_values_that_would_change_something_are_refused(make_env, asked):
    with pytest.raises(ValueError, match=next(iter(asked))):
        make_env(generation_kwargs={"do_sample": True, **asked})


def test_generation_kwargs_may_change_between_runs(make_env):
    env = make_env(generation_kwargs={"do_sample": True, "max_new_tokens": 3})
    env.generation_kwargs |= {"do_sample": False, "max_new_tokens": 4}
    histories = [env.run(["a"])[4][0] for _ in range(2)]
    assert histories[0].text == histories[1].text
    assert len(histories[0].segments[1].tokens) == 4
    env.generation_kwargs["num_beams"] = 2
    with pytest.raises(ValueError, match="num_beams"):
        env.run(["a"])


def test_the_scripts_seed_decides_what_is_drawn(make_env):
    def drawn(seed):
        set_seed(seed)
        return make_env(generation_kwargs={"do_sample": True}).run(["a"])[4][0].text

    assert drawn(1) == drawn(1) != drawn(2)


def test_an_encoder_decoder_is_refused(tokenizer):
    model = trl.AutoModelForSeq2SeqLMWithValueHead(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="TextEnvironment: an encoder-decoder"):
        TextEnvironment(model, tokenizer, [], len, "")
