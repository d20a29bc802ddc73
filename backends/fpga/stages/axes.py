"""Which loop each part of a tensor's shape belongs to, followed through views by extents alone.

A shape such as ``[B*S, H, D]`` is written as one tuple of *atoms* per axis: ``((b, s), (h,), (d,))``. An extent of one
has no atoms. Reshapes regroup atoms and split them where they must; operators that align two axes make their atoms
one. Nothing here knows operators, names or methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Atom:
    """One loop."""

    number: int
    """Identity, in order of creation."""
    extent: int
    """Trip count, at least 2."""


Group = tuple[Atom, ...]
"""The atoms of one axis, slowest first."""
Layout = tuple[Group, ...]
"""The groups of a tensor, one per axis."""


class AxisTable:
    """All atoms of one graph and what they turned out to be."""

    def __init__(self) -> None:
        self._count = 0
        self._became: dict[Atom, Group] = {}

    def fresh(self, extent: int) -> Group:
        """A new group of the given extent."""
        if extent == 1:
            return ()
        self._count += 1
        return (Atom(self._count, extent),)

    def layout(self, shape: Sequence[int]) -> Layout:
        """A new group for every axis of a shape."""
        return tuple(self.fresh(extent) for extent in shape)

    def resolve(self, group: Group) -> Group:
        """The group in terms of atoms that have not been split or merged."""
        if not any(atom in self._became for atom in group):
            return group
        resolved: list[Atom] = []
        for atom in group:
            if atom in self._became:
                resolved.extend(self.resolve(self._became[atom]))
            else:
                resolved.append(atom)
        return tuple(resolved)

    def unify(self, left: Group, right: Group) -> bool:
        """Make two groups of equal extent the same loops; False when their factors do not fit each other."""
        first, second = list(self.resolve(left)), list(self.resolve(right))
        if extent_of(tuple(first)) != extent_of(tuple(second)):
            return False
        while first and second:
            a, b = first.pop(), second.pop()
            if a == b:
                continue
            if a.extent == b.extent:
                self._became[a] = (b,)
            elif a.extent % b.extent == 0:
                first.append(self._split(a, b))
            elif b.extent % a.extent == 0:
                second.append(self._split(b, a))
            else:
                return False
            first, second = list(self.resolve(tuple(first))), list(self.resolve(tuple(second)))
        return True

    def regroup(self, group: Group, shape: Sequence[int]) -> Layout | None:
        """The atoms of a row-major tensor cut into the axes of another shape; None when a factor straddles two."""
        atoms = list(self.resolve(group))
        axes: list[Group] = []
        for extent in reversed(shape):
            taken: list[Atom] = []
            need = extent
            while need > 1:
                if not atoms:
                    return None
                atom = atoms.pop()
                if need % atom.extent == 0:
                    taken.append(atom)
                    need //= atom.extent
                elif atom.extent % need == 0:
                    inner = self.fresh(need)[0]
                    atoms.append(self._split(atom, inner))
                    taken.append(inner)
                    need = 1
                else:
                    return None
            axes.append(tuple(reversed(taken)))
        return None if atoms else tuple(reversed(axes))

    def _split(self, atom: Atom, inner: Atom) -> Atom:
        """Make ``atom`` a new outer loop over ``inner``; the outer loop is returned."""
        outer = self.fresh(atom.extent // inner.extent)[0]
        self._became[atom] = (outer, inner)
        return outer


def extent_of(group: Group) -> int:
    """Number of positions of a group."""
    return math.prod(atom.extent for atom in group)


def flat(layout: Layout) -> Group:
    """All atoms of a layout, slowest first."""
    return tuple(atom for group in layout for atom in group)
