"""Compiles the kernels of csrc/cuda for GPUs that are not there, and reads what they cost from ptxas.

Needs nvcc and a checkout; nothing is loaded or run. ``python -m wsolfast.testing.kernel_builds`` prints the table.
"""

import ast
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from wsolfast.testing.kernel_builds import ARCHITECTURES, KernelResources

ROOT = Path(__file__).parents[2]
_PTXAS = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for 'sm_(?P<arch>\d+)'(?P<functions>.*?)"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SPILLED = re.compile(r"(\d+) bytes spill (?:stores|loads)")
_INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][a-z0-9_]*(?:\.[a-z0-9_:]+)+)\s", re.MULTILINE)
_ENTRY = re.compile(r"\.entry (?P<symbol>\w+)\(.*?\.maxntid (?P<threads>\d+)", re.DOTALL)


def nvcc() -> str | None:
    """The compiler that setup.py would take, or None."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which(str(Path(home, "bin", "nvcc"))) if home else shutil.which("nvcc")


def sources() -> list[Path]:
    """What is compiled to CUDA kernels."""
    return sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def compile_source(source: Path, arch: int) -> list[KernelResources]:
    """Resources of every kernel in a ``.cu``, compiled for ``sm_<arch>`` with setup.py's flags.

    ``shared_bytes`` is what kernels declare; the box kernels ask for more at launch, as much as the device has.
    Spilled bytes are those stored plus those loaded, by the kernel and the functions it calls. Nothing here means to
    use tensor cores.

    Raises:
        RuntimeError: without nvcc, or when it rejects the source.
    """
    log, ptx = _compile(source, arch)
    threads = {entry["symbol"]: int(entry["threads"]) for entry in _ENTRY.finditer(ptx)}
    rows = [
        KernelResources(
            build=f"csrc/cuda/{source.name}",
            kernel=_readable(kernel["symbol"]),
            arch=int(kernel["arch"]),
            warps=threads[kernel["symbol"]] // 32,
            registers=int(kernel["registers"]),
            spilled_bytes=sum(map(int, _SPILLED.findall(kernel["functions"]))),
            shared_bytes=_shared_bytes(kernel["rest"]),
            tensor_core_instructions=0,
            tensor_cores_meant=False,
        )
        for kernel in _PTXAS.finditer(log)
    ]
    if len(rows) != len(threads):
        raise RuntimeError(f"cuda_builds: {source.name} has {len(threads)} kernels, ptxas told of {len(rows)}")
    return sorted(rows, key=lambda row: row.kernel)


def instructions(source: Path, arch: int) -> Counter[str]:
    """How often each PTX instruction stands in what nvcc makes of a ``.cu``, e.g. ``{"fma.rn.f64": 3}``."""
    return Counter(_INSTRUCTION.findall(_compile(source, arch)[1]))


def setup_constant(name: str) -> str:
    """A constant of setup.py, which cannot be imported without building."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"cuda_builds: setup.py has no {name}")


@cache
def _compile(source: Path, arch: int) -> tuple[str, str]:
    """What ptxas told of a source, and the PTX."""
    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("cuda_builds: nvcc was not found: put it on PATH or set CUDA_HOME")
    import torch

    include = Path(torch.__file__).parent / "include"
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, "-cubin", f"-arch=sm_{arch}", "-Xptxas=-v", "--keep", f"--keep-dir={folder}"]
        command += [*setup_constant("NVCC_FLAGS").split(), "-DUSE_CUDA", setup_constant("STABLE_ABI")]
        command += [f"-I{ROOT / 'csrc'}", f"-isystem={include}"]
        command += [f"-isystem={include / 'torch/csrc/api/include'}", str(source), "-o", str(Path(folder, "out.cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            raise RuntimeError(f"cuda_builds: nvcc rejected {source.name}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr, "".join(path.read_text() for path in Path(folder).glob("*.ptx"))


def compile_all(
    names: Sequence[str] | None = None, architectures: Sequence[int] = ARCHITECTURES
) -> list[KernelResources]:
    """Resources of every kernel of csrc/cuda whose file name contains one of ``names``."""
    chosen = [source for source in sources() if not names or any(name in source.name for name in names)]
    jobs = [(source, arch) for source in chosen for arch in architectures]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [row for rows in pool.map(lambda job: compile_source(*job), jobs) for row in rows]


def _shared_bytes(rest: str) -> int:
    found = re.search(r"(\d+) bytes smem", rest)
    return int(found[1]) if found else 0


def _readable(symbol: str) -> str:
    """A kernel's name with its template arguments, without namespaces and parameters."""
    done = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=False)
    name = done.stdout.strip() if done.returncode == 0 else symbol
    name = re.sub(r"\(anonymous namespace\)::|wsolfast::cuda::|\((?:int|bool|wsolfast::cuda::Task)\)", "", name)
    return name.split("(", 1)[0].removeprefix("void ")
