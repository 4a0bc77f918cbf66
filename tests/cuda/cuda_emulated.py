"""Builds csrc/cuda for the host with the emulator beside this file and calls its ops on CPU tensors."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from wsolfast import ops
from wsolfast._system import lock_file

HERE = Path(__file__).parent / "emulator"
ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "csrc" / "cuda"
ORDERS = ("ascending", "descending", "shuffled")
# Contraction off as nvcc's --fmad=false has it.
FLAGS = (
    "-std=c++20 -O2 -fPIC -fvisibility=hidden -ffp-contract=off -U_FORTIFY_SOURCE "
    "-Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-parameter"
)

# Processors, shared memory that a CTA can have and memory for what does not fit, in bytes.
H200 = (132, 227 * 1024, 1 << 27)


def build(folder: Path) -> Path:
    """Compile the emulator, the kernels and the bindings into one library; ninja keeps what is up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        lock_file(file)
        return _build(folder)


def _build(folder: Path) -> Path:
    cxx = os.environ.get("CXX", "g++")
    torch_dir = Path(torch.__file__).parent
    torch_include = f"-isystem {torch_dir}/include -isystem {torch_dir}/include/torch/csrc/api/include"
    # Headers of the emulator stand in for those of csrc/cuda that have the same names.
    compile_ = f"{cxx} -MMD -MF $out.d {FLAGS} -I{HERE} -I{ROOT}/csrc {torch_include}"
    lines = [
        "ninja_required_version = 1.5",
        "rule binding",
        f"  command = {compile_} -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule kernels",
        f"  command = {compile_} -include {HERE}/cuda_emulator.h -c -x c++ $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {cxx} -shared $in -o $out -L{torch_dir}/lib -ltorch_cpu -lc10",
    ]
    objects = []
    for rule, sources in (
        ("kernels", KERNELS.glob("*.cu")),
        ("kernels", HERE.glob("*.cpp")),
        ("binding", KERNELS.glob("*.cpp")),
    ):
        for source in sorted(sources):
            objects.append(f"{source.name}.o")
            lines.append(f"build {source.name}.o: {rule} {source}")
    library = folder / "cuda_emulated.so"
    lines.append(f"build {library.name}: link {' '.join(objects)}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "ninja", "-C", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"compiling the emulated kernels failed:\n{done.stdout}{done.stderr}")
    return library


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, -0 apart from 0; which NaN does not matter."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    bits = {4: torch.int32, 8: torch.int64}[a.element_size()]
    a, b = (torch.where(x.isnan(), torch.nan, x) for x in (a, b))
    return a.dtype == b.dtype and torch.equal(a.view(bits), b.view(bits))


def compiler_is_missing() -> str | None:
    cxx = os.environ.get("CXX", "g++").split()[0]
    return None if shutil.which(cxx) else f"no C++ compiler {cxx}"


class Emulated:
    """The ops of csrc/cuda by their names, as ``emulated.min_max_normalize(maps, eps)``.

    They take ``limits`` of the device besides their arguments. A failing kernel raises RuntimeError.
    """

    def __init__(self, library: Path):
        self._schemas = torch.library.Library("wsolfast_emulated", "DEF")
        for op in ops.backends():
            schema = str(getattr(torch.ops.wsolfast, op).default._schema)
            self._schemas.define(schema.removeprefix("wsolfast::"))
        torch.ops.load_library(str(library))
        self._library = ctypes.CDLL(str(library))

    def __getattr__(self, op: str) -> Callable:
        overload = getattr(torch.ops.wsolfast_emulated, op).default

        def call(*inputs, limits=H200):
            self._library.set_limits(limits[0], *map(ctypes.c_int64, limits[1:]))
            with _unwritten_shows():
                return overload(*inputs)

        return call

    def call(self, function: str, *arguments) -> None:
        """Call a function of emulator/*.cpp: tensors go as pointers, everything else as int64."""
        call = getattr(self._library, function)
        call.restype = ctypes.c_char_p
        error = call(*map(_as_c, arguments))
        if error is not None:
            raise RuntimeError(error.decode())

    def numbers(self, function: str, names: Sequence[str], *arguments) -> dict[str, int]:
        """Call a function that writes as many numbers as there are names to its last argument."""
        out = torch.zeros(len(names), dtype=torch.int64)
        self.call(function, *arguments, out)
        return dict(zip(names, out.tolist(), strict=True))

    def set_order(self, order: str, seed: int = 0) -> None:
        """Set the order of the threads in the launches that follow."""
        self._library.set_order(ORDERS.index(order), ctypes.c_uint64(seed))


@contextmanager
def _unwritten_shows() -> Iterator[None]:
    """New tensors hold NaN or the largest integer."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _as_c(argument):
    if isinstance(argument, torch.Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int64(argument)
