"""Kernels on the CPU: Triton's interpreter runs the launches of an operation on numpy arrays.

Whether a Triton function is compiled or interpreted is settled when its module is imported, for Triton's own functions
when Triton is, and ``torch.export`` imports Triton. So the kernels are imported here a second time, interpreted, beside
the modules others may have imported, and Triton's own functions are exchanged while a launch runs. Nothing of that
is left behind afterwards. It holds for the whole process, so launches are interpreted one at a time, and a process must
not compile kernels in another thread meanwhile.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from hetcc.backends.gpu.kernels.launches import TRITON_TYPES, KernelOperation, Launch, LaunchPlan, Scalar, Tensor
from hetcc.backends.gpu.kernels.limits import INTERPRETER
from hetcc.backends.gpu.memory import numpy_dtype_of
from hetcc.errors import UserError
from hetcc.ir import TensorType

ENGINE = "triton interpreter (emulated gpu)"
"""What reports call this way of running a kernel."""
_PACKAGE = __name__.rpartition(".")[0]
_LOCK = threading.RLock()
_INTERPRETED: dict[str, ModuleType] = {}
Array = np.ndarray[Any, np.dtype[Any]]


def interpret(operation: KernelOperation, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of an operation by role, from its inputs by role. Inputs are not changed.

    Raises:
        UserError: HET-R002, an input is missing or has another shape or type than the operation says.
    """
    memory = {role: _checked(role, kind, arrays) for role, kind in operation.inputs}
    outputs = {role: np.zeros(kind.shape, numpy_dtype_of(kind.dtype)) for role, kind in operation.outputs}
    interpret_plan(operation.plan(INTERPRETER), memory | outputs)
    return outputs


def interpret_plan(plan: LaunchPlan, arrays: Mapping[str, Array]) -> None:
    """Runs the launches of a plan for the target ``interpreter``, in place, on dense arrays by role."""
    # Scratch is arbitrary at the start; a pattern shows who counts on zeros.
    scratch = {name: np.full(kind.elements * kind.dtype.size_bytes, 0xA5, np.uint8).view(numpy_dtype_of(kind.dtype))
               for name, kind in plan.scratch}
    with _LOCK, _interpreting(), np.errstate(all="ignore"):
        for launch in plan.launches:
            _run(launch, {**arrays, **scratch})


def _checked(role: str, kind: TensorType, arrays: Mapping[str, Array]) -> Array:
    if role not in arrays:
        raise UserError("HET-R002", f"the input '{role}' is missing", fix="inputs: " + ", ".join(sorted(arrays)))
    array = arrays[role]
    if array.shape != kind.shape or array.dtype != numpy_dtype_of(kind.dtype):
        raise UserError("HET-R002", f"'{role}' is {array.dtype}{list(array.shape)}; the kernel takes {kind}")
    return np.ascontiguousarray(array)


def _run(launch: Launch, memory: Mapping[str, Array]) -> None:
    function = getattr(_interpreted_module(launch.module), launch.function)
    passed = {parameter: _Pointer(memory[given.name], given) if isinstance(given, Tensor) else _number(given)
              for parameter, given in launch.arguments}
    function[launch.grid](**passed, **dict(launch.constants))


def _number(scalar: Scalar) -> int | float:
    return scalar.value


class _Pointer:
    """A numpy array with the few methods that Triton's interpreter calls on a torch tensor."""

    def __init__(self, array: Array, tensor: Tensor) -> None:
        self.array, self.tensor = array, tensor
        self.dtype = TRITON_TYPES[tensor.dtype]

    def data_ptr(self) -> int:
        """Address of the first element."""
        return int(self.array.ctypes.data)

    def untyped_storage(self) -> _Pointer:
        """The array is its own storage."""
        return self

    def cpu(self) -> _Pointer:
        """It is on the CPU."""
        return self

    def new_empty(self, *_: object, **__: object) -> _Pointer:
        """Something to call ``set_`` on."""
        return _Pointer(self.array, self.tensor)

    def set_(self, storage: _Pointer, *_: object) -> None:
        """Views the storage."""
        self.array = storage.array

    def copy_(self, other: _Pointer) -> None:
        """Nothing to copy back: the kernel wrote to the array itself."""

    def storage_offset(self) -> int:
        """Arrays start at their first element."""
        return 0

    def size(self) -> tuple[int, ...]:
        """Not used by the interpreter."""
        return ()

    def stride(self) -> tuple[int, ...]:
        """Not used by the interpreter."""
        return ()


def _interpreted_module(name: str) -> ModuleType:
    """A kernel module whose functions are interpreted. Modules it imports are interpreted with it."""
    if name not in _INTERPRETED:
        others = {key: sys.modules.pop(key) for key in list(sys.modules) if _may_hold_kernels(key)}
        try:
            importlib.import_module(f"{_PACKAGE}.{name}")
        finally:
            for key in [key for key in sys.modules if _may_hold_kernels(key)]:
                _INTERPRETED[key.rpartition(".")[2]] = _with_plain_constants(sys.modules.pop(key))
            sys.modules.update(others)
            for key, module in others.items():
                setattr(sys.modules[_PACKAGE], key.rpartition(".")[2], module)
    return _INTERPRETED[name]


def _with_plain_constants(module: ModuleType) -> ModuleType:
    """Constants of the module as numbers: the interpreter's tensors do not take a ``tl.constexpr`` on their left."""
    import triton.language as tl

    for name, value in list(vars(module).items()):
        if isinstance(value, tl.constexpr):
            setattr(module, name, value.value)
    return module


def _may_hold_kernels(name: str) -> bool:
    return name.startswith(f"{_PACKAGE}.") and name != __name__


@contextmanager
def _interpreting() -> Iterator[None]:
    """Triton interprets: what is imported, what is called, and its own functions."""
    import triton
    from triton.runtime import interpreter

    with ExitStack() as stack:
        stack.enter_context(triton.knobs.runtime.scope())
        triton.knobs.runtime.interpret = True
        undo = interpreter._LangPatchScope()
        stack.callback(undo.restore)
        _exchange_library(undo)
        # A call of a function by another patches the language again, which takes longer than most functions.
        stack.callback(interpreter._patch_lang(triton.language.standard.sum.fn).restore)
        undo.set_attr(interpreter.InterpretedFunction, "__call__",
                      lambda function, *given, **named: function.rewrite()(*given, **named))
        yield


def _exchange_library(undo: Any) -> None:
    """Replaces the compiled functions of ``triton.language`` by interpreted ones."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    exchanged: dict[int, Any] = {}
    for place in (tl, tl.core, tl.standard, tl.math, tl.random, tl.tensor):
        for name, value in list(vars(place).items()):
            if isinstance(value, JITFunction):
                exchanged.setdefault(id(value), InterpretedFunction(value.fn))
                undo.set_attr(place, name, exchanged[id(value)])
