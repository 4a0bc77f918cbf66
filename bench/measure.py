"""Clocks, cold caches, memory, and what a result must say about where it was measured."""

import hashlib
import importlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from wsolfast.engine.run.environment import command, commit, cpu_name, package_version
from wsolfast.engine.run.errors import BackendError

# The checkout or, installed from a wheel, the package.
ROOT = Path(__file__).resolve().parents[1]
SOURCES = {".py", ".h", ".cpp", ".cu", ".cuh"}
PACKAGES = ("wsolfast", "numpy", "pillow", "opencv-python-headless", "opencv-python", "simplejpeg")
# Rotating buffers of three times a Hopper's L2 leave nothing of one call to the next.
COLD_BYTES = 3 * 60 * 2**20
SHARES = (20, 50, 80)
# A call that takes longer on a GPU is timed once: a peer that loops on the host would take all of a run's minutes.
SLOW_MILLISECONDS = 1000.0


def milliseconds(calls: Sequence[Callable], device: str, seconds: float, clock: Callable[[], float]) -> dict:
    """20th, 50th and 80th percentile of about ``seconds`` of calls, at least five, cycling through ``calls``; where one
    takes more than a second on a GPU, of this one.

    On CUDA the clock is a pair of events around each call, and each result lives until its turn comes again, so that
    outputs are as cold as inputs.
    """
    times = _cuda_times(calls, seconds) if device == "cuda" else _host_times(calls[0], seconds, clock)
    times.sort()
    return {f"p{share}": times[share * (len(times) - 1) // 100] for share in SHARES} | {"calls": len(times)}


def _host_times(call: Callable, seconds: float, clock: Callable[[], float]) -> list[float]:
    call()
    times = []
    while len(times) < 5 or (sum(times) < 1e3 * seconds and len(times) < 200):
        begin = clock()
        call()
        times.append(1e3 * (clock() - begin))
    return times


def _cuda_times(calls: Sequence[Callable], seconds: float) -> list[float]:
    alive = [None] * len(calls)

    def burst(count: int) -> list[float]:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for index, (begin, end) in enumerate(events):
            alive[index % len(calls)] = None
            begin.record()
            alive[index % len(calls)] = calls[index % len(calls)]()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in events]

    burst(1)
    (one,) = burst(1)
    if one > SLOW_MILLISECONDS:
        return [one]
    burst(min(20, max(1, int(200 * seconds / max(one, 1e-3)))))
    return burst(min(2000, max(5, int(1e3 * seconds / max(one, 1e-3)))))


def graph_milliseconds(call: Callable) -> float:
    """One call inside a replayed CUDA graph, warm: what is left when nothing is launched by the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph, repeats = torch.cuda.CUDAGraph(), 10
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    return milliseconds([graph.replay], "cuda", 0.1, time.perf_counter)["p50"] / repeats


def extra_bytes(call: Callable) -> int:
    """Device memory that a call needs at its peak beyond what it returns."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return peak - byte_count(result)


def tensors_of(value) -> list[torch.Tensor]:
    """Every tensor in nested lists and tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in tensors_of(item)] if isinstance(value, list | tuple) else []


def byte_count(value) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(value))


def need_device(device: str) -> None:
    """That ``device`` is here.

    Raises:
        BackendError: if it is not.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("no CUDA device; --device cpu measures on this machine's processor")


def need_module(module: str, cure: str) -> None:
    """That an optional module is here.

    Raises:
        BackendError: saying what brings it.
    """
    try:
        importlib.import_module(module)
    except ImportError:
        raise BackendError(f"{module} is needed for this: {cure}") from None


def environment(device: str, threads: int) -> dict:
    """Return the facts that a number depends on besides the code."""
    facts = {
        "device": device_name(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "triton": _triton_version(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "commit": commit(),
        "sources": sources_digest(),
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if device == "cuda":
        return facts | {"driver": driver_version(), "cuda": torch.version.cuda, "clock": "CUDA events"}
    return facts | {
        "cores": os.cpu_count(),
        "threads": threads,
        "clock": "thread CPU time" if threads == 1 else "wall time",
        "load_average": os.getloadavg()[0],
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver; None if there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def sources_digest() -> str:
    """Return a hash of the code, which also serves where the working tree came without its history."""
    digest = hashlib.sha256()
    is_checkout = (ROOT / "setup.py").exists()
    folders = [ROOT / name for name in ("bench", "csrc", "kernels", "tests", "wsolfast")] if is_checkout else [ROOT]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCES]
    for path in sorted([*files, ROOT / "setup.py"] if is_checkout else files):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def write_json(path: Path, value) -> None:
    """Write ``value`` whole or not at all.

    The engine's writer needs Pillow, by way of the data sets, which the machine of gpu_check may lack.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(unfinished, path)


def read_json(path: Path | None) -> dict:
    """Return what :func:`write_json` wrote; empty if there is no file."""
    return json.loads(path.read_text()) if path is not None and path.exists() else {}


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__
