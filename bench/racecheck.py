"""Races that racecheck finds in csrc/cuda, less those that are meant: ``python -m wsolfast.bench.racecheck [OP ...]``.

Runs :mod:`wsolfast.bench.sanitize` under compute-sanitizer. A union-find reads parents while other threads lower them
by atomics; an old parent leads to the same root. Machine code has one instruction for a plain, a volatile and a relaxed
read of shared memory, so the tool cannot tell that they are meant. It might tell a relaxed read through a generic
address, which is slower. A race is passed over only if both of its ends lie in those functions. Exit code 5 for any
other.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wsolfast.bench.gpu_check.machine import ROOT

UNION_FIND = ROOT / "csrc" / "cuda" / "box_components.cuh"
FUNCTIONS = ("root_of", "unite", "flatten")
# CUDA's own atomicMin, which `unite` calls and which compilers say stands here.
_ATOMICS = re.compile(r"\w*atomic_functions\.hp?p?")
_BETWEEN = re.compile(r"^=+ +(?:Error|Warning): Race reported between (.*)")
_AND = re.compile(r"^=+ +and (.*)")
_PLACE = re.compile(r" in (?P<file>\S+):(?P<line>\d+)(?: \[\d+ hazards?\])?$")
_TOO_MANY = "Maximum number of hazards reached"
# As many as the tool may keep: what is passed over must not crowd out what is not.
_KEPT_HAZARDS = str(1 << 24)


@dataclass(frozen=True)
class Race:
    """Two accesses to the same memory as racecheck describes them."""

    one: str
    other: str

    def is_meant(self) -> bool:
        """Return whether both ends are the union-find's, one of them by its own lines."""
        ends = [_PLACE.search(end) for end in (self.one, self.other)]
        own = [place is not None and _in_union_find(place["file"], int(place["line"])) for place in ends]
        atomic = [place is not None and _ATOMICS.fullmatch(_name(place["file"])) for place in ends]
        return any(own) and all(mine or theirs for mine, theirs in zip(own, atomic, strict=True))


def races(lines: Iterable[str]) -> Iterator[Race]:
    """Yield the races of a report, in which an access may be followed by several that it races with."""
    one = ""
    for line in lines:
        if found := _BETWEEN.match(line):
            one = found[1].strip()
        elif one and (found := _AND.match(line)):
            yield Race(one, found[1].strip())
        else:
            one = ""


def lines_of(function: str) -> range:
    """Return the lines of the union-find's function, counted from 1, from its name to its closing brace.

    Raises:
        ValueError: there is none of this name.
    """
    text = UNION_FIND.read_text(encoding="utf-8")
    found = re.search(rf"^ *__device__ [\w ]*\b{function}\(", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"racecheck: {UNION_FIND.name} has no function {function}: say which there are in FUNCTIONS")
    depth, end = 0, found.end()
    for end in range(text.index("{", found.end()), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            break
    return range(text.count("\n", 0, found.start()) + 1, text.count("\n", 0, end) + 2)


def judge(lines: Iterable[str]) -> tuple[list[Race], int]:
    """Return the races that are not meant and the number of those that are; what is no race is printed on the way.

    Raises:
        RuntimeError: the tool kept too few hazards to tell.
    """
    report = []
    for line in lines:
        if _TOO_MANY in line:
            raise RuntimeError("racecheck: there were more hazards than the tool keeps; give it fewer ops")
        if not line.startswith("="):
            print(line, end="", flush=True)
        report.append(line)
    found = list(races(report))
    unmeant = [race for race in found if not race.is_meant()]
    return unmeant, len(found) - len(unmeant)


def _in_union_find(file: str, line: int) -> bool:
    return _name(file) == UNION_FIND.name and any(line in lines_of(function) for function in FUNCTIONS)


def _name(file: str) -> str:
    return file.rsplit("/", 1)[-1]


def main() -> int:
    """Run the tool and return the exit code: 0 nothing found, 5 a race; others are :mod:`wsolfast.bench.sanitize`'s."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("ops", nargs="*", help="only these; all without")
    # Our kernels alone: PyTorch's, slow where they are watched, make the inputs and may have hazards of their own.
    tool = ["compute-sanitizer", "--tool", "racecheck", "--kernel-name", "kns=wsolfast"]
    command = [*tool, sys.executable, "-m", "wsolfast.bench.sanitize", *parser.parse_args().ops]
    environment = os.environ | {"NV_COMPUTE_SANITIZER_MAX_RACECHECK_HAZARDS": _KEPT_HAZARDS}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            unmeant, meant = judge(process.stdout)
        except RuntimeError as error:
            process.kill()
            parser.exit(1, f"{error}\n")
    for race in unmeant:
        print(f"race: {race.one}\n  and {race.other}", file=sys.stderr)
    print(f"racecheck: {len(unmeant)} races, {meant} of the union-find passed over")
    return process.returncode or (5 if unmeant else 0)


if __name__ == "__main__":
    sys.exit(main())
