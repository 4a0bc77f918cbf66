"""The ops against everything else that does the same, after comparing their results.

On a CPU the peer is the plain PyTorch reference on one thread, timed with the thread's CPU time, so that other programs
on the machine count little. On a GPU peers are the reference in float32, TF32 and bfloat16, compiled, and the libraries
that can be imported; buffers rotate so that caches are cold, and ``ceilings`` (what ceilings.py measured) turns times
into shares of the floor: bytes that must move at the speed of a copy, or arithmetic at that of a bfloat16 product.

On a GPU a call is also timed inside a replayed graph, where no launch waits for the host: shares of the floor are of
that time. An op whose results are wrong is not timed. Rows that the results file holds already, of the same code and
device, are kept.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path

import torch

from wsolfast import ops
from wsolfast.bench.cases import CASES, BenchCase
from wsolfast.bench.measure import (
    COLD_BYTES,
    SLOW_MILLISECONDS,
    byte_count,
    environment,
    extra_bytes,
    graph_milliseconds,
    milliseconds,
    need_device,
    read_json,
)
from wsolfast.bench.peers import NotHere, Peer, ours, peers_of, reference, tf32_allowed
from wsolfast.bench.rows import Key, Recorder, Results, ratios
from wsolfast.bench.tables import Output, present
from wsolfast.engine.run.errors import BackendError, CheckError, RunError, UsageError
from wsolfast.testing import assert_close, with_gradients

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

    arguments, wanted = with_gradients(inputs)

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
    were compared: one where the reference of all does not fit. Gradients are compared relative to their largest value:
    they sum terms that cancel.

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
        unit = 1.0 if mode == "fwd" else max(1.0, wanted.abs().max().item())
        assert_close(actual.cpu() / unit, wanted.cpu() / unit, case.tolerance)
    return images


def check_all(work: Sequence[tuple[BenchCase, str]], device: str) -> None:
    """Compare results of all cases, and say which are right.

    Raises:
        CheckError: naming those that are wrong.
    """
    wrong = []
    for case, mode in work:
        name = " ".join(identity_of(case, mode).values())
        try:
            images = check(case, case.make_inputs(device, case.dtype), mode, device)
        except AssertionError as error:
            wrong.append(f"{name}: {' '.join(str(error).split())}")
        print(f"{name}: {'wrong' if wrong and wrong[-1].startswith(name) else f'right, {images} compared'}", flush=True)
    if wrong:
        raise CheckError(f"{len(wrong)} of {len(work)} cases are not right: {'; '.join(wrong)}")


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
            graph = replay(calls[0]) if device == "cuda" and first["p50"] < SLOW_MILLISECONDS else {}
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
        "partial": peer.partial,
    } | graph


def replay(call: Callable) -> dict:
    """Return the time of a call inside a graph, or why it cannot be in one, as what the host has to read cannot."""
    try:
        return {"graph_ms": graph_milliseconds(call)}
    except RuntimeError as error:
        torch.cuda.synchronize()
        return {"graph_ms": None, "graph_refused": first_line(error)}


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def identity_of(case: BenchCase, mode: str) -> dict[str, str]:
    return {"op": case.op, "case": case.name, "dtype": str(case.dtype)[6:], "mode": mode}


def measure(case: BenchCase, mode: str, device: str, wanted: Callable[[str], bool], found: Recorder, **options) -> None:
    """Add the rows that are missing: ours, once it is right, then the peers until time is up."""
    identity = identity_of(case, mode)
    contenders = [ours(case), *(peer for peer in peers_of(case, device) if wanted(peer.name))]
    there = found.of(**identity)
    again = ("wrong", "failed")
    missing = [peer for peer in contenders if peer.name not in there or there[peer.name]["status"].startswith(again)]
    if not missing:
        return
    inputs = case.make_inputs(device, case.dtype)
    if missing[0].name == "ours":
        try:
            checked = check(case, inputs, mode, device)
        except Exception as error:
            found.add(identity | {"contender": "ours", "status": f"wrong: {str(error).strip() or repr(error)}"})
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
                "targets": targets_of(case, mode),
            }
        found.add(identity | {"contender": peer.name} | row)


def notes(key: Key, rows: dict[str, dict]) -> list[str]:
    """Share of the floor, memory beyond the outputs, and what was wanted."""
    row = rows["ours"]
    told = [f"{row['floor_ms'] / on_device(row):.0%} of the floor"] if row.get("floor_ms") else []
    if row.get("extra_bytes") is not None:
        told.append(f"{row['extra_bytes'] / 2**20:.1f} MiB beyond the outputs")
    return told + [" ".join(verdict) for verdict in verdicts(row.get("targets", {}), rows)]


def on_device(row: dict) -> float:
    """Return a row's time without the host's: that inside a graph where there is one."""
    return row.get("graph_ms") or row["ms"]["p50"]


def targets_of(case: BenchCase, mode: str) -> dict[str, float | str]:
    """Return the targets in this mode; JSON has no infinity."""
    wanted = case.targets if mode in case.target_modes else {}
    return {name: "inf" if target == inf else target for name, target in wanted.items()}


def verdicts(targets: Mapping[str, float | str], rows: dict[str, dict]) -> list[tuple[str, str]]:
    """Of each target, whether it was MET, MISSED or is UNKNOWN because nothing was measured, and the numbers."""
    mine, told = rows["ours"]["ms"]["p50"], []
    # Where memory did not suffice for them, ours wins by any factor.
    others = ratios(rows) | {name: inf for name, row in rows.items() if row["status"] == "out of memory"}
    for name, wanted in targets.items():
        target = float(wanted)
        if name == "ms":
            found, unit, met = mine, " ms", mine <= target
        elif name == "floor":
            floor = rows["ours"].get("floor_ms")
            found, unit = None if floor is None else floor / on_device(rows["ours"]), " of the floor"
            met = found is not None and found >= target
        else:
            # Of several libraries the fastest counts.
            among = [ratio for peer, ratio in others.items() if peer.startswith(f"{name} ")]
            found, unit = others.get(name, min(among, default=None)), f"x {name}"
            met = found is not None and found >= target
        verdict = "UNKNOWN" if found is None else "MET" if met else "MISSED"
        told.append((verdict, f"{target:.3g}{unit}: {'not measured' if found is None else f'{found:.3g}'}"))
    return told


def tally(shown: Results) -> str | None:
    """One line about all targets; None where there are none."""
    found = [verdict for rows in shown.cases.values() for verdict, _ in verdicts(rows["ours"].get("targets", {}), rows)]
    counts = ", ".join(f"{found.count(name)} {name}" for name in ("MET", "MISSED", "UNKNOWN"))
    return f"targets: {counts}" if found else None


def run(
    output: Output,
    *,
    device: str = "cpu",
    cases: str | None = None,
    op: Sequence[str] = (),
    peers: Sequence[str] = (),
    threads: int = 1,
    seconds: float | None = None,
    minutes: float = float("inf"),
    ceilings: Path | None = None,
    summary: bool = False,
    targets: bool = False,
    check_only: bool = False,
) -> None:
    """Compare, time and show.

    Args:
        output: where results go.
        device: ``cpu`` or ``cuda``.
        cases: a name in ``CASES``; the device's without.
        op: only these; all without.
        peers: only those whose names start with one of these; without, all on a GPU, and those that do not compile on a
            CPU.
        threads: on a CPU.
        seconds: of each measurement, which is done twice; 1 on a CPU and 0.2 on a GPU without.
        minutes: start no measurement after these.
        ceilings: file that ceilings.py wrote.
        summary: measure nothing and show the rows that are known.
        targets: only the cases, and of them the modes, that have targets.
        check_only: compare results, time nothing.

    Raises:
        UsageError: for an unknown op.
        BackendError: if there is no such device, or nothing but references to time.
        CheckError: if results are wrong.
        RunError: if time is up before all is measured.
    """
    need_device(device)
    every = CASES[cases or device]
    known = {case.op for case in every}
    chosen = set(op or known)
    if unknown := sorted(chosen - known):
        raise UsageError(f"no case of op {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if ops.extension_status() is not None:
        # Without compiled kernels a GPU still has Triton's.
        triton = {name for name in chosen if ops.backends().get(name, {}).get("cuda") == "triton"}
        served = triton if device == "cuda" else set()
        if not served:
            names = ", ".join(sorted(chosen))
            raise BackendError(f"nothing to compare: {names}: served by their references ({ops.extension_status()})")
        chosen = served
    if device == "cpu":
        torch.set_num_threads(threads)
    # Compiled CPU code is not what the CPU rows are about, and takes minutes.
    prefixes = tuple(peers or (("",) if device == "cuda" else ("eager",)))
    end = time.monotonic() + 60 * minutes
    found = Recorder("ops", output.json, environment(device, threads))
    settings = {
        "seconds": seconds if seconds is not None else {"cpu": 1.0, "cuda": 0.2}[device],
        "clock": time.thread_time if threads == 1 else time.perf_counter,
        "ceilings": read_json(ceilings).get("ceilings", {}),
        "overdue": lambda: time.monotonic() > end,
    }
    work = [(case, mode) for case in every if case.op in chosen for mode in modes(case)]
    if targets:
        work = [(case, mode) for case, mode in work if targets_of(case, mode)]
    if check_only:
        check_all(work, device)
        return
    # Compiling takes longest: what is cheap to know is known of every case first.
    rounds = (lambda name: not name.startswith("compile"), lambda name: name == "compile", lambda name: True)
    for this_round in rounds:
        for case, mode in work:
            if not (summary or settings["overdue"]()):
                measure(
                    case,
                    mode,
                    device,
                    lambda name, r=this_round: r(name) and name.startswith(prefixes),
                    found,
                    **settings,
                )
    shown = found.restricted(found.results.key(identity_of(case, mode)) for case, mode in work)
    present(shown, notes, output)
    if judged := tally(shown):
        print(judged)
    if settings["overdue"]():
        raise RunError("out of time: run again for the missing rows")
