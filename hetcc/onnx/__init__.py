"""ONNX: files into the Graph, and regions of the Graph back into ONNX programs."""

from hetcc.onnx.load import LoadedOnnx, load_graph
from hetcc.onnx.rebuild import to_model
from hetcc.onnx.reference import evaluate_region, run_reference
from hetcc.onnx.weights import WeightLocation, read_weight

__all__ = [
    "LoadedOnnx", "WeightLocation", "evaluate_region", "load_graph", "read_weight", "run_reference", "to_model",
]
