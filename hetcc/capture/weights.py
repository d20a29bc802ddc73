"""Where the bytes of every weight come from: a checkpoint, a random seed, or the model's own buffers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from hetcc.capture.model import CaptureRequest, WeightReference
from hetcc.capture.source import HuggingFaceModel
from hetcc.errors import UserError
from hetcc.ir import Graph
from hetcc.ir.subgraph import weights_of


@dataclass(frozen=True)
class BoundWeights:
    """Every weight of a model: by reference, generated here, or a constant of the model class."""

    references: Mapping[str, WeightReference] = field(default_factory=dict)
    generated: Mapping[str, numpy.ndarray] = field(default_factory=dict)
    constants: Mapping[str, numpy.ndarray] = field(default_factory=dict)


def check_weights(request: CaptureRequest, source: HuggingFaceModel) -> None:
    """Refuse before the capture, which may take minutes, what binding would refuse after it.

    Raises:
        UserError: HET-C005 no seed or no weight files, HET-C006 a quantised checkpoint.
    """
    if request.weights.startswith("random:"):
        _seed_of(request)
    elif request.weights:
        _weight_files(_directory_of(request, source), source)


def bind_weights(request: CaptureRequest, source: HuggingFaceModel, graphs: Iterable[Graph]) -> BoundWeights:
    """Find every weight the graphs read.

    Raises:
        UserError: HET-C005 missing or unreadable weights, HET-C006 a quantised checkpoint.
    """
    needed = {name: graph.type_of(name) for graph in graphs for name in weights_of(graph)}
    if request.weights.startswith("random:"):
        return _bind_random(request, source, needed)
    return _bind_directory(_directory_of(request, source), source, needed)


def _directory_of(request: CaptureRequest, source: HuggingFaceModel) -> Path:
    directory = source.directory if request.weights == "checkpoint" else Path(request.weights).expanduser()
    if directory is None:
        raise UserError("HET-C005", "the model was not named by a folder, so it has no checkpoint of its own",
                        fix="give --weights DIR or --weights random:SEED")
    return directory


def _weight_files(directory: Path, source: HuggingFaceModel) -> list[Path]:
    _refuse_quantised(directory, source)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UserError("HET-C005", f"there is no .safetensors file in '{directory}'",
                        fix="convert the checkpoint with save_pretrained(safe_serialization=True)")
    return files


def _seed_of(request: CaptureRequest) -> int:
    text = request.weights.removeprefix("random:")
    if not text.isdigit():
        raise UserError("HET-C005", f"'{request.weights}' has no seed", fix="write it as --weights random:0")
    return int(text)


def build_random(source: HuggingFaceModel, seed: int, *, reference: bool) -> Any:
    """The model with the weights that ``random:seed`` means, the same ones for every build on every machine."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return source.build_reference() if reference else source.build()


def _bind_random(request: CaptureRequest, source: HuggingFaceModel, needed: Mapping[str, Any]) -> BoundWeights:
    model = build_random(source, _seed_of(request), reference=False)
    tensors = _named_tensors(model)
    missing = sorted(set(needed) - set(tensors))
    if missing:
        raise UserError("HET-C005", f"{len(missing)} weights are not in the model, first '{missing[0]}'",
                        fix="report the model to hetcc")
    return BoundWeights(generated={name: to_numpy(tensors[name]) for name in sorted(needed)})


def _named_tensors(model: Any) -> dict[str, Any]:
    """Parameters and buffers by every name they have (tied weights under each of them)."""
    found = dict(model.named_parameters(remove_duplicate=False))
    found.update(model.named_buffers(remove_duplicate=False))
    return found


def to_numpy(tensor: Any) -> numpy.ndarray:
    """A torch tensor as a numpy array of the same bits (bfloat16 through ml_dtypes)."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        bits: numpy.ndarray = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: numpy.ndarray = tensor.numpy()
    return array


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file, without reading any weight.

    Raises:
        UserError: HET-C005, the file is no safetensors file.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length < 1 << 28:
                raise ValueError(f"header length {length}")
            header: dict[str, Any] = json.loads(stream.read(length))
    except (OSError, ValueError) as error:
        raise UserError("HET-C005", f"'{file.name}' is not a readable safetensors file: {error}", where=str(file),
                        fix="download or save the checkpoint again") from error
    header.pop("__metadata__", None)
    return header


def _bind_directory(directory: Path, source: HuggingFaceModel, needed: Mapping[str, Any]) -> BoundWeights:
    files = _weight_files(directory, source)
    located = {tensor: (file, entry) for file in files for tensor, entry in read_header(file).items()}
    base_prefix = f"{getattr(source.model_class, 'base_model_prefix', '')}."
    ties = _tied_names(source)
    references: dict[str, WeightReference] = {}
    absent: list[str] = []
    for name, tensor_type in needed.items():
        names = (name, ties.get(name, name), base_prefix + name, name.removeprefix(base_prefix))
        stored = next((candidate for candidate in names if candidate in located), None)
        if stored is None:
            absent.append(name)
            continue
        file, entry = located[stored]
        if tuple(entry["shape"]) != tensor_type.shape:
            raise UserError("HET-C005", f"'{stored}' has shape {entry['shape']}, the model wants {tensor_type.shape}",
                            where=str(file), fix="the overrides or the folder do not belong to this checkpoint")
        references[name] = WeightReference(str(file.resolve()), stored, tuple(entry["shape"]), entry["dtype"])
    constants = model_buffers(source)
    unknown = [name for name in absent if name not in constants]
    if unknown:
        return _bind_converted(directory, source, needed, constants, unknown)
    return BoundWeights(references, {}, {name: constants[name] for name in absent})


def _refuse_quantised(directory: Path, source: HuggingFaceModel) -> None:
    quantization = getattr(source.config, "quantization_config", None)
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else str(quantization)
        raise UserError("HET-C006", f"the checkpoint is quantised ({method})", where=str(directory / "config.json"),
                        fix="save a dequantised copy with transformers (model.dequantize(); save_pretrained)")


def _tied_names(source: HuggingFaceModel) -> dict[str, str]:
    import torch

    with torch.device("meta"):
        model = source.build()
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {**tied, **{target: name for name, target in tied.items()}}


def _bind_converted(
    directory: Path, source: HuggingFaceModel, needed: Mapping[str, Any], constants: Mapping[str, numpy.ndarray],
    unknown: list[str],
) -> BoundWeights:
    """Weights whose names or layout differ between checkpoint and module: loaded through transformers' converters.

    These are the only checkpoint bytes a bundle stores itself, because no file holds them in the layout they are used.
    """
    model = source.model_class.from_pretrained(
        str(directory), config=source.config, local_files_only=True, dtype=source.config.dtype,
        attn_implementation="eager", experts_implementation="batched_mm")
    tensors = _named_tensors(model)
    missing = [name for name in unknown if name not in tensors]
    if missing:
        raise UserError("HET-C005", f"{len(missing)} weights are not in the checkpoint, first '{missing[0]}'",
                        where=str(directory), fix="check that the folder holds the whole checkpoint")
    generated = {name: to_numpy(tensors[name]) for name in needed if name not in constants}
    return BoundWeights({}, generated, {name: constants[name] for name in needed if name in constants})


def model_buffers(source: HuggingFaceModel) -> dict[str, numpy.ndarray]:
    """Contents of the buffers that the model class computes itself (rotary frequencies, position tables).

    The model is built on the meta device, so that parameters cost no memory; only its buffers are given storage, and
    the model's own initialisation fills them.
    """
    import torch

    with torch.device("meta"):
        model = source.build()
    for module in model.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.zeros_like(buffer, device="cpu")
        if hasattr(module, "_is_hf_initialized"):
            del module._is_hf_initialized
    with torch.no_grad():
        model.initialize_weights()
    return {name: to_numpy(buffer) for name, buffer in model.named_buffers(remove_duplicate=False)}
