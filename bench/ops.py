"""Times the ops against everything else that does the same, after comparing their results.

    python bench/ops.py [--device cuda] [--op NAME ...] [--peers NAME ...] [--minutes M] [--json FILE]

On a CPU the peer is the plain PyTorch reference on one thread, timed with the thread's CPU time, so that other programs
on the machine count little. On a GPU peers are the reference in float32, TF32 and bfloat16, compiled, and the libraries
that can be imported; buffers rotate so that caches are cold, and ``--ceilings`` (what ceilings.py measured) turns times
into shares of the floor: bytes that must move at the speed of a copy, or arithmetic at that of a bfloat16 product.

An op whose results are wrong is not timed (exit code 5). Rows that stand in ``--json`` already, of the same code and
device, are kept; with ``--minutes`` the program stops in time, and says so with exit code 1.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from cases import CASES, BenchCase
from measure import (
    COLD_BYTES,
    byte_count,
    environment,
    extra_bytes,
    graph_milliseconds,
    milliseconds,
    read_json,
    write_json,
)
from peers import NotHere, Peer, ours, peers_of, reference, tf32_allowed

from wsolfast import ops
from wsolfast.testing import assert_close

COLUMNS = ("op", "case", "mode", "ours p20 p50 p80", "floor", "peak", "against")
LIMIT_OF_SETS = 512


def as_tuple(outputs):
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def modes(case: BenchCase) -> tuple[str, ...]:
    return ("fwd", "fwd+bwd") if case.backward else ("fwd",)


def bind(function: Callable, inputs: tuple, mode: str) -> Callable[[], tuple]:
    """A call without arguments: forward, or forward and the gradients of every floating-point tensor."""
    if mode == "fwd":

        def forward():
            with torch.no_grad():
                return as_tuple(function(*inputs))

        return forward

    def is_differentiable(value):
        return isinstance(value, torch.Tensor) and value.is_floating_point()

    arguments = [x.detach().clone().requires_grad_() if is_differentiable(x) else x for x in inputs]
    wanted = [x for x in arguments if is_differentiable(x)]

    def forward_and_backward():
        output = as_tuple(function(*arguments))[0]
        return torch.autograd.grad(output, wanted, torch.ones_like(output))

    return forward_and_backward


def converted(value, device: str, dtype: torch.dtype):
    """Copies of the inputs, floating-point ones but thresholds and boxes (float64) in another type."""
    if isinstance(value, torch.Tensor):
        changed = value.is_floating_point() and value.dtype != torch.float64
        return value.detach().to(device, dtype if changed else value.dtype, copy=True)
    return type(value)(converted(item, device, dtype) for item in value) if isinstance(value, list | tuple) else value


def of_first_image(case: BenchCase, value):
    if isinstance(value, torch.Tensor):
        return value[:1] if value.dim() and value.shape[0] == case.images else value
    return type(value)(of_first_image(case, item) for item in value) if isinstance(value, list | tuple) else value


def check(case: BenchCase, inputs: tuple, mode: str, device: str) -> int:
    """Compare ours with the reference, on CUDA in float64 and exact results with the CPU kernel; return how many images
    were compared: one where the reference of all does not fit.

    Raises:
        AssertionError: if results differ by more than the case's tolerance.
    """
    images = case.images
    with tf32_allowed(False):
        found = bind(ours(case).call, inputs, mode)()
        exactly = torch.float64 if device == "cuda" else case.dtype
        try:
            if device == "cuda" and case.tolerance == 0:
                expected = bind(ours(case).call, converted(inputs, "cpu", case.dtype), mode)()
            else:
                expected = bind(reference(case), converted(inputs, device, exactly), mode)()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            images, found = 1, of_first_image(case, found)
            expected = bind(reference(case), converted(of_first_image(case, inputs), device, exactly), mode)()
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual.cpu(), wanted.cpu(), case.tolerance)
    return images


def floor_milliseconds(case: BenchCase, inputs: tuple, call: Callable, mode: str, ceilings: dict) -> float | None:
    """Least time of any version: forward reads the inputs and writes the output; backward reads the inputs and the
    output's gradient and writes theirs, with twice the arithmetic."""
    if not ceilings:
        return None
    moved = byte_count(inputs) + byte_count(bind(ours(case).call, inputs, "fwd")())
    if mode == "fwd+bwd":
        moved += moved + byte_count(call())
    arithmetic = case.flops * (3 if mode == "fwd+bwd" else 1)
    return 1e3 * max(moved / ceilings["copy_bytes_per_s"], arithmetic / ceilings["bf16_flop_per_s"])


def time_peer(case: BenchCase, peer: Peer, inputs: tuple, mode: str, device: str, seconds: float, clock) -> dict:
    """Times of one contender, or why there are none."""
    dtype = peer.dtype or case.dtype
    size = byte_count(inputs) * torch.finfo(dtype).bits // torch.finfo(case.dtype).bits
    count = 1 if device == "cpu" else min(LIMIT_OF_SETS, max(1, -(-COLD_BYTES // max(size, 1))))
    if peer.name.startswith("compile"):
        # Or the code of one reference, compiled for a few cases, would stay eager in the next.
        torch.compiler.reset()
    try:
        with tf32_allowed(peer.tf32):
            sets = [inputs if device == "cpu" else converted(inputs, device, dtype) for _ in range(count)]
            calls = [bind(peer.call, given, mode) for given in sets]
            memory = None
            if device == "cuda":
                calls[0]()
                memory = extra_bytes(calls[0])
            first = milliseconds(calls, device, seconds, clock)
            again = milliseconds(calls, device, seconds, clock)
            graph = replay(calls[0]) if device == "cuda" and peer.name == "ours" and mode == "fwd" else {}
    except NotHere as reason:
        return {"status": str(reason)}
    except torch.OutOfMemoryError:
        return {"status": "out of memory"}
    except Exception as error:
        # Compilers fail in many ways; a device that stopped working is another matter.
        if "CUDA error" in str(error):
            raise
        return {"status": f"failed: {type(error).__name__}: {first_line(error)}"}
    finally:
        if device == "cuda":
            calls = sets = None
            torch.cuda.empty_cache()
    scaled = {key: value / peer.work for key, value in first.items() if key != "calls"}
    return {
        "status": "ok",
        "ms": scaled,
        "p50_again_ms": again["p50"] / peer.work,
        "calls": first["calls"],
        "input_sets": count,
        "extra_bytes": memory,
    } | graph


def replay(call: Callable) -> dict:
    try:
        return {"graph_ms": graph_milliseconds(call)}
    except RuntimeError as error:
        torch.cuda.synchronize()
        return {"graph_ms": None, "graph_refused": first_line(error)}


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Table:
    """Rows by (op, case, dtype, mode, contender), written after each."""

    def __init__(self, path: Path | None, facts: dict):
        before = read_json(path)
        same = all(before.get("environment", {}).get(key) == facts[key] for key in ("device", "sources", "torch"))
        self.path, self.facts = path, facts
        self.rows = {self.key(row): row for row in before["rows"]} if same else {}

    @staticmethod
    def key(row: dict) -> tuple:
        return tuple(row[name] for name in ("op", "case", "dtype", "mode", "contender"))

    def add(self, row: dict) -> None:
        self.rows[self.key(row)] = row
        if self.path is not None:
            write_json(self.path, {"environment": self.facts, "rows": list(self.rows.values())})

    def rows_of(self, case: BenchCase, mode: str) -> dict[str, dict]:
        """By contender."""
        wanted = (case.op, case.name, str(case.dtype)[6:], mode)
        return {key[-1]: row for key, row in self.rows.items() if key[:-1] == wanted}


def measure(case: BenchCase, mode: str, device: str, wanted: Callable[[str], bool], table: Table, **options) -> None:
    """Add the rows that are missing: ours, once it is right, then the peers until time is up."""
    identity = {"op": case.op, "case": case.name, "dtype": str(case.dtype)[6:], "mode": mode}
    contenders = [ours(case), *(peer for peer in peers_of(case, device) if wanted(peer.name))]
    there = table.rows_of(case, mode)
    again = ("wrong", "failed")
    missing = [peer for peer in contenders if peer.name not in there or there[peer.name]["status"].startswith(again)]
    if not missing:
        return
    inputs = case.make_inputs(device, case.dtype)
    if missing[0].name == "ours":
        try:
            checked = check(case, inputs, mode, device)
        except Exception as error:
            table.add(identity | {"contender": "ours", "status": f"wrong: {str(error).strip() or repr(error)}"})
            if "CUDA error" in str(error):
                raise
            return
    for peer in missing:
        if options["overdue"]():
            return
        row = time_peer(case, peer, inputs, mode, device, options["seconds"], options["clock"])
        if peer.name == "ours":
            call = bind(peer.call, inputs, mode)
            floor = floor_milliseconds(case, inputs, call, mode, options["ceilings"])
            row |= {
                "images_checked": checked,
                "floor_ms": floor,
                "targets": dict(case.targets) if mode in case.target_modes else {},
            }
        table.add(identity | {"contender": peer.name} | row)


def targets_of(case: BenchCase, mode: str) -> dict[str, float]:
    return dict(case.targets) if mode in case.target_modes else {}


def ratios_of(rows: dict[str, dict]) -> dict[str, float]:
    """Their times over ours, of those that were timed; infinite where memory did not suffice for them."""
    mine = rows["ours"]["ms"]["p50"]
    timed = {name: row["ms"]["p50"] / mine for name, row in rows.items() if name != "ours" and row["status"] == "ok"}
    return timed | {name: float("inf") for name, row in rows.items() if row["status"] == "out of memory"}


def verdicts(targets: Mapping[str, float], rows: dict[str, dict]) -> list[tuple[str, str]]:
    """Of each target, whether it was MET, MISSED or is UNKNOWN because nothing was measured, and the numbers."""
    mine, ratios, told = rows["ours"]["ms"]["p50"], ratios_of(rows), []
    for name, target in targets.items():
        if name == "ms":
            found, unit, met = mine, " ms", mine <= target
        elif name == "floor":
            floor = rows["ours"].get("floor_ms")
            found, unit = None if floor is None else floor / mine, " of the floor"
            met = found is not None and found >= target
        else:
            # Of several libraries the fastest counts.
            among = [ratio for peer, ratio in ratios.items() if peer.startswith(f"{name} ")]
            found, unit = ratios.get(name, min(among, default=None)), f"x {name}"
            met = found is not None and found >= target
        verdict = "UNKNOWN" if found is None else "MET" if met else "MISSED"
        told.append((verdict, f"{target:.3g}{unit}: {'not measured' if found is None else f'{found:.3g}'}"))
    return told


def against(targets: Mapping[str, float], rows: dict[str, dict]) -> list[str]:
    """Ratios to the peers, and what was wanted of each."""
    told = [f"{name} {ratio:.2f}x" for name, ratio in ratios_of(rows).items() if rows[name]["status"] == "ok"]
    told += [f"{name} {row['status']}" for name, row in rows.items() if row["status"] != "ok"]
    return told + [" ".join(verdict) for verdict in verdicts(targets, rows)]


def tally(found: list[str]) -> str:
    """One line about all targets."""
    return "targets: " + ", ".join(f"{found.count(name)} {name}" for name in ("MET", "MISSED", "UNKNOWN"))


def as_cells(case: BenchCase, mode: str, rows: dict[str, dict]) -> tuple[str, ...]:
    row = rows["ours"]
    name = f"{case.name}, {row['dtype']}"
    if row["status"] != "ok":
        return case.op, name, mode, row["status"].splitlines()[0], "", "", ""
    times = " ".join(f"{row['ms'][f'p{share}']:.4g}" for share in (20, 50, 80)) + " ms"
    floor = f"{row['floor_ms'] / row['ms']['p50']:.0%}" if row.get("floor_ms") else "-"
    memory = "-" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 2**20:.1f} MiB"
    return case.op, name, mode, times, floor, memory, "; ".join(against(targets_of(case, mode), rows))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cases", choices=tuple(CASES), help="the device's without")
    parser.add_argument("--op", nargs="+", help="only these ops")
    parser.add_argument("--peers", nargs="*", help="only peers whose name starts with one of these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="of each measurement, which is done twice; 1 on CPU, 0.2 on CUDA")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no measurement after these")
    parser.add_argument("--ceilings", type=Path, help="what ceilings.py measured")
    parser.add_argument("--json", type=Path, help="also write the rows here, and keep those that are here")
    parser.add_argument("--summary", action="store_true", help="measure nothing, print the rows of --json")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no CUDA device\n")
    cases = CASES[options.cases or options.device]
    known = {case.op for case in cases}
    chosen = set(options.op or known)
    if unknown := sorted(chosen - known):
        parser.error(f"no case of op {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if ops.extension_status() is not None:
        # Without compiled kernels a GPU still has Triton's.
        served = {op for op in chosen if options.device == "cuda" and ops.backends()[op]["cuda"] == "triton"}
        if not served:
            names = ", ".join(sorted(chosen))
            parser.exit(4, f"nothing to compare: {names}: served by their references ({ops.extension_status()})\n")
        chosen = served
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    # Compiled CPU code is not what the CPU rows are about, and takes minutes.
    prefixes = options.peers if options.peers is not None else ([""] if options.device == "cuda" else ["eager"])
    end = time.monotonic() + 60 * options.minutes
    table = Table(options.json, environment(options.device, options.threads))
    settings = {
        "seconds": options.seconds if options.seconds is not None else {"cpu": 1.0, "cuda": 0.2}[options.device],
        "clock": time.thread_time if options.threads == 1 else time.perf_counter,
        "ceilings": read_json(options.ceilings).get("ceilings", {}),
        "overdue": lambda: time.monotonic() > end,
    }
    work = [(case, mode) for case in cases if case.op in chosen for mode in modes(case)]
    # Compiling takes longest: what is cheap to know is known of every case first.
    rounds = (lambda name: not name.startswith("compile"), lambda name: name == "compile", lambda name: True)
    for this_round in rounds:
        for case, mode in work:
            if not (options.summary or settings["overdue"]()):
                measure(
                    case,
                    mode,
                    options.device,
                    lambda name, r=this_round: r(name) and name.startswith(tuple(prefixes)),
                    table,
                    **settings,
                )
    print(" | ".join(COLUMNS))
    judged = []
    for case, mode in work:
        if rows := table.rows_of(case, mode):
            print(" | ".join(as_cells(case, mode, rows)), flush=True)
            if rows["ours"]["status"] == "ok":
                judged += [verdict for verdict, _ in verdicts(targets_of(case, mode), rows)]
    print(tally(judged))
    mine = [row for case, mode in work for row in table.rows_of(case, mode).values() if row["contender"] == "ours"]
    if wrong := [row for row in mine if row["status"] != "ok"]:
        print(f"{len(wrong)} of {len(mine)} wrong or failed, not timed", file=sys.stderr)
        return 5
    if settings["overdue"]():
        print("out of time: run again for the missing rows", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
