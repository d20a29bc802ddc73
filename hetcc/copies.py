"""Independent work on all processors, in copies of this process.

For work on data and libraries that are there already: a copy (``fork``) has them at no cost, and only results travel.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from types import MappingProxyType
from typing import Any, TypeVar

Result = TypeVar("Result")
_works: dict[int, Callable[[int], Any]] = {}
"""What copies do, by who asked; a copy finds it here because it is one."""


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def in_copies(work: Callable[[int], Result], count: int, least: int = 8) -> Iterator[Result]:
    """``work(0)`` to ``work(count - 1)``, in order.

    Args:
        work: does one piece; must not need threads of this process, nor what they hold.
        count: how many pieces there are.
        least: fewer pieces are done here, and so are all on a single processor. What a copy failed on is done here
            too, so that errors are raised as if there were no copies.
    """
    processes = min(processors(), count)
    if count < least or processes < 2:
        yield from map(work, range(count))
        return
    ForkingPickler.register(MappingProxyType, _proxy_parts)
    key = id(work)
    _works[key] = work
    gc.freeze()  # a collection in a copy would write to every page it shares with this process
    try:
        # Copies end soon and look for no garbage of their own either.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), gc.disable) as pool:
            for place, future in enumerate([pool.submit(_piece, key, place) for place in range(count)]):
                yield future.result() if future.exception() is None else work(place)
    finally:
        gc.unfreeze()
        del _works[key]


def _piece(key: int, place: int) -> Any:
    return _works[key](place)


def _proxy_parts(proxy: MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    return _proxy, (dict(proxy),)


def _proxy(entries: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(entries)


__all__ = ["in_copies", "processors"]
