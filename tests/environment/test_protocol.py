"""The protocol `tags`: demonstrations are tokenized as episodes are, and a text is what its tokens decode to."""

import pytest

from pipeline.environment import TextEnvironment
from pipeline.environment.protocol import Tags
from pipeline.models.sampler import Continuation, StopReason
from pipeline.tasks import Demonstration, Layout, ShownCall
from tests.hostile import family
from tests.tokenizers import FAITHFUL, FAMILIES

LAYOUT = Layout(head="Do it.", question="\n\nQ: {}\nA:", guess=" {}\nA2: ", argument="\n{}")
SHOT = Demonstration("a.<", [ShownCall("T", "x.", "2."), ShownCall("T", "y", "")], ".3", "<guess")


class Script:
    """Writes turns as a model would that has learned the demonstration's tokens."""

    def __init__(self, codec, turns):
        self.codec, self.turns = codec, list(turns)

    def generate(self, contexts, max_new_tokens, stop_strings, places):
        tokens = self.codec.written(self.turns.pop(0))
        text = self.codec.decode(tokens)
        return [Continuation(tokens, [-1.0] * len(tokens), text, StopReason.STOP_STRING)]


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"word_level"}))  # cannot write <T>
def test_a_demonstration_in_the_prompt_has_the_tokens_of_an_episode(name):
    tokenizer, codec = family(name)
    protocol = Tags(tokenizer, LAYOUT.head, LAYOUT)
    turns = [text for author, text in LAYOUT.segments(SHOT) if author == "model"]
    outputs = iter(call.output for call in SHOT.calls)
    env = TextEnvironment(
        Script(codec, turns),
        tokenizer,
        {"T": lambda _: next(outputs), "t": lambda _: next(outputs)},  # word pieces are lower case
        lambda answers: [0.0],
        "",
        max_new_tokens=500,
        protocol=protocol,
    )
    (episode,) = env.rollout([SHOT.question], seed=0)
    assert len(episode.calls) == 2
    shown = Tags(tokenizer, LAYOUT.head, LAYOUT, [SHOT]).opening("b")
    assert list(shown.tokens[: len(episode.token_ids)]) == episode.token_ids
    assert shown.text.startswith(episode.text)
    assert protocol.shown(SHOT)[1:] == [
        type(segment)(segment.text, segment.tokens, segment.author)
        for segment in episode.segments[1:]
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_segments_text_is_what_its_tokens_decode_to(name):
    tokenizer, codec = family(name)
    opening, *others = Tags(tokenizer, "", LAYOUT, [SHOT]).shown(SHOT)
    for segment in others:
        assert segment.text == codec.decode(segment.tokens)
    begun = tokenizer.decode(opening.tokens, clean_up_tokenization_spaces=False)
    before = tokenizer.decode(codec.opening(""), clean_up_tokenization_spaces=False)
    if name in FAITHFUL:
        # Some tokenizers put a space before a text, and not all take it away again.
        assert begun.removeprefix(before).lstrip(" ") == opening.text.lstrip(" ")
        assert opening.text.lstrip(" ") == LAYOUT.text(SHOT).lstrip() + LAYOUT.question.format(
            SHOT.question
        )
        assert "".join(s.text for s in others) == "".join(t for _, t in LAYOUT.segments(SHOT))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hand_written_prompt_is_cut_where_segments_end(name):
    """But for the end of a question, which no tag marks."""
    tokenizer, _ = family(name)
    layout = Layout(head="Do it.", question="\n\nQ: {}\nA:", guess=" {}\nA2: ")
    shot = Demonstration("a", [ShownCall("T", "x.", "2.")], ".3", "g")
    by_hand = Tags(tokenizer, layout.prompt([shot])).opening("")
    asked, *shown = Tags(tokenizer, layout.head, layout).shown(shot)
    behind = [token for segment in shown[1:] for token in segment.tokens]
    assert list(by_hand.tokens[-len(behind) :]) == behind
    assert by_hand.text == asked.text + "".join(s.text for s in shown) or name not in FAITHFUL


def test_tags_that_merge_with_their_neighbours_do_so_within_a_segment_only():
    tokenizer, _ = family("tags_that_merge")  # >\n is a token, and .<
    one_piece = tokenizer("1.<response>\nResult=1<submit>").input_ids
    _, called, answered, result = Tags(tokenizer, "", Layout()).shown(
        Demonstration("", [ShownCall("T", "", "1.")], "1")
    )
    assert list(answered.tokens + result.tokens) != one_piece
    assert tokenizer.decode(answered.tokens[-1]) == ">"
    assert called.text == "<request><T><call>"
