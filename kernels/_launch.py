"""What every launcher needs."""

from contextlib import nullcontext

import torch
from torch import Tensor


def on_device_of(tensor: Tensor):
    """Context in which kernels go to the tensor's device and its current stream; nothing to do off CUDA."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
