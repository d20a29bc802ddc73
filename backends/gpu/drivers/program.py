"""A region on a real card: modules through IREE, kernels through the driver, in the order of its program file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hetcc.aten.rebuild import result_names_of
from hetcc.backends.gpu import tools
from hetcc.backends.gpu.drivers.contract import GpuDriver, Number
from hetcc.backends.gpu.drivers.memory import CardMemory
from hetcc.backends.gpu.kernels.code_object import CodeObject
from hetcc.backends.gpu.kernels.launches import Launch, Scalar
from hetcc.backends.gpu.kernels.toolchain import TARGETS
from hetcc.backends.gpu.program import GpuProgram
from hetcc.backends.gpu.program_file import KernelCall, ModuleCall, ProgramFile, value_numbers
from hetcc.errors import ToolError, UserError
from hetcc.ir import Graph


class CardProgram(GpuProgram):
    """A compiled region bound to the memory of a card.

    Args:
        region: what was compiled.
        files: contents of the files that were emitted, by path.
        entry: path of the region's program file among them.
        memory: where its arguments are and its results go.

    Raises:
        UserError: HET-B003, a file is damaged, or the program is for a GPU of another make.
    """

    memory: CardMemory

    def __init__(self, region: Graph, files: Mapping[str, bytes], entry: str, memory: CardMemory) -> None:
        self.region = region
        self.memory = memory
        self._files = files
        self._folder = entry.rpartition("/")[0]
        program = ProgramFile.from_bytes(self._file(entry), entry)
        known = TARGETS.get(program.target)
        if known is None or known.backend != memory.driver.kind:
            raise UserError("HET-B003", f"the program is for {program.target}, which a card of {memory.driver.kind} "
                            "does not run", where=entry, fix="compile with --target and the name of the card's chip")
        self.engine = tools.target_named(program.target).engine
        self._names = {number: name for name, number in value_numbers(region).items()}
        self._calls = [self._module(call) if isinstance(call, ModuleCall) else self._kernel(call)
                       for call in program.calls]
        self._results = tuple(result_names_of(region))

    def _kernel(self, call: KernelCall) -> Callable[[], None]:
        names = {role: self._names[number] for role, number in call.bindings}
        codes = [CodeObject.from_facts(facts, self._file(f"{self._folder}/{file}" if self._folder else file))
                 for facts, file in zip(call.code, call.files, strict=True)]
        if len(codes) != len(call.plan.launches):
            raise UserError("HET-B003", f"{call.operation} has {len(call.plan.launches)} launches and {len(codes)} "
                            "code objects", fix="compile the model again")
        written = {tensor.name for launch in call.plan.launches for _, tensor in launch.arguments
                   if not isinstance(tensor, Scalar) and tensor.written}

        def run() -> None:
            memory = self.memory
            addresses = {role: memory.address_of(name) for role, name in names.items() if role not in written}
            addresses |= {role: memory.reserve(names[role], self.region.type_of(names[role]))
                          for role in sorted(written & names.keys())}
            scratch = {name: memory.pool.take(kind.size_bytes) for name, kind in call.plan.scratch}
            addresses |= {name: taken.address for name, taken in scratch.items()}
            try:
                run_launches(memory.driver, call.plan.launches, codes, addresses, memory.stream)
            except ToolError as error:
                raise ToolError(error.code, error.what, where=f"{_place(self.region, call)}: {error.where}",
                                fix=error.fix) from error
            memory.used()

        return run


def _place(region: Graph, call: KernelCall) -> str:
    """The operators a kernel stands for and where they are in the model."""
    nodes = [region.nodes[place] for place in call.nodes]
    paths = dict.fromkeys(node.provenance.module_path for node in nodes if node.provenance.module_path)
    names = nodes[0].name if len(nodes) == 1 else f"{nodes[0].name} ... {nodes[-1].name}"
    return f"{call.operation} for {names}" + (f" in {', '.join(list(paths)[:2])}" if paths else "")


def run_launches(driver: GpuDriver, launches: Sequence[Launch], codes: Sequence[CodeObject],
                 addresses: Mapping[str, int], stream: int = 0) -> None:
    """Puts launches on a stream, one after another.

    Args:
        driver: of the card.
        launches: in order.
        codes: code object of each.
        addresses: by the name a launch gives a tensor.
        stream: where they run.

    Raises:
        ToolError: HET-G002, the driver refused one.
    """
    for launch, code in zip(launches, codes, strict=True):
        given = dict(launch.arguments)
        values: list[Number] = []
        for parameter in code.visible:
            passed = given[parameter.name]
            values.append(passed.value if isinstance(passed, Scalar) else addresses[passed.name])
        driver.launch(code, values, launch.grid, stream)
