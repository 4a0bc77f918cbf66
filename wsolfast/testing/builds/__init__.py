"""Which kernels are compiled ahead of time and at what shapes: ``BUILDS`` in one file per op."""
