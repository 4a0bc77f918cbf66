"""Steps, each a command of its own, and what became of them: on disk as soon as it is known."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch

from wsolfast.bench.gpu_check.machine import ROOT
from wsolfast.bench.measure import device_name, driver_version, read_json, sources_digest, write_json
from wsolfast.engine.run.environment import commit

# A step that hangs must leave time to write down that it did.
MARGIN_SECONDS = 10
STATE, LOG = "gpu-check.json", "gpu-check.log"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: unique within its command of gpu-check.
        command: its words.
        seconds: that it is expected to take.
        environment: variables beside those that are there.
        needs: programs without which it cannot start.
        imports: modules without which it cannot start.
        must_pass_tests: at least one test has to pass.
        together: the name of a group; steps of one group that follow each other run at the same time.
        repeated: run again although it has passed.
    """

    name: str
    command: list[str]
    seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    must_pass_tests: bool = False
    together: str = ""
    repeated: bool = False


class Check:
    """Results so far of one device and one state of the code, and the running of more steps.

    Args:
        folder: of the results; what lies there of the same device and code is kept.
        device: ``cuda`` or ``cpu``.
        end: time (``time.monotonic()``) after which nothing may run.
        lacking: modules that are not installed, with their distributions.
        jobs: steps of one group that run at the same time.
    """

    def __init__(self, folder: Path, device: str, end: float, lacking: Mapping[str, str] = {}, jobs: int = 1):
        self.folder, self.end, self.lacking, self.jobs = folder, end, lacking, jobs
        facts = {"device": device_name(device), "torch": torch.__version__, "sources": sources_digest()}
        known = read_json(folder / STATE)
        same = all(known.get(key) == value for key, value in facts.items())
        self.state = facts | {"commit": commit(), "driver": driver_version(), "steps": known["steps"] if same else {}}
        self._lock = threading.Lock()

    def passed(self, step: Step) -> bool:
        """Return whether a step has passed and need not run again."""
        return not step.repeated and self.state["steps"].get(step.name, {}).get("status") == "passed"

    def run_all(self, steps: Iterable[Step]) -> list[str]:
        """Run the steps that have not passed yet, those of a group at the same time.

        Returns:
            How each went: passed, failed, or out of time.
        """
        outcomes: list[str] = []
        for group in _groups(steps):
            waiting = [step for step in group if not self.passed(step)]
            with ThreadPoolExecutor(self.jobs if len(waiting) > 1 else 1) as pool:
                outcomes += pool.map(self.run, waiting)
        return outcomes

    def run(self, step: Step) -> str:
        """Run a step and write down how it went. Without what it needs it failed."""
        left = self.end - time.monotonic() - MARGIN_SECONDS
        if left <= 0:
            return "out of time"
        begin = time.monotonic()
        missing = [program for program in step.needs if shutil.which(program) is None]
        absent = [self.lacking[module] for module in step.imports if module in self.lacking]
        self._log(step, f"$ {' '.join(step.command)}\n")
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
            found |= {"counts": counts, "failed": _failed_tests(output)}
        with self._lock:
            self.state["steps"][step.name] = found
            write_json(self.folder / STATE, self.state)
        line = f"{status}, {found['seconds']} s{''.join(f', {number} {kind}' for kind, number in counts.items())}"
        self._log(step, f"{line}\n")
        print(f"{step.name}: {line}", flush=True)
        return status

    def _log(self, step: Step, text: str) -> None:
        with self._lock, (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write("".join(f"[{step.name}] {line}\n" for line in text.splitlines()))

    def _status_of(self, step: Step, seconds: float) -> tuple[str, str]:
        process = subprocess.Popen(
            step.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | step.environment,
            start_new_session=True,
        )
        lines: list[str] = []
        reader = threading.Thread(target=self._read, args=(step, process.stdout, lines))
        reader.start()
        try:
            process.wait(timeout=seconds)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        # compute-sanitizer's and ninja's children too; nobody else holds the pipe then.
        _kill_group(process.pid)
        process.wait()
        reader.join()
        output = "".join(lines)
        if late or (process.returncode == 1 and "out of time" in output):
            return "out of time", output
        return ("failed" if process.returncode else "passed"), output

    def _read(self, step: Step, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line)
            self._log(step, line)


def _failed_tests(output: str) -> list[str]:
    """Return the names in pytest's summary; those of parameters may have blanks."""
    return re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _groups(steps: Iterable[Step]) -> Iterable[Sequence[Step]]:
    """Yield steps that follow each other and have the same group; a step without a group is alone."""
    group: list[Step] = []
    for step in steps:
        if group and (not step.together or step.together != group[0].together):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def expected_seconds(steps: Iterable[Step], jobs: int, recorded: Mapping[str, dict]) -> float:
    """Return what steps take: a group as long as its longest step, or its sum over the jobs.

    Args:
        steps: in their order.
        jobs: steps of one group that run at the same time.
        recorded: what is known of earlier runs, by name; its seconds go before the steps' own.
    """
    total = 0.0
    for group in _groups(steps):
        times = [recorded.get(step.name, {}).get("seconds", step.seconds) for step in group]
        total += max(*times, sum(times) / min(jobs, len(group)))
    return total
