"""Captured graphs kept on disk, so that the same model at the same sizes is not traced again.

Tracing runs the code of transformers and torch, so an entry is used only where that code is the same: its key holds the
request, the configuration files, the text of hetcc's own capture, the installed packages and what of the environment
they look at; the entry itself lists every file of transformers that had been loaded, with its digest. A process that
had torch or transformers loaded before may have changed them in memory; nothing is read or kept there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetcc.capture.model import CaptureRequest
from hetcc.errors import UserError
from hetcc.ir import Graph
from hetcc.ir.serialize import graph_from_document, graph_to_document, reading
from hetcc.store import Store, key_of, text_digest

_OWN_FOLDERS = ("aten", "capture", "ir")
_VARIABLES = ("CUDA_VISIBLE", "HIP_VISIBLE", "ROCR_VISIBLE", "PYTORCH", "TORCH", "TRANSFORMERS", "USE_")
"""Beginnings of the names of environment variables that torch and transformers choose code by."""
_CARDS = ("/dev/kfd", "/dev/nvidiactl")
_CONFIGURATION_FILES = ("config*.json", "generation_config.json", "adapter_config.json", "*.py")


@dataclass(frozen=True)
class Remembered:
    """The graphs of a model by phase, and the facts about it."""

    graphs: Mapping[str, Graph]
    description: Mapping[str, str]


class CaptureMemory:
    """What is kept of one request; ``usable`` says whether it may be relied on.

    Args:
        request: what is captured; where its weights are does not matter.
        store: where it is kept; None: nowhere.
        part: what of the model is kept; parts have entries of their own.
        around: what ``surroundings`` said before torch and transformers were imported; by default they have not been.
    """

    def __init__(self, request: CaptureRequest, store: Store | None, part: str = "capture",
                 around: Sequence[Any] | None = None) -> None:
        self.store = store
        self.key = ""
        around = around or surroundings()
        if store is not None and around:
            configuration = _configuration(request.model)
            if configuration is not None:
                self.key = key_of(part, _request(request), configuration, list(around))

    @property
    def usable(self) -> bool:
        """Whether anything is read or kept."""
        return bool(self.key)

    def read(self) -> Remembered | None:
        """What was kept, if it was made by the code that is installed now."""
        document = self.store.get_document(self.key) if self.store is not None and self.key else None
        if document is None:
            return None
        try:
            files = dict(reading(lambda: document["files"]))
            if _digests(files) != files:
                return None
            graphs = reading(lambda: {phase: graph_from_document(each) for phase, each in document["graphs"].items()})
            return Remembered(graphs, dict(document["description"]))
        except UserError:
            return None

    def write(self, graphs: Mapping[str, Graph], description: Mapping[str, str]) -> None:
        """Keep the graphs just captured."""
        if self.store is not None and self.key:
            self.store.put_document(self.key, {
                "files": _digests(_loaded_files()), "description": dict(description),
                "graphs": {phase: graph_to_document(graph, provenance=True) for phase, graph in graphs.items()}})


def _nothing_loaded() -> bool:
    """Whether this process has no code of torch or transformers in memory that somebody may have changed."""
    return sys.modules.keys().isdisjoint(("torch", "transformers"))


def _request(request: CaptureRequest) -> list[Any]:
    """All of a request but where the weights are: they are bound afterwards."""
    return [request.model, [phase.value for phase in request.phases], request.batch, request.context, request.prompt,
            request.dtype.value, [list(pair) for pair in request.overrides]]


def _configuration(model: str) -> list[list[str]] | None:
    """Names and digests of the files that configure a model; None when they are not at hand.

    A model type has none: its defaults are code of transformers.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if "/" not in model:
            return []
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(model, "config.json")
        except HFValidationError:
            return None
        if not isinstance(found, str):
            return None
        folder = Path(found).parent
    files = {file for pattern in _CONFIGURATION_FILES for file in folder.glob(pattern) if file.is_file()}
    return [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in sorted(files)]


def surroundings() -> list[Any]:
    """Everything beside the request that may change what a trace sees; empty once that cannot be said any more.

    Ask before torch or transformers are imported: they change the environment, and others may change them in memory.
    """
    if not _nothing_loaded():
        return []
    packages = sorted({entry.name for folder in sys.path if Path(folder).is_dir() for entry in Path(folder).iterdir()
                       if entry.suffix in (".dist-info", ".egg-info") and not entry.name.startswith("hetcc")})
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(_VARIABLES))
    cards = [card for card in _CARDS if Path(card).exists()]
    return [text_digest(*_OWN_FOLDERS), platform.python_version(), platform.machine(), packages, variables, cards]


def _folder() -> Path | None:
    """Where transformers lies; it is not imported."""
    found = importlib.util.find_spec("transformers")
    return Path(found.origin).parent if found is not None and found.origin else None


def _loaded_files() -> list[str]:
    """Files of transformers that are loaded, relative to its folder."""
    folder = _folder()
    files = (getattr(module, "__file__", None) for name, module in list(sys.modules.items())
             if name.partition(".")[0] == "transformers")
    return sorted({Path(file).relative_to(folder).as_posix() for file in files
                   if file and folder is not None and Path(file).is_relative_to(folder)})


def _digests(files: Any) -> dict[str, str]:
    """Digest of each of the files as it is now; a missing one has none."""
    folder = _folder()
    if folder is None:
        return {}
    return {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files
            if (folder / file).is_file()}


__all__ = ["CaptureMemory", "Remembered", "surroundings"]
