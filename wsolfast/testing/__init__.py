"""Op cases and tolerances shared by tests/ and bench/. The cases of an op stand in ``cases/<op>.py``."""

import importlib
import pkgutil

from wsolfast.testing import cases
from wsolfast.testing._tools import TOLERANCES, LargestTensor, OpCase, assert_close, seeded, with_gradients

__all__ = ["OP_CASES", "TOLERANCES", "LargestTensor", "OpCase", "assert_close", "seeded", "with_gradients"]

OP_CASES: dict[str, list[OpCase]] = {
    module.name: importlib.import_module(f"{cases.__name__}.{module.name}").CASES
    for module in pkgutil.iter_modules(cases.__path__)
    if not module.name.startswith("_")
}
