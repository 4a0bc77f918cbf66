"""The time that an evaluation takes: seconds by stage of the pipeline, and the rate that each of them would allow."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from wsolfast.engine.run.results import Throughput

# In the order in which an image passes them. "maps" is all of the method but its backbone, which is "network".
STAGES = ("decode", "copy", "network", "maps", "boxes", "write")
# Besides them: what the batches waited for images, and all that passed on the clock.
FIELDS = (*STAGES, "wait", "all")


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self._seconds, self._taken = dict.fromkeys((*STAGES, "wait"), 0.0), time.perf_counter()

    def add(self, stage: str, seconds: float) -> None:
        """Count ``seconds`` that were measured elsewhere."""
        self._seconds[stage] += seconds

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time that passes while entered."""
        started = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - started)

    def take(self) -> dict[str, float]:
        """Return the seconds since the last time, by :data:`FIELDS`."""
        now = time.perf_counter()
        found = self._seconds | {"all": now - self._taken}
        self._seconds, self._taken = dict.fromkeys(self._seconds, 0.0), now
        return found


def describe(images: int, seconds: Mapping[str, float]) -> Throughput:
    """Return rates in images per second, and the times that they were computed from.

    Args:
        images: that passed.
        seconds: by :data:`FIELDS`, those of parallel workers divided by their number.
    """
    rates = {stage: round(images / seconds[stage], 1) for stage in STAGES if seconds[stage] > 0}
    rounded = {name: round(seconds[name], 3) for name in FIELDS}
    return Throughput(images, rates, rounded, min(rates, key=rates.__getitem__, default=None))


def in_words(found: Throughput) -> str:
    """Return a throughput in one line."""
    rates = ", ".join(f"{stage} {rate:g}" for stage, rate in found.images_per_second.items())
    passed, waited = found.seconds["all"], found.seconds["wait"]
    whole = found.images / passed if passed else 0.0
    share = 100 * waited / passed if passed else 0.0
    return f"images/s by stage: {rates}; slowest: {found.slowest}; together {whole:.1f}, {share:.0f} % of it waiting"
