"""The precision of sums, which is float64 wherever there is one."""

import torch


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on an Apple GPU, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
