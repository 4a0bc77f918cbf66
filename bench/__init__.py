"""What ``wsolfast bench`` times, each thing after its results were found right; installed as ``wsolfast.bench``."""
