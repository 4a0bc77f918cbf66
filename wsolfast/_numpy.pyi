# The compiled box engine for NumPy arrays: csrc/numpy_bindings.cpp says what it has.
from typing import Any

def __getattr__(name: str) -> Any: ...
