"""Cutting a region into what Triton kernels compute and what the general compiler does."""
