"""Loads the compiled kernels, or remembers why there are none.

``WSOLFAST_DISABLE_EXT=1`` leaves them out, so that every op is served by its PyTorch reference.
"""

import os
from pathlib import Path

import torch


def _load() -> str | None:
    """Load ``_C.so``; return None on success, otherwise one line that says why it is not there."""
    if os.environ.get("WSOLFAST_DISABLE_EXT", "0") not in ("", "0"):
        return "disabled by WSOLFAST_DISABLE_EXT"
    library = Path(__file__).with_name("_C.so")
    if not library.exists():
        return "not built (installed with WSOLFAST_EXT=0, or without a compiler)"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"does not load on torch {torch.__version__}: {error}"
    return None


MISSING_BECAUSE = _load()
