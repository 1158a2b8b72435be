"""The tokens of an episode's parts: what is data, and what the environment itself writes."""

from typing import Any

from pipeline.errors import PipelineError
from pipeline.models.text import TextCodec
from pipeline.tools.protocol import RESPONSE, TAGS


class EpisodeCodec(TextCodec):
    """A `TextCodec` that knows the tags.

    A prompt goes through `opening`, a question through `data`, a tool's output through `tool`. What a model
    writes is never encoded: those tokens are its own. A demonstration's go through `written`.

    Raises:
        PipelineError: if the tokenizer cannot spell a tag: no model could write it then.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, TAGS)
        for tag in TAGS:
            spelled = self.decode(self.written(tag))
            if spelled != tag:
                raise PipelineError(
                    f"model: its tokenizer spells the tag {tag} as {spelled!r}, so that no turn could end: "
                    f"make the tags tokens of their own, tokenizer.add_tokens({list(TAGS)})"
                )

    def tool(self, output: str) -> list[int]:
        """The token ids of a tool's output and of the tag behind it."""
        if self.is_token(RESPONSE):
            return [*self.data(output), *self.written(RESPONSE)]
        # In one piece, as in the prompt: a token may reach into the tag (".<").
        return self.data(output + RESPONSE)
