"""The tools a model can call, one file each: callables that take a string and return one.

A tool is quick, bounded in time and size, and explains what is wrong with a bad input by raising
`ToolError`; the environment hands its text to the model.
"""


class ToolError(Exception):
    """What is wrong with the input, in words meant for the model."""
