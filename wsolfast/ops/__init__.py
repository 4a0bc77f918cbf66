"""Public ops. Each is one file: the function, its checks, its fake kernel, its gradient, one ``define_op`` call."""

from wsolfast.ops._registry import backends, extension_status
from wsolfast.ops.min_max_normalize import min_max_normalize

__all__ = ["backends", "extension_status", "min_max_normalize"]
