"""Resources that a compiled kernel takes, and what an architecture has."""

from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = (80, 90)
# Opt-in shared memory of one CTA, bytes: A100 163 KB, H100 and H200 227 KB (CUDA programming guide, table 27).
SHARED_MEMORY_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
# Of a multiprocessor: the shared memory of its CTAs, each of which takes a kilobyte more than it asks for; registers,
# given to a warp by 256; warps; CTAs (the same guide, tables 26 and 27).
_SHARED_MEMORY = {80: 164 * 1024, 90: 228 * 1024}
_CTA_SHARED = 1024
_REGISTERS, _REGISTERS_AT_ONCE, _WARPS, _CTAS = 65536, 256, 64, 32


@dataclass(frozen=True)
class KernelResources:
    """Resources of one kernel of a build, per thread (registers, spilled bytes) and per CTA (shared memory).

    Instructions are counted in the PTX: ``tensor_core_instructions`` of both kinds, ``wgmma_instructions`` those of a
    whole warp group (sm_90), ``async_copies`` from memory to shared memory (cp.async), ``matrix_loads`` from there
    (ldmatrix).
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
    wgmma_instructions: int = 0
    async_copies: int = 0
    matrix_loads: int = 0

    @property
    def ctas_per_multiprocessor(self) -> int:
        """Return how many CTAs stand on a multiprocessor at once."""
        of_warp = -(-self.registers * 32 // _REGISTERS_AT_ONCE) * _REGISTERS_AT_ONCE
        by_shared_memory = _SHARED_MEMORY[self.arch] // (self.shared_bytes + _CTA_SHARED)
        return min(_REGISTERS // of_warp // self.warps, by_shared_memory, _WARPS // self.warps, _CTAS)


def cuobjdump() -> Path:
    """Return the tool that reads machine code; Triton brings it along."""
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
