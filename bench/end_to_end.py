"""Images per second of training steps and of evaluation, beside the network alone and the published way.

    python bench/end_to_end.py [--device cuda] [--case NAME ...] [--quick] [--rounds N] [--minutes M] [--json FILE]

What is timed is what ``wsolfast train`` and ``wsolfast eval`` run: a step of the engine with its losses, pools, rates
and checks; an evaluation with maps, boxes, counters and files. Images come from JPEG files ("jpeg") or lie decoded in
memory ("memory"). Beside them, on the same images, in the same precision and layout:

* ``classifier``: the backbone, its pooled features and a linear layer, in a bare loop of the same optimizer on
  cross-entropy;
* ``network``: the method's own network, heads and blocks included, in the same bare loop, or its forward;
* ``backbone``: its forward alone;
* ``published``: what the papers' programs do, in kind: plain PyTorch losses and NumPy labels in training
  (published_training.py), one image at a time with NumPy and OpenCV in evaluation (published_evaluation.py).

An evaluation's time per image is what each image beyond the first batch adds; what it costs once besides, whatever it
sees, is in the results as ``seconds_once``. Contenders take turns and ratios are medians over the rounds, so that what
else the machine does falls on all of them. On a CPU the clock is the CPU time of the process, of all its threads; on a
GPU it is the wall's. Losses and boxes are compared with the published way's before anything is timed; exit code 5 if
they differ, 1 if time is up.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from end_to_end_cases import CASES, EndToEnd, rendered
from evaluations import Evaluation
from measure import SHARES, environment, read_json, write_json
from training_steps import Training

from wsolfast import ops
from wsolfast.engine.allocator import keep_freed_memory

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


class Rows:
    """Results by case, work and source, written after each."""

    def __init__(self, path: Path | None, facts: dict):
        before = read_json(path)
        same = all(before.get("environment", {}).get(key) == facts[key] for key in ("device", "sources", "torch"))
        self.path, self.facts = path, facts
        self.rows = {self.key(row): row for row in before["rows"]} if same else {}

    @staticmethod
    def key(row: Mapping) -> tuple[str, str, str]:
        return row["case"], row["work"], row["source"]

    def add(self, row: dict) -> None:
        self.rows[self.key(row)] = row
        if self.path is not None:
            write_json(self.path, {"environment": self.facts, "rows": list(self.rows.values())})


def without_start(seconds: dict[str, list[float]], case: EndToEnd) -> float:
    """Take from the times of whole evaluations, per image, what they cost once; and return that, in seconds."""
    few, all_ = case.batch, case.images
    pairs = list(zip(seconds["ours"], seconds.pop("start"), strict=True))
    seconds["ours"] = [(all_ * whole - few * start) / (all_ - few) for whole, start in pairs]
    return statistics.median(few * (start - each) for (_, start), each in zip(pairs, seconds["ours"], strict=True))


def summarized(seconds: Mapping[str, list[float]], targets: Mapping[str, float]) -> dict:
    """What a row holds of the times per image: rates, spreads, ratios to every contender, and what was wanted."""
    mine = seconds["ours"]
    times = {
        name: {f"p{share}": sorted(values)[share * (len(values) - 1) // 100] * 1e3 for share in SHARES}
        for name, values in seconds.items()
    }
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in zip(mine, values, strict=True))
        for name, values in seconds.items()
        if name != "ours"
    }
    rate = 1 / statistics.median(mine)
    met = {
        name: rate >= wanted if name == "images_per_second" else ratios[name] <= wanted
        for name, wanted in targets.items()
    }
    return {
        "images_per_second": {name: 1e3 / share["p50"] for name, share in times.items()},
        "ms_per_image": times,
        "times_of": ratios,
        "rounds": len(mine),
        "targets": dict(targets),
        "met": met,
        "load_average": os.getloadavg()[0],
    }


def as_line(row: Mapping) -> str:
    """One row of the Markdown table."""
    if row["status"] != "ok":
        return f"| {row['case']} | {row['work']} | {row['source']} | {row['status']} | | | | | |"
    rates, ratios = row["images_per_second"], row["times_of"]

    def times(name: str) -> str:
        return f"{ratios[name]:.2f}" if name in ratios else ""

    told = []
    for name, wanted in row["targets"].items():
        bound = f"{wanted:,.0f} images/s" if name == "images_per_second" else f"{wanted:.2f} of {name}"
        told.append(f"{'MET' if row['met'][name] else 'MISSED'} {bound}")
    plain = times("classifier") or times("backbone")
    published = f"{1 / ratios['published']:.1f}x" if "published" in ratios else ""
    cells = (
        row["case"],
        row["work"],
        row["source"],
        f"{rates['ours']:,.1f}",
        times("network"),
        plain,
        published,
        ", ".join(told),
    )
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| case | work | images from | images/s | network | classifier, backbone | published way | target |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", nargs="+", metavar="NAME", help="only cases whose name starts with one of these")
    parser.add_argument("--work", choices=("train", "evaluate"), help="both without")
    parser.add_argument("--source", choices=("memory", "jpeg"), help="both without")
    parser.add_argument("--quick", action="store_true", help="a small network, to see that it works")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no measurement after these")
    parser.add_argument("--json", type=Path, help="also write the rows here, and keep those that are here")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no CUDA device\n")
    if ops.extension_status() is not None:
        parser.exit(4, f"nothing to measure: the ops are served by their references ({ops.extension_status()})\n")
    cases = CASES["quick" if options.quick else options.device]
    chosen = [case for case in cases if case.name.startswith(tuple(options.case or ("",)))]
    if not chosen:
        parser.error(f"no such case; known: {', '.join(case.name for case in cases)}")
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
        keep_freed_memory()
    end = time.monotonic() + 60 * options.minutes
    rows = Rows(options.json, environment(options.device, options.threads))
    rows.facts["clock"] = "wall time" if options.device == "cuda" else "CPU time of the process"
    left = False
    for case in chosen:
        for work in case.work:
            if options.work in (None, work):
                sources = [source for source in case.sources if options.source in (None, source)]
                missing = [source for source in sources if (case.name, work, source) not in rows.rows]
                if missing and time.monotonic() < end:
                    compare(case, work, missing, options, rows, lambda: time.monotonic() > end)
                left |= any((case.name, work, source) not in rows.rows for source in sources)
    print(HEADER)
    names = {case.name for case in chosen}
    shown = [row for key, row in rows.rows.items() if key[0] in names]
    print("\n".join(map(as_line, shown)))
    if any(row["status"] != "ok" for row in shown):
        return 5
    if left:
        print("out of time: run again for the missing rows", file=sys.stderr)
        return 1
    return 0


def compare(case: EndToEnd, work: str, sources: Sequence[str], options, rows: Rows, overdue: Callable) -> None:
    """Add the rows of a case's work, or one that says what is wrong."""
    with rendered(case) as (root, folder):
        bench = CONTENDERS[work](case, root, options.device, folder)
        amp = bench.run.recipe.runtime.amp
        for source in sources:
            identity = {"case": case.name, "work": work, "source": source, "amp": amp}
            try:
                bench.check()
            except AssertionError as error:
                rows.add(identity | {"status": f"wrong: {error}"})
                return
            if overdue():
                return
            seconds = measure(bench.calls(source), options.rounds, options.device, overdue)
            once = without_start(seconds, case) if "start" in seconds else None
            if seconds["ours"]:
                found = summarized(seconds, case.targets.get(work, {}))
                rows.add(identity | {"status": "ok", "seconds_once": once} | found)
                print(as_line(rows.rows[case.name, work, source]), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
