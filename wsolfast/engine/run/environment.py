"""Facts about the code, its packages and the machine: what a number needs beside it."""

import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from wsolfast.engine.run.distributed import world_size

_CPU_INFO = Path("/proc/cpuinfo")


def describe_environment() -> dict[str, object]:
    """Return versions, machine, command line and the time; what is not known is left out."""
    values = {
        "command": command(),
        "argv": sys.argv,
        "wsolfast": version("wsolfast"),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **{name: package_version(name) for name in ("numpy", "pillow", "torchvision", "timm", "triton")},
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "platform": platform.platform(),
        "started": now(),
    }
    return {key: value for key, value in values.items() if value is not None}


def command() -> str:
    """Return the command line without the folder of the program, as a shell would take it."""
    program = Path(sys.argv[0])
    # python -m gives the path of the package's __main__.py.
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def commit() -> str | None:
    """Return ``git describe`` of the checkout that this code runs from; None if it was installed, or without git."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def cpu_flags() -> frozenset[str]:
    """Return the instructions that Linux says the first processor has; empty on other systems."""
    for line in _cpu_info():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _cpu_info() -> list[str]:
    try:
        return _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def cpu_name() -> str:
    """Return the processor's name, on x86 with family and model number: of some machines the name says little."""
    # Of the first core; the others say the same.
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(_cpu_info()))}
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in fields:
        return name
    return f"{name} (family {fields['cpu family']}, model {fields.get('model')})"


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution; None if it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def now() -> str:
    """Return the local time with its offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
