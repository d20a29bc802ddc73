"""A region to MLIR text through torch-mlir. Run as a child process: torch-mlir may take its process with it.

``python -m hetcc.backends.gpu.importer IN OUT [IN OUT ...]`` reads regions as :mod:`hetcc.ir.serialize` writes
them and writes ``OUT`` with the MLIR text, or ``OUT.error`` with the reason why there is none, one pair after another.

The function is called ``main``; its arguments are ``interface_of(region)`` and its results the region's outputs and
then the new contents of its updated caches, a value that is both once. It is functional. IREE nevertheless updates a
cache in place, because it reuses the storage of an argument it reads for the last time; ``program.py`` relies on that,
and guards what must not change.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hetcc.errors import HetccError
from hetcc.garbage import uncollected
from hetcc.ir import Graph
from hetcc.ir.serialize import graph_from_bytes

ENTRY_NAME = "main"
ERROR_SUFFIX = ".error"


def domain_of(region: Graph) -> str:
    """``onnx`` when any node is of the onnx domain, else ``aten``."""
    return "onnx" if any(node.operator.domain == "onnx" for node in region.nodes) else "aten"


def import_aten(region: Graph) -> str:
    """MLIR text in the torch dialect of a region of the aten domain."""
    with uncollected():
        import torch
        import torch._dynamo  # fake tensors would import it, and look for garbage meanwhile
        from torch_mlir import fx, ir
        from torch_mlir.dialects import torch as torch_dialect
        from torch_mlir.extras.fx_importer import FxImporter

        from hetcc.aten.rebuild import trace
        from hetcc.backends.gpu.rewrites import replacements

    torch.set_num_threads(1)
    module = trace(region, replacements())
    context = ir.Context()
    torch_dialect.register_dialect(context)
    # ``stateless_fx_import`` lowers to what IREE takes: the torch dialect with value semantics and concrete shapes.
    lowered = fx.stateless_fx_import(module, output_type="torch", fx_importer=FxImporter(context=context),
                                     model_name=ENTRY_NAME)
    return str(lowered)


def import_onnx(region: Graph) -> str:
    """MLIR text in the torch dialect, ONNX operators inside, of a region of the onnx domain."""
    from torch_mlir import ir
    from torch_mlir.dialects import torch as torch_dialect
    from torch_mlir.extras import onnx_importer

    from hetcc.backends.gpu.onnx_selection import without_topk
    from hetcc.onnx.rebuild import to_model

    model: Any = without_topk(to_model(region))
    model.graph.name = ENTRY_NAME
    context = ir.Context()
    torch_dialect.register_dialect(context)
    info = onnx_importer.ModelInfo(model)
    operation = info.create_module(context=context).operation
    importer = onnx_importer.NodeImporter.define_function(info.main_graph, operation)
    importer.import_all()
    return str(operation)


def import_region(region: Graph) -> str:
    """MLIR text of a region of either domain."""
    return import_onnx(region) if domain_of(region) == "onnx" else import_aten(region)


def _refusals() -> tuple[type[Exception], ...]:
    """What the importers raise for what they do not take; anything else ends the child and counts as a crash."""
    from torch_mlir.compiler_utils import TorchMlirCompilerError

    return (HetccError, TorchMlirCompilerError, ArithmeticError, AssertionError, AttributeError, LookupError,
            RuntimeError, TypeError, ValueError)


def _import_file(source: Path, destination: Path) -> None:
    try:
        text = import_region(graph_from_bytes(source.read_bytes()))
    except _refusals() as error:
        reason = f"{type(error).__name__}: {error}"
        Path(f"{destination}{ERROR_SUFFIX}").write_text(reason, encoding="utf-8")
        return
    unfinished = destination.with_suffix(".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(destination)


def main(arguments: list[str]) -> int:
    """The child process's entry point."""
    if not arguments or len(arguments) % 2:
        sys.stderr.write("usage: python -m hetcc.backends.gpu.importer IN OUT [IN OUT ...]\n")
        return 2
    for source, destination in zip(arguments[::2], arguments[1::2], strict=True):
        _import_file(Path(source), Path(destination))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
