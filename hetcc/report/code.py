"""Which code object runs what: read from the program files of a bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hetcc.backends.gpu.program_file import ModuleCall, ProgramFile
from hetcc.plan.plan import PhasePlan, Plan, RegionSpec


@dataclass(frozen=True)
class CodeUse:
    """One call of a region on one target, and the operators it computes."""

    target: str
    kind: str
    """``module`` or the kernel operation's name."""
    files: tuple[str, ...]
    """Paths in the bundle, in launch order; empty where the source itself runs (Triton's interpreter)."""
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class RegionCode:
    """All calls of a region, and the kernels that had to be left out."""

    uses: tuple[CodeUse, ...] = ()
    left_out: tuple[str, ...] = ()


def code_of_regions(plan: Plan, phase: PhasePlan, read: Callable[[str], bytes]) -> dict[str, RegionCode]:
    """By region name; regions that are not on the GPU, or not emitted, have none.

    Args:
        plan: the bundle's plan, for its targets.
        phase: whose regions.
        read: contents of a file of the bundle.

    Raises:
        UserError: HET-B003, a program file is damaged.
    """
    programs: dict[str, tuple[ProgramFile, ...]] = {}
    found: dict[str, RegionCode] = {}
    for region in phase.regions:
        if region.device != "gpu" or not region.entry:
            continue
        if region.entry not in programs:
            stem = region.entry.rpartition(".json")[0].rpartition(".")[0]
            paths = [f"{stem}.{target}.json" for target in plan.targets]
            programs[region.entry] = tuple(ProgramFile.from_bytes(read(path), path) for path in paths)
        found[region.name] = _region_code(region, programs[region.entry])
    return found


def _region_code(region: RegionSpec, programs: Sequence[ProgramFile]) -> RegionCode:
    folder = region.entry.rpartition("/")[0]
    uses = []
    for program in programs:
        for call in program.calls:
            files = (call.file,) if isinstance(call, ModuleCall) else call.files
            uses.append(CodeUse(program.target, "module" if isinstance(call, ModuleCall) else call.operation,
                                tuple(f"{folder}/{file}" for file in files),
                                tuple(region.nodes[place] for place in call.nodes)))
    left_out = dict.fromkeys(f"{program.target}: {reason}" for program in programs for reason in program.left_out)
    return RegionCode(tuple(uses), tuple(left_out))


def code_totals(code: Mapping[str, RegionCode]) -> list[dict[str, Any]]:
    """Per target: distinct code objects, and how often each kernel operation is called in a step."""
    targets = dict.fromkeys(use.target for region in code.values() for use in region.uses)
    return [_totals(target, [use for region in code.values() for use in region.uses if use.target == target])
            for target in targets]


def _totals(target: str, uses: Sequence[CodeUse]) -> dict[str, Any]:
    kernels = Counter(use.kind for use in uses if use.kind != "module")
    files = {file for use in uses for file in use.files}
    return {"target": target, "modules": sum(file.endswith(".vmfb") for file in files),
            "kernel_objects": sum(not file.endswith(".vmfb") for file in files), "calls": len(uses),
            "kernels": dict(sorted(kernels.items()))}


def uses_of(code: Mapping[str, RegionCode], region: str, nodes: Sequence[str]) -> list[dict[str, Any]]:
    """The code that runs any of ``nodes`` of a region, with those nodes, target by target."""
    wanted = frozenset(nodes)
    return [{"target": use.target, "kind": use.kind, "files": list(use.files),
             "nodes": [node for node in use.nodes if node in wanted]}
            for use in code.get(region, RegionCode()).uses if wanted.intersection(use.nodes)]
