"""What is compiled, and where kernels/ and bench/ go.

Two shared objects are built with ninja:

* ``wsolfast/_C.so``: the ops' CPU kernels and, where they are of use, their CUDA kernels. It uses LibTorch's stable
  ABI only, so one binary loads on CPU-only and CUDA builds of torch >= 2.11.
* ``wsolfast/_numpy.*.so``: the torch-free box engine for NumPy arrays (pybind11).

Environment: ``WSOLFAST_CUDA=auto|0|1`` (CUDA kernels; auto: nvcc is on PATH or CUDA_HOME is set, and torch is a CUDA
build or a device is there), ``WSOLFAST_EXT=0`` (pure-Python install, as where no C++ compiler is),
``WSOLFAST_NUMPY=0`` (without the second, which needs pybind11 and Python's headers), ``WSOLFAST_WERROR=1`` (a warning
of the C++ compiler is an error, as in CI).
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_namespace_packages, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
ARCHITECTURES = ("arch=compute_80,code=sm_80", "arch=compute_90,code=[sm_90,compute_90]")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
# No contraction: CUDA kernels give the CPU kernels' bits. ptxas tells what they cost (wsolfast.testing.cuda_builds).
NVCC_FLAGS = "-std=c++20 -O3 --fmad=false --expt-relaxed-constexpr -Xptxas=-v"
WARNINGS = "-Wall -Wextra -Wno-unused-parameter" + " -Werror" * (os.environ.get("WSOLFAST_WERROR") == "1")


def compiler() -> str:
    """Return the command of the C++ compiler, whether it is there or not."""
    return os.environ.get("CXX", "g++")


def compiles() -> bool:
    """Return whether the kernels are to be compiled: there is a compiler, and WSOLFAST_EXT=0 is not set."""
    return os.environ.get("WSOLFAST_EXT") != "0" and shutil.which(compiler().split()[0]) is not None


def needed_to_compile() -> list[str]:
    """Return the modules without which nothing can be compiled."""
    return ["torch", "ninja"] + ["pybind11"] * (os.environ.get("WSOLFAST_NUMPY") != "0")


def find_nvcc() -> str | None:
    """Return the path of nvcc, or None when CUDA kernels are not to be built."""
    wanted = os.environ.get("WSOLFAST_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"WSOLFAST_CUDA: expected auto, 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which(str(Path(home, "bin", "nvcc"))) if home else shutil.which("nvcc")
    if nvcc is None and wanted == "1":
        raise SystemExit("WSOLFAST_CUDA=1, but nvcc was not found: put it on PATH or set CUDA_HOME")
    if nvcc is not None and wanted == "auto" and not cuda_can_run():
        print("CUDA kernels are left out: torch is a CPU build and there is no device; WSOLFAST_CUDA=1 compiles them")
        return None
    return nvcc


def cuda_can_run() -> bool:
    """Return whether torch is a CUDA build or an NVIDIA device is there. Starts nothing on a device."""
    import torch

    if torch.version.cuda is not None or any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True, check=False).returncode == 0


def cuda_library_dir(nvcc: str) -> Path:
    """Return the folder of libcudart_static.a that belongs to ``nvcc``."""
    dry_run = [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull]
    listing = subprocess.run(dry_run, capture_output=True, text=True, check=False).stderr
    top = next(line.split("=", 1)[1] for line in listing.splitlines() if line.startswith("#$ TOP="))
    for name in ("lib64", "lib", "targets/x86_64-linux/lib"):
        if Path(top, name, "libcudart_static.a").exists():
            return Path(top, name).resolve()
    raise SystemExit(
        f"no libcudart_static.a below {top}: install the CUDA runtime's static library or set WSOLFAST_CUDA=0"
    )


def ninja_escape(path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def write_ninja(build_dir: Path, ops_library: Path, numpy_module: Path | None) -> Path:
    import torch

    torch_dir = Path(torch.__file__).parent
    torch_include = f"-isystem {torch_dir}/include -isystem {torch_dir}/include/torch/csrc/api/include"
    cxx = compiler()
    common = f"-std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off {WARNINGS} -I{ROOT}/csrc"
    nvcc = find_nvcc()
    defines = STABLE_ABI + (" -DUSE_CUDA" if nvcc else "")
    lines = [
        "ninja_required_version = 1.5",
        f"builddir = {ninja_escape(build_dir)}",
        "rule cxx",
        f"  command = {cxx} -MMD -MF $out.d {common} {defines} {torch_include} -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $in",
        "rule link",
        f"  command = {cxx} -shared $in -o $out $flags",
        "  description = $out",
    ]
    link_flags = f"-L{torch_dir}/lib -ltorch_cpu -lc10 -lpthread -ldl"
    if nvcc:
        gencode = " ".join(f"-gencode={architecture}" for architecture in ARCHITECTURES)
        lines += [
            "rule nvcc",
            f"  command = {nvcc} -MMD -MF $out.d {NVCC_FLAGS} -Xcompiler -fPIC,-fvisibility=hidden -lineinfo {gencode} "
            f"-I{ROOT}/csrc {defines} {torch_include} -c $in -o $out > $out.log 2>&1 || {{ cat $out.log; exit 1; }}",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $in",
        ]
        link_flags += f" -L{cuda_library_dir(nvcc)} -lcudart_static -lrt"
    if numpy_module is not None:
        import pybind11

        lines += [
            "rule cxx_python",
            f"  command = {cxx} -MMD -MF $out.d {common} -isystem {pybind11.get_include()} "
            f"-isystem {sysconfig.get_path('include')} -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $in",
        ]

    def compile_with(rule: str, pattern: str) -> list[Path]:
        sources = sorted((ROOT / "csrc").glob(pattern))
        targets = [build_dir / source.relative_to(ROOT).with_suffix(source.suffix + ".o") for source in sources]
        for source, target in zip(sources, targets, strict=True):
            lines.append(f"build {ninja_escape(target)}: {rule} {ninja_escape(source)}")
        return targets

    # What takes longest comes first: ninja keeps this order.
    kernels = compile_with("nvcc", "cuda/*.cu") if nvcc else []
    bindings = compile_with("cxx_python", "numpy_bindings.cpp") if numpy_module is not None else []
    engine = compile_with("cxx", "boxes/*.cpp")
    ops = compile_with("cxx", "cpu/*.cpp") + (compile_with("cxx", "cuda/*.cpp") if nvcc else [])
    outputs = [(ops_library, ops + kernels + engine, link_flags)]
    if numpy_module is not None:
        outputs.append((numpy_module, bindings + engine, "-lpthread"))
    for output, inputs, flags in outputs:
        lines += [f"build {ninja_escape(output)}: link {' '.join(map(ninja_escape, inputs))}", f"  flags = {flags}"]
    build_dir.mkdir(parents=True, exist_ok=True)
    script = build_dir / "build.ninja"
    script.write_text("\n".join(lines) + "\n")
    return script


class NinjaBuildExt(build_ext):
    """Builds both shared objects in one ninja run; setuptools only says where they go."""

    def run(self):
        if shutil.which(compiler().split()[0]) is None:
            raise SystemExit("no C++ compiler: install g++, or set WSOLFAST_EXT=0 for a pure-Python install")
        for module in needed_to_compile():
            if importlib.util.find_spec(module) is None:
                raise SystemExit(f"{module} is needed to compile: install it first, or build with build isolation")
        package = ROOT / "wsolfast" if self.inplace else Path(self.build_lib).resolve() / "wsolfast"
        package.mkdir(parents=True, exist_ok=True)
        # Not setuptools' temporary folder, so that rebuilds are incremental.
        build_dir = ROOT / "build" / sysconfig.get_config_var("SOABI")
        numpy_module = package / ("_numpy" + sysconfig.get_config_var("EXT_SUFFIX"))
        with_numpy = os.environ.get("WSOLFAST_NUMPY") != "0"
        script = write_ninja(build_dir, package / "_C.so", numpy_module if with_numpy else None)
        # More jobs than cores would only keep the longest source back.
        command = [sys.executable, "-m", "ninja", "-f", str(script), "-j", str(os.cpu_count())]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit("compiling csrc/ failed: see the compiler's message above")

    def get_outputs(self):
        package = Path(self.build_lib) / "wsolfast"
        outputs = [str(package / "_C.so"), str(package / ("_numpy" + sysconfig.get_config_var("EXT_SUFFIX")))]
        return outputs if os.environ.get("WSOLFAST_NUMPY") != "0" else outputs[:1]


if not compiles() and {"bdist_wheel", "editable_wheel"} & set(sys.argv):
    print("wsolfast without compiled kernels: WSOLFAST_EXT=0, or no C++ compiler; PyTorch serves every op, slower")
setup(
    packages=[
        *find_packages(include=["wsolfast", "wsolfast.*"]),
        # Folders of recipes, without code.
        *find_namespace_packages(include=["wsolfast.recipes*"]),
        "wsolfast.kernels",
        "wsolfast.bench",
        "wsolfast.bench.gpu_check",
    ],
    package_dir={"wsolfast.kernels": "kernels", "wsolfast.bench": "bench"},
    # Or setuptools installs all of the source distribution that lies in a package.
    include_package_data=False,
    package_data={"": ["py.typed", "*.pyi", "*.toml"], "wsolfast.engine.report": ["*.html"]},
    ext_modules=[Extension("wsolfast._C", sources=[])] if compiles() else [],
    cmdclass={"build_ext": NinjaBuildExt},
    # What an isolated build installs besides setuptools: it asks by the command egg_info. Torch with CUDA is gigabytes.
    setup_requires=needed_to_compile() if compiles() and "egg_info" in sys.argv else [],
)
