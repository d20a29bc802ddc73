"""How long each stage of the flow took, and telling whoever watches what is going on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


def silent(message: str) -> None:
    """Tell nobody."""
    del message


@dataclass
class Stopwatch:
    """Seconds by stage of the flow; a stage entered again adds up."""

    progress: Callable[[str], None] = silent
    times_s: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block under ``name``."""
        self.progress(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.times_s[name] = self.times_s.get(name, 0.0) + time.perf_counter() - start
