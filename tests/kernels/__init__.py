"""A package: tests of kernels are named after their ops, as those in tests/ops are."""
