"""Regions to GPU code: kernels, modules for the rest, and a file per target that says in which order they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hetcc.backends.contract import EmittedRegion, Rejected
from hetcc.backends.gpu import tools
from hetcc.backends.gpu.kernels.code_object import CodeObject
from hetcc.backends.gpu.kernels.compile import compile_launches
from hetcc.backends.gpu.kernels.launches import LaunchPlan
from hetcc.backends.gpu.modules import Job, Modules, Progress, compile_modules
from hetcc.backends.gpu.partition.matchers import matches_of
from hetcc.backends.gpu.partition.parts import KernelPart, ModulePart, Part, split
from hetcc.backends.gpu.partition.patterns import Match
from hetcc.backends.gpu.program_file import Call, KernelCall, ModuleCall, ProgramFile, value_numbers
from hetcc.backends.gpu.resources import manifest
from hetcc.ir import Graph
from hetcc.ir.subgraph import digest_of
from hetcc.store import Store

HOST_TARGET = "llvm-cpu"
DEFAULT_TARGETS = ("gfx90a", HOST_TARGET)


def emit(region: Graph, name: str, targets: Sequence[str] = DEFAULT_TARGETS) -> EmittedRegion | Rejected:
    """Compiles one region; see :func:`emit_many`."""
    return emit_many({name: region}, targets, jobs=1)[name]


def emit_many(
    regions: Mapping[str, Graph], targets: Sequence[str] = DEFAULT_TARGETS, *, jobs: int | None = None,
    progress: Progress | None = None, store: Store | None = None, compiler: str = "",
) -> dict[str, EmittedRegion | Rejected]:
    """Compiles regions by name, for every target.

    Regions with equal digests are compiled once and get the same files. A region that the importer or the compiler does
    not take, crashes on or does not finish is ``Rejected`` with the reason; the others are unaffected. A kernel that
    does not compile is left out, with the reason, and general operators run in its place.

    Args:
        regions: region by name.
        targets: names of :data:`hetcc.backends.gpu.tools.TARGETS`; a program is runnable here if one of them emulates.
        jobs: child processes at a time; by default one per processor.
        progress: told about every finished program.
        store: where compiled code is kept; by default the user's cache folder.
        compiler: stands in for iree-compile in tests.

    Raises:
        UserError: HET-G001, an unknown target.
        ToolError: HET-T001, torch-mlir, iree-compile or Triton is not installed; HET-T002, iree-compile does not work
            at all.
    """
    chosen = [tools.target_named(target) for target in targets]
    tools.require_tools()
    kept = store or Store()
    digests = {name: digest_of(region) for name, region in regions.items()}
    distinct = {digests[name]: (name, region) for name, region in reversed(list(regions.items()))}
    plans = [plan for digest, (name, region) in reversed(list(distinct.items()))
             for plan in _plans(digest, name, region, chosen)]
    plans = _with_kernels(plans, kept, jobs)
    modules = compile_modules(_jobs(plans), jobs, progress, kept, compiler)
    results = {digest: _emitted([plan for plan in plans if plan.digest == digest], modules) for digest in distinct}
    return {name: results[digest] for name, digest in digests.items()}


@dataclass(frozen=True)
class _Plan:
    """One region on one target."""

    digest: str
    name: str
    region: Graph
    target: tools.Target
    parts: tuple[Part, ...]
    launches: tuple[LaunchPlan, ...] = ()
    """Of the kernel parts, in order."""
    code: Mapping[str, CodeObject] = field(default_factory=dict)
    """By code digest of a launch."""
    left_out: tuple[str, ...] = ()

    @property
    def module_parts(self) -> list[tuple[str, ModulePart]]:
        """The module parts with the digests of their programs."""
        return [(digest_of(part.program), part) for part in self.parts if isinstance(part, ModulePart)]


def _plans(digest: str, name: str, region: Graph, targets: Sequence[tools.Target]) -> list[_Plan]:
    matches = matches_of(region) if any(target.kernels for target in targets) else ()
    return [_plan(digest, name, region, target, matches if target.kernels else ()) for target in targets]


def _plan(digest: str, name: str, region: Graph, target: tools.Target, matches: Sequence[Match],
          left_out: tuple[str, ...] = ()) -> _Plan:
    parts = split(region, matches)
    if parts is None:
        left_out = (*left_out, "every kernel: a cache would be read after it was updated")
        parts = split(region, ())
    assert parts is not None
    launches = tuple(part.match.operation.plan(target.name) for part in parts if isinstance(part, KernelPart))
    return _Plan(digest, name, region, target, parts, launches, left_out=left_out)


def _with_kernels(plans: Sequence[_Plan], store: Store, jobs: int | None) -> list[_Plan]:
    """Plans with the code of their kernels; those whose kernels did not all compile are made again without them."""
    compiled: dict[str, dict[str, CodeObject | Rejected]] = {}
    for target in dict.fromkeys(plan.target.name for plan in plans if plan.target.kernels and not plan.target.emulates):
        wanted = [launch for plan in plans if plan.target.name == target
                  for launches in plan.launches for launch in launches.launches]
        compiled[target] = compile_launches(wanted, target, jobs=jobs, store=store) if wanted else {}
    return [_settled(plan, compiled.get(plan.target.name, {})) for plan in plans]


def _settled(plan: _Plan, compiled: Mapping[str, CodeObject | Rejected]) -> _Plan:
    good: list[Match] = []
    reasons: list[str] = []
    kernels = [part for part in plan.parts if isinstance(part, KernelPart)]
    for part, launches in zip(kernels, plan.launches, strict=True):
        refused = [result for launch in launches.launches
                   if isinstance(result := compiled.get(launch.code_digest), Rejected)]
        if refused:
            reasons.append(f"{type(part.match.operation).__name__}: {refused[0]}")
        else:
            good.append(part.match)
    if reasons:
        plan = _plan(plan.digest, plan.name, plan.region, plan.target, good, tuple(reasons))
    used = {launch.code_digest for launches in plan.launches for launch in launches.launches}
    code = {digest: result for digest, result in compiled.items() if digest in used and isinstance(result, CodeObject)}
    return _Plan(plan.digest, plan.name, plan.region, plan.target, plan.parts, plan.launches, code, plan.left_out)


def _jobs(plans: Sequence[_Plan]) -> list[Job]:
    """Distinct programs, each with the targets that need it."""
    found: dict[str, Job] = {}
    for plan in plans:
        code = plan.target.module_target
        for digest, part in plan.module_parts:
            known = found.get(digest)
            targets = known.targets if known else ()
            if code not in targets:
                found[digest] = Job(digest, part.program, known.name if known else plan.name, (*targets, code))
    return list(found.values())


def _emitted(plans: Sequence[_Plan], modules: Mapping[str, Modules | Rejected]) -> EmittedRegion | Rejected:
    files: dict[str, bytes] = {}
    for plan in plans:
        for digest, _ in plan.module_parts:
            made = modules[digest]
            if isinstance(made, Rejected):
                return made
            files[_module_name(digest, plan.target)] = made[plan.target.module_target.name]
        files.update({code.file_name: code.content for code in plan.code.values()})
        files[program_name(plan.digest, plan.target.name)] = _program_file(plan).to_bytes()
    runnable = next((plan.target for plan in plans if plan.target.emulates), plans[0].target)
    return EmittedRegion(runnable.engine, dict(sorted(files.items())), program_name(plans[0].digest, runnable.name))


def program_name(digest: str, target: str) -> str:
    """Name of the file that says how a region runs on a target."""
    return f"{digest[:24]}.{target}.json"


def _module_name(digest: str, target: tools.Target) -> str:
    return f"{digest[:24]}.{target.module_target.name}.vmfb"


def _program_file(plan: _Plan) -> ProgramFile:
    numbers = value_numbers(plan.region)
    launches = iter(plan.launches)
    calls: list[Call] = []
    for part in plan.parts:
        places = tuple(plan.region.position[node] for node in part.nodes)
        if isinstance(part, ModulePart):
            program = tuple(plan.region.position[node.name] for node in part.program.nodes)
            outputs = tuple(numbers[value] for value in part.program.outputs)
            calls.append(ModuleCall(_module_name(digest_of(part.program), plan.target), places, program, outputs))
            continue
        launch_plan = next(launches)
        code = [plan.code[launch.code_digest] for launch in launch_plan.launches] if plan.code else []
        bindings = tuple((role, numbers[value]) for role, value in (*part.match.inputs, *part.match.outputs))
        calls.append(KernelCall(type(part.match.operation).__name__, places, launch_plan,
                                tuple(one.file_name for one in code), bindings, tuple(one.facts() for one in code)))
    return ProgramFile(plan.target.name, tuple(calls), plan.left_out)


def resource_manifest(files: Mapping[str, bytes]) -> bytes:
    """What every kernel of emitted code objects takes, as JSON: registers, spills, shared memory, occupancy.

    Args:
        files: emitted files by path, the program files among them. Modules for the host's processor have no registers
            to report and are left out.
    """
    facts = {file: known for path, data in files.items() if path.endswith(".json")
             for call in ProgramFile.from_bytes(data, path).calls if isinstance(call, KernelCall)
             for file, known in zip(call.files, call.code, strict=True)}
    objects: dict[str, bytes | CodeObject] = {}
    for path, data in files.items():
        known = facts.get(path.rpartition("/")[2])
        if known is not None:
            objects[path] = CodeObject.from_facts(known, data)
        elif path.endswith(".vmfb") and not path.endswith(f".{HOST_TARGET}.vmfb"):
            objects[path] = data
    return manifest(objects)
