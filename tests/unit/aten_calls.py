"""One call or more of every aten operator that the GPU back end's table names, on small random data."""

from __future__ import annotations

from typing import Any

from tests.unit.aten_programs import AtenCall


def view_calls() -> list[AtenCall]:
    import torch

    x = torch.randn(2, 3, 4)
    return [
        ("view.default", (x, [6, -1])), ("_unsafe_view.default", (x, [3, 8])), ("reshape.default", (x, [4, 6])),
        ("expand.default", (torch.randn(2, 1, 4), [2, 3, 4])), ("expand.default", (torch.randn(4), [3, -1])),
        ("unsqueeze.default", (x, 1)), ("squeeze.default", (torch.randn(1, 3, 1),)),
        ("squeeze.dim", (torch.randn(1, 3), 0)), ("squeeze.dims", (torch.randn(1, 3, 1), [0, 2])),
        ("alias.default", (x,)), ("detach.default", (x,)), ("flatten.using_ints", (x, 1, 2)),
        ("permute.default", (x, [2, 0, 1])), ("transpose.int", (x, 0, 2)), ("t.default", (torch.randn(2, 3),)),
        ("slice.Tensor", (x, 2, 1, 9223372036854775807, 2)), ("slice.Tensor", (x, 1, -2)),
        ("select.int", (x, 1, -1)), ("split.Tensor", (x, 2, 2)), ("split_with_sizes.default", (x, [1, 3], -1)),
        ("unbind.int", (torch.randn(2, 3), 0)), ("lift_fresh_copy.default", (x,)),
    ]


def unary_calls() -> list[AtenCall]:
    import torch

    x, positive = torch.randn(3, 5), torch.rand(3, 5) + 0.1
    signs = torch.tensor([-1.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5])
    odd = torch.tensor([float("inf"), float("-inf"), float("nan"), 1.0])
    named = ["neg", "relu", "exp", "sigmoid", "tanh", "erf", "silu", "abs", "cos", "sin", "reciprocal", "softplus",
             "elu", "expm1", "hardtanh", "leaky_relu"]
    return [
        *((f"{name}.default", (x,)) for name in named),
        *((f"{name}.default", (positive,)) for name in ("log", "sqrt", "rsqrt", "log1p")),
        *((f"{name}.default", (signs,)) for name in ("floor", "ceil", "round", "sign", "logical_not")),
        *((f"{name}.default", (odd,)) for name in ("isinf", "isnan")),
        ("gelu.default", (x,)), ("bitwise_not.default", (torch.tensor([True, False]),)),
        ("_to_copy.default", (x,)), ("clone.default", (x,)), ("zeros_like.default", (x,)), ("ones_like.default", (x,)),
        ("full_like.default", (x, 2.5)), ("fill.Scalar", (x, 1.5)), ("empty_like.default", (x,)),
        ("new_zeros.default", (x, [2, 2])), ("new_empty.default", (x, [2, 2])),
    ]


def binary_calls() -> list[AtenCall]:
    import torch

    x, y = torch.randn(3, 4), torch.rand(3, 1) + 0.5
    i, j = torch.tensor([7, -7, 3, 0]), torch.tensor([2, 2, -2, 5])
    p, q = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    arithmetic = [(f"{name}.Tensor", (x, y)) for name in ("add", "sub", "rsub", "mul", "div", "remainder", "fmod")]
    compared = [(f"{name}.{overload}", (x.round(), other)) for name in ("le", "lt", "ge", "gt", "eq", "ne")
                for overload, other in (("Tensor", y.round()), ("Scalar", 0))]
    return [
        *arithmetic, *compared, ("add.Tensor", (i, 3)), ("mul.Tensor", (i, j)), ("sub.Tensor", (x, 1.0)),
        ("pow.Tensor_Scalar", (x, 2)), ("pow.Tensor_Tensor", (y, x)), ("pow.Scalar", (2.0, x)),
        ("minimum.default", (x, y)), ("maximum.default", (x, y)), ("max.other", (x, y)), ("min.other", (x, y)),
        ("floor_divide.default", (i, j)), ("remainder.Scalar", (i, 3)), ("where.self", (p, x[0], y[0])),
        ("masked_fill.Scalar", (x[0], p, -1.0)),
        ("clamp.default", (x, -0.5, 0.5)), ("clamp_min.default", (x, 0.1)), ("clamp_max.default", (x, 0.1)),
        *((f"logical_{name}.default", (p, q)) for name in ("and", "or", "xor")),
        *((f"bitwise_{name}.Tensor", (p, q)) for name in ("and", "or", "xor")),
        ("bitwise_and.Tensor", (i, j)), ("copy.default", (x, y)),
    ]


def reduction_calls() -> list[AtenCall]:
    import torch

    x = torch.randn(3, 5)
    tied = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    return [
        ("sum.dim_IntList", (x, [1])), ("sum.default", (x,)), ("mean.dim", (x, [-1], True)), ("mean.default", (x,)),
        ("amax.default", (x, [0])), ("amin.default", (x, [1], True)), ("any.default", (x > 2,)),
        ("any.dim", (x > 1, 1)),
        ("all.dim", (x > -1, 0)), ("all.default", (x > -9,)), ("argmax.default", (tied, 1)),
        ("argmin.default", (tied, 1)),
        ("max.default", (x,)), ("min.default", (x,)), ("max.dim", (tied, 1)), ("min.dim", (tied, 1, True)),
        ("prod.dim_int", (x, 1)), ("var.correction", (x, [1])), ("_softmax.default", (x, -1, False)),
        ("_softmax.default", (torch.full((1, 4), -3.4028234663852886e38), -1, False)),
        ("softmax.int", (x, 0)), ("_log_softmax.default", (x, 1, False)),
        ("native_layer_norm.default", (x, [5], torch.randn(5), torch.randn(5), 1e-5)),
        ("cumsum.default", (x, 1)), ("cumsum.default", (torch.tensor([[1, 0, 1, 1]]), 1)),
        ("histc.default", (torch.tensor([0.0, 1.0, 1.0, 3.0, 4.0, 9.0]), 5, 0, 4)),
    ]


def product_calls() -> list[AtenCall]:
    import torch

    a, b, v = torch.randn(3, 4), torch.randn(4, 5), torch.randn(4)
    batched, other = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 6, 8)
    return [
        ("mm.default", (a, b)), ("bmm.default", (batched, other)), ("addmm.default", (torch.randn(5), a, b)),
        ("addmm.default", (torch.randn(3, 5), a, b)), ("baddbmm.default", (torch.randn(2, 3, 5), batched, other)),
        ("matmul.default", (batched, b)), ("mv.default", (a, v)), ("dot.default", (v, torch.randn(4))),
        ("scaled_dot_product_attention.default", (q, k, torch.randn(1, 2, 6, 8))),
        ("convolution.default",
         (torch.randn(1, 2, 6), torch.randn(3, 2, 3), torch.randn(3), [1], [1], [1], False, [0], 1)),
    ]


def memory_calls() -> list[AtenCall]:
    import torch

    x, index = torch.randn(4, 6), torch.tensor([2, 0, 3])
    along = torch.tensor([[1, 0, 5], [2, 2, 2], [0, 1, 4], [5, 4, 3]])
    unique = torch.tensor([[1, 0, 5], [2, 1, 0], [0, 1, 4], [5, 4, 3]])
    cache = torch.randn(2, 3, 8, 4)
    return [
        ("embedding.default", (x, torch.tensor([[1, 3], [0, 0]]))), ("index_select.default", (x, 0, index)),
        ("gather.default", (x, 1, along)), ("index.Tensor", (x, [index])), ("index.Tensor", (x, [None, index])),
        ("index.Tensor", (x, [index, torch.tensor([5, 1, 2])])), ("index.Tensor", (cache, [None, None, index])),
        ("index_put.default", (x, [index], torch.randn(3, 6))),
        ("index_put.default", (cache, [None, None, torch.tensor([5, -1])], torch.randn(2, 3, 2, 4))),
        ("index_put.default", (x, [index, torch.tensor([5, 1, 2])], torch.randn(3))),
        ("index_copy.default", (cache, 2, torch.tensor([7, 1]), torch.randn(2, 3, 2, 4))),
        ("scatter.value", (x, 1, along, 9.0)),
        ("scatter.value", (torch.ones(4, 6, dtype=torch.bool), -1, along, False)),
        ("scatter.src", (x, 1, unique, torch.randn(4, 3))),
        ("scatter.src", (x, 0, torch.tensor([[3, 1]]), torch.randn(1, 2))),
        ("slice_scatter.default", (x, torch.randn(4, 2), 1, 2, 4)),
        ("select_scatter.default", (x, torch.randn(6), 0, 1)),
        ("cat.default", ([x, torch.randn(4, 2)], 1)), ("stack.default", ([x, x + 1], 0)),
        ("repeat.default", (x, [2, 1])), ("constant_pad_nd.default", (x, [1, 2], 0.5)),
    ]


def create_calls() -> list[AtenCall]:
    return [
        ("full.default", ([2, 3], 1.5)), ("full.default", ([], True)), ("arange.start_step", (1, 9, 2)),
        ("arange.default", (5,)), ("empty.memory_format", ([2, 2],)), ("zeros.default", ([3],)),
        ("ones.default", ([3],)),
        ("scalar_tensor.default", (-3.4028234663852886e38,)),
    ]


def short_calls() -> list[AtenCall]:
    """Calls on the narrow element types."""
    import torch

    calls: list[AtenCall] = []
    for dtype in (torch.float16, torch.bfloat16):
        a, b = torch.randn(3, 8).to(dtype), torch.randn(8, 4).to(dtype)
        calls += [("mm.default", (a, b)), ("_softmax.default", (a, -1, False)), ("add.Tensor", (a, 1.0)),
                  ("mul.Tensor", (a, a)), ("gelu.default", (a,)), ("mean.dim", (a, [1])), ("silu.default", (a,)),
                  ("index_put.default", (a, [torch.tensor([1])], torch.ones(1, 8, dtype=dtype)))]
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64):
        whole = torch.arange(8).to(dtype)
        calls += [("add.Tensor", (whole, whole)), ("index_select.default", (whole, 0, torch.tensor([3, 1])))]
    return calls


def selection_rows() -> dict[str, Any]:
    """Rows with all that makes a selection hard: ties, infinities, NaN, zeros of both signs, halves and integers."""
    import torch

    ties = torch.randint(-2, 3, (3, 40)).float()
    masked = torch.randn(3, 40)
    masked[0], masked[1, ::2], masked[2, 3] = float("-inf"), float("-inf"), float("nan")
    zeros = torch.tensor([[0.0, -0.0, 1.0, -1.0, -0.0, 0.0]])
    return {"random": torch.randn(2, 3, 40), "ties": ties, "masked": masked, "zeros": zeros, "half": ties.half(),
            "long": torch.randint(-2, 3, (2, 400)).float(), "integers": torch.randint(-3, 3, (3, 20))}


def selection_calls() -> list[AtenCall]:
    rows = selection_rows()
    calls: list[AtenCall] = [("topk.default", (tensor, 5)) for tensor in rows.values()]
    calls += [("topk.default", (rows["ties"], 40)), ("topk.default", (rows["masked"], 7, -1, False)),
              ("topk.default", (rows["ties"], 2, 0)), ("sort.default", (rows["ties"], -1, True)),
              ("topk.default", (rows["long"], 300, -1, False)), ("topk.default", (rows["masked"], 9)),
              ("sort.default", (rows["masked"],)),
              ("sort.stable", (rows["integers"],), {"stable": True, "dim": 0, "descending": True})]
    return calls


def all_calls() -> list[AtenCall]:
    import torch

    torch.manual_seed(0)
    groups = (view_calls, unary_calls, binary_calls, reduction_calls, product_calls, memory_calls, create_calls)
    return [call for group in groups for call in group()]
