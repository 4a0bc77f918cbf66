"""Everything a GPU is needed for, in one command, without a network:

    python bench/gpu_check.py [build|ceilings|tests|sanitize|bench ...] [--minutes 9] [--out FOLDER]

* ``build``: compiles csrc/ in place with nvcc; also the first thing that the four last ones do;
* ``ceilings``: what the device can do at best (ceilings.py);
* ``tests``: every test marked ``cuda`` and those of the Triton kernels, which run on the device where there is one;
* ``sanitize``: compute-sanitizer's memcheck and racecheck on the kernels of csrc/cuda (sanitize.py);
* ``bench``: the table of the ops against their peers (``wsolfast bench ops``);
* ``end_to_end``: training steps and evaluation against the network alone (``wsolfast bench e2e``), and gradient maps
  against the forward pass (``wsolfast bench cams``).

A part is a list of steps. Steps that passed on this device with this state of the code are skipped, a failed one hides
no other, and none is begun that ``--minutes`` have passed for: run the command again and it goes on. Results go to
``bench/results/<device>/`` (``gpu-check.json``, ``ceilings.json``, ``ops.json``, ``end-to-end.json``,
``gpu-check.log``), and to ``$OUT`` besides, where that is set.

The machine's own Python is used, by way of an environment of its own in build/; what it lacks can lie as wheels in
``.wheels/``, which git ignores. A step that needs what is nowhere fails and says so, the others run. Exit code: 0 all
asked for has passed, 1 something is left to do, 4 no CUDA device, 5 a step failed.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# Finds the checkout's packages where they lie, as an installation would, without pip and setuptools.
FINDER = """import importlib.util, sys

FOLDERS = {folders!r}


class Checkout:
    @staticmethod
    def find_spec(name, path=None, target=None):
        folder = FOLDERS.get(name)
        return folder and importlib.util.spec_from_file_location(
            name, folder + "/__init__.py", submodule_search_locations=[folder]
        )


sys.meta_path.insert(0, Checkout)
"""


def finder(root: Path = ROOT) -> str:
    """Return the source of a module that makes the packages of a checkout importable."""
    places = {"wsolfast": "wsolfast", "wsolfast.kernels": "kernels", "wsolfast.bench": "bench"}
    return FINDER.format(folders={name: str(root / folder) for name, folder in places.items()})


if __name__ == "__main__":
    # By a Python for which nothing is installed.
    exec(finder(), {})

from wsolfast.bench.measure import (  # noqa: E402
    device_name,
    driver_version,
    read_json,
    sources_digest,
    write_json,
)
from wsolfast.engine.run.environment import commit  # noqa: E402

PARTS = ("build", "ceilings", "tests", "sanitize", "bench", "end_to_end")
# Import name and distribution, of what building, testing and timing import.
PACKAGES = {
    "setuptools": "setuptools>=77",
    "ninja": "ninja",
    "numpy": "numpy",
    "triton": "triton",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "torchvision": "torchvision",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "typer": "typer",
}
# A step that hangs must leave time to write down that it did.
MARGIN_SECONDS = 10


@dataclass(frozen=True)
class Step:
    """One command; ``needs`` are programs and ``imports`` modules without which it cannot start, ``shown`` says to
    print its output, and ``repeated`` that it is run again although it passed."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    must_pass_tests: bool = False
    shown: bool = False
    repeated: bool = False


class Check:
    """Results so far of one device and one state of the code, and the running of more steps."""

    def __init__(self, folder: Path, device: str, end: float, lacking: Mapping[str, str] = {}):
        self.folder, self.device, self.end, self.lacking = folder, device, end, lacking
        facts = {"device": device_name(device), "torch": torch.__version__, "sources": sources_digest()}
        known = read_json(folder / "gpu-check.json")
        same = all(known.get(key) == value for key, value in facts.items())
        self.state = facts | {"commit": commit(), "driver": driver_version(), "parts": known["parts"] if same else {}}

    def passed(self, part: str, step: Step) -> bool:
        return not step.repeated and self.state["parts"].get(part, {}).get(step.name, {}).get("status") == "passed"

    def run(self, part: str, step: Step) -> str:
        """Run a step and write down how it went: passed, failed, or out of time. Without what it needs it failed."""
        left = self.end - time.monotonic() - MARGIN_SECONDS
        if left <= 0:
            return "out of time"
        begin = time.monotonic()
        missing = [program for program in step.needs if shutil.which(program) is None]
        absent = [self.lacking[module] for module in step.imports if module in self.lacking]
        if missing:
            status, output = "failed", f"not on PATH: {', '.join(missing)}\n"
        elif absent:
            status, output = "failed", f"not installed: {', '.join(absent)}\n"
        else:
            status, output = self._status_of(step, left)
        counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", output)}
        if status == "passed" and step.must_pass_tests and not counts.get("passed"):
            status, output = "failed", f"{output}\nno test ran\n"
        found = {"status": status, "seconds": round(time.monotonic() - begin, 1), "command": " ".join(step.command)}
        if status == "failed":
            found["output"] = output.strip().splitlines()[-20:]
        if step.must_pass_tests:
            found["counts"] = counts
        self.state["parts"].setdefault(part, {})[step.name] = found
        if step.shown:
            print(output, end="", flush=True)
        self._write(f"== {part}: {step.name}: {status}\n{' '.join(step.command)}\n{output}\n")
        return status

    @staticmethod
    def _status_of(step: Step, seconds: float) -> tuple[str, str]:
        process = subprocess.Popen(
            step.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            env=os.environ | step.environment,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # compute-sanitizer's and ninja's children too.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return "out of time", output
        if process.returncode == 1 and "out of time" in output:
            return "out of time", output
        return ("failed" if process.returncode else "passed"), output

    def _write(self, text: str) -> None:
        write_json(self.folder / "gpu-check.json", self.state)
        with (self.folder / "gpu-check.log").open("a") as log:
            log.write(text)
        out = os.environ.get("OUT")
        if out and Path(out) != self.folder:
            for path in self.folder.glob("*"):
                if path.suffix in (".json", ".log"):
                    shutil.copy(path, out)


def prepare(root: Path = ROOT) -> str:
    """Make an environment that sees the machine's packages, and the wheels and packages of a checkout; return its
    Python.
    """
    home = root / "build" / "gpu-check" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = home / "bin" / "python"
    if not python.exists():
        venv.EnvBuilder(with_pip=False, symlinks=True, clear=True).create(home)
    (site_packages,) = (home / "lib").glob("python*/site-packages")
    theirs = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in theirs)
    (site_packages / "machine.pth").write_text(lines)
    (site_packages / "wsolfast_checkout.py").write_text(finder(root))
    (site_packages / "wsolfast_checkout.pth").write_text("import wsolfast_checkout\n")
    if wheels := sorted(map(str, (root / ".wheels").glob("*.whl"))):
        try:
            install(str(python), wheels)
        except SystemExit as error:
            print(error, file=sys.stderr)
    return str(python)


def install(python: str, wheels: list[str]) -> None:
    if subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode:
        run_or_exit([python, "-m", "ensurepip"])
    options = ["-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    run_or_exit([python, "-m", "pip", "install", *options, *wheels])


def lacking(python: str, packages: Mapping[str, str] = PACKAGES) -> dict[str, str]:
    """Return which of these modules cannot be imported, with their distributions."""
    probe = (
        "import importlib, importlib.metadata, json, sys\n"
        "missing = {}\n"
        "for module, wanted in json.loads(sys.argv[1]).items():\n"
        "    name, _, least = wanted.partition('>=')\n"
        "    try:\n"
        "        importlib.import_module(module)\n"
        "        there = not least or int(importlib.metadata.version(name).split('.')[0]) >= int(least)\n"
        "    except ImportError:\n"
        "        there = False\n"
        # A CUDA build of torchvision beside a CPU's torch, which wsolfast imports nevertheless.
        "    except RuntimeError:\n"
        "        there = True\n"
        "    if not there:\n"
        "        missing[module] = wanted\n"
        "print(json.dumps(missing))\n"
    )
    return json.loads(run_or_exit([python, "-c", probe, json.dumps(packages)]).splitlines()[-1])


def how_to_carry(distributions: Iterable[str]) -> str:
    """One line about packages that are neither installed nor carried."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = list(distributions)
    return (
        f"this machine's Python lacks {', '.join(wanted)}; where there is a network: pip download -d .wheels "
        f"--only-binary=:all: --python-version {version} {shlex.join(wanted)}"
    )


def run_or_exit(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"gpu-check: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def steps(part: str, python: str, folder: Path, device: str, end: float) -> Iterable[Step]:
    """The commands of a part that is over at ``end``; on a CPU, what can be seen of them there."""
    tiny, bench = device == "cpu", [python, "-m", "wsolfast", "bench"]

    def minutes_left() -> list[str]:
        return ["--minutes", f"{(end - time.monotonic()) / 60 - 1:.2f}"]

    if part == "build":
        if tiny:
            return [Step("sources", [python, "setup.py", "-q", "--version"], imports=("setuptools",))]
        build = [python, "setup.py", "-q", "build_ext", "--inplace"]
        loads = "from wsolfast import ops; assert ops.extension_status() is None, ops.extension_status()"
        table = "print(*(f'{op}: {who}' for op, who in ops.backends().items()), sep='\\n')"
        programs = ("nvcc", os.environ.get("CXX", "g++").split()[0])
        # Nothing is compiled twice; what is built does not travel with the results to another machine.
        return [
            # The ops alone: the module for NumPy arrays wants Python's headers, and nothing here asks for it.
            Step(
                "extension",
                build,
                {"WSOLFAST_CUDA": "1", "WSOLFAST_NUMPY": "0"},
                needs=programs,
                imports=("setuptools", "ninja"),
                repeated=True,
            ),
            Step("loads", [python, "-c", f"{loads}; {table}"], repeated=True),
        ]
    if part == "ceilings":
        options = ["--device", device, "--json", str(folder / "ceilings.json")]
        command = [python, "-m", "wsolfast.bench.ceilings", *options, *(["--tiny"] if tiny else [])]
        return [Step("ceilings", command, shown=True)]
    if part == "tests":
        pytest = [python, "-m", "pytest", "-q", *(["--collect-only"] if tiny else [])]
        workers = ["-n", "8"] if not tiny and has_xdist(python) else []
        return [
            Step(
                str(path.relative_to(ROOT)),
                # Most of their time goes into compiling Triton's kernels.
                [*pytest, *(workers if compiles_much(path) else []), "-m", chosen, str(path)],
                imports=("pytest", "numpy"),
                must_pass_tests=not tiny,
            )
            for path, chosen in device_tests()[: 1 if tiny else None]
        ]
    if part == "sanitize":
        script = [python, "-m", "wsolfast.bench.sanitize"]
        if tiny:
            return [Step("help", [*script, "--help"])]
        # Our kernels alone: PyTorch's, slow where they are watched, make the inputs and may have hazards of their own.
        tool = ["compute-sanitizer", "--error-exitcode", "9", "--kernel-name", "kns=wsolfast", "--tool"]
        return [
            # Each tensor its own allocation, or reads beyond one would end in its neighbour.
            Step(
                f"{name} {op}",
                [*tool, name, *script, op],
                {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                needs=("compute-sanitizer",),
            )
            for op in cuda_ops(python)
            for name in ("memcheck", "racecheck")
        ]
    if part == "end_to_end":
        command = [*bench, "e2e", "--device", device, "--json", str(folder / "end-to-end.json")]
        maps = [*bench, "cams", "--device", device, "--json", str(folder / "cams.json")]
        if tiny:
            options = ["--quick", "--rounds", "1", "--case", "CAM", "--source", "memory"]
            return [
                Step("quick", [*command, *options], imports=("typer",), shown=True),
                Step("quick maps", [*maps, "--quick", "--rounds", "1"], imports=("typer", "torchvision"), shown=True),
            ]
        # One process each, and what is compiled for one of them serves the next.
        each = (
            Step(case, [*command, "--case", case, *minutes_left()], imports=("typer",), shown=True)
            for case in end_to_end_cases(python)
        )
        of_maps = (
            Step(name, [*maps, *minutes_left()], imports=("typer", "torchvision"), shown=True)
            for name in ("gradient maps",)
        )
        return chain(each, of_maps)
    command = [*bench, "ops", "--device", device, "--json", str(folder / "ops.json")]
    command += ["--ceilings", str(folder / "ceilings.json")]
    if tiny:
        return [Step("tiny", [*command, "--cases", "tiny", "--seconds", "0"], imports=("typer",), shown=True)]
    # One process each: a kernel that breaks the device hides nothing but its own op.
    each = (
        Step(op, [*command, "--op", op, *minutes_left()], imports=("typer",), shown=True) for op in benched_ops(python)
    )
    summary = Step("targets", [*command, "--summary"], imports=("typer",), shown=True, repeated=True)
    return chain(each, [summary])


def cuda_homes() -> list[str]:
    """Return the folders of CUDA's programs that are not on PATH."""
    return [home for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]


def device_tests() -> list[tuple[Path, str]]:
    """Files and what to choose of them: tests marked ``cuda``, and all of those that go to the device where there is
    one, as the Triton kernels' do."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text()
        anywhere = path.parent.name == "kernels" or 'DEVICE = "cuda" if' in text
        if path.parent.name != "bench" and (anywhere or "mark.cuda" in text):
            found.append((path, "not slow" if anywhere else "cuda"))
    return sorted(found, key=lambda test: test[0].parent.name == "kernels")


def has_xdist(python: str) -> bool:
    """Return whether pytest can share a file's tests among processes."""
    probe = "import importlib.util; print(importlib.util.find_spec('xdist') is not None)"
    return run_or_exit([python, "-c", probe]).split()[-1] == "True"


def compiles_much(path: Path) -> bool:
    return path.name == "test_registration.py" or path.name.endswith("_kernels.py")


def cuda_ops(python: str) -> list[str]:
    """Ops that csrc/cuda serves."""
    probe = "from wsolfast import ops; print(*(op for op, who in ops.backends().items() if who['cuda'] == 'csrc'))"
    served = run_or_exit([python, "-c", probe]).split()
    if not served:
        raise SystemExit("gpu-check: no op is served by csrc/cuda, so there is nothing to sanitize; see the part build")
    return served


def benched_ops(python: str) -> list[str]:
    """Ops that have cases, in their order."""
    probe = "from wsolfast.bench.cases import CASES; print(*dict.fromkeys(case.op for case in CASES['cuda']))"
    return run_or_exit([python, "-c", probe]).split()


def end_to_end_cases(python: str) -> list[str]:
    """Names of the cases for a GPU, in their order."""
    probe = (
        "from wsolfast.bench.end_to_end_cases import CASES; print(*(case.name for case in CASES['cuda']), sep='\\n')"
    )
    return run_or_exit([python, "-c", probe]).splitlines()


def summary(check: Check, asked: Sequence[str]) -> list[str]:
    lines = []
    for part in asked:
        for name, step in check.state["parts"].get(part, {}).items():
            counts = ", ".join(f"{number} {kind}" for kind, number in step.get("counts", {}).items())
            lines.append(
                f"{part:9} {step['status']:12} {step['seconds']:7.1f} s  {name}{f' ({counts})' * bool(counts)}"
            )
    return lines


def run_parts(check: Check, parts: Sequence[str], steps_of: Callable[[str], Iterable[Step]]) -> int:
    """Run the steps of each part that have not passed yet; return the exit code."""
    outcomes = []
    for part in parts:
        try:
            for step in steps_of(part):
                if not check.passed(part, step):
                    outcomes.append(check.run(part, step))
                    print(f"{part}: {step.name}: {outcomes[-1]}", flush=True)
        except SystemExit as error:
            print(error, file=sys.stderr)
            outcomes.append("failed")
    print("\n".join(summary(check, parts)))
    if "failed" in outcomes:
        return 5
    return 1 if "out of time" in outcomes else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all without")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing after these")
    parser.add_argument("--out", type=Path, help="folder of the results; bench/results/<device> without")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny cases: see that it works")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    device = "cpu" if options.dry_run else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: no CUDA device; --dry-run shows on a CPU that the program works", file=sys.stderr)
        return 4
    os.environ["PATH"] += "".join(f"{os.pathsep}{Path(home, 'bin')}" for home in cuda_homes())
    end = time.monotonic() + 60 * options.minutes
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    folder = options.out or (
        ROOT / "build" / "gpu-check" / "dry-run" if options.dry_run else ROOT / "bench/results" / slug
    )
    folder.mkdir(parents=True, exist_ok=True)
    python = sys.executable if options.dry_run else prepare()
    if absent := lacking(python):
        print(f"gpu-check: {how_to_carry(absent.values())}", file=sys.stderr)
    asked = options.parts or list(PARTS)
    if not options.dry_run and asked != ["ceilings"]:
        asked = ["build", *(part for part in asked if part != "build")]
    check = Check(folder, device, end, absent)
    return run_parts(check, asked, lambda part: steps(part, python, folder, device, end))


if __name__ == "__main__":
    sys.exit(main())
