"""Every error a person can meet: a code, what went wrong, where, limit and actual value, what to do.

Three families, because the reader's next move differs: ``UserError`` (change the input), ``ToolError``
(install or repair something on this machine) and ``InternalError`` (report a bug in hetcc).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line; the numbers are part of the public interface."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    UNSUPPORTED = 3
    INFEASIBLE = 4
    TOOL_MISSING = 5
    MISMATCH = 6


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One documented kind of error: its code, title and the exit code a command ends with."""

    code: str
    title: str
    exit_code: ExitCode


_KINDS = (
    ErrorKind("HET-C001", "unknown model", ExitCode.USAGE),
    ErrorKind("HET-C002", "impossible override", ExitCode.USAGE),
    ErrorKind("HET-C003", "size out of range", ExitCode.USAGE),
    ErrorKind("HET-C004", "the model could not be captured", ExitCode.UNSUPPORTED),
    ErrorKind("HET-C005", "weights missing or unreadable", ExitCode.USAGE),
    ErrorKind("HET-C006", "quantised checkpoint not supported", ExitCode.UNSUPPORTED),
    ErrorKind("HET-C007", "phase not available for this model", ExitCode.USAGE),
    ErrorKind("HET-C008", "unreadable model file", ExitCode.USAGE),
    ErrorKind("HET-C009", "operator not supported", ExitCode.UNSUPPORTED),
    ErrorKind("HET-M001", "unknown device", ExitCode.USAGE),
    ErrorKind("HET-M002", "invalid device profile", ExitCode.USAGE),
    ErrorKind("HET-M003", "calibration impossible", ExitCode.UNSUPPORTED),
    ErrorKind("HET-P001", "invalid placement", ExitCode.USAGE),
    ErrorKind("HET-P002", "cyclic placement", ExitCode.INFEASIBLE),
    ErrorKind("HET-P003", "does not fit", ExitCode.INFEASIBLE),
    ErrorKind("HET-P004", "unknown partitioner", ExitCode.USAGE),
    ErrorKind("HET-P005", "node cannot run on that device", ExitCode.INFEASIBLE),
    ErrorKind("HET-B001", "output folder cannot be written", ExitCode.USAGE),
    ErrorKind("HET-B002", "not a bundle", ExitCode.USAGE),
    ErrorKind("HET-B003", "bundle is damaged", ExitCode.USAGE),
    ErrorKind("HET-B004", "unknown name in bundle", ExitCode.USAGE),
    ErrorKind("HET-B005", "bundle cannot do this", ExitCode.USAGE),
    ErrorKind("HET-G001", "GPU code generation failed", ExitCode.UNSUPPORTED),
    ErrorKind("HET-G002", "GPU driver error", ExitCode.MISMATCH),
    ErrorKind("HET-F001", "FPGA region cannot be composed", ExitCode.UNSUPPORTED),
    ErrorKind("HET-F002", "FPGA driver error", ExitCode.MISMATCH),
    ErrorKind("HET-R001", "results do not match", ExitCode.MISMATCH),
    ErrorKind("HET-R002", "invalid input at run time", ExitCode.USAGE),
    ErrorKind("HET-R003", "too little ran where it was planned", ExitCode.MISMATCH),
    ErrorKind("HET-R004", "launch failed", ExitCode.MISMATCH),
    ErrorKind("HET-T001", "tool missing", ExitCode.TOOL_MISSING),
    ErrorKind("HET-T002", "tool failed", ExitCode.TOOL_MISSING),
    ErrorKind("HET-U001", "usage", ExitCode.USAGE),
    ErrorKind("HET-I001", "internal error", ExitCode.INTERNAL),
)
ERROR_KINDS: dict[str, ErrorKind] = {kind.code: kind for kind in _KINDS}


class HetccError(Exception):
    """Base of all errors hetcc raises on purpose.

    Args:
        code: one of :data:`ERROR_KINDS`.
        what: one sentence saying what is wrong, with the actual value and the limit.
        where: file, module path, node or bundle path the error is about; empty if it has no place.
        fix: what the reader can do next.
    """

    def __init__(self, code: str, what: str, *, where: str = "", fix: str = "") -> None:
        self.kind = ERROR_KINDS[code]
        self.what = what
        self.where = where
        self.fix = fix
        self.details: dict[str, object] = {}
        """More facts for programs; ``--json`` prints them beside the error."""
        super().__init__(self.render())

    @property
    def code(self) -> str:
        """The stable code, such as ``HET-P002``."""
        return self.kind.code

    @property
    def exit_code(self) -> ExitCode:
        """The exit code a command that meets this error ends with."""
        return self.kind.exit_code

    def render(self) -> str:
        """The text a person reads: code and title, then what, where and what to do."""
        lines = [f"{self.kind.code}  {self.kind.title}: {self.what}"]
        if self.where:
            lines.append(f"  at:   {self.where}")
        if self.fix:
            lines.append(f"  try:  {self.fix}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, str]:
        """The same facts for programs, as printed by ``--json``."""
        return {
            "code": self.code,
            "title": self.kind.title,
            "what": self.what,
            "where": self.where,
            "fix": self.fix,
        }


class UserError(HetccError):
    """The input or the request is wrong; the user can change it."""


class ToolError(HetccError):
    """A tool or a library on this machine is missing, broken or failed."""


class InternalError(HetccError):
    """hetcc broke one of its own rules; please report it."""
