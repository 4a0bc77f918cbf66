"""Stochastic depth (Huang et al., ECCV 2016) of torchvision's networks; timm builds its own with a rate."""

from torch import nn

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import BackboneError


def set_drop_path(net: nn.Module, rate: float) -> None:
    """Set the probability at which the last residual branch is left out of an image; it rises from 0 linearly.

    Args:
        net: changed in place.
        rate: at least 0 and less than 1.

    Raises:
        BackboneError: if torchvision built no branches into it that can be dropped.
    """
    kind = import_torchvision().ops.StochasticDepth
    branches = [module for module in net.modules() if isinstance(module, kind)]
    if not branches:
        raise BackboneError("backbone: this network has no drop path; leave drop_path out or choose a timm network")
    for index, branch in enumerate(branches):
        branch.p = rate * index / max(1, len(branches) - 1)
