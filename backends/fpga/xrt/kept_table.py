"""The table that an emulated kernel keeps on chip between runs, as the hardware does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
from numpy.typing import NDArray

from hetcc.backends.fpga.memory.resident import resident_table
from hetcc.backends.fpga.stages.functional import append_rows
from hetcc.backends.fpga.stages.stage_graph import StageGraph

Views = Mapping[str, NDArray[numpy.generic]]


class KeptTable:
    """What is on chip, and where it was read from.

    Args:
        graph: a kernel that keeps its table.
        strict: whether a table in memory that differs is an error.
    """

    def __init__(self, graph: StageGraph, strict: bool) -> None:
        self._graph, self._strict = graph, strict
        self.name = resident_table(graph)
        self.content: NDArray[numpy.generic] | None = None
        """None: the next run reads the table from memory."""
        self._source: Any = None

    def exchange(self, views: Views, source: Any) -> Views:
        """The buffers as a run sees them: the table is the one on chip, unless it has to be read.

        Args:
            views: the buffers in memory.
            source: the buffer object of the table; another one than before is read.

        Raises:
            RuntimeError: memory holds another table and nobody said so; only when ``strict``.
        """
        if self.content is None or source is not self._source:
            self.content, self._source = None, source
            return views
        if self._strict and self.content.tobytes() != views[self.name].tobytes():
            raise RuntimeError(f"'{self.name}' has changed in memory, and the kernel was not told to read it again")
        return {**views, self.name: self.content.copy()}

    def keep(self, given: Views, views: Views, *, completed: bool) -> None:
        """After a run: new rows are on chip, and in memory too."""
        if not completed:
            return
        if given is not views:
            append_rows(self._graph, views)
        self.content = given[self.name].copy()


__all__ = ["KeptTable"]
