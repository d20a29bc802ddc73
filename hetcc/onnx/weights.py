"""Where the weights of an ONNX model lie, and how to read one. Nothing here reads a weight until it is asked to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy
import onnx

from hetcc.errors import UserError
from hetcc.ir import TensorType
from hetcc.onnx.types import dtype_of, numpy_dtype_of


@dataclass(frozen=True, slots=True)
class WeightLocation:
    """One initialiser of a model file."""

    tensor: str
    """Name of the initialiser in the model file."""
    type: TensorType
    file: str
    """File that holds the bytes, relative to the folder of the model file."""
    offset: int | None
    """First byte in ``file``; None when the bytes are embedded in the model file and must be looked up by name."""

    @property
    def length(self) -> int:
        """Bytes the tensor takes."""
        return self.type.size_bytes


def locate(tensor: Any, model_file: Path) -> WeightLocation:
    """The location of an initialiser, checked against the size of its file.

    Raises:
        UserError: HET-C008 for a location outside the model's folder or a length that is not the tensor's;
            HET-C005 when the file is missing or too short.
    """
    found = TensorType(tuple(tensor.dims), dtype_of(tensor.data_type, tensor.name))
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return WeightLocation(tensor.name, found, model_file.name, None)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    relative = PurePosixPath(name)
    if not name or relative.is_absolute() or ".." in relative.parts:
        raise UserError("HET-C008", f"initialiser '{tensor.name}' lies in '{name}', outside the folder of the model",
                        where=str(model_file), fix="save the model again with its data beside it")
    offset, length = (_number(entries, key, default, tensor.name, model_file)
                      for key, default in (("offset", 0), ("length", found.size_bytes)))
    if length != found.size_bytes:
        raise UserError("HET-C008", f"initialiser '{tensor.name}' of type {found} has {length} bytes",
                        where=str(model_file), fix="export the model again")
    data_file = model_file.parent / name
    if not data_file.is_file():
        raise UserError("HET-C005", f"'{name}' with the data of '{tensor.name}' is missing", where=str(data_file),
                        fix="put the external data file beside the model file")
    if data_file.stat().st_size < offset + length:
        raise UserError("HET-C005", f"'{tensor.name}' ends at byte {offset + length}, the file at "
                        f"{data_file.stat().st_size}", where=str(data_file), fix="copy the file again; it was cut off")
    return WeightLocation(tensor.name, found, name, offset)


def _number(entries: dict[str, str], key: str, default: int, tensor: str, model_file: Path) -> int:
    text = entries.get(key, str(default))
    if not text.isdecimal():
        raise UserError("HET-C008", f"{key} '{text}' of initialiser '{tensor}' is not a number",
                        where=str(model_file), fix="export the model again")
    return int(text)


def read_weight(location: WeightLocation, folder: Path) -> numpy.ndarray:
    """The array at ``location``, read-only; external data is mapped, not loaded.

    Args:
        location: from :class:`hetcc.onnx.load.LoadedOnnx`.
        folder: folder of the model file.

    Raises:
        UserError: HET-C005, the file or the tensor is gone.
    """
    path = folder / location.file
    if not path.is_file():
        raise UserError("HET-C005", f"'{location.file}' is missing", where=str(path), fix="restore the file")
    if location.offset is None:
        return _read_embedded(location, path)
    element = numpy_dtype_of(location.type.dtype)
    if location.length == 0:
        return numpy.empty(location.type.shape, element)
    raw = numpy.memmap(path, numpy.uint8, "r", location.offset, (location.length,))
    return raw.view(element).reshape(location.type.shape)


def _read_embedded(location: WeightLocation, path: Path) -> numpy.ndarray:
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.name == location.tensor:
            array: numpy.ndarray = onnx.numpy_helper.to_array(tensor)
            return array
    raise UserError("HET-C005", f"initialiser '{location.tensor}' is not in the file any more", where=str(path),
                    fix="compile again from the file as it is now")
