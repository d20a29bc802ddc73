"""Memory behind the IREE runtime: weights, caches and results stay there between calls; modules are loaded there."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from hetcc.backends.gpu.importer import ENTRY_NAME
from hetcc.errors import ToolError, UserError
from hetcc.ir import DType, Graph, OperatorClass, TensorType
from hetcc.ir.subgraph import interface_of

_WRITERS = frozenset({OperatorClass.SCATTER, OperatorClass.CACHE_UPDATE, OperatorClass.OPAQUE})
_ONNX_WRITERS = _WRITERS | {OperatorClass.SORT, OperatorClass.TOPK, OperatorClass.CUMULATIVE}
"""ONNX selections reach IREE as they are; those of aten are rewritten first (topk.py)."""
_KEEPERS = frozenset({OperatorClass.VIEW, OperatorClass.COPY})
_ALIGNMENT_BYTES = 64
"""What compiled code may assume of a buffer's address."""


def arguments_written(region: Graph) -> tuple[str, ...]:
    """Arguments whose storage the compiled program may overwrite although their value must survive the call.

    IREE gives the storage of an argument that is read for the last time to an operator that updates it. That is how
    caches are updated in place; any other argument has to be passed as a copy. Views and copies keep the storage.
    """
    exposed: dict[str, frozenset[str]] = {name: frozenset({name}) for name in interface_of(region)}
    written: set[str] = set()
    for node in region.nodes:
        writers = _ONNX_WRITERS if node.operator.domain == "onnx" else _WRITERS
        writes = node.operator_class in writers or node.attribute("kind") == "slice_scatter"
        sources = frozenset().union(*(exposed.get(name, frozenset()) for name in node.inputs[:1]))
        if writes:
            written |= sources
        if writes or node.operator_class in _KEEPERS:
            exposed.update((name, sources) for name in node.outputs)
    updated = {update.cache for update in region.updates}
    return tuple(name for name in interface_of(region) if name in written and name not in updated)


class GpuMemory:
    """Arrays on one device by value name, shared by the programs of one plan.

    Args:
        driver: IREE driver: ``local-sync`` runs on the calling thread, ``local-task`` on all processors.

    Raises:
        ToolError: HET-T001, the IREE runtime is not installed.
    """

    def __init__(self, driver: str = "local-task") -> None:
        try:
            import iree.runtime as runtime
        except ImportError:
            raise ToolError("HET-T001", "the IREE runtime is not installed", fix="pip install 'hetcc[gpu]'") from None
        self._runtime: Any = runtime
        self._device: Any = runtime.get_device(driver)
        self._instance: Any = runtime.VmInstance()
        self._hal: Any = runtime.create_hal_module(self._instance, self._device)
        self._bound: dict[str, tuple[Any, DType, numpy.ndarray | None]] = {}
        """By name: buffer view, element type, and the array whose memory it uses if it is not its own."""
        self._functions: dict[str, LoadedModule] = {}
        self._make_list, self._view_type = runtime.VmVariantList, runtime.HalBufferView

    def bind(self, name: str, array: numpy.ndarray, share: bool = False) -> None:
        """Puts ``array`` on the device under ``name``, replacing what was there.

        Args:
            name: value name.
            array: of an element type of :class:`DType`.
            share: use the array's own memory where that is possible (writable, contiguous, aligned to 64 bytes)
                instead of a copy. The caller must not write it while it is bound. Not for caches: those are written.

        Raises:
            UserError: HET-R002, the element type is not supported.
        """
        try:
            dtype = _dtype_of(array.dtype)
        except ValueError:
            raise UserError("HET-R002", f"element type {array.dtype.name} is not supported", where=name) from None
        dense = array if array.flags.c_contiguous else numpy.ascontiguousarray(array)
        self.drop([name])
        if share and dense is array and dense.flags.writeable and dense.ctypes.data % _ALIGNMENT_BYTES == 0:
            self._bound[name] = self._shared_view(dense), dtype, dense
        else:
            self._bound[name] = self._upload(dense), dtype, None

    def bind_zeros(self, name: str, kind: TensorType) -> None:
        """Puts zeros on the device under ``name``."""
        self.bind(name, numpy.zeros(kind.shape, numpy_dtype_of(kind.dtype)))

    def fetch(self, name: str) -> numpy.ndarray:
        """A copy, on the host, of what is under ``name``.

        Raises:
            UserError: HET-R002, nothing is under ``name``.
        """
        view = self.view(name)
        mapped: numpy.ndarray = view.map().asarray(view.shape, numpy_dtype_of(self._bound[name][1]))
        return mapped.copy()

    def drop(self, names: Iterable[str]) -> None:
        """Forgets arrays; their storage is freed when nothing else holds it."""
        for name in names:
            self._bound.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._bound

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays that are bound (storage under two names counts twice)."""
        return sum(int(view.byte_length) for view, _, _ in self._bound.values())

    def view(self, name: str) -> Any:
        """The device buffer view under ``name``; HET-R002 if there is none."""
        try:
            return self._bound[name][0]
        except KeyError:
            raise UserError("HET-R002", f"'{name}' has no value on the GPU", fix="bind it before the program runs"
                            ) from None

    def keep(self, name: str, view: Any, dtype: DType) -> None:
        """Puts an existing buffer view under ``name`` without a copy."""
        self._bound[name] = view, dtype, None

    def rename(self, value: str, cache: str) -> None:
        """Makes what is under ``value`` the contents of ``cache`` too: both names, one storage, no copy."""
        self.keep(cache, self.view(value), self._bound[value][1])

    def load(self, module: bytes) -> LoadedModule:
        """The entry function of a compiled module; the same bytes are loaded once.

        Raises:
            ToolError: HET-T002, the module cannot be loaded by this runtime.
        """
        key = hashlib.sha256(module).hexdigest()
        if key not in self._functions:
            try:
                loaded = self._runtime.VmModule.copy_buffer(self._instance, module)
                context = self._runtime.VmContext(self._instance, modules=[self._hal, loaded])
            except (RuntimeError, ValueError) as error:
                raise ToolError("HET-T002", f"the IREE runtime cannot load a module: {error}",
                                fix="install the runtime version that pyproject.toml names") from error
            self._functions[key] = LoadedModule(context, loaded.lookup_function(ENTRY_NAME))
        return self._functions[key]

    def call(self, module: LoadedModule, arguments: Sequence[tuple[str, bool]], results: int) -> list[Any]:
        """Runs a module on bound arrays and waits.

        Args:
            module: from :meth:`load`.
            arguments: value name of each argument, and whether it is passed as a copy.
            results: how many results the module returns.

        Returns:
            a device buffer view for each result.

        Raises:
            UserError: HET-R002, an argument is not bound.
            ToolError: HET-T002, the runtime refused the call.
        """
        bound, given = self._bound, self._make_list(len(arguments))
        push = given.push_ref
        for name, copied in arguments:
            view = bound[name][0] if name in bound else self.view(name)
            push(self._duplicate(view) if copied else view)
        returned = self._make_list(results)
        try:
            module.context.invoke(module.function, given, returned)
        except (RuntimeError, ValueError) as error:
            raise ToolError("HET-T002", f"the IREE runtime refused a call: {error}",
                            fix="check that every array has the type the region declares") from error
        take, kind = returned.get_as_object, self._view_type
        return [take(position, kind) for position in range(results)]

    def _upload(self, array: numpy.ndarray) -> Any:
        return self._device.allocator.allocate_buffer_copy(
            memory_type=self._runtime.MemoryType.DEVICE_LOCAL, allowed_usage=self._runtime.BufferUsage.DEFAULT,
            device=self._device, buffer=array, element_type=self._element_type(array))

    def _shared_view(self, array: numpy.ndarray) -> Any:
        kinds = self._runtime.MemoryType
        buffer = self._device.allocator.import_host_allocation(
            array, int(kinds.HOST_LOCAL | kinds.DEVICE_VISIBLE), int(self._runtime.BufferUsage.DEFAULT))
        return self._runtime.HalBufferView(buffer, array.shape, self._element_type(array))

    def _element_type(self, array: numpy.ndarray) -> Any:
        return self._runtime.array_interop.map_dtype_to_element_type(array.dtype)

    def _duplicate(self, view: Any) -> Any:
        """A buffer view of the same contents with storage of its own, copied on the device."""
        runtime, source = self._runtime, view.get_buffer()
        target = self._device.allocator.allocate_buffer(
            memory_type=runtime.MemoryType.DEVICE_LOCAL, allowed_usage=runtime.BufferUsage.DEFAULT,
            allocation_size=source.byte_length())
        done = self._device.create_semaphore(0)
        self._device.queue_copy(source, target, wait_semaphores=runtime.HalFence.create_at(done, 0),
                                signal_semaphores=runtime.HalFence.create_at(done, 1))
        runtime.HalFence.create_at(done, 1).wait()
        return runtime.HalBufferView(target, view.shape, view.element_type)


@dataclass(frozen=True)
class LoadedModule:
    """A module in the runtime."""

    context: Any
    function: Any


@functools.cache
def _dtype_of(dtype: numpy.dtype[Any]) -> DType:
    """The reverse of :func:`numpy_dtype_of`; ValueError where there is none."""
    return DType(dtype.name)


@functools.cache
def numpy_dtype_of(dtype: DType) -> numpy.dtype[Any]:
    """The numpy dtype of a DType; the short floats come from ml_dtypes."""
    if dtype in (DType.BFLOAT16, DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2):
        import ml_dtypes

        short: numpy.dtype[Any] = numpy.dtype(getattr(ml_dtypes, dtype.value))
        return short
    plain: numpy.dtype[Any] = numpy.dtype(dtype.value)
    return plain
