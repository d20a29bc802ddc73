"""Planning a bundle again: its graphs are captured, normalised and tagged already, so torch is not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hetcc.capture.model import CapturedModel, CaptureRequest, WeightReference
from hetcc.errors import UserError
from hetcc.ir import TaggedGraph
from hetcc.ir.serialize import tagged_from_bytes
from hetcc.passes.normalize import Rewrite
from hetcc.plan.bundle import MANIFEST, PLAN_FILE, BundleFiles
from hetcc.plan.plan import plan_from_bytes
from hetcc.plan.tensors import TensorFile
from hetcc.report.repro import request_from_bytes


@dataclass(frozen=True)
class Reopened:
    """What a bundle still knows of its model."""

    captured: CapturedModel
    tagged: Mapping[str, TaggedGraph]
    """By phase."""
    rewrites: Mapping[str, tuple[Rewrite, ...]]
    without_rewrites: tuple[str, ...] = ()
    """Rewriting passes that were left out."""


def bundle_named(model: str) -> Path | None:
    """The folder ``model`` names, if that is a bundle."""
    folder = Path(model).expanduser()
    return folder if (folder / MANIFEST).is_file() else None


def reopen(folder: Path, asked: CaptureRequest, without_rewrites: tuple[str, ...] = ()) -> Reopened:
    """Read a bundle's model back.

    Args:
        folder: the bundle.
        asked: the request that named it; only its ``model`` may be set, the bundle has fixed everything else.
        without_rewrites: must be empty; the bundle has fixed that too.

    Raises:
        UserError: HET-U001, the request asks for other sizes or rewrites; HET-B003, the bundle is damaged.
    """
    if without_rewrites or asked != CaptureRequest(asked.model):
        raise UserError("HET-U001", "a bundle's phases, sizes, overrides, weights and rewrites are fixed",
                        where=str(folder),
                        fix="leave those options out, or compile the model itself with them")
    files = BundleFiles(folder)
    plan = plan_from_bytes(files.read(PLAN_FILE), str(folder))
    names = [phase.phase for phase in plan.phases]
    tagged = {name: tagged_from_bytes(files.read(f"graphs/{name}.json")) for name in names}
    rewrites = {name: tuple(Rewrite(entry["node"], entry["applied"], entry["reason"], entry.get("rule", ""))
                            for entry in json.loads(files.read(f"reports/{name}.explain.json"))["rewrites"])
                for name in names}
    own = {path.removesuffix(".safetensors"): TensorFile(files.folder / path) for path in files.paths
           if path in ("weights.safetensors", "constants.safetensors")}
    inside = {kind: {name: file.read(name) for name in file.names()} for kind, file in own.items()}
    references = {name: WeightReference(**{**entry, "shape": tuple(entry["shape"])})
                  for name, entry in json.loads(files.read("weights.json")).items()
                  if not entry["file"].startswith("./")}
    document = json.loads(files.read("request.json"))
    request = request_from_bytes(files.read("request.json"))
    captured = CapturedModel(
        request, {name: one.graph for name, one in tagged.items()}, inside.get("constants", {}), references,
        inside.get("weights", {}), document["description"])
    return Reopened(captured, tagged, rewrites, tuple(document.get("without_rewrites", ())))
