"""Resources of the compiled kernels of csrc/cuda, for GPUs that need not be there.

Reads what setup.py's build left: ptxas' report of every source and the PTX in its object. Needs nvcc and a checkout;
nothing is loaded or run. ``python -m wsolfast.testing.kernel_builds`` prints the table.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from wsolfast.testing.kernel_resources import ARCHITECTURES, KernelResources, cuobjdump

ROOT = Path(__file__).parents[2]
# As setup.py has it.
BUILD = ROOT / "build" / str(sysconfig.get_config_var("SOABI"))
_PTXAS = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for 'sm_(?P<arch>\d+)'(?P<functions>.*?)"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SPILLED = re.compile(r"(\d+) bytes spill (?:stores|loads)")
_INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][a-z0-9_]*(?:\.[a-z0-9_:]+)+)\s", re.MULTILINE)
_ENTRY = re.compile(r"\.entry (?P<symbol>\w+)\(.*?\.maxntid (?P<threads>\d+)", re.DOTALL)


def missing() -> str | None:
    """Return the reason why there is nothing to read here, or None."""
    home = os.environ.get("CUDA_HOME")
    if shutil.which(str(Path(home, "bin", "nvcc")) if home else "nvcc") is None:
        return "nvcc was not found: put it on PATH or set CUDA_HOME"
    return None if _rule() else "csrc/ was not compiled with nvcc in this checkout: WSOLFAST_CUDA=1 pip install -e ."


def sources() -> list[Path]:
    """Return the sources that are compiled to CUDA kernels."""
    return sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def nvcc_command() -> str:
    """Return the command by which setup.py has a source ``$in`` compiled to ``$out``.

    Raises:
        RuntimeError: there is none; see :func:`missing`.
    """
    command = _rule()
    if command is None:
        raise RuntimeError(f"cuda_builds: {missing()}")
    return command


def resources_of(source: Path, built: Path | None = None) -> list[KernelResources]:
    """Return the resources of every kernel in a ``.cu`` on every architecture.

    ``shared_bytes`` is what kernels declare; the box kernels ask for more at launch, as much as the device has.
    Spilled bytes are those stored plus those loaded, by the kernel and the functions it calls. Nothing here means to
    use tensor cores.

    Args:
        source: one of :func:`sources`, or any other with ``built``.
        built: the object of a source that is none of setup.py's; see :func:`compile_source`.

    Raises:
        RuntimeError: the source does not compile, or see :func:`missing`.
    """
    built = built or _object_of(source)
    threads = {entry["symbol"]: int(entry["threads"]) for entry in _ENTRY.finditer(_ptx(built))}
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
        for kernel in _PTXAS.finditer(_log_of(built).read_text())
    ]
    if len(rows) != len(threads) * len(ARCHITECTURES):
        raise RuntimeError(
            f"cuda_builds: {source.name} has {len(threads)} kernels for {len(ARCHITECTURES)} architectures, "
            f"ptxas told of {len(rows)}"
        )
    return sorted(rows, key=lambda row: (row.arch, row.kernel))


def instructions_of(source: Path, built: Path | None = None) -> Counter[str]:
    """Count each instruction in a source's PTX, e.g. ``{"fma.rn.f64": 3}``; arguments as above."""
    return Counter(_INSTRUCTION.findall(_ptx(built or _object_of(source))))


def compile_source(source: Path, folder: Path) -> Path:
    """Compile a ``.cu`` as setup.py would into ``folder`` and return its object.

    Raises:
        RuntimeError: nvcc rejects it, or see :func:`missing`.
    """
    built = folder / f"{source.name}.o"
    command = nvcc_command().replace("$in", str(source)).replace("$out", str(built))
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cuda_builds: nvcc rejected {source.name}:\n{done.stdout}{done.stderr}")
    return built


def all_resources(
    names: Sequence[str] | None = None, architectures: Sequence[int] = ARCHITECTURES
) -> list[KernelResources]:
    """Return the resources of every kernel of csrc/cuda whose file name contains one of ``names``."""
    chosen = [source for source in sources() if not names or any(name in source.name for name in names)]
    return [row for source in chosen for row in resources_of(source) if row.arch in architectures]


def _rule() -> str | None:
    script = BUILD / "build.ninja"
    found = re.search(r"rule nvcc\n  command = (.*)\n", script.read_text()) if script.is_file() else None
    return found[1] if found else None


@cache
def _object_of(source: Path) -> Path:
    """Bring a source's object up to date and return it."""
    nvcc_command()
    built = BUILD / source.relative_to(ROOT).with_suffix(".cu.o")
    command = [sys.executable, "-m", "ninja", "-f", str(BUILD / "build.ninja"), str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cuda_builds: {source.name} does not compile:\n{done.stdout}{done.stderr}")
    return built


def _log_of(built: Path) -> Path:
    return built.with_suffix(".o.log")


@cache
def _ptx(built: Path) -> str:
    return subprocess.run([cuobjdump(), "--dump-ptx", built], capture_output=True, text=True, check=True).stdout


def _shared_bytes(rest: str) -> int:
    found = re.search(r"(\d+) bytes smem", rest)
    return int(found[1]) if found else 0


def _readable(symbol: str) -> str:
    """Return a kernel's name with its template arguments, without namespaces and parameters."""
    done = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=False)
    name = done.stdout.strip() if done.returncode == 0 else symbol
    name = re.sub(r"\(anonymous namespace\)::|wsolfast::cuda::|\((?:int|bool|wsolfast::cuda::Task)\)", "", name)
    return name.split("(", 1)[0].removeprefix("void ")
