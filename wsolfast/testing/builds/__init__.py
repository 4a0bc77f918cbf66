"""Kernels that are compiled ahead of time, and their shapes: ``BUILDS`` in one file per op."""
