"""The FPGA back end: regions that scan a resident table become streaming kernels composed from a stage library."""
