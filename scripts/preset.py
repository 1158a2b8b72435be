"""Puts a preset into params.yaml: parameters that belong together, from a file of `presets/`.

python -m scripts.preset calculator-gpt2

`make repro PRESET=calculator-gpt2` does it, too, and then reproduces. A preset holds what differs from
params.yaml. The file's comments stay, `git diff params.yaml` shows what was changed, and `git checkout
params.yaml` undoes it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, RoundTripRepresenter
from ruamel.yaml.comments import CommentedSeq

from pipeline.errors import PipelineError
from pipeline.files import read_yaml, replacing
from pipeline.nested import flatten, put
from pipeline.params import PARAMS_FILE, load_params
from stages.common import run_script

PRESETS = Path("presets")


def main(name: str) -> None:
    """Puts the preset of that name into params.yaml, if the whole is right."""
    for key, value in apply(name).items():
        print(f"{key}: {value}")


def apply(name: str) -> dict[str, Any]:
    """Puts a preset into params.yaml. Returns its parameters, dots in their keys.

    Raises PipelineError, and changes nothing, where there is no such preset or a key or a value is wrong.
    """
    file = PRESETS / f"{name}.yaml"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
        raise PipelineError(f"PRESET={name}: no such file in {PRESETS}/; there is {there}")
    content = read_yaml(file)
    if not isinstance(content, Mapping):
        raise PipelineError(f"{file}: expected `key: value` pairs, as in {PARAMS_FILE}")
    changes = flatten(content)
    load_params()  # what is wrong after this is the preset's
    try:
        load_params(changes=changes)
    except PipelineError as error:
        raise PipelineError(f"{file}, put into {error}") from None
    set_params(PARAMS_FILE, changes)
    return changes


def set_params(file: Path, changes: Mapping[str, Any]) -> None:
    """Changes values in a YAML file and keeps its comments; keys have dots between their parts."""
    yaml = YAML()
    yaml.width = 4096  # long lines stay lines
    yaml.preserve_quotes = True
    yaml.Representer = _Representer
    params = yaml.load(file)
    for key, value in changes.items():
        put(params, key, _on_one_line(value) if isinstance(value, list) else value)
    with replacing(file) as beside:
        yaml.dump(params, beside)


class _Representer(RoundTripRepresenter):
    """Writes what every reader of YAML takes for the same: `null`, and a dot in numbers like `1.0e-05`."""


_Representer.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)
_Representer.add_representer(
    float,
    lambda self, number: self.represent_scalar(
        "tag:yaml.org,2002:float", re.sub(r"^(-?\d+)e", r"\1.0e", repr(number))
    ),
)


def _on_one_line(values: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence


if __name__ == "__main__":
    run_script(main, name=str)
