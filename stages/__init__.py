"""One script for each DVC stage: reads params and inputs, calls the library, writes outputs."""

import sys

from stages.parents import stop_with_parents

if sys.argv[:1] == ["-m"]:  # as long as `python -m stages.<name>` looks for the stage
    stop_with_parents()
