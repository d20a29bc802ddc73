"""The one table of parts: name -> ``module:attribute``, imported when asked for. Nothing registers itself."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SUPPORTS: Mapping[str, str] = MappingProxyType({
    "gpu": "hetcc.backends.gpu.support:GpuSupport",
    "fpga": "hetcc.backends.fpga.support:FpgaSupport",
    "host": "hetcc.backends.host.support:HostSupport",
})
BUILDERS: Mapping[str, str] = MappingProxyType({
    "aten": "hetcc.aten.build:builder_of",
    "onnx": "hetcc.onnx.build:builder_of",
})
"""By domain: from a graph to the :class:`hetcc.ir.builder.Builder` of nodes for it."""
CHECKERS: Mapping[str, str] = MappingProxyType({
    "aten": "hetcc.aten.check:check_on_random_inputs",
    "onnx": "hetcc.onnx.check:check_on_random_inputs",
})
"""By domain: a :data:`hetcc.ir.proof.Checker`."""


def load(spec: str) -> Any:
    """The attribute a ``module:attribute`` spec names."""
    module, _, attribute = spec.partition(":")
    return getattr(importlib.import_module(module), attribute)
