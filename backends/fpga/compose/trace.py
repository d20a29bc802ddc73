"""Follows values of a graph from the resident tables to the selections, one rule per operator class.

The same walk answers "can this node stream?" for a whole model and gives the composer its expressions for a region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy

from hetcc.backends.contract import Rejected
from hetcc.backends.fpga.compose import trace_attention, trace_lookups, trace_selections, views, weights
from hetcc.backends.fpga.compose.softmax_form import written_softmaxes
from hetcc.backends.fpga.compose.spelling import filled_number, ordered_operands, reduction_function
from hetcc.backends.fpga.compose.tables import tables_of
from hetcc.backends.fpga.compose.traced import AppendRecord, Computed, Kind, Leaf, Traced
from hetcc.backends.fpga.stages.axes import Atom, AxisTable, Group, Layout, extent_of, flat
from hetcc.backends.fpga.stages.elements import check_elements
from hetcc.backends.fpga.stages.numbers import Array, is_storable
from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.ir import DType, Graph, Node, OperatorClass, Role

MAX_STATIONARY = 2**22
"""Elements of a stationary operand over all instances (16 MiB of fp32, under half of the card's URAM)."""
_POSITION_TYPES = (DType.INT64, DType.INT32)


class Tracer:
    """Walks one graph; results stay in ``traced`` and ``appends``.

    Args:
        graph: the graph or region.
        constants: contents of values with role CONSTANT, where known; a single number then becomes an immediate.
    """

    def __init__(self, graph: Graph, constants: Mapping[str, Array] | None = None) -> None:
        self.graph = graph
        self.axes = AxisTable()
        self.traced: dict[str, Traced] = {}
        self.appends: dict[str, AppendRecord] = {}
        self.tables = tables_of(graph)
        self._constants = dict(constants or {})
        self._written = written_softmaxes(graph)
        self._within = {name: form for form in self._written.values() for name in form.inner}
        self._rules: dict[OperatorClass, Callable[[Node], None]] = {
            OperatorClass.VIEW: self._view, OperatorClass.COPY: self._copy, OperatorClass.MATMUL: self._matmul,
            OperatorClass.ELEMENTWISE: self._elementwise, OperatorClass.REDUCTION: self._reduction,
            OperatorClass.TOPK: partial(trace_selections.topk, self), OperatorClass.CACHE_UPDATE: self._cache_update,
            OperatorClass.SOFTMAX: partial(trace_attention.softmax, self),
            OperatorClass.ATTENTION: partial(trace_attention.attention, self),
            OperatorClass.COMPACTION: partial(trace_selections.compaction, self),
            OperatorClass.CREATE: self._create, OperatorClass.GATHER: partial(trace_lookups.gather, self),
        }

    def visit(self, node: Node) -> Rejected | None:
        """Trace one node whose inputs were visited before; the reason when no stage can do it."""
        rule = self._rules.get(node.operator_class)
        if rule is None:
            return Rejected("no streaming stage does this class of operator", ", ".join(sorted(
                known.value for known in self._rules)), node.operator_class.value)
        try:
            self._check_types(node)
            if node.name in self._written or node.name in self._within:
                trace_attention.written_out(self, node, self._written.get(node.name), self._within.get(node.name))
            else:
                rule(node)
        except Unstreamable as outcome:
            return outcome.verdict
        return None

    def is_derived(self, name: str) -> bool:
        """Whether a value depends on a table."""
        known = self.traced.get(name)
        if known is not None:
            return known.kind.is_derived
        return self.graph.values[name].role is Role.CACHE or name in self.tables

    def value(self, name: str) -> Traced:
        """What is known about a value; anything untraced is read from its own buffer."""
        known = self.traced.get(name)
        if known is not None:
            return known
        value = self.graph.values[name]
        layout = self.axes.layout(value.type.shape)
        kind = Kind.RESIDENT if value.role is Role.CACHE or name in self.tables else Kind.OPERAND
        return Traced(kind, layout, value.type.dtype, Leaf(name, 0, _row_major(layout)))

    # ---- rules by operator class

    def _check_types(self, node: Node) -> None:
        for name in (*node.inputs, *node.outputs):
            tensor_type = self.graph.type_of(name)
            if not is_storable(tensor_type.dtype):
                raise Unstreamable("the element type has no stage", "float32, float16, bfloat16, int32, int64, bool",
                                   tensor_type.dtype.value)
            if tensor_type.elements == 0:
                raise Unstreamable("the tensor is empty", ">= 1 element", tensor_type)

    def _view(self, node: Node) -> None:
        source = self.value(node.inputs[0])
        for position, output in enumerate(node.outputs):
            before = sum(self._extent_along(node, previous) for previous in node.outputs[:position])
            self.traced[output] = views.apply(self.axes, source, node, self.graph.type_of(output).shape, before)

    def _extent_along(self, node: Node, output: str) -> int:
        axis = node.attribute("axis", 0)
        shape = self.graph.type_of(output).shape
        return shape[axis] if isinstance(axis, int) and axis < len(shape) else 0

    def _copy(self, node: Node) -> None:
        if node.attribute("kind") is not None or self.graph.type_of(node.inputs[0]) != self.graph.type_of(
                node.outputs[0]):
            raise Unstreamable("only a copy that keeps shape and type streams", "", node.operator)
        self.traced[node.outputs[0]] = self.value(node.inputs[0])

    def _create(self, node: Node) -> None:
        """One number that is spelled out as a tensor."""
        number = filled_number(node)
        if number is None or self.graph.type_of(node.outputs[0]).elements != 1:
            raise Unstreamable("only a tensor of one number is made by the kernel", 1,
                               self.graph.type_of(node.outputs[0]))
        self._constants[node.outputs[0]] = numpy.asarray(number)

    def _matmul(self, node: Node) -> None:
        if node.attribute("bias") is not None:
            raise Unstreamable("an inner product has no bias stage")
        left, right = weights.factors_of(self, node)
        if trace_attention.weighted_sum(self, node, left, right):
            return
        table, query = (left, right) if left.kind.is_derived else (right, left)
        self._check_contraction(table, query)
        if weights.parameter_of(self.graph, node.inputs[node.integer("rhs" if table is left else "lhs")]):
            raise Unstreamable("the stationary operand is a model weight, not a query")
        lhs = left.layout if len(left.layout) > 1 else ((), *left.layout)
        rhs = right.layout if len(right.layout) > 1 else (*right.layout, ())
        if not self.axes.unify(lhs[-1], rhs[-2]):
            raise Unstreamable("the contracted axes do not factor alike")
        over = self.axes.resolve(lhs[-1])
        batch = self.broadcast((lhs[:-2], rhs[:-2]))
        keys = self.keys_after(table, over, (lhs[-2] if table is left else rhs[-1]))
        rows = (lhs[-2],) if len(left.layout) > 1 else ()
        columns = (rhs[-1],) if len(right.layout) > 1 else ()
        self.check_stationary(query, keys)
        element = self.graph.type_of(node.outputs[0]).dtype
        origin = Computed("contract", "sum", (table, query), over, node, element=element)
        self.record(node, Traced(Kind.STREAM, (*batch, *rows, *columns), element, origin, keys))

    def _check_contraction(self, table: Traced, query: Traced) -> None:
        if not table.kind.is_derived:
            raise Unstreamable("neither operand comes from a resident table")
        if table.kind in (Kind.SELECTION, Kind.SUMMARY):
            raise Unstreamable(f"nothing is computed from a {table.kind.value} but casts and views")
        if query.kind is not Kind.OPERAND:
            raise Unstreamable("both operands come from tables", "one", "two")
        if not (table.element.is_floating and query.element.is_floating):
            raise Unstreamable("inner products are of floating point numbers", "",
                               f"{table.element.value} x {query.element.value}")

    def keys_after(self, table: Traced, over: Group, remaining: Group) -> Group:
        """The row loops once ``over`` is contracted; ``remaining`` is the table's other matrix axis."""
        outer = self.axes.resolve(remaining)
        if table.keys is None:
            return outer
        keys = self.axes.resolve(table.keys)
        if set(keys) & set(over):
            raise Unstreamable("the contraction runs along the rows of the table", "within a row")
        if table.kind is Kind.RESIDENT and not set(keys) <= set(outer):
            raise Unstreamable("the rows of the table are a batch axis of the product")
        return outer if table.kind is Kind.RESIDENT else keys

    def check_stationary(self, query: Traced, keys: Group) -> None:
        """Refuse an operand that is not the same for all rows, or too large to be held.

        Raises:
            Unstreamable: it is one of these.
        """
        depends = set(self.axes.resolve(flat(query.layout)))
        if depends & set(keys):
            raise Unstreamable("the query differs from row to row", "one query per instance")
        if extent_of(tuple(depends)) > MAX_STATIONARY:
            raise Unstreamable("the stationary operand is too large", MAX_STATIONARY, extent_of(tuple(depends)))

    def _elementwise(self, node: Node) -> None:
        function, operands = ordered_operands(node, self._constants)
        arguments = tuple(self.value(part) if isinstance(part, str) else part for part in operands)
        tensors = [part for part in arguments if isinstance(part, Traced)]
        derived = [part for part in tensors if part.kind.is_derived]
        if not derived:
            raise Unstreamable("no operand comes from a resident table")
        element = self.graph.type_of(node.outputs[0]).dtype
        if any(part.kind is Kind.SELECTION for part in derived):
            self._selection_cast(node, function, tensors, element)
            return
        if trace_attention.cast(self, node, function, tensors, element):
            return
        check_elements(function, [part.element if isinstance(part, Traced) else None for part in arguments], element)
        layout = self.broadcast(tuple(part.layout for part in tensors))
        keys = next((part.keys for part in derived if part.keys is not None), None)
        origin = Computed("map", function, arguments, (), node, element=element)
        self.record(node, Traced(Kind.STREAM, layout, element, origin, keys))

    def _selection_cast(self, node: Node, function: str, tensors: list[Traced], element: DType) -> None:
        source = tensors[0]
        if function != "cast" or len(tensors) != 1 or source.element.is_floating or element.is_floating:
            raise Unstreamable("nothing is computed from a selection but integer casts and views", "cast", function)
        self.record(node, Traced(source.kind, source.layout, element, source.origin, source.keys))

    def _reduction(self, node: Node) -> None:
        source = self.value(node.inputs[0])
        if source.kind not in (Kind.STREAM, Kind.RESIDENT) or len(node.inputs) != 1 or len(node.outputs) != 1:
            raise Unstreamable("the reduction is not over a stream of a resident table")
        function = reduction_function(node)
        if source.element is DType.BOOL and function == "sum":
            trace_selections.count(self, node, source, bool(node.attribute("keepdims", False)))
            return
        axes = node.attribute("axes")
        chosen = set(axes) if isinstance(axes, tuple) else set()
        over = self.axes.resolve(flat(tuple(group for axis, group in enumerate(source.layout) if axis in chosen)))
        keys = self._keys_left(source, over)
        count = extent_of(over)
        if function == "mean" and count & (count - 1):
            raise Unstreamable("a mean streams only over a power of two", "a power of two", count)
        keep = bool(node.attribute("keepdims", False))
        layout: Layout = tuple(() if axis in chosen else group for axis, group in enumerate(source.layout)
                               if keep or axis not in chosen)
        element = self.graph.type_of(node.outputs[0]).dtype
        origin = Computed("reduce", function, (source,), over, node, element=element)
        self.record(node, Traced(Kind.STREAM, layout, element, origin, keys))

    def _keys_left(self, source: Traced, over: Group) -> Group | None:
        if source.keys is None:
            return None
        keys = self.axes.resolve(source.keys)
        left = tuple(atom for atom in keys if atom not in over)
        if len(left) < len(keys) and (not left or keys[:len(left)] != left):
            raise Unstreamable("a reduction of rows must combine neighbouring rows", "blocks of rows",
                               "all rows" if not left else "rows far apart")
        return left

    def _cache_update(self, node: Node) -> None:
        names = {key: node.operand(key) for key in ("data", "indices", "updates")}
        data, positions, updates = (self.value(name) if name else None for name in names.values())
        if data is None or positions is None or updates is None or data.kind is not Kind.RESIDENT:
            raise Unstreamable("only rows of a cache can be appended to a table")
        leaf, axis = data.origin, node.integer("axis")
        if not isinstance(leaf, Leaf) or leaf.updated or leaf.offset:
            raise Unstreamable("a table is appended to once per step")
        if positions.kind is not Kind.OPERAND or updates.kind is not Kind.OPERAND:
            raise Unstreamable("new rows and their positions come from outside the kernel")
        if positions.element not in _POSITION_TYPES or updates.element is not data.element:
            raise Unstreamable("new rows have the type of the table, positions are integers",
                               data.element.value, f"{updates.element.value} at {positions.element.value}")
        self._align_rows(data, positions, updates, axis)
        appended = Leaf(leaf.buffer, 0, leaf.strides, updated=True)
        self.appends[node.outputs[0]] = AppendRecord(node, leaf.buffer, axis, positions, updates)
        self.traced[node.outputs[0]] = Traced(Kind.RESIDENT, data.layout, data.element, appended, data.layout[axis])

    def _align_rows(self, data: Traced, positions: Traced, updates: Traced, axis: int) -> None:
        if len(updates.layout) != len(data.layout):
            raise Unstreamable("new rows have the rank of the table", len(data.layout), len(updates.layout))
        pairs = [(updates.layout[at], data.layout[at] if at != axis else flat(positions.layout))
                 for at in range(len(data.layout))]
        if not all(self.axes.unify(left, right) for left, right in pairs):
            raise Unstreamable("new rows do not fit the table")

    # ---- shared steps

    def broadcast(self, layouts: tuple[Layout, ...]) -> Layout:
        """The layout of an element-wise result; aligned axes become the same loops."""
        rank = max(len(layout) for layout in layouts)
        padded = [((),) * (rank - len(layout)) + layout for layout in layouts]
        result: list[Group] = []
        for groups in zip(*padded, strict=True):
            real = [group for group in groups if group]
            if not all(self.axes.unify(real[0], other) for other in real[1:]):
                raise Unstreamable("the operands do not factor alike")
            result.append(self.axes.resolve(real[0]) if real else ())
        return tuple(result)

    def record(self, node: Node, traced: Traced) -> None:
        """Remember what a node makes, once its shape is the one it has.

        Raises:
            Unstreamable: another shape, a diagonal, or too much per row.
        """
        shape = self.graph.type_of(node.outputs[0]).shape
        if tuple(extent_of(group) for group in traced.layout) != shape:
            raise Unstreamable("the shape is not the one the operator class gives", shape,
                               tuple(extent_of(group) for group in traced.layout))
        atoms = self.axes.resolve(flat(traced.layout))
        if len(set(atoms)) != len(atoms):
            raise Unstreamable("the value is a diagonal of its operands")
        if traced.keys is not None and math.prod(shape) // max(extent_of(self.axes.resolve(traced.keys)), 1) > 2**24:
            raise Unstreamable("too many lanes and instances per row", 2**24, math.prod(shape))
        self.traced[node.outputs[0]] = traced


def _row_major(layout: Layout) -> tuple[tuple[Atom, int], ...]:
    strides = []
    step = 1
    for atom in reversed(flat(layout)):
        strides.append((atom, step))
        step *= atom.extent
    return tuple(reversed(strides))
