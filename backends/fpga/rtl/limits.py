"""What the RTL library can build today; a kernel outside still runs in the functional model and keeps its estimate."""

from __future__ import annotations

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.cycles import extent_product
from hetcc.backends.fpga.stage_graph import (
    Access,
    Export,
    InnerProduct,
    Map,
    Reduce,
    Scan,
    Stage,
    StageGraph,
    Store,
    Stream,
    TopK,
)
from hetcc.ir import DType

MAX_K = 4096
MAX_DEPTH = 256
MAX_ROWS = 2**20
MAX_BLOCK = 64
FUNCTIONS = frozenset({"add", "sub", "mul", "neg", "abs", "relu", "max", "min", "cast"})


def check(graph: StageGraph) -> Rejected | None:
    """The first limit a kernel is beyond, or None when Verilog can be written."""
    if len(graph.of_kind(Scan)) != 1 or len(graph.of_kind(TopK)) != 1:
        return Rejected("the RTL has one scan and one selection", "1 and 1",
                        f"{len(graph.of_kind(Scan))} and {len(graph.of_kind(TopK))}")
    if len(graph.of_kind(Export)):
        return Rejected("the RTL does not copy whole tables out")
    scan = graph.of_kind(Scan)[0]
    words = extent_product(graph, scan.lanes)
    if scanning_product(graph) is None and (words > MAX_DEPTH or words & (words - 1)):
        return Rejected("whole rows pass together when no inner product reads them",
                        f"a power of two up to {MAX_DEPTH}", str(words))
    if len(graph.keys) and extent_product(graph, tuple(axis.name for axis in graph.keys)) > MAX_ROWS:
        return Rejected("the table has too many rows for the index register", str(MAX_ROWS))
    previous = ""
    for stage in graph.stages:
        verdict = _check_stage(graph, stage, previous)
        if verdict is not None:
            return verdict
        if isinstance(stage, (Scan, InnerProduct, Map, Reduce, TopK)):
            previous = stage.name
    return None


def scanning_product(graph: StageGraph) -> InnerProduct | None:
    """The inner product that reads the rows of the table, if there is one."""
    found = [stage for stage in graph.of_kind(InnerProduct) if isinstance(graph.stage(stage.source.stage), Scan)]
    return found[0] if found else None


def _check_stage(graph: StageGraph, stage: Stage, previous: str) -> Rejected | None:
    if isinstance(stage, (Scan, InnerProduct, Map, Reduce, TopK)) and stage.element is not DType.FLOAT32:
        return Rejected("the RTL computes in float32", "float32", stage.element.value)
    if isinstance(stage, (InnerProduct, Map, Reduce, TopK)):
        sources = [part.stage for part in (stage.operands if isinstance(stage, Map) else (stage.source,))
                   if isinstance(part, Stream)]
        if sources != [previous]:
            return Rejected("the RTL is one chain of stages", previous, ", ".join(sources))
    if isinstance(stage, InnerProduct):
        return _check_product(graph, stage)
    if isinstance(stage, Map):
        return _check_map(graph, stage)
    if isinstance(stage, Reduce):
        return _check_reduce(graph, stage)
    if isinstance(stage, TopK) and stage.k > MAX_K:
        return Rejected("the selection keeps too many entries", str(MAX_K), str(stage.k))
    if isinstance(stage, Store) and not isinstance(graph.stage(stage.source.stage), TopK):
        return Rejected("the RTL writes selections, not whole streams")
    return None


def _check_product(graph: StageGraph, stage: InnerProduct) -> Rejected | None:
    source = graph.stage(stage.source.stage)
    lanes = getattr(source, "lanes", ())
    depth = extent_product(graph, stage.over)
    if depth > MAX_DEPTH:
        return Rejected("a row is longer than one adder tree", str(MAX_DEPTH), str(depth))
    if stage.over != lanes:
        return Rejected("an inner product contracts all lanes in their order", str(lanes), str(stage.over))
    if not isinstance(source, Scan) and stage.lanes:
        return Rejected("after the first inner product lanes only come together", "one result per row",
                        str(extent_product(graph, stage.lanes)))
    return None


def _check_map(graph: StageGraph, stage: Map) -> Rejected | None:
    if stage.function not in FUNCTIONS:
        return Rejected("the RTL has no such unit", ", ".join(sorted(FUNCTIONS)), stage.function)
    stream = next(part for part in stage.operands if isinstance(part, Stream))
    source = graph.stage(stream.stage)
    if getattr(source, "lanes", ()) != stage.lanes:
        return Rejected("element-wise stages keep the lanes of the stream", str(getattr(source, "lanes", ())),
                        str(stage.lanes))
    keys = {axis.name for axis in graph.keys}
    reduced = any(isinstance(other, Reduce) and set(other.over) & keys for other in graph.stages)
    for operand in stage.operands:
        if not isinstance(operand, Access):
            continue
        axes = {name for name, _ in operand.strides}
        if graph.buffer(operand.buffer).element is not DType.FLOAT32:
            return Rejected("operands of the RTL are float32", "float32", graph.buffer(operand.buffer).element.value)
        if axes & keys and (set(stage.lanes) or reduced or not keys <= axes):
            return Rejected("an operand that differs by row meets the stream when it has one value per row")
    return None


def _check_reduce(graph: StageGraph, stage: Reduce) -> Rejected | None:
    keys = tuple(axis.name for axis in graph.keys)
    rows = tuple(name for name in stage.over if name in keys)
    lanes = getattr(graph.stage(stage.source.stage), "lanes", ())
    if rows and (len(rows) < len(stage.over) or lanes):
        return Rejected("the RTL reduces rows when there is one value per row")
    if rows and extent_product(graph, rows) > MAX_BLOCK:
        return Rejected("too many rows are reduced together", str(MAX_BLOCK), str(extent_product(graph, rows)))
    if not rows and stage.over != lanes and scanning_product(graph) is not None:
        return Rejected("a reduction takes all lanes in their order", str(lanes), str(stage.over))
    return None


__all__ = ["MAX_DEPTH", "MAX_K", "check", "scanning_product"]
