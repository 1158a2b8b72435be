"""Whether a task's limits leave room for what the model is to do, as its prompt shows it."""

from collections.abc import Sequence

from pipeline.environment.environment import TaskEnvironment
from pipeline.errors import PipelineError
from pipeline.tasks import Demonstration


def check_limits(env: TaskEnvironment, shots: Sequence[Demonstration]) -> None:
    """Raises PipelineError, naming key and numbers, where a limit makes every episode fail.

    The measure is the prompt's demonstrations: the one with the shortest turns has to fit into a turn, the
    longest output into a tool's, and an episode like the shortest of them into all that it may have.
    """
    key = f"{env.task.name}.environment"
    episodes = [env.protocol.shown(shot) for shot in shots]
    if not episodes:
        return
    turn = min(max(len(s.tokens) for s in e if s.author == "model") for e in episodes)
    if turn > env.max_new_tokens:
        raise PipelineError(
            f"{key}.max_new_tokens: {env.max_new_tokens} tokens; the prompt shows no episode whose turns "
            f"have less than {turn}, so no model could write one; set it to {turn} or more"
        )
    outputs = [call.output for shot in shots for call in shot.calls]
    output = max((len(env.codec.data(text)) for text in outputs), default=0)
    if output > env.max_tool_response:
        raise PipelineError(
            f"{key}.max_tool_response: {env.max_tool_response} tokens; the prompt shows an output of "
            f"{output}, which would be cut; set it to {output} or more"
        )
    whole = min(sum(len(segment.tokens) for segment in episode) for episode in episodes)
    for limit, source in (
        (env.max_length, f"{key}.max_length"),
        (env.max_positions, "the model's positions"),
    ):
        if limit is not None and whole > limit:
            prompt = len(episodes[0][0].tokens)
            raise PipelineError(
                f"{source}: {limit} tokens; prompt and question have {prompt}, and the shortest episode "
                f"like the prompt's has {whole}: it takes a larger limit, or a model for longer texts"
            )
