"""Which programs and sizes a calibration measures, and which of them the fit never sees.

Sizes are those of decode steps: single rows, weights of a few megabytes, caches of thousands of entries. Held-out sizes
lie between fitted ones and equal none of them. Both are mostly multiples of 16, as those of models are: code for other
sizes can be slower by a quarter, and nothing here says by how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hetcc.errors import UserError


@dataclass(frozen=True, slots=True)
class Case:
    """One microbenchmark at one size."""

    kind: str
    """A class of the cost model, and the name of the microbenchmark."""
    settings: tuple[tuple[str, int], ...]
    fitted: bool = True
    """False: held out, to check the fit."""

    @property
    def name(self) -> str:
        """Kind and sizes."""
        return self.kind + "".join(f" {key}={value}" for key, value in self.settings)


@dataclass(frozen=True, slots=True)
class StepCase:
    """One whole decode step of a small decoder; never fitted."""

    hidden: int
    layers: int
    context: int
    batch: int = 1

    @property
    def name(self) -> str:
        """The sizes."""
        return f"hidden={self.hidden} layers={self.layers} context={self.context} batch={self.batch}"

    @property
    def overrides(self) -> tuple[tuple[str, str], ...]:
        """The configuration: heads of 64, half as many key heads, feed-forward 2.75 times the width."""
        sizes = {"hidden_size": self.hidden, "num_hidden_layers": self.layers, "vocab_size": 4096,
                 "intermediate_size": self.hidden * 11 // 128 * 32, "num_attention_heads": self.hidden // 64,
                 "num_key_value_heads": self.hidden // 128}
        return tuple((key, str(value)) for key, value in sizes.items())


STEPS = (StepCase(384, 8, 1536), StepCase(640, 4, 2560), StepCase(896, 3, 1024), StepCase(1152, 3, 1536))
QUICK_STEPS = (StepCase(384, 2, 1280),)

_Sizes = Sequence[tuple[int, ...]]
_ROWS: tuple[tuple[str, ...], _Sizes, _Sizes] = (
    ("rows", "width", "copies"),
    ((1, 256, 12), (1, 1024, 12), (4, 512, 8), (6, 1024, 4), (8, 1024, 4), (8, 2048, 4), (12, 3072, 4), (8, 4096, 4),
     (16, 8192, 2)),
    ((1, 640, 12), (5, 1280, 4), (10, 2304, 4), (14, 5120, 2)))
_TABLE: dict[str, tuple[tuple[str, ...], _Sizes, _Sizes]] = {
    # kind: names of the sizes, fitted, held out. Some products are repeated over more bytes than any cache has.
    "projection": (("rows", "depth", "columns", "copies"),
                   ((1, 128, 128, 8), (1, 256, 256, 4), (1, 256, 256, 32), (1, 512, 512, 4), (1, 512, 512, 32),
                    (1, 512, 1408, 24), (1, 1024, 512, 24), (1, 1024, 1024, 4), (1, 1024, 1024, 20),
                    (1, 1024, 2816, 6), (1, 2048, 2048, 4), (1, 736, 736, 72), (1, 1024, 2816, 14), (1, 2048, 2048, 10),
                    (4, 256, 256, 4), (4, 1024, 1024, 16), (16, 256, 256, 4), (16, 512, 1408, 8), (16, 1024, 1024, 4)),
                   ((1, 224, 224, 6), (1, 320, 320, 8), (1, 448, 1216, 32), (1, 576, 1536, 40), (1, 704, 704, 24),
                    (1, 896, 896, 4), (1, 832, 2304, 12), (1, 1792, 1792, 8), (4, 640, 1792, 8), (16, 768, 768, 6))),
    "matmul": (("heads", "groups", "entries", "width", "copies", "apply"),
               tuple((heads, heads // 2, entries, 64, copies, apply) for apply in (0, 1) for heads, entries, copies in
                     ((4, 256, 4), (8, 512, 4), (8, 1024, 4), (8, 1024, 20), (8, 1536, 4), (12, 1536, 4), (12, 2048, 4),
                      (16, 2048, 4), (12, 3584, 4), (16, 4096, 3))),
               tuple((heads, heads // 2, entries, 64, copies, apply) for apply in (0, 1) for heads, entries, copies in
                     ((6, 896, 4), (10, 1152, 6), (14, 1344, 4), (10, 2560, 4), (14, 3072, 3)))),
    "elementwise": (("elements", "copies"),
                    ((64, 1), (64, 4), (64, 16), (64, 48), (1024, 8), (2048, 8), (8192, 8), (16384, 8), (32768, 6),
                     (65536, 4), (131072, 4), (163840, 4), (262144, 4)),
                    ((384, 20), (5120, 8), (20480, 8), (81920, 4), (147456, 4), (229376, 4))),
    **dict.fromkeys(("reduction", "softmax", "normalization", "cumulative", "copy"), _ROWS),
    "gather": (("entries", "taken", "width", "copies"),
               ((4096, 1, 512, 16), (4096, 8, 512, 8), (4096, 32, 512, 4), (4096, 96, 512, 4), (4096, 192, 512, 4),
                (8192, 256, 512, 2), (8192, 384, 512, 2), (8192, 512, 512, 2)),
               ((4096, 6, 512, 12), (4096, 24, 512, 8), (4096, 48, 512, 4), (4096, 160, 512, 4), (8192, 320, 512, 2))),
    "scatter": (("entries", "taken", "copies"), ((1024, 16, 4), (4096, 64, 4), (16384, 256, 4)),
                ((2048, 32, 4), (8192, 128, 4))),
    "cache_update": (("entries", "rows", "width", "copies"),
                     ((1024, 1, 256, 8), (1024, 4, 256, 8), (1024, 16, 512, 4), (1024, 64, 512, 4)),
                     ((1024, 3, 256, 8), (1024, 6, 512, 6), (1024, 24, 512, 4))),
    "topk": (("rows", "width", "selected", "copies"),
             ((1, 512, 16, 4), (1, 1024, 64, 4), (1, 2048, 64, 4), (1, 8192, 64, 2), (1, 32768, 64, 1)),
             ((1, 1536, 64, 4), (1, 5120, 64, 2), (1, 20480, 64, 1))),
    "sort": (("rows", "width", "copies"), ((1, 64, 4), (1, 96, 4), (1, 160, 4), (1, 256, 4), (1, 400, 2), (1, 1024, 2)),
             ((1, 112, 4), (1, 208, 4), (1, 704, 2))),
    "concat": (("elements", "copies"), ((64, 16), (1024, 8), (4096, 8), (8192, 8), (16384, 8), (32768, 4), (65536, 4),
                                        (98304, 2), (131072, 2)),
               ((384, 16), (6144, 8), (24576, 8), (81920, 2))),
    "convolution": (("channels", "length", "taps", "copies"),
                    ((64, 16, 4, 8), (256, 16, 4, 4), (256, 64, 4, 4), (512, 256, 4, 2)),
                    ((96, 16, 4, 8), (192, 32, 4, 4), (384, 128, 4, 2))),
}
KINDS = tuple(_TABLE)


def cases(kinds: Iterable[str] = (), *, quick: bool = False) -> tuple[Case, ...]:
    """The cases of some classes, or of all.

    Args:
        kinds: classes; none: all. Element-wise cases are always among them, because launches are fitted to them.
        quick: about half of the fitted sizes and one or two held-out ones.

    Raises:
        UserError: HET-U001, there is no such class.
    """
    wanted = tuple(kinds) or KINDS
    unknown = [kind for kind in wanted if kind not in _TABLE]
    if unknown:
        raise UserError("HET-U001", f"no operator class '{unknown[0]}' is calibrated", fix="one of " + ", ".join(KINDS))
    found: list[Case] = []
    for kind in KINDS:
        if kind not in wanted and kind != "elementwise":
            continue
        names, fitted, held = _TABLE[kind]
        if quick:
            fitted, held = fitted[::2], held[1::2][:2]
        for sizes, is_fitted in ((fitted, True), (held, False)):
            found += [Case(kind, tuple(zip(names, size, strict=True)), is_fitted) for size in sizes]
    return tuple(found)


__all__ = ["KINDS", "QUICK_STEPS", "STEPS", "Case", "StepCase", "cases"]
