"""Op cases and tolerances shared by tests/ and bench/. Cases and a call of an op stand in ``cases/<op>.py``."""

import importlib
import pkgutil
from typing import Any

from wsolfast.testing import cases
from wsolfast.testing._tools import (
    CUDA_TOLERANCES,
    TOLERANCES,
    LargestTensor,
    OpCase,
    assert_close,
    seeded,
    tolerance_on,
    with_gradients,
)

__all__ = [
    "CUDA_TOLERANCES",
    "OP_CALLS",
    "OP_CASES",
    "TOLERANCES",
    "LargestTensor",
    "OpCase",
    "assert_close",
    "seeded",
    "tolerance_on",
    "with_gradients",
]

_FILES = {
    module.name: importlib.import_module(f"{cases.__name__}.{module.name}")
    for module in pkgutil.iter_modules(cases.__path__)
    if not module.name.startswith("_")
}
OP_CASES: dict[str, list[OpCase]] = {op: file.CASES for op, file in _FILES.items()}
OP_CALLS: dict[str, dict[str, Any]] = {op: file.CALL for op, file in _FILES.items()}
