"""The numbers of profiles and links by path: which there are, and the same profile with others in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel

from hetcc.cost_model.quantity import Quantity
from hetcc.cost_model.transfer import Link

Path = tuple[str, ...]


def link_title(hop: Link) -> str:
    """How a link is called in a path."""
    return f"{hop.source.value}-to-{hop.destination.value}"


def quantities(part: Any, path: Path = ()) -> Iterator[tuple[Path, Quantity]]:
    """Every number of a profile or link with its path, in the order of its fields."""
    if isinstance(part, Quantity):
        yield path, part
    else:
        for name, inner in _inside(part):
            yield from quantities(inner, (*path, name))


def _inside(part: Any) -> list[tuple[str, Any]]:
    if isinstance(part, BaseModel):
        return [(name, getattr(part, name)) for name in type(part).model_fields]
    if isinstance(part, Mapping):
        return [(name.value if isinstance(name, Enum) else str(name), inner) for name, inner in part.items()]
    return [(str(place), inner) for place, inner in enumerate(part)] if isinstance(part, tuple) else []


def with_values(part: Any, values: Mapping[Path, float]) -> Any:
    """The profile or link with other likely values at these paths; what does not change is not copied."""
    if not values:
        return part
    if isinstance(part, Quantity):
        return part.model_copy(update={"value": values[()]})
    changed = {}
    for name, inner in _inside(part):
        own = {path[1:]: value for path, value in values.items() if path[0] == name}
        if own:
            changed[name] = with_values(inner, own)
    if isinstance(part, BaseModel):
        return part.model_copy(update=changed)
    if isinstance(part, Mapping):
        return {key: changed.get(key.value if isinstance(key, Enum) else str(key), inner)
                for key, inner in part.items()}
    return tuple(changed.get(str(place), inner) for place, inner in enumerate(part))
