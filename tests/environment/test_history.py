import pytest

from pipeline.environment import EndReason, TextHistory


@pytest.fixture
def history():
    history = TextHistory("Q?", [5, 6])
    history.append_segment("call", [7, 8, 9], system=False, logprobs=[-1.0, -2.0, -3.0])
    history.append_segment("4", [10], system=True)
    history.append_segment("=4", [11, 12], system=False)
    return history


def test_mask_is_one_on_the_models_tokens(history):
    assert history.token_ids == [5, 6, 7, 8, 9, 10, 11, 12]
    assert history.mask == [False, False, True, True, True, False, True, True]
    assert history.sampled_logprobs == [-1.0, -2.0, -3.0]
    assert history.text == "Q?call4=4"


def test_answer_is_what_the_model_wrote_last(history):
    assert history.answer_text == "=4"
    history.append_segment("tool says 5", [13], system=True)
    assert history.answer_text == ""
    assert history.last_text_segment == "tool says 5"


def test_an_ended_episode_takes_no_more(history):
    history.complete(EndReason.SUBMITTED)
    assert history.completed
    assert not history.truncated
    with pytest.raises(ValueError, match="submitted"):
        history.append_segment("more", [1])


def test_length_limits_truncate():
    assert [reason for reason in EndReason if reason.truncated] == [
        EndReason.MAX_NEW_TOKENS,
        EndReason.MAX_LENGTH,
    ]


def test_a_segment_needs_tokens(history):
    with pytest.raises(ValueError, match="at least one token"):
        history.append_segment("", [])


def test_show_text_and_tokens(history, tokenizer, capsys):
    history.reward = 1.0
    history.show_text(show_legend=True)
    history.show_tokens(tokenizer)
    shown = capsys.readouterr().out
    assert "Q?call4=4" in shown
    assert "Reward: 1" in shown
    assert all(word in shown for word in ("Prompt", "Tool", "Model", "Reward"))


def test_each_author_has_a_colour_of_its_own(history):
    text = history.rich_text()
    styles = {str(text.plain[span.start : span.end]): span.style for span in text.spans}
    assert styles["call"] == styles["=4"]
    assert len({styles["Q?"], styles["call"], styles["4"]}) == 3
