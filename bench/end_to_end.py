"""Images per second of training steps and of evaluation, beside the network alone and the published way.

What is timed is what ``wsolfast train`` and ``wsolfast eval`` run: a step of the engine with its losses, pools, rates
and checks; an evaluation with maps, boxes, counters and files. Images come from JPEG files ("jpeg"), from the cache of
decoded ones ("cache", which the round that does not count fills), from files that the GPU decodes ("cuda"), or lie
decoded in memory ("memory"). Beside them, on the same images, in the same precision and layout, but in cases "from
files":

* ``classifier``: the backbone, its pooled features and a linear layer, in a bare loop of the same optimizer on
  cross-entropy;
* ``network``: the method's own network, heads and blocks included, in the same bare loop, or its forward;
* ``backbone``: its forward alone;
* ``published``: what the papers' programs do, in kind: plain PyTorch losses and NumPy labels in training
  (published_training.py), one image at a time with NumPy and OpenCV in evaluation (published_evaluation.py).

An evaluation's time per image is what each image beyond the first batch adds; what it costs once besides, whatever it
sees, is in the results as ``seconds_once``. Contenders take turns and ratios are medians over the rounds, so that what
else the machine does falls on all of them. On a CPU the clock is the CPU time of the process, of all its threads; on a
GPU it is the wall's. Losses and boxes are compared with the published way's before anything is timed.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from wsolfast import ops
from wsolfast.bench.end_to_end_cases import CASES, EndToEnd, rendered
from wsolfast.bench.evaluations import Evaluation
from wsolfast.bench.measure import SHARES, environment, need_device
from wsolfast.bench.rows import OURS, Key, Recorder
from wsolfast.bench.tables import Output, present
from wsolfast.bench.training_steps import Training
from wsolfast.engine.run.allocator import keep_freed_memory
from wsolfast.engine.run.errors import BackendError, RunError, UsageError

CONTENDERS = {"train": Training, "evaluate": Evaluation}


def measure(
    calls: Mapping[str, Callable[[], int]], rounds: int, device: str, overdue: Callable[[], bool]
) -> dict[str, list[float]]:
    """Seconds per image of each contender in each round, after one that does not count."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds + 1):
        if number > 1 and overdue():
            break
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wait()
            started = clock()
            images = calls[name]()
            wait()
            if number:
                seconds[name].append((clock() - started) / images)
    return seconds


def without_start(seconds: dict[str, list[float]], case: EndToEnd) -> float:
    """Take from the times of whole evaluations, per image, what they cost once; and return that, in seconds."""
    few, all_ = case.batch, case.images
    pairs = list(zip(seconds["ours"], seconds.pop("start"), strict=True))
    seconds["ours"] = [(all_ * whole - few * start) / (all_ - few) for whole, start in pairs]
    return statistics.median(few * (start - each) for (_, start), each in zip(pairs, seconds["ours"], strict=True))


def rows_of(seconds: Mapping[str, list[float]], targets: Mapping[str, float]) -> Iterator[dict]:
    """Contender, times per image and, beside ours, ratios; with ours what was wanted."""
    mine = seconds[OURS]
    for name, values in seconds.items():
        row = {
            "contender": name,
            "status": "ok",
            "ms": {f"p{share}": sorted(values)[share * (len(values) - 1) // 100] * 1e3 for share in SHARES},
            "calls": len(values),
        }
        if name == OURS:
            yield row | {"targets": dict(targets), "load_average": os.getloadavg()[0]}
        else:
            ratio = statistics.median(theirs / ours for ours, theirs in zip(mine, values, strict=True))
            # The network alone does not localise.
            yield row | {"ratio": ratio, "partial": name != "published"}


def notes(key: Key, rows: Mapping[str, Mapping]) -> list[str]:
    """Images per second, and whether each target is met."""
    rate = 1e3 / rows[OURS]["ms"]["p50"]
    told = [f"{rate:,.1f} images/s"]
    for name, wanted in rows[OURS]["targets"].items():
        if name == "images_per_second":
            met, bound = rate >= wanted, f"{wanted:,.0f} images/s"
        elif name in rows:
            times = 1 / rows[name]["ratio"]
            met, bound = times <= wanted, f"{wanted:.2f} of {name}: {times:.2f}"
        else:
            continue
        told.append(f"{'MET' if met else 'MISSED'} {bound}")
    return told


def run(
    output: Output,
    *,
    device: str = "cpu",
    case: Sequence[str] = (),
    work: str | None = None,
    source: str | None = None,
    quick: bool = False,
    rounds: int = 7,
    threads: int = 1,
    minutes: float = float("inf"),
) -> None:
    """Compare, time and show.

    Args:
        output: where results go.
        device: ``cpu`` or ``cuda``.
        case: only cases whose name starts with one of these; all without.
        work: ``train`` or ``evaluate``; both without.
        source: ``memory``, ``jpeg``, ``cache`` or ``cuda``; all that the case has without.
        quick: a small network, to see that it works.
        rounds: how often contenders take turns.
        threads: on a CPU.
        minutes: start no measurement after these.

    Raises:
        UsageError: for an unknown case.
        BackendError: if there is no such device, or nothing but references to time.
        CheckError: if results are wrong.
        RunError: if time is up before all is measured.
    """
    need_device(device)
    if ops.extension_status() is not None:
        raise BackendError(f"nothing to measure: the ops are served by their references ({ops.extension_status()})")
    cases = CASES["quick" if quick else device]
    chosen = [each for each in cases if each.name.startswith(tuple(case or ("",)))]
    if not chosen:
        raise UsageError(f"no case {case[0]!r}; known: {', '.join(each.name for each in cases)}")
    if device == "cpu":
        torch.set_num_threads(threads)
        keep_freed_memory()
    end = time.monotonic() + 60 * minutes
    clock = "wall time" if device == "cuda" else "CPU time of the process"
    found = Recorder("e2e", output.json, environment(device, threads) | {"clock": clock})
    wanted: list[Key] = []
    for each in chosen:
        for what in each.work:
            if work in (None, what):
                sources = [name for name in each.sources if source in (None, name)]
                wanted += [found.results.key(identity_of(each, what, name)) for name in sources]
                missing = [name for name in sources if OURS not in found.of(**identity_of(each, what, name))]
                if missing and time.monotonic() < end:
                    compare(each, what, missing, device, rounds, found, lambda: time.monotonic() > end)
    shown = found.restricted(wanted)
    present(shown, notes, output)
    if len(shown.cases) < len(wanted):
        raise RunError("out of time: run again for the missing rows")


def identity_of(case: EndToEnd, work: str, source: str) -> dict[str, str]:
    return {"case": case.name, "work": work, "source": source}


def compare(
    case: EndToEnd, work: str, sources: Sequence[str], device: str, rounds: int, found: Recorder, overdue: Callable
) -> None:
    """Add the rows of a case's work, or one that says what is wrong."""
    with rendered(case) as (root, folder):
        bench = CONTENDERS[work](case, root, device, folder)
        amp = bench.run.recipe.runtime.amp
        for source in sources:
            identity = identity_of(case, work, source)
            try:
                bench.check()
            except AssertionError as error:
                found.add(identity | {"contender": OURS, "status": f"wrong: {error}"})
                return
            if overdue():
                return
            seconds = measure(bench.calls(source), rounds, device, overdue)
            once = without_start(seconds, case) if "start" in seconds else None
            if seconds[OURS]:
                for row in rows_of(seconds, case.targets.get(work, {})):
                    found.add(
                        identity | {"amp": amp} | row | ({"seconds_once": once} if row["contender"] == OURS else {})
                    )
                print(f"measured: {case.name}, {work}, {source}", file=sys.stderr, flush=True)
