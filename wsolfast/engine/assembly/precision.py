"""The precision that networks run in, and whether a device is fast at it; nothing is measured."""

from collections.abc import Callable

import torch

from wsolfast.engine.run.distributed import from_all
from wsolfast.engine.run.environment import cpu_flags

# Instructions that multiply bfloat16: of x86, and, as Linux calls it, of ARM.
_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")
_FLOAT16_INSTRUCTIONS = ("amx_fp16", "avx512_fp16", "asimdhp")
# Compute capability of the first GPUs that multiply bfloat16.
_AMPERE = (8, 0)


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Return the context in which networks run in a precision, ``"bf16"``, ``"fp16"`` or ``"none"``, on a device."""
    return torch.autocast(device.type, _DTYPES.get(amp, torch.bfloat16), enabled=amp in _DTYPES)


def choose_amp(wanted: str, device: torch.device, log: Callable[[str], None] = lambda text: None) -> str:
    """Return ``"bf16"``, ``"fp16"`` or ``"none"``, the same in all processes that share a run.

    Args:
        wanted: ``runtime.amp``; ``"auto"`` takes bfloat16 where the devices of all processes are fast at it.
        device: of this process.
        log: is given one line where a precision is asked for that the device is slow at.
    """
    if device.type == "mps":
        # Nobody has measured yet what an Apple GPU is fast at.
        return "none" if wanted == "auto" else wanted
    if wanted == "fp16":
        if (reason := why_fp16_is_slow(device)) is not None:
            log(f"warning: runtime.amp = fp16 is slower than float32 here: {reason}; --amp auto avoids it")
        return wanted
    reason = why_bf16_is_slow(device)
    if wanted == "auto":
        return "none" if any(from_all(reason is not None)) else "bf16"
    if wanted == "bf16" and reason is not None:
        log(f"warning: runtime.amp = bf16 is many times slower than float32 here: {reason}; --amp auto avoids it")
    return wanted


def why_bf16_is_slow(device: torch.device) -> str | None:
    """Return what a device lacks for bfloat16 to be faster than float32; None if nothing."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= _AMPERE:
            return None
        return f"{torch.cuda.get_device_name(device)} has compute capability {'.'.join(map(str, capability))}, not 8.0"
    flags = cpu_flags()
    # Where the system lists no instructions, torch may know; what it calls supported may be emulated.
    fast = any(name in flags for name in _INSTRUCTIONS) if flags else _torch_knows()
    if not fast:
        return "this CPU has no bfloat16 instructions (avx512_bf16 or amx_bf16)"
    if not torch.backends.mkldnn.is_available():
        return "torch is built without oneDNN, which uses the CPU's bfloat16 instructions"
    return None


def why_fp16_is_slow(device: torch.device) -> str | None:
    """Return what a device lacks for float16 to be faster than float32; None if nothing."""
    if device.type == "cuda" or any(name in cpu_flags() for name in _FLOAT16_INSTRUCTIONS):
        return None
    return "this CPU has no float16 instructions (avx512_fp16, amx_fp16 or asimdhp)"


def _torch_knows() -> bool:
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
