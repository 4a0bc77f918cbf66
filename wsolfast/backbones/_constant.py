"""Calls of modules that do not train on what they see."""

from torch import Tensor, nn
from torch.func import functional_call


def call_as_constant(module: nn.Module, x: Tensor) -> Tensor:
    """Call a module whose parameters take no gradient from this call, and whose buffers stay as they are.

    Batch norms in training mode normalise by the batch, and their running statistics do not move. No module is copied.

    Args:
        module: takes and returns one tensor.
        x (Tensor[N, C, h, w]): gradients reach it.
    """
    # Autocast keeps 16-bit copies of parameters, with their gradients; it makes none of detached ones.
    state = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return functional_call(module, state | {name: buffer.clone() for name, buffer in module.named_buffers()}, (x,))
