"""hetcc compiles LLM inference for a GPU and an FPGA together: it finds a model's memory pipeline and places it.

``compile`` makes a bundle from a model, ``load`` opens one. Importing this package imports no heavy library.
"""

from hetcc.api import Bundle, compile, load  # noqa: A004
from hetcc.errors import HetccError, InternalError, ToolError, UserError

__version__ = "0.1.0"
__all__ = ["Bundle", "HetccError", "InternalError", "ToolError", "UserError", "__version__", "compile", "load"]
