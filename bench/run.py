"""Times every op of this build against its PyTorch reference and prints a table.

    python bench/run.py [--op NAME ...] [--threads N] [--seconds S] [--json FILE]

A row is only timed after its results agree with the reference. One thread is measured in thread CPU time, so that a
busy machine adds noise but no waiting; more threads in wall time.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from cases import CASES, BenchCase

from wsolfast import ops
from wsolfast.testing import assert_close

COLUMNS = ("op", "case", "mode", "reference p50", "ours p20", "ours p50", "ours p80", "speed-up")


def contenders(case: BenchCase) -> tuple[Callable, Callable]:
    """The op as the dispatcher serves it, and its reference."""
    reference = getattr(importlib.import_module(f"wsolfast.reference.{case.op}"), case.op)
    return getattr(torch.ops.wsolfast, case.op).default, reference


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def first_output(outputs):
    return as_tuple(outputs)[0]


def forward_and_backward(function: Callable, inputs: tuple) -> Callable:
    def is_differentiable(value):
        return isinstance(value, torch.Tensor) and value.is_floating_point()

    arguments = [x.detach().clone().requires_grad_() if is_differentiable(x) else x for x in inputs]
    wanted = [x for x in arguments if is_differentiable(x)]

    def call():
        output = first_output(function(*arguments))
        return torch.autograd.grad(output, wanted, torch.ones_like(output))

    return call


def modes(case: BenchCase, inputs: tuple) -> dict[str, tuple[Callable, Callable]]:
    """By mode, what is timed: ours and the reference's."""
    ours, reference = contenders(case)
    calls = {"fwd": tuple(lambda f=f: first_output(f(*inputs)) for f in (ours, reference))}
    if case.backward:
        calls["fwd+bwd"] = tuple(forward_and_backward(f, inputs) for f in (ours, reference))
    return calls


def percentiles(call: Callable, clock: Callable[[], float], seconds: float) -> dict[str, float]:
    """20th, 50th and 80th percentile in milliseconds over at least five calls."""
    call()
    times = []
    while len(times) < 5 or (sum(times) < seconds and len(times) < 200):
        begin = clock()
        call()
        times.append(clock() - begin)
    times.sort()
    return {f"p{share}": 1e3 * times[share * (len(times) - 1) // 100] for share in (20, 50, 80)}


def measure(case: BenchCase, clock: Callable[[], float], seconds: float) -> list[dict]:
    inputs = case.make_inputs("cpu", torch.float32)
    rows = []
    for mode, (ours, reference) in modes(case, inputs).items():
        for actual, expected in zip(as_tuple(ours()), as_tuple(reference()), strict=True):
            assert_close(actual, expected, case.tolerance)
        theirs, mine = percentiles(reference, clock, seconds), percentiles(ours, clock, seconds)
        rows.append(
            {
                "op": case.op,
                "case": case.name,
                "mode": mode,
                "dtype": "float32",
                "reference_ms": theirs,
                "ours_ms": mine,
                "speed_up": theirs["p50"] / mine["p50"],
            }
        )
    return rows


def environment(threads: int) -> dict:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "clock": "thread CPU time" if threads == 1 else "wall time",
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
    }


def cpu_name() -> str:
    """Model name, with family and model number where the name alone says little."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    return f"{fields.get('model name')} (family {fields.get('cpu family')}, model {fields.get('model')})"


def as_cells(row: dict) -> tuple[str, ...]:
    mine = row["ours_ms"]
    numbers = (row["reference_ms"]["p50"], mine["p20"], mine["p50"], mine["p80"])
    return (row["op"], row["case"], row["mode"], *(f"{x:.2f} ms" for x in numbers), f"{row['speed_up']:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the ops against their references.")
    parser.add_argument("--op", nargs="+", help="only these ops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each measurement")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    if ops.extension_status() is not None:
        sys.exit(f"nothing to compare: the ops are served by their references ({ops.extension_status()})")
    known = {case.op for case in CASES}
    chosen = set(arguments.op or known)
    if unknown := sorted(chosen - known):
        sys.exit(f"no case of op {unknown[0]!r}; known: {', '.join(sorted(known))}")
    torch.set_num_threads(arguments.threads)
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    print(" | ".join(COLUMNS))
    rows = []
    for case in (case for case in CASES if case.op in chosen):
        for row in measure(case, clock, arguments.seconds):
            rows.append(row)
            print(" | ".join(as_cells(row)), flush=True)
    if arguments.json:
        results = {"environment": environment(arguments.threads), "rows": rows}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
