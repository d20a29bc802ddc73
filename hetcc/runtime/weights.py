"""Weights by reference: files are mapped, tensors converted when they are bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy

from hetcc.errors import UserError
from hetcc.ir import Graph
from hetcc.plan.bundle import BundleFiles
from hetcc.plan.tensors import TensorFile, numpy_type

Array = numpy.ndarray


class WeightFiles:
    """The weights that a bundle's ``weights.json`` names, wherever they lie.

    Args:
        files: the opened bundle.
    """

    def __init__(self, files: BundleFiles) -> None:
        self.folder = files.folder
        self.entries: dict[str, Any] = json.loads(files.read("weights.json"))
        self._opened: dict[str, TensorFile] = {}
        self._models: dict[str, dict[str, Any]] = {}

    def read(self, name: str, graph: Graph) -> Array:
        """A weight in the type the graph wants.

        Raises:
            UserError: HET-C005, the file or the tensor is gone or has changed.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise UserError("HET-C005", f"the bundle knows no weight '{name}'", where="weights.json",
                            fix="compile with --weights")
        wanted = graph.type_of(name)
        array = self._stored(entry)
        if tuple(array.shape) != wanted.shape:
            raise UserError("HET-C005", f"'{entry['tensor']}' is now {list(array.shape)}, the bundle was compiled for "
                            f"{list(wanted.shape)}", where=entry["file"],
                            fix="restore the checkpoint or compile again")
        return array.astype(numpy_type(wanted.dtype.value), copy=False)

    def _stored(self, entry: dict[str, Any]) -> Array:
        file = entry["file"]
        place = self.folder / file if file.startswith("./") else Path(file)
        stored_as = entry.get("format", "safetensors")
        if stored_as == "raw":
            return _read_raw(place, entry)
        if stored_as == "onnx":
            return self._read_embedded(place, entry["tensor"])
        if stored_as != "safetensors":
            raise UserError("HET-B003", f"'{stored_as}' is no format of weights", where="weights.json",
                            fix="compile the model again")
        if file not in self._opened:
            self._opened[file] = TensorFile(place)
        return self._opened[file].read(entry["tensor"])

    def _read_embedded(self, file: Path, tensor: str) -> Array:
        """An initialiser of a model file; the file is parsed once."""
        key = str(file)
        if key not in self._models:
            self._models[key] = _initialisers_of(file)
        found = self._models[key].get(tensor)
        if found is None:
            raise UserError("HET-C005", f"there is no initialiser '{tensor}'", where=key,
                            fix="restore the model file, or compile it again as it is now")
        import onnx

        array: Array = onnx.numpy_helper.to_array(found)
        return array


def _initialisers_of(file: Path) -> dict[str, Any]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(file), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise UserError("HET-C005", f"the model file with the weights cannot be read: {error}", where=str(file),
                        fix="restore the model file at this place, or compile again") from error
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _read_raw(file: Path, entry: dict[str, Any]) -> Array:
    """Dense numbers in a file, mapped."""
    element, shape = numpy_type(entry["dtype"]), tuple(entry["shape"])
    length = int(numpy.prod(shape, dtype=numpy.int64)) * element.itemsize
    try:
        if length == 0:
            return numpy.empty(shape, element)
        return numpy.memmap(file, numpy.uint8, "r", entry["offset"], (length,)).view(element).reshape(shape)
    except (OSError, ValueError) as error:
        raise UserError("HET-C005", f"'{entry['tensor']}' cannot be read: {error}", where=str(file),
                        fix="restore the file at this place, or compile again") from error
