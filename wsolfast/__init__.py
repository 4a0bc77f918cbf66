"""Fast, exact, complete weakly supervised object localization (WSOL) in PyTorch."""

from importlib.metadata import version

from wsolfast import ops
from wsolfast.ops import backends

__version__ = version("wsolfast")
__all__ = ["__version__", "backends", "ops"]
