"""The GPU back end: regions through torch-mlir and IREE, emulated on the processor where there is no GPU."""
