"""A region as a sequence of parts: modules of general operators, and kernel operations between them.

Views cost nothing and cut nothing: each part makes the views it reads for itself, so what passes between parts is
always a tensor that an operator wrote. A view is written out only where a kernel wants its elements in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hetcc.backends.gpu.partition.patterns import Match
from hetcc.ir import Graph, Node, OperatorClass
from hetcc.ir.subgraph import extract


@dataclass(frozen=True)
class ModulePart:
    """Operators that the general compiler makes one module of."""

    program: Graph
    nodes: tuple[str, ...]
    """Operators it computes, in order; views it makes for itself not counted."""


@dataclass(frozen=True)
class KernelPart:
    """One kernel operation."""

    match: Match
    nodes: tuple[str, ...]
    """Operators it stands for, those included that nothing needs any more."""


Part = ModulePart | KernelPart


def split(region: Graph, matches: Sequence[Match]) -> tuple[Part, ...] | None:
    """The parts of a region in the order they run; None when a cache's old contents would be read too late.

    Args:
        region: the whole program.
        matches: what kernels compute; where two overlap the first counts.
    """
    if not matches:
        return (ModulePart(region, tuple(node.name for node in region.nodes)),)
    splitting = _Splitting(region, _disjoint(matches))
    slots = splitting.slots()
    if splitting.reads_too_late(slots):
        return None
    return tuple(splitting.parts(slots))


def part_program(region: Graph, nodes: Iterable[str], outputs: tuple[str, ...]) -> Graph:
    """The program of a module part from its operators, the views it makes for itself among them.

    All operators are the region itself, with the order of arguments that it was given.
    """
    chosen = tuple(nodes)
    if len(chosen) == len(region.nodes):
        return region
    return replace(extract(region, chosen, f"{region.name} (part)"), outputs=outputs)


def _costs_nothing(node: Node) -> bool:
    """Whether every part may make the node's result for itself."""
    return node.operator_class is OperatorClass.VIEW or (
        node.operator_class is OperatorClass.CREATE and not node.inputs)


def _disjoint(matches: Sequence[Match]) -> list[Match]:
    chosen: list[Match] = []
    taken: set[str] = set()
    for match in matches:
        if taken.isdisjoint(match.nodes):
            chosen.append(match)
            taken.update(match.nodes)
    return chosen


class _Splitting:
    """One call of :func:`split`. Slots are numbers: even ones hold operators, odd ones the kernels after them."""

    def __init__(self, region: Graph, matches: list[Match]) -> None:
        self.region = region
        self.match_of = {name: match for match in matches for name in match.nodes}
        self.matches = matches
        written = {name for match in matches for _, name in match.inputs} | region.results
        self.written_views = {region.producer[name].name for name in written if name in region.producer}
        self.live = self._live()

    def _is_free(self, node: Node) -> bool:
        return _costs_nothing(node) and node.name not in self.written_views

    def _sources(self, values: Iterable[str]) -> set[str]:
        """What the values are made from, seen through free views: values of operators, arguments."""
        found: set[str] = set()
        stack = list(values)
        while stack:
            value = stack.pop()
            node = self.region.producer.get(value)
            if node is not None and node.name not in self.match_of and self._is_free(node):
                stack.extend(node.inputs)
            else:
                found.add(value)
        return found

    def _inputs(self, node: Node) -> Iterable[str]:
        match = self.match_of.get(node.name)
        return node.inputs if match is None else (name for _, name in match.inputs)

    def _live(self) -> set[str]:
        """Operators that some result still depends on once kernels compute what they match."""
        live: set[str] = set()
        stack = list(self.region.results)
        while stack:
            node = self.region.producer.get(stack.pop())
            if node is not None and node.name not in live:
                live.add(node.name)
                stack.extend(self._inputs(node))
        return live

    def slots(self) -> dict[str, int]:
        """Slot by operator; all operators of a match have one."""
        slot: dict[str, int] = {}
        for node in self.region.nodes:
            if node.name not in self.live or node.name in self.match_of or self._is_free(node):
                last = self.match_of.get(node.name)
                if last is None or node.name != self._last(last):
                    continue
                slot.update(dict.fromkeys(last.nodes, self._after(self._inputs(node), slot) | 1))
            else:
                after = self._after(node.inputs, slot)
                slot[node.name] = after + after % 2
        return slot

    def _last(self, match: Match) -> str:
        return max(match.nodes, key=self.region.position.__getitem__)

    def _after(self, values: Iterable[str], slot: Mapping[str, int]) -> int:
        producers = (self.region.producer.get(value) for value in self._sources(values))
        return max((slot[node.name] for node in producers if node is not None), default=0)

    def reads_too_late(self, slot: Mapping[str, int]) -> bool:
        """Whether a cache is read after the slot in which its new contents overwrite it."""
        overwritten = {update.cache: slot[self.region.producer[update.value].name] for update in self.region.updates
                       if update.value in self.region.producer}
        for node in self.region.nodes:
            if node.name in slot:
                for value in self._sources(self._inputs(node)):
                    if slot[node.name] > overwritten.get(value, slot[node.name]):
                        return True
        return False

    def parts(self, slot: Mapping[str, int]) -> Iterable[Part]:
        """The parts in order."""
        dead = [node.name for node in self.region.nodes if node.name not in self.live]
        owner = self._owners(dead)
        readers = self._reading_slots(slot)
        members: dict[int, list[str]] = {}
        for node in self.region.nodes:
            if node.name in slot:
                members.setdefault(slot[node.name], []).append(node.name)
        for number in sorted(members):
            if number % 2 == 0:
                yield self._module(members[number], number, readers)
                continue
            for match in sorted((match for match in self.matches if slot.get(match.nodes[0]) == number),
                                key=lambda match: self.region.position[self._last(match)]):
                covered = {*match.nodes, *owner.get(id(match), ())}
                yield KernelPart(match, tuple(sorted(covered, key=self.region.position.__getitem__)))

    def _owners(self, dead: Sequence[str]) -> dict[int, list[str]]:
        """Operators that nothing needs any more, by the kernel that reads what they would have made."""
        found: dict[int, list[str]] = {}
        of: dict[str, Match] = dict(self.match_of)
        for name in reversed(dead):
            readers = [reader.name for value in self.region.node_by_name[name].outputs
                       for reader in self.region.consumers_of(value)]
            match = next((of[reader] for reader in readers if reader in of), None)
            if match is not None:
                of[name] = match
                if name not in match.nodes:
                    found.setdefault(id(match), []).append(name)
        return found

    def _reading_slots(self, slot: Mapping[str, int]) -> dict[str, set[int]]:
        """Slots that read a value, by value; results of the region count as read by no slot (-1)."""
        found: dict[str, set[int]] = {value: {-1} for value in self.region.outputs}
        for node in self.region.nodes:
            match = self.match_of.get(node.name)
            if node.name in slot and (match is None or node.name == self._last(match)):
                for value in self._sources(self._inputs(node)):
                    found.setdefault(value, set()).add(slot[node.name])
        return found

    def _module(self, nodes: Sequence[str], number: int, readers: Mapping[str, set[int]]) -> ModulePart:
        outputs = tuple(value for node in nodes for value in self.region.node_by_name[node].outputs
                        if readers.get(value, {number}) != {number})
        return ModulePart(part_program(self.region, self._with_views(nodes), outputs), tuple(nodes))

    def _with_views(self, nodes: Iterable[str]) -> set[str]:
        chosen = set(nodes)
        stack = [value for node in chosen for value in self.region.node_by_name[node].inputs]
        while stack:
            node = self.region.producer.get(stack.pop())
            if node is not None and node.name not in chosen and node.name not in self.match_of and self._is_free(node):
                chosen.add(node.name)
                stack.extend(node.inputs)
        return chosen
