"""Resources that a compiled kernel takes, and what an architecture has."""

from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = (80, 90)
# Opt-in shared memory of one CTA, bytes: A100 163 KB, H100 and H200 227 KB (CUDA programming guide, table 27).
SHARED_MEMORY_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@dataclass(frozen=True)
class KernelResources:
    """Resources of one kernel of a build, per thread (registers, spilled bytes) and per CTA (shared memory).

    ``tensor_core_instructions`` counts those of the PTX.
    """

    build: str
    kernel: str
    arch: int
    warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    tensor_core_instructions: int
    tensor_cores_meant: bool


def cuobjdump() -> Path:
    """Return the tool that reads machine code; Triton brings it along."""
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
