"""What each label means, and what one could change where it is frequent: for the report."""

from pipeline.evaluation.labels import Label

EXPLANATIONS: dict[Label, tuple[str, str]] = {
    Label.CORRECT: ("right, after a tool answered", ""),
    Label.CORRECT_WITHOUT_TOOL: (
        "right, though no tool answered",
        "If there are many, the model knew the answers: use harder problems.",
    ),
    Label.NO_CALL: (
        "the model never began a request",
        "More warm-start steps, or more demonstrations in the prompt.",
    ),
    Label.MALFORMED_CALL: (
        "it began a request that never became a call",
        "More warm-start steps; a larger max_new_tokens if calls are cut off.",
    ),
    Label.UNKNOWN_TOOL: (
        "it called a tool that does not exist",
        "More warm-start steps, or a tool's name that is easier to write.",
    ),
    Label.TOOL_ERROR: (
        "the tool refused every call",
        "Read what the tool said: its limits may be too narrow, or a function may be missing.",
    ),
    Label.SYNTAX_ERROR: ("the program is not Python", "More warm-start steps."),
    Label.RUNTIME_ERROR: (
        "the program raised an exception",
        "More training steps; see which exceptions.",
    ),
    Label.TIME_OUT: (
        "the program ran too long",
        "A larger time_limit, if the programs deserve it.",
    ),
    Label.BAD_SEARCH: (
        "the answer is not in what the search returned",
        "The questions below tell whether the query, the ranking or the corpus is at fault.",
    ),
    Label.WRONG_NUMBER: (
        "the tool computed something else than the answer",
        "More training steps; look for what kind of problem it misunderstands.",
    ),
    Label.OVERLONG_RESPONSE: (
        "the tool had the answer, but its text was cut before it or filled the episode",
        "A larger max_tool_response or max_length, or a tool that answers more briefly.",
    ),
    Label.NO_SUBMIT: (
        "the model saw the answer and handed in nothing",
        "More training steps; a larger max_turns or max_new_tokens if the text is cut off.",
    ),
    Label.MISREAD: (
        "the model saw the answer and handed in another",
        "More training steps, a larger model, or shorter paragraphs.",
    ),
    Label.MISREPORTED: (
        "the tool computed the answer and the model handed in another",
        "More training steps.",
    ),
}
"""For each label what it means and what to try."""
