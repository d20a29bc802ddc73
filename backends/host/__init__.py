"""The host back end: what nobody else takes, run by torch or onnxruntime and counted."""
