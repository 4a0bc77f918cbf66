"""Ceilings of the device: copies, matrix products, launches.

    python -m wsolfast.bench.ceilings [--device cuda] [--tiny] [--json FILE]

Products are of random numbers: zeros are faster. Launches are of one small addition, after each other in a stream and
inside a replayed CUDA graph.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from wsolfast.bench.measure import environment, milliseconds, write_json
from wsolfast.bench.peers import tf32_allowed


def median_seconds(call: Callable, device: str, seconds: float) -> float:
    return 1e-3 * milliseconds([call], device, seconds, time.perf_counter)["p50"]


def copy_rate(device: str, size: int, seconds: float) -> float:
    """Bytes read and written per second."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), device, seconds)


def product_rate(device: str, side: int, dtype: torch.dtype, tf32: bool, seconds: float) -> float:
    """Floating-point operations per second of a square matrix product."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    with tf32_allowed(tf32):
        return 2 * side**3 / median_seconds(lambda: left @ right, device, seconds)


def launch_seconds(device: str, count: int) -> float:
    """One launch after another, the host's time included."""
    one = torch.ones(1, device=device)

    def launches():
        for _ in range(count):
            one.add_(1)

    return median_seconds(launches, device, 0.1) / count


def replay_seconds(count: int) -> float:
    """One launch of a replayed graph of ``count``."""
    one = torch.ones(1, device="cuda")
    one.add_(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            one.add_(1)
    return median_seconds(graph.replay, "cuda", 0.1) / count


def measure(device: str, tiny: bool, seconds: float) -> dict[str, float]:
    side, size, count = (64, 2**16, 10) if tiny else (8192, 2**32, 1000)
    found = {"copy_bytes_per_s": copy_rate(device, size, seconds)}
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        found[f"{name}_flop_per_s"] = product_rate(device, side, dtype, tf32, seconds)
    found["launch_s"] = launch_seconds(device, count)
    if device == "cuda":
        found["graph_launch_s"] = replay_seconds(count)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="see that it works; the numbers mean nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no CUDA device\n")
    found = measure(options.device, options.tiny, 0.0 if options.tiny else 1.0)
    for name, value in found.items():
        print(f"{name} {value:.4g}")
    if options.json:
        facts = environment(options.device, torch.get_num_threads())
        write_json(options.json, {"environment": facts, "ceilings": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
