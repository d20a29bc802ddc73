"""Where an ONNX node came from, as far as its exporter wrote it down."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import PurePath

from hetcc.ir import Provenance

_FRAME = re.compile(r'File "([^"<>]+)", line (\d+)')
_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_STACK = "pkg.torch.onnx.stack_trace"


def provenance_of(node_name: str, metadata: Mapping[str, str]) -> Provenance:
    """Provenance of a node.

    The torch exporter writes the stack of module paths, of classes and of source lines as metadata; the older one
    writes ``/model/layers.0/self_attn/MatMul_1`` as the name. Anything else has no provenance.
    """
    scopes, classes = _texts(metadata.get(_SCOPES, "")), _texts(metadata.get(_CLASSES, ""))
    frames = _FRAME.findall(metadata.get(_STACK, ""))
    source = f"{PurePath(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""
    if scopes:
        # The last entry names the operator itself, the one before it the module that called it.
        module_class = classes[-2].rsplit(".", 1)[-1] if len(classes) > 1 else ""
        return Provenance(scopes[-2] if len(scopes) > 1 else "", module_class, source)
    if node_name.startswith("/"):
        return Provenance(_path_of(node_name.split("/")[1:-1]), "", source)
    return Provenance("", "", source)


def _path_of(parts: list[str]) -> str:
    """Dotted module path; the older exporter repeats containers: ``layers`` then ``layers.0`` is one step."""
    path: list[str] = []
    for part in parts:
        steps = part.split(".")
        if path and len(steps) > 1 and steps[0] == path[-1]:
            steps = steps[1:]
        path.extend(steps)
    return ".".join(path)


def _texts(text: str) -> tuple[str, ...]:
    """The strings of a Python list literal; nothing when the text is none."""
    try:
        value = ast.literal_eval(text) if text else ()
    except (SyntaxError, ValueError):
        return ()
    return tuple(str(entry) for entry in value) if isinstance(value, (list, tuple)) else ()
