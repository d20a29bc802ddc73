"""Running compiled regions: modules by the IREE runtime, kernels by Triton's interpreter, on one memory.

On a machine without the GPU this is the emulation of it: the same program, compiled for the host's processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy

from hetcc.aten.rebuild import result_names_of
from hetcc.backends.gpu.kernels.launches import Tensor
from hetcc.backends.gpu.memory import GpuMemory, arguments_written, numpy_dtype_of
from hetcc.backends.gpu.partition.parts import part_program
from hetcc.backends.gpu.program_file import KernelCall, ModuleCall, ProgramFile, value_numbers
from hetcc.backends.gpu.tools import ENGINES
from hetcc.errors import UserError
from hetcc.ir import Graph
from hetcc.ir.subgraph import interface_of


class GpuProgram:
    """A compiled region bound to a :class:`GpuMemory`.

    Args:
        region: what was compiled.
        files: contents of the files that were emitted, by path.
        entry: path of the region's program file among them.
        memory: where its arguments are and its results go; a private one by default.

    Raises:
        UserError: HET-B003, the program file is not one, or is for a device this machine does not emulate.
    """

    def __init__(self, region: Graph, files: Mapping[str, bytes], entry: str, memory: GpuMemory | None = None) -> None:
        self.region = region
        self.memory = memory if memory is not None else GpuMemory()
        self._files = files
        self._folder = entry.rpartition("/")[0]
        program = ProgramFile.from_bytes(self._file(entry), entry)
        if program.target not in ENGINES:
            raise UserError("HET-B003", f"the program is for {program.target}, which is not emulated", where=entry,
                            fix="compile with --target llvm-cpu as well")
        self.engine = ENGINES[program.target]
        self._names = {number: name for name, number in value_numbers(region).items()}
        self._calls = [self._module(call) if isinstance(call, ModuleCall) else self._kernel(call)
                       for call in program.calls]
        self._results = tuple(result_names_of(region))

    def step(self) -> None:
        """Runs once on what is in the memory; results and new cache contents go there, nothing comes to the host.

        Raises:
            UserError: HET-R002, an argument is not bound.
            ToolError: HET-T002, the runtime refused the call.
        """
        for call in self._calls:
            call()
        for update in self.region.updates:
            self.memory.rename(update.value, update.cache)

    def run(self, arguments: Mapping[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        """Binds ``arguments`` (what is missing must be in the memory already), runs once and fetches the results."""
        for name, array in arguments.items():
            self.memory.bind(name, array)
        self.step()
        return {name: self.memory.fetch(name) for name in self._results}

    def _file(self, path: str) -> bytes:
        try:
            return self._files[path]
        except KeyError:
            raise UserError("HET-B003", f"'{path}' is missing", fix="compile the model again") from None

    def _module(self, call: ModuleCall) -> Callable[[], None]:
        nodes = tuple(self.region.nodes[place].name for place in call.program)
        program = part_program(self.region, nodes, tuple(self._names[number] for number in call.outputs))
        module = self.memory.load(self._file(f"{self._folder}/{call.file}" if self._folder else call.file))
        copied = frozenset(arguments_written(program))
        arguments = tuple((name, name in copied) for name in interface_of(program))
        results = tuple((name, program.type_of(name).dtype) for name in result_names_of(program))

        invoke, keep, count = self.memory.call, self.memory.keep, len(results)

        def run() -> None:
            for (name, dtype), view in zip(results, invoke(module, arguments, count), strict=True):
                keep(name, view, dtype)

        return run

    def _kernel(self, call: KernelCall) -> Callable[[], None]:
        from hetcc.backends.gpu.kernels.interpreter import interpret_plan

        names = {role: self._names[number] for role, number in call.bindings}
        written = {passed.name for launch in call.plan.launches for _, passed in launch.arguments
                   if isinstance(passed, Tensor) and passed.written}

        def run() -> None:
            arrays: dict[str, numpy.ndarray] = {}
            for role, name in names.items():
                kind = self.region.type_of(name)
                arrays[role] = (numpy.zeros(kind.shape, numpy_dtype_of(kind.dtype)) if role in written
                                else self.memory.fetch(name))
            interpret_plan(call.plan, arrays)
            for role in written & names.keys():
                self.memory.bind(names[role], arrays[role])

        return run
