"""Printing of quantities. Inside hetcc everything is in base SI units; only people read these."""

from __future__ import annotations

_TIME_STEPS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTE_STEPS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_COUNT_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_ENERGY_STEPS = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ"), (1e-9, "nJ"))


def _stepped(amount: float, steps: tuple[tuple[float, str], ...]) -> str:
    if amount == 0:
        return f"0 {steps[0][1]}"
    for scale, unit in steps:
        if abs(amount) >= scale:
            return f"{amount / scale:.3g} {unit}"
    scale, unit = steps[-1]
    return f"{amount / scale:.3g} {unit}"


def format_time(time_s: float) -> str:
    """``0.00123`` -> ``1.23 ms``."""
    return _stepped(time_s, _TIME_STEPS)


def format_energy(energy_j: float) -> str:
    """``0.5`` -> ``500 mJ``."""
    return _stepped(energy_j, _ENERGY_STEPS)


def format_bytes(size_bytes: float) -> str:
    """``2048`` -> ``2 KiB``."""
    if abs(size_bytes) < 1024:
        return f"{size_bytes:.0f} B"
    for scale, unit in _BYTE_STEPS:
        if abs(size_bytes) >= scale:
            return f"{size_bytes / scale:.4g} {unit}"
    raise AssertionError("unreachable: the smallest step is 1 KiB")


def format_count(count: float) -> str:
    """``1.5e9`` -> ``1.5 G``."""
    if abs(count) < 1000:
        return f"{count:.4g}"
    return _stepped(count, _COUNT_STEPS)
