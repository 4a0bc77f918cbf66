"""Backbones from networks that are assembled without memory: what does not run is dropped, what does is measured."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from wsolfast.backbones._base import Architecture, Backbone, StageInfo, steps

# Sides of the input on which strides are measured. They differ by the largest stride, so sides of features differ by
# whole pixels, whatever a network cuts off at the border; the smaller one is the least that InceptionV3 takes.
_PROBE = (75, 107)


def realize(assemble: Callable[[], Architecture], *, freeze_bn: bool) -> Backbone:
    """Build a backbone from a network that is assembled without memory, so that unused heads cost none.

    Modules that do not run are dropped, and strides and channels are measured. Then the rest gets memory on the default
    device, and its initial values: Kaiming-normal convolutions, zero biases, unit batch norms.
    """
    device = torch.get_default_device()
    with torch.device("meta"):
        architecture = assemble()
        _drop_what_does_not_run(architecture)
    stages = _measure(architecture)
    allocate(architecture.net, device)
    for module in architecture.net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _BatchNorm):
            module.reset_parameters()
    return Backbone(architecture, stages, freeze_bn=freeze_bn)


def allocate(net: nn.Module, device: torch.device) -> None:
    """Allocate memory on ``device`` for a network of meta tensors, and leave it unwritten.

    ``net.to_empty`` does the same, but its kernel of meta tensors imports sympy, which takes half a second.
    """
    state = {
        name: torch.empty(value.shape, dtype=value.dtype, device=device) for name, value in net.state_dict().items()
    }
    net.load_state_dict(state, assign=True)


def _drop_what_does_not_run(architecture: Architecture) -> None:
    paths = [path for path, _ in steps(architecture.net, architecture.taps)]
    kept = {path.rsplit(".", depth)[0] for path in paths for depth in range(path.count(".") + 1)}

    def drop(module: nn.Module, prefix: str) -> None:
        for name, child in list(module.named_children()):
            path = prefix + name
            if path not in kept:
                delattr(module, name)
            elif path not in paths:
                drop(child, f"{path}.")

    drop(architecture.net, "")


def _measure(architecture: Architecture) -> tuple[StageInfo, ...]:
    net = architecture.net.eval()
    with torch.no_grad(), torch.device("cpu"), _GeometryOnly():
        x = torch.zeros(1, 3, *_PROBE)
        stages = []
        for path, stage in steps(net, architecture.taps):
            x = net.get_submodule(path)(x)
            if stage is not None:
                height, width = x.shape[2:]
                stages.append(StageInfo(stage, x.shape[1], (_PROBE[1] - _PROBE[0]) // (width - height)))
    net.train()
    return tuple(stages)


class _GeometryOnly(TorchFunctionMode):
    """Mode in which convolutions give zeros of the right shape, and batch norms do nothing.

    So neither needs its weights, which have no memory yet. Meta tensors would give shapes too, but their kernels import
    torch's compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.conv2d:
            x, weight, _, stride, padding, dilation = args[:6]
            # One channel has the geometry of all.
            one = functional.conv2d(x[:, :1], x.new_zeros(1, 1, *weight.shape[2:]), None, stride, padding, dilation)
            return one.repeat(1, len(weight), 1, 1)
        if func is functional.batch_norm:
            return args[0]
        return func(*args, **(kwargs or {}))


def remove_strides(module: nn.Module) -> None:
    """Set the strides of all convolutions in ``module`` to 1, and keep their weights."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            child.stride = (1, 1)
