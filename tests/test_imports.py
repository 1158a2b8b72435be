"""What is imported by whom: who computes nothing with a model does not wait for torch."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "accelerate", "mendeleev", "pyserini")
"""Packages that take from half a second to several to import."""

LIGHT = {
    "pipeline.params": (*HEAVY, "pandas", "scipy", "matplotlib"),
    "pipeline.environment": (*HEAVY, "pandas"),
    "pipeline.algorithms.grpo": (*HEAVY, "pandas"),
    "stages.analyse": (*HEAVY, "matplotlib"),
    "stages.build_corpus": (*HEAVY, "pandas"),
    "stages.build_index": (*HEAVY, "pandas"),
    "stages.demonstrate": (*HEAVY, "pandas"),
    "stages.evaluate": HEAVY,
    "stages.fetch_model": (*HEAVY, "pandas"),
    "stages.prepare": (*HEAVY, "pandas"),
    "stages.report": HEAVY,
    "stages.report_studies": HEAVY,
    "stages.warm_start": HEAVY,
}
"""Modules, and what must not be imported with them."""


@pytest.mark.parametrize("module", LIGHT)
def test_what_needs_no_model_imports_no_torch(module):
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({LIGHT[module]!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_algorithm_and_task_is_read_without_torch():
    """Their parameters are, whenever params.yaml is checked."""
    code = "import sys; from pipeline.params import load_params; load_params(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
