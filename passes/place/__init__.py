"""Choosing a device for every cluster: placers, the split into regions, the independent scorer.

Placers are looked up by name in one table; a third party adds one through the entry-point group ``hetcc.placers`` or
names it as ``package.module:Class`` or ``path.py:Class``.
"""

from hetcc.passes.place.export import problem_to_dot, problem_to_graphml, problem_to_networkx
from hetcc.passes.place.finish import finish
from hetcc.passes.place.load import BUILTIN_PLACERS, list_placers, load_placer
from hetcc.passes.place.optimal import place_optimal
from hetcc.passes.place.regions import split_regions
from hetcc.passes.place.score import bytes_moved, memory_use, score

__all__ = [
    "BUILTIN_PLACERS", "bytes_moved", "finish", "list_placers", "load_placer", "memory_use", "place_optimal",
    "problem_to_dot", "problem_to_graphml", "problem_to_networkx", "score", "split_regions",
]
