"""Reading plain data that a person or another program wrote: every mistake names the field it is in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from hetcc.errors import UserError


def reject(what: str, where: str, fix: str = "") -> NoReturn:
    """Raise the error for an invalid placement document (HET-P001)."""
    raise UserError("HET-P001", what, where=where, fix=fix)


def check_schema(document: object, expected: str) -> None:
    """Refuse a document whose ``schema`` is not ``expected``."""
    if not isinstance(document, Mapping) or document.get("schema") != expected:
        found = document.get("schema") if isinstance(document, Mapping) else type(document).__name__
        reject(f"expected a document with schema '{expected}', found {found!r}", "schema")


def field_of(document: Any, key: str, kind: type[Any], where: str) -> Any:
    """``document[key]`` if it is there and of ``kind``; ``where`` is the path of ``document``."""
    path = f"{where}.{key}" if where else key
    if not isinstance(document, Mapping) or not isinstance(document.get(key), kind):
        found = document.get(key) if isinstance(document, Mapping) else document
        reject(f"expected {kind.__name__}, found {type(found).__name__}", path)
    return document[key]


def entries_of(document: Any, key: str, where: str = "") -> Iterable[tuple[str, Any]]:
    """The members of a list field, each with its path."""
    path = f"{where}.{key}" if where else key
    return ((f"{path}[{index}]", entry) for index, entry in enumerate(field_of(document, key, list, where)))


def names_of(document: Any, key: str, where: str) -> tuple[str, ...]:
    """A field that is a list of strings, as a tuple."""
    names = field_of(document, key, list, where)
    if not all(isinstance(name, str) for name in names):
        reject("expected a list of names", f"{where}.{key}" if where else key)
    return tuple(names)


def number_of(value: Any, where: str, *, whole: bool = False, signed: bool = False) -> Any:
    """A finite number; not below zero unless ``signed``, an integer if ``whole``."""
    kinds = (int,) if whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (value < 0 and not signed):
        reject(f"expected a {'whole ' if whole else ''}number{'' if signed else ' not below zero'}, found {value!r}",
               where)
    return value
