"""Gaps of the device in a training step and in an evaluation: ``python -m wsolfast.bench.gpu_check.timeline``.

The evaluation is looked at twice, the second time replayed as a CUDA graph.

The profiler tells when each kernel ran. A gap is a time without any; its name is what the host did when it began.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from wsolfast.bench.end_to_end_cases import CASES, rendered
from wsolfast.bench.evaluations import Evaluation
from wsolfast.bench.measure import environment, write_json
from wsolfast.bench.training_steps import Training

# Microseconds; shorter ones are launches that follow each other.
LEAST_GAP = 5.0
SHOWN = 12

Span = tuple[float, float, str]  # begin and end in microseconds, name


def gaps(kernels: Iterable[Span], host: Sequence[Span]) -> list[tuple[str, float, int]]:
    """Return the times in which no kernel ran, added up by what the host did when each began.

    Args:
        kernels: spans on the device, in any order; they may overlap.
        host: spans on the host; the shortest that holds the moment names it.

    Returns:
        Name, microseconds and number of gaps, the longest total first.
    """
    found: dict[str, list[float]] = defaultdict(list)
    free = None
    for begin, end, _ in sorted(kernels):
        if free is not None and begin - free >= LEAST_GAP:
            around = [span for span in host if span[0] <= free < span[1]]
            name = min(around, key=lambda span: span[1] - span[0])[2] if around else "Python"
            found[name].append(begin - free)
        free = end if free is None else max(free, end)
    totals = [(name, sum(times), len(times)) for name, times in found.items()]
    return sorted(totals, key=lambda total: -total[1])


def busy(kernels: Iterable[Span]) -> float:
    """Return the microseconds in which at least one kernel ran."""
    total, free = 0.0, float("-inf")
    for begin, end, _ in sorted(kernels):
        total += max(0.0, end - max(begin, free))
        free = max(free, end)
    return total


def describe(profiler: profile) -> dict:
    """Return what a profile says of the device: its busy share, its longest kernels, and its gaps by name."""
    kernels, host = [], []
    for event in profiler.events() or ():
        span = (event.time_range.start, event.time_range.end, event.name)
        (kernels if event.device_type == torch.autograd.DeviceType.CUDA else host).append(span)
    if not kernels:
        return {"kernels": 0}
    whole = max(end for _, end, _ in kernels) - min(begin for begin, _, _ in kernels)
    by_kernel: dict[str, float] = defaultdict(float)
    for begin, end, name in kernels:
        by_kernel[name] += end - begin
    longest = sorted(by_kernel.items(), key=lambda pair: -pair[1])[:SHOWN]
    return {
        "kernels": len(kernels),
        "milliseconds": whole / 1e3,
        "busy": busy(kernels) / whole if whole else 1.0,
        "longest_kernels": [{"name": name, "ms": time / 1e3} for name, time in longest],
        "gaps": [{"host": name, "ms": time / 1e3, "count": n} for name, time, n in gaps(kernels, host)[:SHOWN]],
    }


def main() -> int:
    """Profile the first end-to-end case and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no CUDA device\n")
    case = CASES["quick" if options.device == "cpu" else "cuda"][0]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if options.device == "cuda" else [])]
    found = {}
    # A CPU has no graphs, and says so where they are on.
    graphs = f"runtime.cuda_graphs={'on' if options.device == 'cuda' else 'auto'}"
    works = (("train", Training, ()), ("evaluate", Evaluation, ()), ("evaluate by a CUDA graph", Evaluation, (graphs,)))
    with rendered(case) as (root, folder):
        for work, contender, settings in works:
            asked = replace(case, overrides=(*case.overrides, *settings))
            ours = contender(asked, root, options.device, folder / work).calls("memory")["ours"]
            # Kernels are compiled and buffers allocated once.
            ours()
            with profile(activities=activities) as profiler:
                ours()
            found[work] = describe(profiler)
            print(work, found[work])
            if options.json:
                about = {"environment": environment(options.device, 1), "case": case.name}
                write_json(options.json, about | {"work": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
