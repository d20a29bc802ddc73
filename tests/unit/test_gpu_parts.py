"""Regions in parts: what kernels are found in programs, how the rest is cut, and that the parts compute the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import pytest

from hetcc.aten.simplify import tidy
from hetcc.backends.contract import EmittedRegion
from hetcc.backends.gpu import emit as emission
from hetcc.backends.gpu.emit import emit_many
from hetcc.backends.gpu.kernels.operations_attention import DecodeAttention, GatherAttention
from hetcc.backends.gpu.kernels.operations_selection import ScoreTopK, TopK
from hetcc.backends.gpu.memory import GpuMemory
from hetcc.backends.gpu.partition.matchers import matches_of
from hetcc.backends.gpu.partition.parts import KernelPart, ModulePart, split
from hetcc.backends.gpu.program import GpuProgram
from hetcc.backends.gpu.program_file import KernelCall, ModuleCall, ProgramFile
from hetcc.errors import UserError
from hetcc.ir import DType, Graph
from hetcc.passes.normalize.simplify import Simplify
from tests.unit.aten_programs import arrays_for, capture

torch = pytest.importorskip("torch")
pytest.importorskip("torch_mlir")
pytest.importorskip("iree.runtime")
pytest.importorskip("triton")

ENTRIES = 40


@dataclass(frozen=True)
class Case:
    """A program, its inputs, and the kernel that is to be found in it."""

    function: Callable[..., Any]
    examples: tuple[Any, ...]
    operation: type
    caches: tuple[int, ...] = ()
    roles: tuple[str, ...] = ()
    """Inputs that must be bound to arguments of the program themselves: nothing is copied for the kernel."""

    def graph(self) -> Graph:
        return simplified(self.function, self.examples, self.caches)


def simplified(function: Callable[..., Any], examples: tuple[Any, ...], caches: tuple[int, ...] = ()) -> Graph:
    """A program as regions are: without identities and needless copies."""
    return Simplify().run(tidy(capture(function, examples, caches)))


def grouped(query, keys, values, mask):
    """Grouped heads over a cache, repeated as Hugging Face repeats them."""
    batch, heads, entries, width = keys.shape
    repeated = keys[:, :, None].expand(batch, heads, 2, entries, width).reshape(batch, 2 * heads, entries, width)
    spread = values[:, :, None].expand(batch, heads, 2, entries, width).reshape(batch, 2 * heads, entries, width)
    weights = torch.softmax(query @ repeated.transpose(2, 3) * 0.25 + mask, -1, dtype=torch.float32)
    return (weights.to(query.dtype) @ spread).transpose(1, 2).reshape(batch, -1) * 2


def appended(query, row, position, keys, values):
    """Attention over caches that the step appends to."""
    keys.index_copy_(2, position, row)
    values.index_copy_(2, position, row + 1)
    return torch.softmax(query @ keys.transpose(2, 3) / 3.0, -1) @ values


def gathered(query, keys, values, chosen, mask):
    """Attention over chosen entries."""
    some = keys.index_select(2, chosen)
    return torch.softmax(query @ some.transpose(2, 3) + mask, -1) @ values.index_select(2, chosen)


def gathered_apart(query, keys, values, chosen):
    """Attention over entries that each sequence chose for itself, the same ones for all heads."""
    def some(memory):
        batch, heads, _, width = memory.shape
        return memory.gather(2, chosen[:, None, :, None].expand(batch, heads, chosen.shape[1], width))

    return torch.softmax(query @ some(keys).transpose(2, 3) * 0.3, -1) @ some(values)


def gathered_by_head(query, keys, values, chosen):
    """Attention over entries that each head of each sequence chose for itself."""
    wide = chosen[..., None].expand(*chosen.shape, keys.shape[-1])
    return torch.softmax(query @ keys.gather(2, wide).transpose(2, 3), -1) @ values.gather(2, wide)


def latent_apart(query, query_rope, latents, rope, chosen):
    """Latent attention over entries that each sequence chose for itself, heads merged with sequences in the softmax."""
    some = latents.gather(2, chosen[:, None, :, None].expand(-1, 1, -1, 16))[:, 0]
    position = rope.gather(2, chosen[:, None, :, None].expand(-1, 1, -1, 8))[:, 0]
    scores = query[:, :, 0] @ some.transpose(1, 2) + query_rope[:, :, 0] @ position.transpose(1, 2)
    weights = torch.softmax(scores.reshape(-1, 4, 1, chosen.shape[1]) * 0.2, -1)
    return weights.reshape(-1, 4, chosen.shape[1]) @ some


def latent(query, query_rope, latents, rope, chosen):
    """Attention over chosen latents that are keys and values, with a position part beside them."""
    some = latents[0].index_select(1, chosen)[0]
    scores = query.reshape(4, 16) @ some.transpose(0, 1)
    scores = scores + query_rope.reshape(4, 8) @ rope[0].index_select(1, chosen)[0].transpose(0, 1)
    weights = torch.softmax(scores.reshape(1, 4, 1, -1) * 0.2, -1)
    return weights.reshape(4, -1) @ some


def fused(query, keys, values, mask):
    """Torch's own attention, which torch.export spells out: the scale on both operands, zeros where nothing is seen."""
    return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3) * 2


def fused_causal(query, keys, values):
    """The same with fewer heads in the memory and a mask that it makes itself."""
    return torch.nn.functional.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)


def indexed(query, keys, weight, mask):
    """Weighted sum of rectified products, spelled as two products."""
    products = torch.relu(query @ keys.transpose(1, 2)[:, None] * 0.5)
    scores = (weight[:, :, None] @ products).squeeze(2) + mask
    return scores.topk(7)[1].int() * 2


def summed(query, keys, weight):
    """The same, spelled as a sum."""
    products = torch.relu(query @ keys.transpose(1, 2)[:, None])
    return ((products * weight[..., None]).sum(2) * 0.125).topk(5)


def flat(query, keys):
    """The best entries of a table by inner product."""
    return (query @ keys.transpose(0, 1)).topk(4)[1]


def _random(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _mask(*shape: int) -> Any:
    return torch.where(_random(*shape) > 1.0, torch.tensor(-torch.inf), torch.tensor(0.0))


CHOSEN = torch.tensor([[3, 39, 0, 3, 7], [0, 1, 2, 3, 4], [39, 38, 20, 11, 0]])

CASES = {
    "grouped": Case(grouped, (_random(2, 4, 1, 16), _random(2, 2, ENTRIES, 16), _random(2, 2, ENTRIES, 16),
                              _mask(2, 1, 1, ENTRIES)), DecodeAttention, roles=("query", "keys", "values", "mask")),
    "several queries": Case(grouped, (_random(1, 4, 3, 16), _random(1, 2, ENTRIES, 16), _random(1, 2, ENTRIES, 16),
                                      _mask(1, 1, 3, ENTRIES)), DecodeAttention, roles=("keys", "values")),
    "appended": Case(appended, (_random(1, 2, 1, 16), _random(1, 2, 1, 16), torch.tensor([3]),
                                _random(1, 2, ENTRIES, 16), _random(1, 2, ENTRIES, 16)), DecodeAttention, (3, 4)),
    "fused": Case(fused, (_random(2, 3, 2, 16), _random(2, 3, ENTRIES, 16), _random(2, 3, ENTRIES, 16),
                          torch.stack((_mask(1, 2, ENTRIES), torch.full((1, 2, ENTRIES), -torch.inf)))),
                  DecodeAttention, roles=("query", "keys", "values", "mask")),
    "fused causal": Case(fused_causal, (_random(1, 4, 6, 16), _random(1, 2, 6, 16), _random(1, 2, 6, 16)),
                         DecodeAttention, roles=("query", "keys", "values")),
    "gathered": Case(gathered, (_random(1, 2, 1, 16), _random(1, 2, ENTRIES, 16), _random(1, 2, ENTRIES, 16),
                                torch.tensor([3, 39, 0, 3]), torch.zeros(1, 1, 1, 4)), GatherAttention,
                     roles=("keys", "values", "indices")),
    "latent": Case(latent, (_random(1, 4, 1, 16), _random(1, 4, 1, 8), _random(1, 1, ENTRIES, 16),
                            _random(1, 1, ENTRIES, 8), torch.tensor([7, 0, 21, 39, 2])), GatherAttention,
                   roles=("query", "query_rope", "keys", "keys_rope", "indices")),
    "gathered apart": Case(gathered_apart, (_random(3, 2, 1, 16), _random(3, 2, ENTRIES, 16),
                                            _random(3, 2, ENTRIES, 16), CHOSEN), GatherAttention,
                           roles=("query", "keys", "values", "indices")),
    "gathered by head": Case(gathered_by_head, (_random(1, 3, 1, 16), _random(1, 3, ENTRIES, 16),
                                                _random(1, 3, ENTRIES, 16), CHOSEN[None]), GatherAttention,
                             roles=("query", "keys", "values", "indices")),
    "gathered by sequence and head": Case(gathered_by_head, (
        _random(3, 2, 1, 16), _random(3, 2, ENTRIES, 16), _random(3, 2, ENTRIES, 16),
        torch.stack((CHOSEN, CHOSEN.flip(0)), 1)), GatherAttention, roles=("query", "keys", "values", "indices")),
    "latent apart": Case(latent_apart, (_random(3, 4, 1, 16), _random(3, 4, 1, 8), _random(3, 1, ENTRIES, 16),
                                        _random(3, 1, ENTRIES, 8), CHOSEN), GatherAttention,
                         roles=("query", "query_rope", "keys", "keys_rope", "indices")),
    "indexed": Case(indexed, (_random(2, 1, 4, 16), _random(2, ENTRIES, 16), _random(2, 1, 4), _mask(2, 1, ENTRIES)),
                    ScoreTopK, roles=("query", "key", "weight", "mask")),
    "indexed queries": Case(indexed, (_random(1, 3, 4, 16), _random(1, ENTRIES, 16), _random(1, 3, 4),
                                      _mask(1, 1, ENTRIES)), ScoreTopK, roles=("query", "key", "weight", "mask")),
    "summed": Case(summed, (_random(1, 2, 4, 16), _random(1, ENTRIES, 16), _random(1, 2, 4)), ScoreTopK,
                   roles=("query", "key", "weight")),
    "flat": Case(flat, (_random(3, 16), _random(ENTRIES, 16)), ScoreTopK, roles=("query", "key")),
    "alone": Case(lambda scores: torch.relu(scores).topk(6), (_random(2, 3, ENTRIES),), TopK),
}


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    return {name: case.graph() for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_found(name: str, graphs: dict[str, Graph]) -> None:
    match, = matches_of(graphs[name], minimum_entries=2)
    case = CASES[name]
    assert type(match.operation) is case.operation
    bound = dict(match.inputs)
    for role in case.roles:
        assert bound[role].startswith(("x", "cache")), f"{role} is {bound[role]}, not an argument"
    sizes = {role: kind.elements for role, kind in (*match.operation.inputs, *match.operation.outputs)}
    for role, value in (*match.inputs, *match.outputs):
        assert graphs[name].type_of(value).elements == sizes[role], role


def _sink(scores, values):
    return torch.softmax(torch.cat((scores @ values.transpose(0, 1), scores[:, :1]), -1), -1)[:, :-1] @ values


def test_indices_that_may_count_from_the_end_are_gathered_before() -> None:
    """``memory[:, :, [-1]]`` is the last entry, to the kernel it is none; what a top-k gives is never negative."""
    def indexed_by(query, keys, chosen):
        return torch.softmax(query @ keys[:, :, chosen].transpose(2, 3), -1) @ keys[:, :, chosen]

    def of_topk(query, keys, scores):
        return indexed_by(query, keys, scores.topk(4)[1])

    examples = _random(1, 2, 1, 16), _random(1, 2, ENTRIES, 16)
    match, = matches_of(simplified(indexed_by, (*examples, torch.tensor([3, -1, 0, -ENTRIES]))), minimum_entries=2)
    assert isinstance(match.operation, DecodeAttention)
    found = matches_of(simplified(of_topk, (*examples, _random(ENTRIES))), minimum_entries=2)
    assert [type(one.operation) for one in found] == [TopK, GatherAttention]


def test_attention_in_single_precision_between_casts_reads_what_was_cast() -> None:
    """Torch widens half precision before its attention and narrows the result; the kernel reads and writes halves."""
    halves = [tensor.bfloat16() for tensor in (_random(1, 4, 1, 16), _random(1, 2, ENTRIES, 16),
                                               _random(1, 2, ENTRIES, 16))]
    graph = simplified(lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True),
                       tuple(halves))
    match, = matches_of(graph, minimum_entries=2)
    assert dict(match.inputs) == {"query": "x0", "keys": "x1", "values": "x2"}
    assert isinstance(match.operation, DecodeAttention)
    assert match.operation.sizes.dtype is DType.BFLOAT16
    assert graph.type_of(dict(match.outputs)["output"]).dtype is DType.BFLOAT16
    assert match.operation.options.scale == pytest.approx(0.25)


UNSEEN_ROWS = {
    "another number": lambda s, w: torch.where((s == -torch.inf).all(-1, keepdim=True), 1.0, w),
    "another test": lambda s, w: torch.where((s == 0.0).all(-1, keepdim=True), 0.0, w),
    "another direction": lambda s, w: torch.where((s == -torch.inf).all(-2, keepdim=True), 0.0, w),
    "other scores": lambda s, w: torch.where((s * 2 == -torch.inf).all(-1, keepdim=True), 0.0, w),
    "any entry": lambda s, w: torch.where((s == -torch.inf).any(-1, keepdim=True), 0.0, w),
}


@pytest.mark.parametrize("name", UNSEEN_ROWS)
def test_other_treatments_of_rows_that_see_nothing_are_left_alone(name: str) -> None:
    def function(query: Any, keys: Any, mask: Any) -> Any:
        scores = query @ keys.transpose(1, 2) + mask
        return UNSEEN_ROWS[name](scores, torch.softmax(scores, -1)) @ keys

    graph = simplified(function, (_random(1, 2, 16), _random(1, ENTRIES, 16), _mask(1, 2, ENTRIES)))
    assert not matches_of(graph, minimum_entries=2)


NOT_GATHERED = {
    "fewer heads than the memory has": lambda q, k, i: torch.softmax(
        q @ k.gather(2, i[:, None, :, None].expand(-1, 2, -1, 16)).transpose(2, 3), -1) @ k.gather(
            2, i[:, None, :, None].expand(-1, 2, -1, 16)),
    "other entries for each channel": lambda q, k, i: torch.softmax(
        q @ k[:, :2].gather(2, i[:, None, :, None] + torch.arange(16) % 2).transpose(2, 3), -1) @ k[:, :2].gather(
            2, i[:, None, :, None] + torch.arange(16) % 2),
    "other entries for the values": lambda q, k, i: torch.softmax(
        q @ k.gather(2, i[:, None, :, None].expand(-1, 4, -1, 16))[:, :2].transpose(2, 3), -1) @ k[:, :2].gather(
            2, (i + 1)[:, None, :, None].expand(-1, 2, -1, 16)),
}


@pytest.mark.parametrize("name", NOT_GATHERED)
def test_a_gather_the_kernel_cannot_do_is_done_before(name: str) -> None:
    def function(q: Any, k: Any, i: Any) -> Any:
        heads = q.shape[1]
        shape = NOT_GATHERED[name](q, k, i)
        return shape.reshape(-1, heads, 16)

    graph = simplified(function, (_random(3, 2, 1, 16), _random(3, 4, ENTRIES, 16), CHOSEN.clamp(0, ENTRIES - 2)))
    assert not any(isinstance(match.operation, GatherAttention) for match in matches_of(graph, minimum_entries=2))


NOT_ATTENTION = {
    "a sink joins the softmax": (_sink, (_random(2, 16), _random(ENTRIES, 16))),
    "scores are used again": (lambda q, k: ((s := torch.softmax(q @ k.transpose(1, 2), -1)) @ k, s),
                              (_random(1, 2, 16), _random(1, ENTRIES, 16))),
    "the mask is scaled too": (lambda q, k, m: torch.softmax((q @ k.transpose(1, 2) + m) * 2.0, -1) @ k,
                               (_random(1, 2, 16), _random(1, ENTRIES, 16), _random(1, 1, ENTRIES))),
    "softmax over queries": (lambda q, k: torch.softmax(q @ k.transpose(1, 2), 1) @ k,
                             (_random(1, 2, 16), _random(1, ENTRIES, 16))),
    "float64": (lambda q, k: torch.softmax(q @ k.transpose(1, 2), -1) @ k,
                (_random(1, 2, 16).double(), _random(1, ENTRIES, 16).double())),
    "keys in another order": (lambda q, k: torch.softmax(q @ k.transpose(1, 2), -1) @ k.flip(1),
                              (_random(1, 2, 16), _random(1, ENTRIES, 16))),
}


@pytest.mark.parametrize("name", NOT_ATTENTION)
def test_what_is_no_attention_is_left_alone(name: str) -> None:
    function, examples = NOT_ATTENTION[name]
    found = matches_of(simplified(function, examples), minimum_entries=2)
    if name == "keys in another order":  # attention all the same: the flipped keys are written out as values
        assert [dict(match.inputs)["keys"] for match in found] == ["x1"]
        assert [dict(match.inputs)["values"] for match in found] != ["x1"]
    else:
        assert not found


def test_short_rows_are_left_to_the_compiler(graphs: dict[str, Graph]) -> None:
    assert not any(matches_of(graph) for graph in graphs.values())


def test_scores_that_are_used_again_are_not_taken() -> None:
    graph = simplified(lambda q, k: ((s := q @ k.transpose(0, 1)).topk(4), s.sum()),
                       (_random(3, 16), _random(ENTRIES, 16)))
    match, = matches_of(graph, minimum_entries=2)
    assert isinstance(match.operation, TopK)


def test_parts_cover_every_operator_once(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        parts = split(graph, matches_of(graph, minimum_entries=2))
        assert parts is not None
        covered = [name for part in parts for name in part.nodes]
        assert len(covered) == len(set(covered))
        kernels = {name for part in parts if isinstance(part, KernelPart) for name in part.nodes}
        modules = {node.name for part in parts if isinstance(part, ModulePart) for node in part.program.nodes}
        assert kernels | modules >= {node.name for node in graph.nodes if node.operator_class.value != "view"}


def test_a_cache_is_not_read_after_its_update() -> None:
    """The kernel reads the cache as it was; the part behind it may be where it is overwritten, not the one before."""
    def late(query, row, position, keys):
        out = torch.softmax(query @ keys.transpose(1, 2), -1) @ keys
        keys.index_copy_(1, position, row)
        return out + keys.sum(1, keepdim=True)

    graph = simplified(late, (_random(1, 1, 16), _random(1, 1, 16), torch.tensor([3]), _random(1, ENTRIES, 16)), (3,))
    matches = matches_of(graph, minimum_entries=2)
    assert matches
    assert split(graph, matches) is None
    whole, = split(graph, ()) or ()
    assert isinstance(whole, ModulePart)


@pytest.fixture(scope="module")
def emitted(graphs: dict[str, Graph]) -> dict[str, EmittedRegion]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emission, "matches_of", lambda region: matches_of(region, minimum_entries=2))
        results = emit_many(graphs, ("interpreter",), jobs=2)
    assert all(isinstance(result, EmittedRegion) for result in results.values()), results
    return {name: result for name, result in results.items() if isinstance(result, EmittedRegion)}


@pytest.mark.parametrize("name", CASES)
def test_parts_compute_what_the_program_does(name: str, graphs: dict[str, Graph],
                                             emitted: dict[str, EmittedRegion]) -> None:
    case, graph = CASES[name], graphs[name]
    program = GpuProgram(graph, emitted[name].files, emitted[name].entry, GpuMemory("local-sync"))
    assert "triton interpreter" in program.engine
    assert "emulated" in program.engine
    arrays = arrays_for(graph, case.examples)
    exact = [example.clone().double() if example.is_floating_point() else example.clone() for example in case.examples]
    wanted = case.function(*exact)
    results = program.run(arrays)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for output, expected in zip(graph.outputs, (part for one in wanted for part in _parts(one)), strict=True):
        numpy.testing.assert_allclose(results[output], expected.numpy(), rtol=2e-5, atol=2e-5)
    for position in case.caches:
        numpy.testing.assert_allclose(program.memory.fetch(f"cache{position}"), exact[position].numpy(), rtol=1e-6)


def _parts(result: Any) -> tuple[Any, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def test_a_program_file_comes_back(emitted: dict[str, EmittedRegion]) -> None:
    for region in emitted.values():
        data = region.files[region.entry]
        program = ProgramFile.from_bytes(data, "here")
        assert program.to_bytes() == data
        assert any(isinstance(call, KernelCall) for call in program.calls)
        assert all(call.file in region.files for call in program.calls if isinstance(call, ModuleCall))


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version": 9}', b"[1]", b'{"version": 1, "target": "x"}'])
def test_a_damaged_program_file(data: bytes) -> None:
    with pytest.raises(UserError) as refused:
        ProgramFile.from_bytes(data, "gpu/x.json")
    assert refused.value.code == "HET-B003"
    assert refused.value.where == "gpu/x.json"


def test_a_program_for_a_real_gpu_is_not_run_here(graphs: dict[str, Graph]) -> None:
    files = {"x.gfx90a.json": ProgramFile("gfx90a", ()).to_bytes()}
    with pytest.raises(UserError, match="not emulated"):
        GpuProgram(graphs["flat"], files, "x.gfx90a.json", GpuMemory("local-sync"))
