"""Finding a placer by name, by module or by file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast

from hetcc.errors import UserError
from hetcc.passes.contract import Placer

PLACER_GROUP = "hetcc.placers"
BUILTIN_PLACERS: Mapping[str, str] = MappingProxyType({
    "optimal": "hetcc.passes.place.optimal:Optimal",
    "mincut": "hetcc.passes.place.mincut:MinimumCut",
    "gpu-only": "hetcc.passes.place.baselines:GpuOnly",
    "fpga-only": "hetcc.passes.place.baselines:FpgaOnly",
    "stage-rule": "hetcc.passes.place.baselines:StageRule",
    "intensity-threshold": "hetcc.passes.place.baselines:IntensityThreshold",
})


def list_placers() -> dict[str, str]:
    """Every known placer: name -> ``module:Class``; built-in ones first, then those of installed packages by name.

    Raises:
        UserError: HET-P004 if two packages, or one and hetcc, claim a name.
    """
    known = dict(BUILTIN_PLACERS)
    owner = dict.fromkeys(known, "hetcc")
    for entry in sorted(entry_points(group=PLACER_GROUP), key=lambda found: (found.name, found.value)):
        package = _package_of(entry)
        if entry.name in known:
            raise UserError("HET-P004", f"partitioner '{entry.name}' is claimed by '{owner[entry.name]}' "
                                        f"({known[entry.name]}) and by '{package}' ({entry.value})",
                            where=f"entry points '{PLACER_GROUP}'", fix="uninstall one of the two packages")
        known[entry.name], owner[entry.name] = entry.value, package
    return known


def load_placer(spec: str) -> Placer:
    """A placer with its default options.

    Args:
        spec: a name of ``list_placers()``, ``package.module:Class`` or ``path.py:Class``. Code named here is run.

    Raises:
        UserError: HET-P004 if there is no such name, module, file or class, or it is not a placer.
    """
    place, colon, attribute = spec.rpartition(":")
    if not colon:
        known = list_placers()
        if spec not in known:
            raise UserError("HET-P004", f"no partitioner is called '{spec}'; known: {', '.join(known)}", where=spec,
                            fix="use one of these, `package.module:Class` or `path.py:Class`")
        place, _, attribute = known[spec].rpartition(":")
    module = _module_of_file(Path(place), spec) if place.endswith(".py") else _module_named(place, spec)
    found = getattr(module, attribute, None)
    if found is None:
        raise UserError("HET-P004", f"'{place}' has no attribute '{attribute}'", where=spec)
    return _as_placer(found, spec)


def _package_of(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown package"


def _module_named(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError("HET-P004", f"module '{name}' cannot be imported: {error}", where=spec) from error
    except ValueError as error:
        raise UserError("HET-P004", f"'{name}' is not a module name", where=spec) from error


def _module_of_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise UserError("HET-P004", f"there is no file '{path}'", where=spec)
    description = importlib.util.spec_from_file_location(f"hetcc_placer_{path.stem}", path)
    if description is None or description.loader is None:
        raise UserError("HET-P004", f"'{path}' is not a Python file", where=spec)
    module = importlib.util.module_from_spec(description)
    try:
        description.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise UserError("HET-P004", f"'{path}' cannot be loaded: {error}", where=spec) from error
    return module


def _as_placer(found: Any, spec: str) -> Placer:
    if inspect.isclass(found):
        try:
            found = found()
        except TypeError as error:
            raise UserError("HET-P004", f"'{spec}' needs options: {error}", where=spec,
                            fix="give every field a default") from error
    if not callable(getattr(found, "place", None)) or not isinstance(getattr(found, "name", None), str):
        raise UserError("HET-P004", "a partitioner has a class variable `name` and a method `place(problem, facts)`",
                        where=spec, fix="see docs/placement.md")
    return cast(Placer, found)
