"""In place of `transformers.load_tool`: the tools that TRL's examples fetched from the hub."""

from collections.abc import Callable
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tools import ToolError
from pipeline.tools.calculator import calculate


class SimpleCalculatorTool:
    """The calculator, under the name by which TRL's examples call it: the class of the hub's tool."""

    def __call__(self, expression: str) -> str:
        return calculate(expression)


class PyseriniWikipediaTool:
    """A search in the project's index: the best article's title, and its first paragraph on the next line.

    Args:
        searcher: of documents whose contents are a title line and then paragraphs.
    """

    def __init__(self, searcher: Any) -> None:
        self.searcher = searcher

    def __call__(self, query: str) -> str:
        if not query.strip():
            raise ToolError("the search is empty")
        hits = self.searcher.search([query[:MAX_CHARACTERS]])[0]
        lines = hits[0].contents.splitlines() if hits else ["", "No article was found."]
        title, *paragraphs = [line.strip() for line in lines] or [""]
        return "\n".join([title, *(p for p in paragraphs if p)])


MAX_CHARACTERS = 500
"""How much of a query is searched for: Lucene takes at most 1,024 different words."""


def _wikipedia() -> PyseriniWikipediaTool:
    from pipeline.tools.wiki.index import open_index
    from pipeline.workspace import read_resources

    return PyseriniWikipediaTool(open_index(read_resources(["index"])["index"]))


def _python() -> Callable[[str], Any]:
    from pipeline.tools.python import PythonInterpreter

    return PythonInterpreter()


HUB: dict[str, Callable[[], Callable[[str], Any]]] = {
    "ybelkada/simple-calculator": SimpleCalculatorTool,
    "vwxyzjn/pyserini-wikipedia-kilt-doc": _wikipedia,
    "lvwerra/python-interpreter": _python,
}
"""The tools by their names on the hub."""


def load_tool(name: str, **options: Any) -> Callable[[str], Any]:
    """The project's own tool for one of the hub's. `options` told how to fetch it, and are not needed.

    Raises:
        ValueError: for any other name.
        PipelineError: for the search, if there is no index; if a package is missing.
    """
    if name not in HUB:
        raise ValueError(
            f"no tool {name!r} here, there is {', '.join(HUB)}; or pass the environment a callable from text to text"
        )
    try:
        return HUB[name]()
    except ImportError as error:
        raise PipelineError(
            f"load_tool({name!r}): {error}: pip install 'learning-tools[wiki,python]'"
        ) from error
