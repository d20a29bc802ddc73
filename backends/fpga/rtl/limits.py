"""What the RTL library can build today; a kernel outside still runs in the functional model and keeps its estimate."""

from __future__ import annotations

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.costs.cycles import extent_product
from hetcc.backends.fpga.costs.cycles_selections import MAX_ROWS
from hetcc.backends.fpga.memory.resident import is_resident, resident_limit
from hetcc.backends.fpga.rtl.limits_attention import check_weighted_sum
from hetcc.backends.fpga.stages.elements import COMPARISONS, LOGIC
from hetcc.backends.fpga.stages.gathers import check_gathers
from hetcc.backends.fpga.stages.long_rows import check_long, long_rows
from hetcc.backends.fpga.stages.packed import is_packed
from hetcc.backends.fpga.stages.slices import slice_words
from hetcc.backends.fpga.stages.stage_graph import (
    Access,
    Compact,
    Export,
    Gather,
    InnerProduct,
    Lookup,
    Map,
    Parallelism,
    Reduce,
    Scan,
    Stage,
    StageGraph,
    Store,
    Stream,
    TopK,
    WeightedSum,
    operands_of,
)
from hetcc.ir import DType

MAX_K = 4096
MAX_DEPTH = 256
MAX_BLOCK = 64
MAX_CAPACITY = 2**16
FUNCTIONS = frozenset({"add", "sub", "mul", "neg", "abs", "relu", "max", "min", "cast", *COMPARISONS, *LOGIC, "where"})


def check(graph: StageGraph) -> Rejected | None:
    """The first limit a kernel is beyond, or None when Verilog can be written."""
    parallel = graph.parallel or Parallelism()
    if is_resident(graph):
        if parallel.together != parallel.block_banks + parallel.ultra_banks:
            return Rejected("a step takes a row from every bank of a table on chip", str(parallel.together),
                            str(parallel.block_banks + parallel.ultra_banks))
        if (verdict := resident_limit(graph, parallel.together)) is not None:
            return verdict
    selections = len(graph.of_kind(TopK)) + len(graph.of_kind(Compact))
    if graph.of_kind(WeightedSum):
        verdict = check_weighted_sum(graph)
        if verdict is not None:
            return verdict
    elif (len(graph.of_kind(Scan)) != 1 and not slice_words(graph)) or selections > 1:
        return Rejected("the RTL has one scan and at most one selection", "1 and 1",
                        f"{len(graph.of_kind(Scan))} and {selections}")
    if len(graph.of_kind(Export)):
        return Rejected("the RTL does not copy whole tables out")
    if (verdict := check_gathers(graph)) is not None:
        return verdict
    tables = [stage.table.buffer for stage in graph.of_kind(Scan)]
    beside = [part.buffer for stage in graph.of_kind(Map) for part in stage.operands if isinstance(part, Access)]
    if len(set(tables)) < len(tables) or set(tables) & set(beside):
        return Rejected("a table is read once", "one scan", ", ".join(tables))
    scan = graph.of_kind(Scan)[0]
    words = extent_product(graph, scan.lanes)
    if scanning_product(graph) is None and not slice_words(graph) and (words > MAX_DEPTH or words & (words - 1)):
        return Rejected("whole rows pass together when no inner product reads them",
                        f"a power of two up to {MAX_DEPTH}", str(words))
    if len(graph.keys) and extent_product(graph, tuple(axis.name for axis in graph.keys)) > MAX_ROWS:
        return Rejected("the table has too many rows for the index register", str(MAX_ROWS))
    previous = ""
    for stage in graph.stages:
        verdict = _check_stage(graph, stage)
        if verdict is not None:
            return verdict
        if isinstance(stage, (Scan, InnerProduct, Lookup, Map, Reduce, TopK, WeightedSum, Compact)):
            previous = stage.name
    return _check_stores(graph, previous)


def _check_stores(graph: StageGraph, last: str) -> Rejected | None:
    """A kernel writes one thing: its selection, or the stream at the end of the chain."""
    taken = {stage.name for stage in graph.of_kind(Gather) if stage.source.stage == last}
    sources = {last if stage.source.stage in taken else stage.source.stage for stage in graph.of_kind(Store)}
    if sources != {last}:
        return Rejected("the RTL writes what the last stage of its chain makes", last, ", ".join(sorted(sources)))
    for stage in graph.of_kind(Store):
        if not isinstance(graph.stage(last), (TopK, Compact)) and stage.element is not DType.FLOAT32:
            return Rejected("the RTL writes streams of float32", "float32", stage.element.value)
    return None


def scanning_product(graph: StageGraph) -> InnerProduct | None:
    """The inner product that reads the rows of the table, if there is one."""
    found = [stage for stage in graph.of_kind(InnerProduct) if isinstance(graph.stage(stage.source.stage), Scan)]
    return found[0] if found else None


def _check_stage(graph: StageGraph, stage: Stage) -> Rejected | None:
    if isinstance(stage, (Scan, InnerProduct, Map, Reduce, TopK, WeightedSum)) and not (
            stage.element is DType.FLOAT32 or (isinstance(stage, Map) and stage.element is DType.BOOL)
            or (isinstance(stage, Scan) and (is_packed(stage) or _only_looked_up(graph, stage)))):
        return Rejected("the RTL computes in float32", "float32", stage.element.value)
    if isinstance(stage, Lookup):
        return _check_lookup(graph, stage)
    if isinstance(stage, (InnerProduct, Map, Reduce, TopK, Compact)):
        verdict = _check_sources(graph, stage)
        if verdict is not None:
            return verdict
    if isinstance(stage, InnerProduct):
        return _check_product(graph, stage)
    if isinstance(stage, Map):
        return _check_map(graph, stage)
    if isinstance(stage, Reduce):
        return _check_reduce(graph, stage)
    if isinstance(stage, TopK) and stage.k > MAX_K:
        return Rejected("the selection keeps too many entries", str(MAX_K), str(stage.k))
    if isinstance(stage, Compact) and stage.capacity > MAX_CAPACITY:
        return Rejected("the compaction keeps too many entries", str(MAX_CAPACITY), str(stage.capacity))
    return None


def _check_lookup(graph: StageGraph, stage: Lookup) -> Rejected | None:
    """Positions come straight from a table, one entry each."""
    source, table = graph.stage(stage.source.stage), graph.buffer(stage.table.buffer)
    if not isinstance(source, Scan) or source.lanes != stage.lanes:
        return Rejected("positions come from a table and give one number each", "a scan", type(source).__name__)
    if stage.element is not DType.FLOAT32 or table.element is not DType.FLOAT32:
        return Rejected("the RTL computes in float32", "float32", table.element.value)
    return None


def _only_looked_up(graph: StageGraph, scan: Scan) -> bool:
    """Whether the rows of a table are positions and nothing else."""
    readers = [stage for stage in graph.stages if Stream(scan.name) in operands_of(stage)]
    return scan.element is DType.INT32 and all(isinstance(stage, Lookup) for stage in readers)


def _check_sources(graph: StageGraph, stage: InnerProduct | Map | Reduce | TopK | Compact) -> Rejected | None:
    """A stage may read several streams if these have the same loops; rows as they are go to one product only."""
    sources = [part.stage for part in (stage.operands if isinstance(stage, Map) else (stage.source,))
               if isinstance(part, Stream)]
    first = scanning_product(graph)
    for name in sources:
        rows = first is not None and isinstance(graph.stage(name), Scan) and stage is not first
        if rows or loops_left(graph, name) != loops_left(graph, sources[0]):
            return Rejected("streams meet when they have the same loops", str(loops_left(graph, sources[0])),
                            str(loops_left(graph, name)))
    return None


def loops_left(graph: StageGraph, name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Lanes of a stream in their order, and the row loops it still has."""
    stage = graph.stage(name)
    lanes = getattr(stage, "lanes", ())
    if isinstance(stage, Scan):
        return lanes, frozenset(axis.name for axis in graph.keys)
    keys = [loops_left(graph, part.stage)[1] for part in operands_of(stage) if isinstance(part, Stream)]
    return lanes, frozenset.intersection(*keys) - set(getattr(stage, "over", ()))


def selection_of(graph: StageGraph) -> TopK | Compact | None:
    """The selection at the end of the kernel, if there is one."""
    found: list[TopK | Compact] = [*graph.of_kind(TopK), *graph.of_kind(Compact)]
    return found[0] if found else None


def _check_product(graph: StageGraph, stage: InnerProduct) -> Rejected | None:
    source = graph.stage(stage.source.stage)
    lanes = getattr(source, "lanes", ())
    depth = extent_product(graph, stage.over)
    if isinstance(source, Scan) and (long := long_rows(graph)) is not None:
        return check_long(long)
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
        if axes & keys and (set(stage.lanes) & axes or reduced or not keys <= axes):
            return Rejected("an operand that differs by row has one value per row, before rows are reduced")
    return None


def _check_reduce(graph: StageGraph, stage: Reduce) -> Rejected | None:
    keys = tuple(axis.name for axis in graph.keys)
    rows = tuple(name for name in stage.over if name in keys)
    lanes = getattr(graph.stage(stage.source.stage), "lanes", ())
    if rows and (len(rows) < len(stage.over) or lanes):
        return Rejected("the RTL reduces rows when there is one value per row")
    if rows and extent_product(graph, rows) > MAX_BLOCK:
        return Rejected("too many rows are reduced together", str(MAX_BLOCK), str(extent_product(graph, rows)))
    if not rows and stage.over != lanes and (scanning_product(graph) is not None or slice_words(graph)):
        return Rejected("a reduction takes all lanes in their order", str(lanes), str(stage.over))
    return None


__all__ = ["MAX_DEPTH", "MAX_K", "check", "loops_left", "scanning_product", "selection_of"]
