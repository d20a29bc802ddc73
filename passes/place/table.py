"""A placement problem as arrays: prices turned into numbers to minimise, names into positions. Placers work on this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hetcc.plan.placement import Cost, Objective, PlacementProblem

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Integers = NDArray[numpy.int64]
    Floats = NDArray[numpy.float64]
    Flags = NDArray[numpy.bool_]


@dataclass(frozen=True)
class PriceTable:
    """Prices of one problem; n clusters, t tensors, d devices, r (tensor, consumer) pairs."""

    price: Floats
    """[n, d]: objective of a cluster on a device; infinite where it is not allowed."""
    layer: Integers
    """[n]"""
    producer: Integers
    """[t]"""
    reader_tensor: Integers
    """[r], rising."""
    reader: Integers
    """[r]: consuming cluster."""
    transfer: Floats
    """[t, d, d]: from, to; zero on the diagonal and where no placement needs it."""
    saving: Floats
    """[t, d]; zero for tensors nobody consumes."""
    launch: Floats
    """[d]"""
    edges: Integers
    """[e, 2]: (producer, consumer), each pair once, sorted."""

    @property
    def allowed(self) -> Flags:
        """[n, d]: whether a cluster may be on a device."""
        import numpy

        return numpy.isfinite(self.price)


def table_of(problem: PlacementProblem) -> PriceTable:
    """The arrays of a problem; built once per problem and kept with it."""
    kept = problem.__dict__.get("_price_table")
    if not isinstance(kept, PriceTable):
        kept = _build(problem)
        problem.__dict__["_price_table"] = kept
    return kept


def _fill(array: Floats, rows: Sequence[int], records: Sequence[Mapping[Any, Cost]], column_of: Mapping[Any, int],
          objective: Objective) -> Floats:
    """Write the objective of each price to [row, column of its key]; keys without a column are left out.

    Records that name the same keys in the same order are written at once: there are few such patterns.
    """
    import numpy

    patterns: dict[tuple[Any, ...], list[int]] = {}
    for position, keys in enumerate(map(tuple, records)):
        patterns.setdefault(keys, []).append(position)
    for keys, positions in patterns.items():
        costs = [cost for position in positions for cost in records[position].values()]
        values = objective.time_weight * numpy.array([cost.time_s for cost in costs])
        if objective.energy_weight:
            values += objective.energy_weight * numpy.array([cost.energy_j for cost in costs])
        known = [place for place, key in enumerate(keys) if key in column_of]
        columns = [column_of[keys[place]] for place in known]
        here = numpy.array([rows[position] for position in positions], dtype=numpy.int64)
        array[here[:, None], columns] = values.reshape(len(positions), len(keys))[:, known]
    return array


def _build(problem: PlacementProblem) -> PriceTable:
    import numpy

    device = {name: index for index, name in enumerate(problem.devices)}
    at = {cluster.name: index for index, cluster in enumerate(problem.clusters)}
    width, count = len(device), len(problem.tensors)
    layers: dict[str, int] = {}
    layer = [layers.setdefault(cluster.layer, len(layers)) for cluster in problem.clusters]
    producer = [at[tensor.producer] for tensor in problem.tensors]
    reader_tensor = [index for index, tensor in enumerate(problem.tensors) for _ in tensor.consumers]
    reader = [at[name] for tensor in problem.tensors for name in tensor.consumers]
    saving = [index for index, tensor in enumerate(problem.tensors) if tensor.consumers and tensor.fusion_saving]
    pair = {(start, end): device[start] * width + device[end] for start in device for end in device if start != end}
    source, destination = numpy.array(producer, dtype=numpy.int64), numpy.array(reader, dtype=numpy.int64)
    tensor_of = numpy.array(reader_tensor, dtype=numpy.int64)
    codes = numpy.unique(source[tensor_of] * max(len(at), 1) + destination)
    objective = problem.objective
    return PriceTable(
        _fill(numpy.full((len(at), width), numpy.inf), range(len(at)), [one.costs for one in problem.clusters], device,
              objective),
        numpy.array(layer, dtype=numpy.int64), source, tensor_of, destination,
        _fill(numpy.zeros((count, width * width)), range(count), [one.transfer for one in problem.tensors], pair,
              objective).reshape(count, width, width),
        _fill(numpy.zeros((count, width)), saving, [problem.tensors[index].fusion_saving for index in saving], device,
              objective),
        numpy.array([objective.value(problem.launch[name]) for name in problem.devices], dtype=numpy.float64),
        numpy.stack([codes // max(len(at), 1), codes % max(len(at), 1)], axis=1))


def objective_of(table: PriceTable, device: Integers, group: Integers) -> float:
    """The objective of devices and regions given by number; what the scorer will find, up to rounding.

    Args:
        table: prices.
        device: [n] device of each cluster.
        group: [n] region of each cluster, from 0 without holes.
    """
    import numpy

    total = float(table.price[numpy.arange(len(device)), device].sum())
    _, first = numpy.unique(group, return_index=True)
    total += float(table.launch[device[first]].sum())
    here, there = device[table.producer[table.reader_tensor]], device[table.reader]
    width = table.launch.size
    sent = numpy.unique(table.reader_tensor[here != there] * width + there[here != there])
    total += float(table.transfer[sent // width, device[table.producer[sent // width]], sent % width].sum())
    apart = group[table.producer[table.reader_tensor]] != group[table.reader]
    fused = numpy.bincount(table.reader_tensor[apart], minlength=len(table.producer)) == 0
    return total - float(table.saving[fused, device[table.producer[fused]]].sum())
