"""Reading and writing small safetensors files with numpy alone (bfloat16 included)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from hetcc.errors import UserError

_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
          "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
          "BOOL": "bool"}
_SPELLINGS = {name: spelling for spelling, name in _TYPES.items()}


def numpy_type(name: str) -> numpy.dtype[Any]:
    """The numpy type called ``name``; the short floats come from ml_dtypes."""
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        short: numpy.dtype[Any] = numpy.dtype(getattr(ml_dtypes, name))
        return short
    return numpy.dtype(name)


def tensors_to_bytes(tensors: Mapping[str, numpy.ndarray]) -> bytes:
    """A safetensors file; the same tensors give the same bytes."""
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        array = numpy.ascontiguousarray(tensors[name])
        content = array.tobytes()
        header[name] = {"dtype": _SPELLINGS[array.dtype.name], "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
        chunks.append(content)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)


class TensorFile:
    """A safetensors file whose tensors are mapped, not read, until they are used.

    Raises:
        UserError: HET-C005, the file is missing or is no safetensors file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                self._header: dict[str, Any] = json.loads(stream.read(length)) if length < 1 << 28 else {}
            empty = file.stat().st_size <= 8 + length
            self._bytes: Any = b"" if empty else numpy.memmap(file, mode="r", offset=8 + length)
        except (OSError, ValueError) as error:
            raise UserError("HET-C005", f"'{file.name}' is not a readable safetensors file: {error}", where=str(file),
                            fix="restore the checkpoint at this place, or compile again") from error

    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(name for name in self._header if name != "__metadata__")

    def read(self, name: str) -> numpy.ndarray:
        """A tensor, as a view of the file.

        Raises:
            UserError: HET-C005, the file has no such tensor.
        """
        entry = self._header.get(name)
        if entry is None:
            raise UserError("HET-C005", f"there is no tensor '{name}'", where=str(self.file),
                            fix="restore the checkpoint at this place, or compile again")
        start, end = entry["data_offsets"]
        raw = numpy.frombuffer(self._bytes[start:end], dtype=numpy_type(_TYPES[entry["dtype"]]))
        return raw.reshape(entry["shape"])
