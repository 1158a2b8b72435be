"""What all stage scripts share: their command line, and errors told in one line."""

import argparse
import ctypes
import os
import platform
import sys
from collections.abc import Callable

from pipeline.errors import PipelineError


def run_stage(main: Callable[..., None], **arguments: type) -> None:
    """Calls `main` with the command line's arguments, one for each of `arguments`, in their order.

    What the user can mend is told in a line on standard error, with exit status 1.
    """
    parser = argparse.ArgumentParser(description=(main.__doc__ or "").strip())
    for name, kind in arguments.items():
        parser.add_argument(name, type=kind)
    _keep_freed_memory()
    # Read by transformers when it is imported, which many stages never do.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        main(*vars(parser.parse_args()).values())
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror or error}")


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed for what is allocated next, instead of giving it back.

    Tensors of many megabytes come and go with every layer, and fresh pages for each of them took
    between a tenth and a quarter of the time of an evaluation.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large piece
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing back to the system
