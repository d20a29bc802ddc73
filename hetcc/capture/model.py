"""What capture is asked for and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import numpy

from hetcc.errors import UserError
from hetcc.ir import DType, Graph
from hetcc.ir.subgraph import weights_of


class Phase(Enum):
    """Which step of a model is captured."""

    PREFILL = "prefill"
    """Several tokens at once into caches that may be empty."""
    DECODE = "decode"
    """One token after the caches have been filled."""
    ENCODE = "encode"
    """A whole sequence through a model without caches."""


def _exists(path: str) -> bool:
    return bool(path) and Path(path).expanduser().exists()


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """Everything the user said about the model; equal requests give equal graphs."""

    model: str
    """Transformers model type, hub id, local directory, ``path.py:factory``, ``.pt2`` or ``.onnx`` file."""
    phases: tuple[Phase, ...] = ()
    """Empty: decode for decoders, encode for encoders."""
    batch: int = 1
    context: int = 1024
    """Entries each cache holds; for encoders the sequence length (tokens)."""
    prompt: int = 0
    """Tokens of one prefill step; 0 means ``min(context, 128)``."""
    dtype: DType = DType.FLOAT32
    overrides: tuple[tuple[str, str], ...] = ()
    """``--set key=value`` pairs, in the order given."""
    weights: str = ""
    """Empty (configuration only), ``random:SEED``, ``checkpoint`` or a directory with safetensors files."""

    def __post_init__(self) -> None:
        for name, limit in (("batch", 1), ("context", 1), ("prompt", 0)):
            value = getattr(self, name)
            if value < limit:
                raise UserError("HET-C003", f"--{name} is {value}; it must be at least {limit}",
                                fix=f"give --{name} a positive number")
        if self.prompt > self.context:
            raise UserError("HET-C003", f"--prompt is {self.prompt}, more than the {self.context} entries of the cache",
                            fix="raise --context or lower --prompt")

    def located(self) -> CaptureRequest:
        """The same request with files and folders by absolute path, so that it means the same from everywhere."""
        path, colon, factory = self.model.partition(".py:")
        file = f"{path}.py" if colon else self.model
        model = f"{Path(file).expanduser().absolute()}{':' * bool(colon)}{factory}" if _exists(file) else self.model
        weights = str(Path(self.weights).expanduser().absolute()) if _exists(self.weights) else self.weights
        return replace(self, model=model, weights=weights)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of one prefill step."""
        return self.prompt or min(self.context, 128)


@dataclass(frozen=True, slots=True)
class WeightReference:
    """Where the bytes of one weight lie; hetcc never copies a checkpoint."""

    file: str
    """Absolute path, or a path relative to the bundle when it starts with ``./``."""
    tensor: str
    """Name inside the file."""
    shape: tuple[int, ...]
    dtype: str
    """Element type in the file (safetensors spelling there, hetcc's own otherwise); converted on load."""
    format: str = "safetensors"
    """``safetensors``, ``raw`` (dense numbers from ``offset`` on) or ``onnx`` (an initialiser inside a model file)."""
    offset: int = 0
    """First byte of a ``raw`` tensor."""


@dataclass(frozen=True)
class CapturedModel:
    """Graphs of all phases of a model, and where its weights are."""

    request: CaptureRequest
    graphs: Mapping[str, Graph]
    """Graph by phase name."""
    constants: Mapping[str, numpy.ndarray] = field(default_factory=dict)
    """Contents of buffers and constants that no checkpoint holds (rotary frequencies and the like)."""
    weights: Mapping[str, WeightReference] = field(default_factory=dict)
    """Where each weight lies; empty when only the configuration was given."""
    generated: Mapping[str, numpy.ndarray] = field(default_factory=dict)
    """Weights made by ``random:SEED``, which the bundle stores itself."""
    description: Mapping[str, str] = field(default_factory=dict)
    """Facts for people and for reproducing: model class, library versions."""

    def __post_init__(self) -> None:
        for name in ("graphs", "constants", "weights", "generated", "description"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def has_weights(self) -> bool:
        """Whether the model can be run, not only planned: the contents of everything its graphs read are known."""
        known = self.weights.keys() | self.generated.keys() | self.constants.keys()
        return all(known.issuperset(weights_of(graph)) for graph in self.graphs.values())


def source_file(model: str, suffix: str) -> Path | None:
    """The existing file named by ``model`` if it has the ending ``suffix``.

    Raises:
        UserError: HET-C001, it has the ending but does not exist.
    """
    if not model.endswith(suffix):
        return None
    path = Path(model).expanduser()
    if not path.is_file():
        raise UserError("HET-C001", f"there is no file '{model}'", fix="check the path")
    return path.resolve()
