"""From a region of the graph to a streaming kernel: one mechanism over operator classes, no method is known by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.compose.trace import Tracer
from hetcc.backends.fpga.compose.trace_attention import ZERO_WHEN_MASKED, score_loops
from hetcc.backends.fpga.compose.trace_selections import SELECTIONS, flags_of, listing_of, room_of, selecting
from hetcc.backends.fpga.compose.traced import Computed, Kind, Leaf, Traced
from hetcc.backends.fpga.compose.views import strides_of
from hetcc.backends.fpga.compose.weights import as_weights, weight_buffers
from hetcc.backends.fpga.stages.axes import Atom, Group, extent_of, flat
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.backends.fpga.stages.stage_graph import (
    Access,
    Append,
    Axis,
    Buffer,
    BufferRole,
    Compact,
    Export,
    Gather,
    Immediate,
    InnerProduct,
    Lookup,
    Map,
    Operand,
    Reduce,
    Scan,
    Stage,
    StageGraph,
    Store,
    Stream,
    TopK,
    WeightedSum,
)
from hetcc.ir import DType, Graph, Role
from hetcc.ir.subgraph import interface_of


def compose(region: Graph, constants: Mapping[str, Array] | None = None) -> StageGraph | Rejected:
    """The streaming kernel of a region.

    Args:
        region: a graph from ``hetcc.ir.subgraph.extract``.
        constants: contents of CONSTANT values by name, where known.

    Returns:
        the stages, or the first rule the region breaks.
    """
    tracer = Tracer(region, constants)
    for node in region.nodes:
        verdict = tracer.visit(node)
        if verdict is not None:
            return Rejected(f"{verdict.rule} [{node.name}]", verdict.limit, verdict.actual)
    try:
        return _Composer(region, tracer).run()
    except Unstreamable as outcome:
        return outcome.verdict


@dataclass(frozen=True)
class _Loops:
    """Which atoms are instances and which are rows; the rest are lanes."""

    instances: Group
    keys: Group


class _Composer:
    """Turns traced values into stages, each once."""

    def __init__(self, region: Graph, tracer: Tracer) -> None:
        self._region = region
        self._tracer = tracer
        self._axes = tracer.axes
        self._buffers = _buffers_of(region)
        self._buffer_of = {value: buffer.name for value, buffer in self._buffers.items()}
        self._stages: list[Stage] = []
        self._made: dict[object, str] = {}
        self._depends: dict[int, frozenset[Atom]] = {}
        self._names: dict[Atom, str] = {}
        self._lanes: list[Axis] = []
        self._loops = _Loops((), ())

    def run(self) -> StageGraph:
        sinks = [(name, self._tracer.value(name)) for name in self._region.outputs]
        self._loops = self._find_loops([traced for _, traced in sinks])
        as_weights(self._buffers, weight_buffers(self._tracer))
        for position, atom in enumerate(self._loops.instances):
            self._names[atom] = f"i{position}"
        for position, atom in enumerate(self._loops.keys):
            self._names[atom] = f"k{position}"
        for update in self._region.updates:
            if update.value not in self._tracer.appends:
                raise Unstreamable("a cache becomes something other than itself with new rows", "", update.cache)
        for output in self._tracer.appends:
            self._append(output)
        for name, traced in sinks:
            self._sink(name, traced)
        instances, keys = (tuple(Axis(self._names[atom], atom.extent) for atom in group)
                           for group in (self._loops.instances, self._loops.keys))
        return StageGraph(instances, keys, tuple(self._lanes), tuple(self._buffers.values()), tuple(self._stages))

    # ---- loops

    def _find_loops(self, sinks: list[Traced]) -> _Loops:
        chains = [traced for traced in sinks if traced.kind in (Kind.STREAM, Kind.SELECTION, Kind.SUMMARY)]
        selections = [origin for traced in chains if isinstance(origin := selecting(traced).origin, Computed)
                      and origin.stage in SELECTIONS]
        if any(traced.kind is Kind.WEIGHTS for traced in sinks):
            raise Unstreamable("softmax weights leave the kernel only as a weighted sum of rows")
        if not chains:
            raise Unstreamable("nothing in the region scans a resident table")
        keys: Group = ()
        for traced in self._tracer.traced.values():
            known = traced.kind in (Kind.STREAM, Kind.SELECTION, Kind.WEIGHTS)
            found = self._axes.resolve(traced.keys or ()) if known else ()
            if traced.kind is Kind.SUMMARY and isinstance(traced.origin, Computed):
                found = self._axes.resolve(traced.origin.over)
            keys = max(keys, found, key=len)
        if selections:
            sources = [origin.operands[0] for origin in selections]
            loops = [self._axes.resolve(flat(source.layout[:-1])) for source in sources if isinstance(source, Traced)]
            if any(set(group) != set(loops[0]) for group in loops):
                raise Unstreamable("two selections run over different loops")
            return _Loops(loops[0], keys)
        table_loops = self._table_loops()
        summaries = [score_loops(self._tracer, traced) for traced in chains if traced.kind is Kind.SUMMARY]
        if summaries and (len(summaries) < len(chains) or any(loops != summaries[0] for loops in summaries)):
            raise Unstreamable("what leaves the kernel runs over different loops")
        layout = summaries[0] if summaries else self._axes.resolve(flat(chains[0].layout))
        return _Loops(tuple(atom for atom in layout if atom in table_loops and atom not in keys), keys)

    def _table_loops(self) -> set[Atom]:
        found: set[Atom] = set()
        for traced in self._tracer.traced.values():
            if isinstance(traced.origin, Computed):
                for operand in traced.origin.operands:
                    if isinstance(operand, Traced) and operand.kind is Kind.RESIDENT:
                        found |= self._dependence(operand)
        return found

    def _dependence(self, traced: Traced) -> frozenset[Atom]:
        """Loops the contents depend on, as opposed to loops they are merely repeated over."""
        origin = traced.origin
        if isinstance(origin, Leaf):
            return frozenset(strides_of(self._axes, origin))
        known = self._depends.get(id(origin))
        if known is None:
            parts = [self._dependence(operand) for operand in origin.operands if isinstance(operand, Traced)]
            known = frozenset().union(*parts) - set(self._axes.resolve(origin.over))
            if origin.stage in SELECTIONS and origin.port != "count":
                known |= set(self._selected(traced))
            self._depends[id(origin)] = known
        return known

    def _selected(self, traced: Traced) -> Group:
        """The loop over the selected entries: what the top-k made and its source does not have."""
        node = traced.origin.node if isinstance(traced.origin, Computed) else None
        outputs = node.outputs if node else ()
        original = next(self._tracer.traced[name] for name in outputs if name in self._tracer.traced)
        if not isinstance(original.origin, Computed):
            return ()
        return self._axes.resolve(original.layout[0 if original.origin.stage == "compact" else -1])

    def _lane_names(self, atoms: frozenset[Atom] | Group) -> tuple[str, ...]:
        """Names of the atoms that are lanes, in a stable order."""
        outer = {*self._loops.instances, *self._loops.keys}
        chosen = [atom for atom in sorted(atoms, key=lambda atom: atom.number) if atom not in outer]
        return tuple(self._name(atom) for atom in chosen)

    def _name(self, atom: Atom) -> str:
        if atom not in self._names:
            self._names[atom] = f"l{len(self._lanes)}"
            self._lanes.append(Axis(self._names[atom], atom.extent))
        return self._names[atom]

    # ---- stages

    def _add(self, stage: Stage) -> str:
        self._stages.append(stage)
        return stage.name

    def _next(self, kind: str) -> str:
        return f"{kind}{len(self._stages)}"

    def _access(self, leaf: Leaf, without: Group = ()) -> Access:
        strides = {atom: stride for atom, stride in strides_of(self._axes, leaf).items() if atom not in without}
        named = sorted((self._name(atom), stride) for atom, stride in strides.items())
        return Access(self._buffer_of[leaf.buffer], leaf.offset, tuple(named))

    def _append(self, output: str) -> None:
        record = self._tracer.appends[output]
        data, positions, updates = self._tracer.traced[output], record.positions, record.updates
        if not (isinstance(data.origin, Leaf) and isinstance(positions.origin, Leaf)
                and isinstance(updates.origin, Leaf)):
            raise Unstreamable("new rows and their positions come from outside the kernel")
        shape = self._region.type_of(record.cache).shape
        row_atoms = self._axes.resolve(data.layout[record.axis])
        loops = self._axes.resolve(flat(updates.layout))
        row_stride = int(numpy.prod(shape[record.axis + 1:], dtype=numpy.int64))
        self._add(Append(
            self._next("append"), self._access(data.origin, row_atoms), row_stride, shape[record.axis],
            self._access(positions.origin), self._access(updates.origin),
            tuple(Axis(self._name(atom), atom.extent) for atom in loops),
        ))

    def _sink(self, name: str, traced: Traced) -> None:
        if traced.kind is Kind.OPERAND:
            raise Unstreamable("an output is computed without the table", "", name)
        target = self._buffer_of[name]
        if traced.kind is Kind.RESIDENT:
            if name not in self._tracer.appends or not isinstance(traced.origin, Leaf):
                raise Unstreamable("a view of the table leaves the kernel", "the whole table", name)
            self._add(Export(self._next("export"), self._buffer_of[traced.origin.buffer], target))
            return
        source = self._operand(traced)
        if not isinstance(source, Stream):
            raise Unstreamable("an output is computed without the table", "", name)
        loops = self._axes.resolve(flat(traced.layout))
        strides: dict[Atom, int] = {}
        step = 1
        for atom in reversed(loops):
            strides[atom] = step
            step *= atom.extent
        access = Access(target, 0, tuple(sorted((self._name(atom), stride) for atom, stride in strides.items())))
        axes = tuple(self._name(atom) for atom in loops)
        self._add(Store(self._next("store"), source, access, axes, traced.element))

    def _operand(self, part: Traced | float) -> Operand:
        if isinstance(part, float):
            with numpy.errstate(over="ignore"):
                return Immediate(float(numpy.float32(part)))
        origin = part.origin
        if isinstance(origin, Leaf):
            return self._scan(part, origin) if part.kind is Kind.RESIDENT else self._access(origin)
        port = origin.port if origin.stage in SELECTIONS else "out"
        key: object = (origin.node.name if origin.node else "", origin.stage, origin.function)
        if origin.stage == "compact":
            # Positions and count of the same flags are one stage.
            key = (flags_of(origin), origin.stage)
        if key not in self._made:
            self._made[key] = self._build(part, origin)
        return Stream(self._made[key], port)

    def _scan(self, part: Traced, leaf: Leaf) -> Stream:
        self._check_appended(leaf)
        access = self._access(leaf)
        if access not in self._made:
            lanes = self._lane_names(self._dependence(part))
            self._made[access] = self._add(Scan(self._next("scan"), access, part.element, lanes))
        return Stream(self._made[access])

    def _gather(self, part: Traced, origin: Computed) -> str:
        """Rows at the indices of a selection: addresses, not a scan."""
        index, data = origin.operands
        if not (isinstance(index, Traced) and isinstance(data, Traced) and isinstance(data.origin, Leaf)):
            raise Unstreamable("rows are taken from memory where a selection says")
        self._check_appended(data.origin)
        source = self._operand(index)
        over = self._axes.resolve(origin.over)
        stride = strides_of(self._axes, data.origin).get(over[0], 0)
        selected = self._lane_names(self._dependence(index))
        lanes = self._lane_names(self._dependence(data) - set(over))
        if not isinstance(source, Stream) or len(selected) > 1 or set(selected) & set(lanes):
            raise Unstreamable("the rows that are taken depend on more than the selection")
        return self._add(Gather(self._next("gather"), source, self._access(data.origin, over), stride, over[0].extent,
                                "".join(selected), lanes, origin.element))

    def _check_appended(self, leaf: Leaf) -> None:
        if leaf.buffer in {record.cache for record in self._tracer.appends.values()} and not leaf.updated:
            raise Unstreamable("the table is scanned as it was before its rows were appended", "", leaf.buffer)

    def _build(self, part: Traced, origin: Computed) -> str:
        if origin.stage == "gather":
            return self._gather(part, origin)
        operands = tuple(self._operand(operand) for operand in origin.operands)
        lanes = self._lane_names(self._dependence(part))
        over = self._over_names(origin)
        source = operands[0]
        if origin.stage == "contract" and isinstance(source, Stream) and isinstance(operands[1], Access):
            return self._add(InnerProduct(self._next("inner"), source, operands[1], over, lanes, origin.element))
        if origin.stage == "lookup" and isinstance(source, Stream) and isinstance(operands[1], Access):
            return self._add(Lookup(self._next("lookup"), source, operands[1], over, lanes, origin.element))
        if origin.stage == "map":
            function = "cast" if origin.function == "copy" else origin.function
            return self._add(Map(self._next("map"), function, operands, lanes, origin.element))
        if origin.stage == "reduce" and isinstance(source, Stream):
            return self._reduce(origin, source, over, lanes)
        if origin.stage == "topk" and isinstance(source, Stream) and origin.node is not None:
            scores = origin.operands[0]
            element = scores.element if isinstance(scores, Traced) else DType.FLOAT32
            selected = "".join(self._name(atom) for atom in self._selected(part))
            return self._add(TopK(self._next("topk"), source, origin.node.integer("k"), origin.function == "largest",
                                  over, selected, element))
        if origin.stage == "attend" and isinstance(source, Stream) and isinstance(operands[1], Stream):
            first = getattr(next(stage for stage in self._stages if stage.name == source.stage), "lanes", ())
            rest = tuple(name for name in lanes if name not in first)
            return self._add(WeightedSum(self._next("attend"), source, operands[1], over, (*first, *rest),
                                         origin.function == ZERO_WHEN_MASKED, origin.element))
        if origin.stage == "compact" and isinstance(source, Stream):
            listed = listing_of(self._tracer, origin)
            selected = "".join(self._name(atom) for atom in self._selected(listed)) if listed else ""
            return self._add(Compact(self._next("compact"), source, *room_of(listed), over, selected))
        raise Unstreamable("the operands do not suit the stage", origin.stage)

    def _over_names(self, origin: Computed) -> tuple[str, ...]:
        """Names of the loops that end at a stage; loops its operands do not depend on cannot be summed over."""
        over = self._axes.resolve(origin.over)
        parts = [self._dependence(operand) for operand in origin.operands if isinstance(operand, Traced)]
        missing = [atom for atom in over if not any(atom in part for part in parts)]
        if missing or (origin.stage == "contract" and any(atom not in parts[0] for atom in over)):
            raise Unstreamable("a reduction over entries that are all the same")
        outer = set(over) & set(self._loops.instances)
        if outer:
            raise Unstreamable("a reduction over loops that the kernel repeats for", "", extent_of(tuple(outer)))
        return tuple(self._name(atom) for atom in over)

    def _reduce(self, origin: Computed, source: Stream, over: tuple[str, ...], lanes: tuple[str, ...]) -> str:
        mean = origin.function == "mean"
        name = self._add(Reduce(self._next("reduce"), "sum" if mean else origin.function, source, over, lanes,
                                DType.FLOAT32 if mean else origin.element))
        if not mean:
            return name
        scale = Immediate(1.0 / extent_of(self._axes.resolve(origin.over)))
        return self._add(Map(self._next("map"), "mul", (Stream(name), scale), lanes, origin.element))


def _buffers_of(region: Graph) -> dict[str, Buffer]:
    """Buffers by value name, in call order: arguments first, then outputs."""
    found: dict[str, Buffer] = {}
    for position, name in enumerate(interface_of(region)):
        value = region.values[name]
        role = BufferRole.TABLE if value.role is Role.CACHE else BufferRole.INPUT
        found[name] = Buffer(f"arg{position}", role, value.type.dtype, value.type.shape)
    for position, name in enumerate(region.outputs):
        value_type = region.type_of(name)
        found[name] = Buffer(f"out{position}", BufferRole.OUTPUT, value_type.dtype, value_type.shape)
    return found


__all__ = ["compose"]
