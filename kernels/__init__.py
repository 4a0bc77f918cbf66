"""Triton kernels, one file per op; imported by :mod:`wsolfast.ops` at the first CUDA call and by nobody else."""
