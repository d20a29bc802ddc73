"""Built-in synthetic workloads: the memory processing of one published method each, without the model around it.

Every workload is one decode step as a module with caches, captured like any other program; its sizes are settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from hetcc.capture.model import CaptureRequest
from hetcc.errors import UserError
from hetcc.ir import Graph

PREFIX = "workload:"


@dataclass(frozen=True)
class Workload:
    """What ``--list`` says about a workload."""

    what: str
    settings: tuple[tuple[str, int], ...]
    """Settings with their default values, beside batch and context."""
    source: str


WORKLOADS: Mapping[str, Workload] = MappingProxyType({
    "sparse-indexer": Workload(
        "several small heads score every key, ReLU, weighted sum, top-k entries, attention over those",
        (("heads", 64), ("width", 128), ("selected", 2048), ("attention_heads", 128), ("latent", 576)),
        "DeepSeek sparse attention as in DeepSeek-V3.2-Exp: 64 heads of 128, top-k 2048, latents of 512 + 64"),
    "pooled-blocks": Workload(
        "a gate scores one pooled key per block and group, top-k blocks, attention over their tokens",
        (("groups", 8), ("heads_per_group", 4), ("width", 128), ("block", 64), ("selected", 64)),
        "SeerAttention-R on Qwen3-8B: block 64, budget 4096 tokens, gate width 128"),
    "page-bounds": Workload(
        "per page the largest product with its key bounds, top-k pages, attention over their tokens",
        (("groups", 8), ("heads_per_group", 4), ("width", 128), ("block", 16), ("selected", 256)),
        "bounds per page as in LServe and Quest: minimum and maximum of the keys of 16 tokens, budget 4096 tokens"),
    "flat-inner-product": Workload(
        "one query against every document embedding, top-k documents",
        (("width", 768), ("selected", 64)),
        "first stage of retrieval with a flat index; context is the number of documents"),
    "forward-index": Workload(
        "BM25 over a forward index: gather the weight of every entry of every document, sum, top-k",
        (("entries", 128), ("vocabulary", 65536), ("selected", 64)),
        "kernel of the artefact of arXiv 2603.29002: 128 entries per document, 65,536 words; context is documents"),
    "memory-attention": Workload(
        "cross attention from a segment summary to all memory embeddings",
        (("width", 4096),),
        "memory recall of HMT: projections of width 4096, softmax over the memory embeddings"),
})


def check_workload(request: CaptureRequest) -> None:
    """Refuse what no workload can be.

    Raises:
        UserError: HET-C001 for an unknown workload, HET-C002 for a setting it does not have.
    """
    name = request.model[len(PREFIX):]
    if name not in WORKLOADS:
        raise UserError("HET-C001", f"there is no workload '{name}'", where=request.model,
                        fix=f"use one of {', '.join(WORKLOADS)}")
    known = dict(WORKLOADS[name].settings)
    for key, text in request.overrides:
        if key not in known or not text.isdigit() or int(text) < 1:
            raise UserError("HET-C002", f"workload '{name}' cannot have {key}={text}", where=request.model,
                            fix="settings are whole numbers: " + ", ".join(known))


def capture_workload(request: CaptureRequest) -> tuple[str, Graph]:
    """Phase and graph of a workload at the request's batch and context; no tensor is filled, however large.

    Raises:
        UserError: HET-C001, HET-C002.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from hetcc.capture.program import TorchProgram, graph_of
    from hetcc.workloads import factories

    check_workload(request)
    make = getattr(factories, request.model[len(PREFIX):].replace("-", "_"))
    settings = {key: int(text) for key, text in request.overrides}
    with FakeTensorMode():
        module, inputs, caches = make(request.batch, request.context, request.dtype.value, **settings)
        program = TorchProgram(module.eval().requires_grad_(False), inputs, caches)
        graph = graph_of(program, request)
    phase = "decode" if graph.caches else "encode"
    return phase, replace(graph, name=f"{request.model}:{phase}")
