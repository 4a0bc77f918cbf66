"""A machine with a GPU, without a network: its Python, what that lacks, and what to carry there.

Only the standard library is needed here, so that it works before anything is found.
"""

import json
import shlex
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Finds the checkout's packages where they lie, as an installation would, without pip and setuptools.
FINDER = """import importlib.util, sys

FOLDERS = {folders!r}


class Checkout:
    @staticmethod
    def find_spec(name, path=None, target=None):
        folder = FOLDERS.get(name)
        return folder and importlib.util.spec_from_file_location(
            name, folder + "/__init__.py", submodule_search_locations=[folder]
        )


sys.meta_path.insert(0, Checkout)
"""
# Import name and distribution, of what testing and timing import.
PACKAGES = {
    "numpy": "numpy",
    "triton": "triton",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "torchvision": "torchvision",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "typer": "typer",
    "defusedxml": "defusedxml",
    "tomli_w": "tomli-w",
}
# What only compiling csrc/ there needs.
BUILDING = {"setuptools": "setuptools>=77", "ninja": "ninja"}
CARRIED_MB = 64


def finder(root: Path = ROOT) -> str:
    """Return the source of a module that makes the packages of a checkout importable."""
    places = {"wsolfast": "wsolfast", "wsolfast.kernels": "kernels", "wsolfast.bench": "bench"}
    return FINDER.format(folders={name: str(root / folder) for name, folder in places.items()})


def prepare(root: Path = ROOT) -> str:
    """Make an environment that sees the machine's packages, and the wheels and packages of a checkout.

    Returns:
        Its Python.
    """
    home = root / "build" / "gpu-check" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = home / "bin" / "python"
    if not python.exists():
        venv.EnvBuilder(with_pip=False, symlinks=True, clear=True).create(home)
    (site_packages,) = (home / "lib").glob("python*/site-packages")
    theirs = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in theirs)
    (site_packages / "machine.pth").write_text(lines)
    (site_packages / "wsolfast_checkout.py").write_text(finder(root))
    (site_packages / "wsolfast_checkout.pth").write_text("import wsolfast_checkout\n")
    if wheels := sorted(map(str, (root / ".wheels").glob("*.whl"))):
        try:
            _install(str(python), wheels)
        except SystemExit as error:
            print(error, file=sys.stderr)
    return str(python)


def _install(python: str, wheels: list[str]) -> None:
    if subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode:
        run_or_exit([python, "-m", "ensurepip"])
    options = ["-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    run_or_exit([python, "-m", "pip", "install", *options, *wheels])


def lacking(python: str, packages: Mapping[str, str] = PACKAGES) -> dict[str, str]:
    """Return which of these modules cannot be imported, with their distributions."""
    probe = (
        "import importlib, importlib.metadata, json, sys\n"
        "missing = {}\n"
        "for module, wanted in json.loads(sys.argv[1]).items():\n"
        "    name, _, least = wanted.partition('>=')\n"
        "    try:\n"
        "        importlib.import_module(module)\n"
        "        there = not least or int(importlib.metadata.version(name).split('.')[0]) >= int(least)\n"
        "    except ImportError:\n"
        "        there = False\n"
        # A CUDA build of torchvision beside a CPU's torch, which wsolfast imports nevertheless.
        "    except RuntimeError:\n"
        "        there = True\n"
        "    if not there:\n"
        "        missing[module] = wanted\n"
        "print(json.dumps(missing))\n"
    )
    return json.loads(run_or_exit([python, "-c", probe, json.dumps(packages)]).splitlines()[-1])


def has(python: str, module: str) -> bool:
    """Return whether a module can be found."""
    probe = f"import importlib.util; print(importlib.util.find_spec({module!r}) is not None)"
    return run_or_exit([python, "-c", probe]).split()[-1] == "True"


def how_to_carry(distributions: Iterable[str], python: str | None = None) -> str:
    """Return one line about packages that are neither installed nor carried.

    Args:
        distributions: names, some with a version.
        python: version of the machine's Python, as in 3.12; this one's if None.
    """
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = list(distributions)
    return (
        f"this machine's Python lacks {', '.join(wanted)}; where there is a network: pip download -d .wheels "
        f"--no-deps --only-binary=:all: --python-version {version} {shlex.join(wanted)}"
    )


def pack(root: Path = ROOT) -> list[str]:
    """Return lines that say what to carry to the machine besides the checkout, how large it is, and what is missing."""
    kernels = sorted((root / "wsolfast").glob("_C*.so"))
    wheels = sorted((root / ".wheels").glob("*.whl"))
    lines = [f"{file.relative_to(root)}  {file.stat().st_size / 2**20:.1f} MB" for file in (*kernels, *wheels)]
    if not kernels:
        lines.append("missing: wsolfast/_C*.so; WSOLFAST_CUDA=1 make test builds it, else it is compiled there, 100 s")
    carried = {wheel.name.partition("-")[0].lower().replace("_", "-") for wheel in wheels}
    # Of what is needed, the machines' images were seen to lack these.
    absent = [name for name in ("defusedxml", "tomli-w") if name not in carried]
    if absent:
        lines.append(
            f"missing: .wheels/ for {', '.join(absent)}: pip download -d .wheels --no-deps {shlex.join(absent)}"
        )
    size = sum(file.stat().st_size for file in (*kernels, *wheels)) / 2**20
    return [*lines, f"{size:.1f} MB in all; the tree and this are to stay below {CARRIED_MB} MB"]


def run_or_exit(command: list[str]) -> str:
    """Return what a command prints.

    Raises:
        SystemExit: with its output, if it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"gpu-check: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
