"""Benchmarks of ``wsolfast bench``, each timed after its results were found right; installed as ``wsolfast.bench``."""
