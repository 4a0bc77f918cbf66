"""The two commands, step by step: what each runs, in which order, and how long it is expected to take on an H200.

The first has what decides whether anything is right, then the times that are wanted. The second repeats what failed,
times what a compiler makes of the references, whole runs, and what disturbs others.
"""

import importlib.util
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from wsolfast import ops
from wsolfast.bench.cases import CASES
from wsolfast.bench.gpu_check.machine import ROOT
from wsolfast.bench.gpu_check.runner import Step
from wsolfast.testing import OP_CASES

# Minutes that each command may take.
COMMANDS = {"first": 8.0, "second": 4.0}
# With these a process of its own: they fill the memory, or want several devices.
ALONE = ("test_large_offsets.py", "test_nccl.py")
# Ops whose references a compiler makes something of, at the sizes with targets.
COMPILED = ("self_correlation_map", "multiplicative_fusion")
# Modules of whole runs on rendered images.
WHOLE_RUN = ("torchvision", "defusedxml")


class Plan:
    """The steps of the commands.

    Args:
        python: runs them.
        folder: of the results.
        device: ``cuda``; on ``cpu`` every step runs with tiny cases, or lists what it would do.
        jobs: processes at the same time.
        end: time (``time.monotonic()``) of the end of the command.
        known: what became of the steps before, by name.
    """

    def __init__(self, python: str, folder: Path, device: str, jobs: int, end: float, known: Mapping[str, dict]):
        self.python, self.folder, self.device, self.jobs = python, folder, device, jobs
        self.end, self.known = end, known
        self.tiny = device == "cpu"

    def steps(self, command: str) -> Iterator[Step]:
        """Yield the steps of a command."""
        yield from {"first": self._first, "second": self._second}[command]()

    def _first(self) -> Iterator[Step]:
        yield from self._load()
        yield from self._smoke()
        yield self._tests()
        yield from self._checks()
        yield self._ceilings()
        yield from self._targets()
        yield from self._sanitize()

    def _second(self) -> Iterator[Step]:
        yield from self._load()
        if again := [test for step in self.known.values() for test in step.get("failed", ())]:
            yield self._pytest("failed tests again", [*self._workers(4), "--tb", "long", *again], 30)
        yield from self._compiled()
        yield from self._whole_runs()
        for name in ALONE:
            (path,) = [file for file in device_tests() if file.name == name]
            yield self._pytest(name, [str(path)], 20)

    def _load(self) -> Iterator[Step]:
        """Yield what shows that the kernels load, after building them where they do not."""
        loads = "from wsolfast import ops; assert ops.extension_status() is None, ops.extension_status(); "
        loads += "print(*(f'{op}: {who}' for op, who in ops.backends().items()), sep='\\n')"
        if not self.tiny and (ops.extension_status() is not None or not cuda_ops()):
            programs = ("nvcc", os.environ.get("CXX", "g++").split()[0])
            yield Step(
                "build",
                # The ops alone: the module for NumPy arrays wants Python's headers, and nothing here asks for it.
                [self.python, "setup.py", "-q", "build_ext", "--inplace"],
                110,
                environment={"WSOLFAST_CUDA": "1", "WSOLFAST_NUMPY": "0"},
                needs=programs,
                imports=("setuptools", "ninja"),
                repeated=True,
            )
        yield Step("load", [self.python, "-c", loads], 5, repeated=True)

    def _smoke(self) -> Iterator[Step]:
        """Yield one call of every op, with its gradient, against the reference."""
        for names in self._shared(OP_CASES):
            command = [self.python, "-m", "wsolfast.bench.gpu_check.smoke", *names, "--device", self.device]
            yield Step(f"call {_named(names)}", command, 12, together="smoke")

    def _pytest(self, name: str, arguments: list[str], seconds: float) -> Step:
        command = [self.python, "-m", "pytest", "-q", "-m", "cuda", *arguments]
        command += ["--timeout", "90"] if importlib.util.find_spec("pytest_timeout") else []
        command += ["--collect-only"] if self.tiny else []
        return Step(name, command, seconds, imports=("pytest", "numpy"), must_pass_tests=not self.tiny)

    def _workers(self, count: int) -> list[str]:
        there = not self.tiny and importlib.util.find_spec("xdist") is not None
        return ["-n", str(min(count, self.jobs)), "--dist", "worksteal"] if there else []

    def _tests(self) -> Step:
        files = [str(path) for path in device_tests() if path.name not in ALONE]
        return self._pytest("tests", [*self._workers(14), *files], 165)

    def _bench(self, *words: str) -> list[str]:
        cases = ["--cases", "tiny"] if self.tiny else []
        return [self.python, "-m", "wsolfast", "bench", "ops", "--device", self.device, *cases, *words]

    def _checks(self) -> Iterator[Step]:
        """Yield the result check of every case; what is compiled for it serves the times."""
        for names in self._shared(dict.fromkeys(case.op for case in CASES["tiny" if self.tiny else "cuda"])):
            command = self._bench(*(word for op in names for word in ("--op", op)), "--check")
            yield Step(f"check {_named(names)}", command, 40, imports=("typer",), together="check")

    def _shared(self, names: Iterable[str]) -> list[list[str]]:
        """Return the ops by process: one each, or all in one where nothing is compiled for them."""
        return [list(names)] if self.tiny else [[name] for name in names]

    def _ceilings(self) -> Step:
        options = ["--device", self.device, "--json", str(self.folder / "ceilings.json")]
        command = [self.python, "-m", "wsolfast.bench.ceilings", *options, *(["--tiny"] if self.tiny else [])]
        return Step("ceilings", command, 20)

    def _timed(self, op: str, name: str, seconds: float, *words: str) -> Step:
        results = ["--json", str(self.folder / "ops.json"), "--ceilings", str(self.folder / "ceilings.json")]
        quick = ["--seconds", "0"] if self.tiny else ["--minutes", f"{self._minutes_left():.2f}"]
        return Step(name, self._bench("--op", op, *results, *quick, *words), seconds, imports=("typer",))

    def _targets(self) -> Iterator[Step]:
        """Yield the cases that have targets, boxes first, without what has to be compiled."""
        cases = CASES["tiny" if self.tiny else "cuda"]
        wanted = {case.op for case in cases if case.targets}
        for op in [op for op in _TARGETS_ORDER if op in wanted]:
            peers = [word for name in ("eager", "sdpa", "labels") for word in ("--peer", name)]
            yield self._timed(op, f"time {op}", 14, "--targets", *peers)

    def _compiled(self) -> Iterator[Step]:
        """Yield the compiled references' times, after compiling all of them, and the networks, at the same time."""
        peer = "eager" if self.tiny else "compile"
        for op in () if self.tiny else COMPILED:
            words = ("--targets", "--peer", peer, "--seconds", "0")
            yield Step(f"compile {op}", self._bench("--op", op, *words), 60, imports=("typer",), together="compile")
        if not self.tiny:
            yield Step("compile networks", self._timeline(), 60, imports=WHOLE_RUN, together="compile")
        for op in COMPILED:
            yield self._timed(op, f"time compiled {op}", 15, "--targets", "--peer", peer)

    def _whole_runs(self) -> Iterator[Step]:
        """Yield the end-to-end times of one network, from memory and from files, and the timelines of its work."""
        bench = [self.python, "-m", "wsolfast", "bench", "e2e", "--device", self.device]
        bench += ["--json", str(self.folder / "end-to-end.json")]
        # Beside the case itself, that whose images the cores, the cache and the device deliver.
        bench += (
            ["--quick", "--case", "CAM small network", "--rounds", "1"]
            if self.tiny
            else ["--case", "CAM VGG16", "--rounds", "2"]
        )
        yield Step("end to end", bench, 78, imports=("typer", *WHOLE_RUN))
        yield Step("timeline", self._timeline("--json", str(self.folder / "timeline.json")), 25, imports=WHOLE_RUN)

    def _timeline(self, *words: str) -> list[str]:
        return [self.python, "-m", "wsolfast.bench.gpu_check.timeline", "--device", self.device, *words]

    def _sanitize(self) -> Iterator[Step]:
        scripts = {name: [self.python, "-m", f"wsolfast.bench.{name}"] for name in ("sanitize", "racecheck")}
        if self.tiny:
            for name, script in scripts.items():
                yield Step(name, [*script, "--help"])
            return
        # Our kernels alone: PyTorch's, slow where they are watched, make the inputs and may have hazards of their own.
        tool = ["compute-sanitizer", "--error-exitcode", "9", "--kernel-name", "kns=wsolfast", "--tool", "memcheck"]
        for name, command in (("memcheck", [*tool, *scripts["sanitize"]]), ("racecheck", scripts["racecheck"])):
            yield Step(
                name,
                command,
                90,
                # Each tensor its own allocation, or reads beyond one would end in its neighbour.
                environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                needs=("compute-sanitizer",),
                together="sanitize",
            )

    def _minutes_left(self) -> float:
        return max(0.0, (self.end - time.monotonic()) / 60 - 1)


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else "all ops"


# What users wait for longest comes first.
_TARGETS_ORDER = (
    "score_map_boxes",
    "box_sweep_hits",
    "self_correlation_map",
    "multiplicative_fusion",
    "non_local_attention",
    "non_local_block",
    "class_head_pool",
    "gaussian_prior_labels",
)


def cuda_ops() -> list[str]:
    """Return the ops that csrc/cuda serves."""
    return [op for op, who in ops.backends().items() if who["cuda"] == "csrc"]


@cache
def device_tests() -> tuple[Path, ...]:
    """Return the files with tests for a device: those marked ``cuda``, and those that go to it where there is one."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if path.parent.name != "bench" and ("mark.cuda" in text or 'DEVICE = "cuda" if' in text):
            found.append(path)
    return tuple(found)
