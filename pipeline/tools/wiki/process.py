"""The search process, seen from outside: started when needed, started again when it dies.

Lucene runs in a process of its own. A JVM started inside the training process corrupted Python's memory
within minutes: an optimizer step failed with an absurd TypeError, then the garbage collector crashed.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tools.wiki.java import find_java

OPENING_TIMEOUT = 600.0
"""Seconds. Starting Java and importing pyserini takes five, on a busy machine many times that."""

CACHE_SIZE = 10_000
"""How many queries' hits a searcher remembers."""


class SearchProcess:
    """A process that does what `pipeline.tools.wiki.worker.Worker` offers.

    Args:
        quiet: whether what it prints (Anserini prints much) is kept from the terminal; the end of it
            then goes into the error's text if the process dies.

    Raises:
        PipelineError: if there is no Java to run it with.
    """

    def __init__(self, quiet: bool = True) -> None:
        find_java()  # what is wrong with it is better said here
        self._log = tempfile.TemporaryFile("w+", errors="replace") if quiet else None  # noqa: SIM115
        self._connection, far_end = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.tools.wiki.worker", str(far_end.fileno())],
            pass_fds=[far_end.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        far_end.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(
        self,
        what: str,
        on_progress: Callable[[int], None] = lambda done: None,
        timeout: float | None = None,
        **arguments: Any,
    ) -> Any:
        """Has the process do something and returns the result.

        Raises:
            PipelineError: with what it said was wrong.
            ConnectionError: if it died, or gave no answer for `timeout` seconds.
        """
        try:
            self._connection.send_bytes(json.dumps({"do": what, **arguments}).encode())
            while True:
                answer = self._receive(timeout)
                if "progress" in answer:
                    on_progress(answer["progress"])
                elif "error" in answer:
                    raise PipelineError(_first_line(answer["error"]))
                else:
                    return answer["result"]
        except TimeoutError:
            self.close()
            raise ConnectionError(f"the search process gave no answer for {timeout:g} s") from None
        except (EOFError, OSError) as error:
            raise ConnectionError(f"the search process died ({self._last_words()})") from error
        except PipelineError:
            raise
        except BaseException:  # the answer is still to come, and must not be taken for another's
            self.close()
            raise

    def _receive(self, timeout: float | None) -> dict[str, Any]:
        if not self._connection.poll(timeout):
            raise TimeoutError
        return json.loads(self._connection.recv_bytes())

    def _last_words(self) -> str:
        """How it ended and the last line that it printed."""
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        status = f"exit status {self._process.wait()}"
        if self._log is None:
            return status
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return f"{status}: {lines[-1][:200]}" if lines else status

    def close(self) -> None:
        """Ends the process. It also ends by itself when this one does."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Hit:
    """A document that a query found, and its BM25 score."""

    id: str
    score: float
    contents: str


class Searcher:
    """Searches a Lucene index by BM25, in a process of its own.

    If the process dies or hangs, it is started again and the call is repeated, once. Safe to use from
    several threads.

    Args:
        folder: the Lucene index.
        k1, b: BM25's parameters.
        threads: how many queries of one call are searched at a time.
        timeout: after how many seconds without an answer to a search the process is given up.

    Raises:
        PipelineError: if the index cannot be opened, or a call fails twice.
    """

    def __init__(
        self,
        folder: Path,
        k1: float = 0.9,
        b: float = 0.4,
        threads: int = 2,
        timeout: float = 120,
    ) -> None:
        self.folder, self.k1, self.b = folder, k1, b
        self.threads, self.timeout = threads, timeout
        self._lock = threading.Lock()
        self._closed = False
        self._cache: OrderedDict[tuple[str, int], list[Hit]] = OrderedDict()
        self._process, self.documents = self._start()

    @property
    def pid(self) -> int:
        """The search process's number."""
        return self._process.pid

    def search(self, queries: Sequence[str], k: int = 1) -> list[list[Hit]]:
        """For each query its up to k best hits, best first; none for a query without known words."""
        with self._lock:
            new = list(dict.fromkeys(q for q in queries if (q, k) not in self._cache))
            found = self._search(new, k) if new else []
            hits = dict(zip(new, found, strict=True))
            hits |= {q: self._cache[q, k] for q in queries if q not in hits}
            for query in hits:
                self._cache[query, k] = hits[query]
                self._cache.move_to_end((query, k))
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return [hits[query] for query in queries]

    def close(self) -> None:
        """Ends the search process; what is not remembered cannot be searched for any more."""
        self._closed = True
        self._process.close()

    def __enter__(self) -> "Searcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _search(self, queries: list[str], k: int) -> list[list[Hit]]:
        # Java's strings hold no half of a surrogate pair.
        clean = [query.encode("utf-8", "ignore").decode("utf-8") for query in queries]
        if self._closed:
            raise PipelineError(f"the searcher of {self.folder} has been closed")
        request: dict[str, Any] = {"queries": clean, "k": k, "threads": self.threads}
        try:
            found = self._process.do("search", timeout=self.timeout, **request)
        except ConnectionError:
            self._process.close()
            self._process, _ = self._start()
            try:
                found = self._process.do("search", timeout=self.timeout, **request)
            except ConnectionError as error:
                raise PipelineError(f"searching {self.folder} failed twice: {error}") from error
        return [[Hit(*hit) for hit in hits] for hits in found]

    def _start(self) -> tuple[SearchProcess, int]:
        process = SearchProcess()
        try:
            documents = process.do(
                "open", timeout=OPENING_TIMEOUT, folder=str(self.folder), k1=self.k1, b=self.b
            )
        except (PipelineError, ConnectionError) as error:
            process.close()
            raise PipelineError(
                f"{self.folder} cannot be opened as a Lucene index ({error}): "
                "run `dvc repro --force build_index`"
            ) from error
        return process, documents


def _first_line(text: str) -> str:
    """Without the stack that Java adds."""
    return text.strip().split("\n")[0].strip()
