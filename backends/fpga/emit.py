"""Regions to kernel folders: stage graph, Verilog within the limits of the RTL library, vendor scripts, reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from hetcc.backends.contract import EmittedRegion, Rejected
from hetcc.backends.fpga.compose.compose import compose
from hetcc.backends.fpga.costs.choice import Budget, choice_report, chosen
from hetcc.backends.fpga.costs.cycles import DEFAULT_CLOCK_HZ, estimate_cycles
from hetcc.backends.fpga.costs.kernel_resources import kernel_resources
from hetcc.backends.fpga.costs.unit_resources import CARD
from hetcc.backends.fpga.formats import DESCRIPTIONS, EXACT, policy_of, with_policy
from hetcc.backends.fpga.memory.memory_map import memory_map
from hetcc.backends.fpga.program import EMULATION_FILE, ENGINE
from hetcc.backends.fpga.stages.numbers import Array
from hetcc.backends.fpga.stages.stage_graph import StageGraph
from hetcc.backends.fpga.vendor import packaging
from hetcc.backends.fpga.xrt.xclbin import pack
from hetcc.ir import Graph


def emit(region: Graph, name: str, constants: Mapping[str, Array] | None = None, *,
         with_verilog: bool = False, policy: str = EXACT, kernels: int = 1,
         on_chip: bool = False) -> EmittedRegion | Rejected:
    """The files of a region's streaming kernel.

    Args:
        region: a graph from ``hetcc.ir.subgraph.extract``.
        name: how messages call the region; it does not appear in the files, so equal regions give equal bytes.
        constants: contents of CONSTANT values by name, where known.
        with_verilog: also write ``kernel.v`` when the kernel is within the limits of the RTL library (takes seconds);
            ``report.json`` says why when it is not.
        policy: numeric policy, one of ``formats.POLICIES``.
        kernels: how many have to share the card; each is made for its part of the budget.
        on_chip: whether the kernel works on one table only, which it may then keep on chip if that is faster.

    Returns:
        the files, in one folder named by their content, or the rule the region breaks.

    Raises:
        ToolError: HET-T001, ``with_verilog`` without yosys.
        UserError: HET-U001, no such policy.
    """
    graph = stages_of(region, constants, policy, kernels, on_chip=on_chip)
    if isinstance(graph, Rejected):
        return Rejected(f"{name}: {graph.rule}", graph.limit, graph.actual)
    return emit_stages(graph, with_verilog=with_verilog)


def stages_of(region: Graph, constants: Mapping[str, Array] | None, policy: str, kernels: int, *,
              on_chip: bool = False) -> StageGraph | Rejected:
    """The stage graph that :func:`emit` makes files of, its width chosen, or the rule the region breaks."""
    graph = compose(region, constants)
    if isinstance(graph, StageGraph):
        graph = with_policy(graph, policy)
    return graph if isinstance(graph, Rejected) else chosen(
        graph, Budget(on_chip=on_chip).shared(kernels))


def kernel_name(graph: StageGraph) -> str:
    """The name of a stage graph's kernel, made of its content."""
    return f"hetcc_{hashlib.sha256(chosen(graph).to_json()).hexdigest()[:12]}"


def emit_stages(graph: StageGraph, *, with_verilog: bool) -> EmittedRegion:
    """The files of a stage graph, whose width is chosen here unless it was given; see :func:`emit`."""
    graph = chosen(graph)
    stages = graph.to_json()
    digest = hashlib.sha256(stages).hexdigest()
    kernel = kernel_name(graph)
    metadata = packaging.xclbin_metadata(graph, kernel, DEFAULT_CLOCK_HZ)
    files = {
        "stages.json": stages,
        "kernel.xml": packaging.kernel_xml(graph, kernel),
        "connectivity.cfg": packaging.connectivity(graph, kernel, DEFAULT_CLOCK_HZ),
        "package_kernel.tcl": packaging.package_script(graph, kernel),
        "Makefile": packaging.makefile(kernel),
        EMULATION_FILE: pack(kernel, memory_map(graph).banks, metadata, stages),
    }
    verilog, reason = _verilog(graph, kernel) if with_verilog else (b"", "not asked for")
    if verilog:
        files["kernel.v"] = verilog
    files["report.json"] = _report(graph, kernel, reason)
    folder = digest[:24]
    placed = {f"{folder}/{path}": content for path, content in sorted(files.items())}
    return EmittedRegion(ENGINE, placed, f"{folder}/{EMULATION_FILE}", policy_of(graph))


def _verilog(graph: StageGraph, kernel: str) -> tuple[bytes, str]:
    """The Verilog and an empty string, or nothing and the limit that forbids it."""
    from hetcc.backends.fpga.rtl.limits import check
    from hetcc.backends.fpga.rtl.verilog import write_kernel

    verdict = check(graph)
    if verdict is not None:
        return b"", str(verdict)
    return write_kernel(graph, kernel), ""


def _report(graph: StageGraph, kernel: str, without_verilog: str) -> bytes:
    estimate = estimate_cycles(graph)
    body = {
        "kernel": kernel,
        "platform": packaging.PLATFORM,
        "numeric_policy": DESCRIPTIONS[policy_of(graph)],
        "interface": packaging.interface(graph),
        "choice": choice_report(graph),
        "clock_hz": DEFAULT_CLOCK_HZ,
        "estimated": asdict(estimate),
        "resources": {name: asdict(part) for name, part in kernel_resources(graph).items()},
        "resource_shares": estimate.resources.shares(CARD),
        "basis": "estimated from the structure; not synthesised, placed or routed",
        "verilog": "kernel.v" if not without_verilog else None,
        "without_verilog_because": without_verilog or None,
        "memory_map": packaging.registers(graph),
        "not_verified": "never given to the vendor's tools: no packaging, no placement, no timing, no card",
    }
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


__all__ = ["emit", "emit_stages", "kernel_name", "stages_of"]
