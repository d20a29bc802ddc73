"""Which element types each function of a ``Map`` takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hetcc.backends.fpga.stages.refusal import Unstreamable
from hetcc.ir import DType

COMPARISONS = frozenset({"ge", "gt", "le", "lt"})
LOGIC = frozenset({"and", "or", "not"})
MAP_ARITY: Mapping[str, int] = {"add": 2, "sub": 2, "mul": 2, "neg": 1, "abs": 1, "relu": 1, "max": 2, "min": 2,
                                "where": 3, "cast": 1, "copy": 1, "ge": 2, "gt": 2, "le": 2, "lt": 2, "and": 2,
                                "or": 2, "not": 1}


def check_elements(function: str, operands: Sequence[DType | None], result: DType) -> None:
    """Refuse what no element-wise unit does.

    Args:
        function: of the stage.
        operands: their element types, None for a number.
        result: element type of the result.

    Raises:
        Unstreamable: another number of operands, or other types.
    """
    if MAP_ARITY.get(function) != len(operands):
        raise Unstreamable("no stage has this function", ", ".join(sorted(MAP_ARITY)), function)
    flags = function in LOGIC or function in COMPARISONS
    for position, element in enumerate(operands):
        if function in LOGIC or (function == "where" and position == 0):
            if element is not DType.BOOL:
                raise Unstreamable("a choice and logic need flags", "bool", element.value if element else "a number")
        elif element is not None and not element.is_floating and not (function == "cast" and element is DType.BOOL):
            raise Unstreamable("element-wise stages work on floating point numbers", "", element.value)
    if flags and result is not DType.BOOL:
        raise Unstreamable("comparisons and logic give flags", "bool", result.value)
    if not flags and not result.is_floating:
        raise Unstreamable("element-wise stages give floating point numbers", "", result.value)


__all__ = ["COMPARISONS", "LOGIC", "MAP_ARITY", "check_elements"]
