"""Everything a GPU is needed for, in two commands, without a network:

    python bench/gpu_check first
    python bench/gpu_check second

* ``first``, eight minutes: loads the kernels (compiles csrc/ where what is there does not load), calls every op once,
  runs all tests for a device, checks the result of every bench case, measures the ceilings, times the cases that have
  targets, and watches the kernels of csrc/cuda with memcheck and racecheck;
* ``second``, four minutes: runs failed tests again, times compiled references, whole runs and their timelines, and
  tests that want the device for themselves.

Steps that passed on this device with this state of the code are skipped, a failed one hides no other. Results are in
``$OUT`` where that is set and in ``bench/results/<device>/`` otherwise, each as soon as it is known:
``gpu-check.json``, ``gpu-check.log``, ``ceilings.json``, ``ops.json``, ``end-to-end.json``, ``timeline.json``. A
command that was stopped goes on from there: results that lie in ``bench/results/<device>/`` are taken into an empty
``$OUT``. Eight minutes suffice if the kernels were compiled before: that takes two more.

``python -m wsolfast.bench.gpu_check --pack`` prints what to carry to a machine without a network. That machine's own
Python is used, by way of an environment of its own in build/; what it lacks can lie as wheels in ``.wheels/``. A step
that needs what is nowhere fails and says so. Exit code: 0 all has passed, 1 something is left to do, 4 no CUDA device,
5 a step failed.
"""

import argparse
import os
import re
import shutil
import sys
import time
from pathlib import Path

import torch

if __name__ == "__main__" and not __package__:
    # By a Python for which nothing is installed: the folder is on its path, the checkout is not.
    from machine import finder

    exec(finder(), {})

from wsolfast.bench.gpu_check.machine import BUILDING, PACKAGES, ROOT, how_to_carry, lacking, pack, prepare
from wsolfast.bench.measure import device_name


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("command", nargs="?", choices=("first", "second"), help="half of it; first, then second")
    parser.add_argument("--minutes", type=float, help="nothing runs after these; 8 and 4 without")
    parser.add_argument("--out", type=Path, help="folder of the results; $OUT or bench/results/<device> without")
    parser.add_argument("--jobs", type=int, default=min(14, os.cpu_count() or 1), help="processes at the same time")
    parser.add_argument("--pack", action="store_true", help="print what to carry to a machine without a network")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny cases: see that it works")
    options = parser.parse_args(arguments)
    if options.pack:
        print("\n".join(pack()))
        return 0
    if options.command is None:
        parser.error("which half: first or second?")
    device = "cpu" if options.dry_run else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: no CUDA device; --dry-run shows on a CPU that the program works", file=sys.stderr)
        return 4
    # They import the ops, which are not there before the environment is.
    from wsolfast.bench.gpu_check.plan import COMMANDS, Plan
    from wsolfast.bench.gpu_check.runner import Check

    begin = time.monotonic()
    homes = [home for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    # CUDA's programs, and the machine's own, which an environment hides.
    programs = [*(Path(home, "bin") for home in homes), Path(sys.executable).parent]
    os.environ["PATH"] += "".join(f"{os.pathsep}{folder}" for folder in programs)
    folder = options.out or _results(device, options.dry_run)
    folder.mkdir(parents=True, exist_ok=True)
    python = sys.executable if options.dry_run else prepare()
    if absent := lacking(python, PACKAGES | BUILDING):
        print(f"gpu-check: {how_to_carry(absent.values())}", file=sys.stderr)
    end = begin + 60 * (COMMANDS[options.command] if options.minutes is None else options.minutes)
    check = Check(folder, device, end, absent, options.jobs)
    plan = Plan(python, folder, device, options.jobs, end, check.state["steps"])
    outcomes = check.run_all(plan.steps(options.command))
    if "failed" in outcomes:
        return 5
    return 1 if "out of time" in outcomes else 0


def _results(device: str, dry_run: bool) -> Path:
    """Return the folder of the results, with those of this device that were put back."""
    if dry_run:
        return ROOT / "build" / "gpu-check" / "dry-run"
    kept = ROOT / "bench" / "results" / re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    out = os.environ.get("OUT")
    if not out:
        return kept
    for file in kept.glob("*"):
        if file.suffix in (".json", ".log") and not Path(out, file.name).exists():
            shutil.copy(file, out)
    return Path(out)


if __name__ == "__main__":
    sys.exit(main())
