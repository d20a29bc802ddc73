"""Which inputs of an ONNX program are caches.

ONNX has no state. An input is a cache when it is paired by name with an output (the table below, or pairs given by
the caller) **and** both have the same type **and** the output is computed from the input. A cache that grows
(``past_key_values`` shorter than ``present``) stays a plain input with a plain output: each step would need another
program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hetcc.errors import UserError
from hetcc.ir import TensorType

NAME_PAIRS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"past_key_values(?P<rest>.*)", ("present{rest}", "present_key_values{rest}", "new_past_key_values{rest}")),
    (r"past_key(?P<rest>.*)", ("present_key{rest}",)),
    (r"past_value(?P<rest>.*)", ("present_value{rest}",)),
    (r"past(?P<rest>.*)", ("present{rest}", "past{rest}_out")),
    (r"(?P<rest>.*cache.*)", ("{rest}_out", "{rest}_new", "{rest}_updated", "{rest}_output", "new_{rest}",
                              "updated_{rest}", "present_{rest}", "out_{rest}")),
)
"""Pattern of an input's whole name, and the names its output may have."""


def pair_caches(
    inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType], derived: Mapping[str, frozenset[str]],
    given: Mapping[str, str],
) -> dict[str, str]:
    """Output of each cache, by input name.

    Args:
        inputs: types of the program's inputs.
        outputs: types of the program's outputs.
        derived: for each output, the inputs it is computed from.
        given: pairs the caller names; they must be possible.

    Raises:
        UserError: HET-C002, a given pair names something unknown or of different type.
    """
    for name, output in given.items():
        if name not in inputs or output not in outputs:
            raise UserError("HET-C002", f"cache pair {name}={output} names no input and output of the model",
                            fix=f"inputs: {', '.join(inputs)}; outputs: {', '.join(outputs)}")
        if inputs[name] != outputs[output]:
            raise UserError("HET-C002", f"cache pair {name}={output} changes its type from {inputs[name]} to "
                            f"{outputs[output]}", fix="export the model with a static cache")
    pairs: dict[str, str] = {}
    taken: set[str] = set(given.values())
    for name, tensor_type in inputs.items():
        candidates: Sequence[str] = (given[name],) if name in given else [
            output for output in _output_names(name) if output not in taken]
        for output in candidates:
            if outputs.get(output) == tensor_type and name in derived.get(output, frozenset()):
                pairs[name] = output
                taken.add(output)
                break
    return pairs


def named_like_caches(inputs: Sequence[str], outputs: Sequence[str]) -> bool:
    """Whether an input and an output of these names could be one cache; types and dataflow decide."""
    return any(output in outputs for name in inputs for output in _output_names(name))


def _output_names(name: str) -> list[str]:
    return [template.format(**found.groupdict()) for pattern, templates in NAME_PAIRS
            if (found := re.fullmatch(pattern, name)) for template in templates]
