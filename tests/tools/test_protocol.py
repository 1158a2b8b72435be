import pytest

from pipeline.tools.protocol import ToolCall, parse_call, render_call


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("<request><Calc>1+2<call>", ToolCall("Calc", "1+2")),
        ("thinking\n<request> <Calc>\n1 > 2\n<call>\n", ToolCall("Calc", "\n1 > 2\n")),
        ("<request><A>x<request><B>y<call>", ToolCall("B", "y")),
        ("<request><Calc><call>", ToolCall("Calc", "")),
        ("<Calc>1+2<call>", None),
        ("<request>1+2<call>", None),
        ("<request>1+2>3<call>", None),
        ("<request><Calc>1+2", None),
        ("<call><request><Calc>1+2", None),
    ],
)
def test_reads_the_last_request_before_the_call(text, call):
    assert parse_call(text) == call


def test_a_rendered_call_reads_back():
    text = render_call("Calc", "4*3")
    assert text == "<request><Calc>4*3<call>"
    assert parse_call(text) == ToolCall("Calc", "4*3")
