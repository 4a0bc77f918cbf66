"""Compiler of Triton's kernels for GPUs that are not there, which reads from the machine code what they cost.

    python -m wsolfast.testing.kernel_builds [--json FILE] [--arch 80 --arch 90] [--triton] [NAME ...]

Prints Triton's kernels and, where nvcc is, those of csrc/cuda (:mod:`wsolfast.testing.cuda_builds`). A Triton launcher
is called on meta tensors while a stand-in driver answers for the device: what is compiled is what this launch would
run, with the launcher's own tiles, warps and alignments. Needs a process without ``TRITON_INTERPRET``, which turns
kernels into Python when they are defined.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsolfast.testing import cuda_builds
from wsolfast.testing.kernel_resources import ARCHITECTURES, KernelResources, cuobjdump

# As PTX says them: each becomes machine code of its kind, and disassembling that takes longer than compiling.
_TENSOR_CORE = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async)\b")
_WGMMA = re.compile(r"\bwgmma\.mma_async\b")
_ASYNC_COPY = re.compile(r"\bcp\.async\.c[ag]\b")
_MATRIX_LOAD = re.compile(r"\bldmatrix\b")


@dataclass(frozen=True)
class KernelBuild:
    """One call of a launcher at a shape that matters.

    ``launch`` makes meta tensors and calls the launcher; ``tensor_cores`` names the kernels in which a dot must become
    tensor-core instructions.
    """

    name: str
    launch: Callable[[], object]
    tensor_cores: tuple[str, ...] = ()


def compile_build(build: KernelBuild, arch: int) -> list[KernelResources]:
    """Return the resources of every kernel that the build launches, compiled for ``sm_<arch>``, in launch order.

    Raises:
        RuntimeError: in a process with ``TRITON_INTERPRET``, or when the launch starts no kernel.
    """
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise RuntimeError("kernel_builds: kernels are interpreted in this process; unset TRITON_INTERPRET")
    compiled = _record_launches(build.launch, arch)
    if not compiled:
        raise RuntimeError(f"kernel_builds: {build.name!r} started no kernel")
    missing = set(build.tensor_cores) - {kernel.name for kernel in compiled}
    if missing:
        raise RuntimeError(f"kernel_builds: {build.name!r} did not launch {sorted(missing)}")
    return [_resources(build, kernel, arch) for kernel in compiled]


def all_builds() -> list[KernelBuild]:
    """Return the builds of every file in :mod:`wsolfast.testing.builds`."""
    from wsolfast.testing import builds

    modules = (importlib.import_module(f"{builds.__name__}.{m.name}") for m in pkgutil.iter_modules(builds.__path__))
    return [build for module in modules for build in module.BUILDS]


def compilations(launch: Callable[[], object], arch: int = 90) -> set[str]:
    """Return a key for every compilation that a launch asks for on ``sm_<arch>``; nothing is compiled.

    Two launches with the same keys share their compiled kernels. A key holds what Triton specialises a kernel on:
    types, constants, alignments, and integers that are 1 or multiples of 16.
    """
    from triton.runtime.jit import JITFunction

    found: set[str] = set()

    def note(self: JITFunction, key: str, *_: Any, **__: Any) -> None:
        found.add(f"{self.fn.__name__} {key}")

    compile_ = JITFunction._do_compile
    JITFunction._do_compile = note
    try:
        # As a device of its own, for which nothing has been compiled.
        with _absent_device(arch, -arch):
            launch()
    finally:
        JITFunction._do_compile = compile_
    return found


def _record_launches(launch: Callable[[], object], arch: int) -> list:
    from triton.runtime.jit import JITFunction

    compiled: dict[str, Any] = {}
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.setdefault(kernel.hash, kernel)
        return kernel

    JITFunction.run = compile_only
    try:
        # Compiled kernels are cached by device.
        with _absent_device(arch, arch):
            launch()
    finally:
        JITFunction.run = run
    return list(compiled.values())


@contextmanager
def _absent_device(arch: int, number: int) -> Iterator[None]:
    """Let a stand-in answer for a device that is not there."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class AbsentDevice:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", arch, 32)

        def get_current_device(self) -> int:
            return number

        def get_current_stream(self, device: int) -> int:
            return 0

    # Read from the private field: asking for the active driver on a machine without a device is an error.
    previous = driver._active
    driver.set_active(AbsentDevice())
    try:
        yield
    finally:
        driver.set_active(previous)


def _resources(build: KernelBuild, compiled: Any, arch: int) -> KernelResources:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _resource_usage(cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"kernel_builds: cuobjdump reported no resource usage for {compiled.name!r}: {usage!r}")
    registers, stack, _, local = map(int, found.groups())
    return KernelResources(
        build=build.name,
        kernel=compiled.name,
        arch=arch,
        warps=compiled.metadata.num_warps,
        registers=registers,
        spilled_bytes=stack + local,
        shared_bytes=compiled.metadata.shared,
        tensor_core_instructions=len(_TENSOR_CORE.findall(compiled.asm["ptx"])),
        tensor_cores_meant=compiled.name in build.tensor_cores,
        wgmma_instructions=len(_WGMMA.findall(compiled.asm["ptx"])),
        async_copies=len(_ASYNC_COPY.findall(compiled.asm["ptx"])),
        matrix_loads=len(_MATRIX_LOAD.findall(compiled.asm["ptx"])),
    )


def _resource_usage(cubin: Path) -> str:
    command = [str(cuobjdump()), "--dump-resource-usage", str(cubin)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _compile_all(names: Sequence[str], architectures: Sequence[int]) -> list[KernelResources]:
    """Compile the builds whose name contains one of ``names``, or all, with one process per core; return their rows."""
    chosen = [index for index, build in enumerate(all_builds()) if not names or any(n in build.name for n in names)]
    jobs = [(index, arch) for index in chosen for arch in architectures]
    # Spawned: a forked process may inherit locks of the parent's threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return [row for rows in pool.map(_compile_one, jobs) for row in rows]


def _compile_one(job: tuple[int, int]) -> list[KernelResources]:
    index, arch = job
    return compile_build(all_builds()[index], arch)


def main(arguments: list[str] | None = None) -> None:
    """Print one line per kernel, and write all as JSON where ``--json`` says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", help="builds whose name contains one of these; all without")
    parser.add_argument("--arch", type=int, action="append", choices=ARCHITECTURES)
    parser.add_argument("--triton", action="store_true", help="leave csrc/cuda out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    architectures = options.arch or ARCHITECTURES
    rows = _compile_all(options.names, architectures)
    if not options.triton:
        reason = cuda_builds.missing()
        if reason is None:
            rows += cuda_builds.all_resources(options.names, architectures)
        else:
            sys.stderr.write(f"csrc/cuda is left out: {reason}\n")
    if options.names and not rows:
        parser.error(f"no build matches {options.names}")
    for row in rows:
        sys.stdout.write(
            f"{row.build:56} {row.kernel:44} sm_{row.arch} {row.warps:2} warps {row.registers:3} registers "
            f"{row.spilled_bytes:4} B spilled {row.shared_bytes:6} B shared {row.tensor_core_instructions:4} mma "
            f"{row.wgmma_instructions:3} wgmma {row.async_copies:3} cp.async {row.matrix_loads:3} ldmatrix "
            f"{row.ctas_per_multiprocessor:2} CTAs\n"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
