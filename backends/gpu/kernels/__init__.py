"""Triton kernels of the memory pipeline: one source per kernel for AMD and NVIDIA, every size fixed at compile time.

Modules that define ``@triton.jit`` functions import Triton on top and are imported late: by the child process that
compiles them, by the interpreter, or by a benchmark on a GPU.
"""
