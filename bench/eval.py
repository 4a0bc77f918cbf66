"""Boxes of score maps per image: the per-threshold OpenCV loop, the same loop tuned, and the engine.

Three contestants do the same work in one process: ``opencv``, one ``findContours`` per threshold and a search over all
boxes per threshold, as the published evaluator does it; ``tuned``, one ``findContours`` per distinct cut and segment
maxima; and ours. A case is timed only after all three agree on boxes and hits. Times are the thread's CPU time (the
machine may be shared), medians over maps with the 20th and 80th percentile; OpenCV has one thread. SPOL's pseudo labels
(labels.py) and a whole evaluation, a stream of coarse maps, are cases besides.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch

from wsolfast import _numpy as engine
from wsolfast import ops
from wsolfast.bench import labels
from wsolfast.bench.measure import environment
from wsolfast.bench.rows import OURS, Key, Recorder
from wsolfast.bench.tables import Output, present
from wsolfast.engine.run.errors import BackendError, UsageError
from wsolfast.testing import published_boxes

LEVELS = np.array([0.3, 0.5, 0.7])
SMOOTH = ("smooth7", "smooth14", "smooth28", "relu14")
KINDS = (*SMOOTH, "segment", "noisy", "white")
SIZES = ((224, 224), (375, 500))
STEPS = {1: None, 100: 0.01, 1000: 0.001}
WHAT = ("boxes", "labels", "stream")


def thresholds_of(count: int) -> np.ndarray:
    return np.array([0.2]) if count == 1 else np.arange(0, 1, STEPS[count])


def score_map(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> np.ndarray:
    """A map in [0, 1]: a coarse grid of blobs and noise, upsampled bicubically as a CAM is."""
    height, width = size
    grid = {"smooth7": 7, "smooth28": 28}.get(kind, 14)
    y, x = np.mgrid[:grid, :grid] / grid
    coarse = 0.03 * rng.standard_normal((grid, grid))
    for _ in range(3):
        cx, cy, spread = *rng.random(2), rng.uniform(0.08, 0.25)
        coarse += rng.random() * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))
    if kind == "relu14":
        coarse = np.maximum(coarse - np.median(coarse), 0)
    if kind == "segment":
        coarse = 1 / (1 + np.exp(-20 * (coarse - coarse.mean())))
    values = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    if kind == "noisy":
        values = values / np.ptp(values) + 0.08 * rng.standard_normal(size)
    if kind == "white":
        values = rng.random(size)
    values = values - values.min()
    return values / values.max()


def true_boxes(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    corners = rng.integers(0, (size[1], size[0]), (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float64)


def contour_boxes(levels: np.ndarray, cut: int, multi: bool) -> np.ndarray:
    height, width = levels.shape
    _, mask = cv2.threshold(levels, cut, 255, cv2.THRESH_BINARY)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    if not contours:
        return np.zeros((1, 4), dtype=np.int64)
    if not multi:
        contours = [max(contours, key=cv2.contourArea)]
    boxes = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        boxes.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
    return np.array(boxes, dtype=np.int64)


class OpenCV:
    """(a) The published evaluator's way: every threshold on its own."""

    @staticmethod
    def boxes(values, thresholds, multi):
        levels = (values * 255).astype(np.uint8)
        found = [contour_boxes(levels, int(t * np.max(levels)), multi) for t in thresholds]
        return np.concatenate(found), np.array([len(boxes) for boxes in found])

    @classmethod
    def hits(cls, values, thresholds, multi, truths):
        boxes, counts = cls.boxes(values, thresholds, multi)
        matrix = published_boxes.ious(boxes, truths)
        best, begin = [], 0
        for count in counts:
            best.append(matrix.max(1)[begin : begin + count].max())
            begin += count
        return np.array(best)[:, None] >= LEVELS


class Tuned:
    """(b) The same with one search per distinct cut and segment maxima."""

    @staticmethod
    def distinct(values, thresholds, multi):
        levels = (values * 255).astype(np.uint8)
        cuts, index = np.unique((thresholds * levels.max()).astype(np.int64), return_inverse=True)
        return [contour_boxes(levels, int(cut), multi) for cut in cuts], index

    @classmethod
    def boxes(cls, values, thresholds, multi):
        found, index = cls.distinct(values, thresholds, multi)
        return np.concatenate([found[i] for i in index]), np.array([len(found[i]) for i in index])

    @classmethod
    def hits(cls, values, thresholds, multi, truths):
        found, index = cls.distinct(values, thresholds, multi)
        ends = np.cumsum([len(boxes) for boxes in found])
        ious = published_boxes.ious(np.concatenate(found), truths)
        best = np.maximum.reduceat(ious.max(1), np.append(0, ends[:-1]))
        return (best[:, None] >= LEVELS)[index]


class Wsolfast:
    """(c)"""

    RULES = (engine.Rule(), engine.Rule(selection="all"))

    @staticmethod
    def boxes(values, thresholds, multi):
        return engine.compute_bboxes(values, thresholds, multi)

    @classmethod
    def hits(cls, values, thresholds, multi, truths, threads=1):
        offsets = np.array([0, len(truths)])
        return engine.box_sweep_hits(values[None], thresholds, truths, offsets, LEVELS, cls.RULES[multi])[0]


CONTESTANTS = {OURS: Wsolfast, "opencv": OpenCV, "tuned": Tuned}


def timed(function, maps, repeats: int, budget: float) -> list[float]:
    """Best CPU milliseconds of each map; stops after ``budget`` seconds once one map is measured."""
    times, spent = [], time.thread_time()
    for values in maps:
        best = np.inf
        for _ in range(repeats):
            start = time.thread_time()
            function(values)
            best = min(best, time.thread_time() - start)
            if time.thread_time() - spent > budget:
                break
        times.append(1e3 * best)
        if time.thread_time() - spent > budget:
            break
    return times


def assert_agreement(values, thresholds, multi, truths) -> None:
    """All three give the same boxes and hits; the slow one is asked at every tenth threshold.

    Raises:
        AssertionError: naming who differs, and by how much.
    """
    for some, name in ((thresholds, "tuned"), (thresholds[::10], "opencv")):
        contestant = CONTESTANTS[name]
        boxes, counts = contestant.boxes(values, some, multi)
        found, found_counts = Wsolfast.boxes(values, some, multi)
        if not np.array_equal(counts, found_counts):
            raise AssertionError(f"{len(found)} boxes, {name} finds {len(boxes)}")
        if not np.array_equal(boxes, found):
            off = np.abs(boxes - found)
            raise AssertionError(
                f"{off.any(1).sum()} of {len(boxes)} boxes are not those of {name}, by up to {off.max()} pixels"
            )
        hits = contestant.hits(values, some, multi, truths)
        if different := int((hits != Wsolfast.hits(values, some, multi, truths)).sum()):
            raise AssertionError(f"{different} of {hits.size} hits are not those of {name}")


def measure(case, maps: int, budget: float) -> Iterator[dict]:
    """Rows of every contestant on the same maps: boxes alone, and boxes with overlaps and hits."""
    kind, size, count, multi, truth_count = case
    rng = np.random.default_rng([KINDS.index(kind), size[0]])
    images = [score_map(rng, kind, size) for _ in range(maps)]
    truths = true_boxes(rng, size, truth_count)
    thresholds = thresholds_of(count)
    name = name_of(case)
    try:
        for values in images:
            assert_agreement(values, thresholds, multi, truths)
    except AssertionError as error:
        yield {"case": name, "task": "boxes", "contender": OURS, "status": f"wrong: {error}"}
        return
    for contender, contestant in CONTESTANTS.items():
        repeats = 7 if contender == OURS else 3
        runs = {
            "boxes": lambda values, c=contestant: c.boxes(values, thresholds, multi),
            "hits": lambda values, c=contestant: c.hits(values, thresholds, multi, truths),
        }
        for task, run in runs.items():
            times = timed(run, images, repeats, budget)
            shares = dict(zip(("p20", "p50", "p80"), map(float, np.percentile(times, (20, 50, 80))), strict=True))
            yield {
                "case": name,
                "task": task,
                "contender": contender,
                "status": "ok",
                "ms": shares,
                "calls": len(times),
            }


def name_of(case) -> str:
    kind, (height, width), count, multi, truth_count = case
    contours = "all contours" if multi else "largest contour"
    truths = "1 true box" if truth_count == 1 else f"{truth_count} true boxes"
    return f"{kind} {height}x{width}, {count} threshold{'s' * (count > 1)}, {contours}, {truths}"


def stream(images: int, threads: int) -> Iterator[dict]:
    """The whole of MaxBoxAccV2 from 14x14 CAMs: resize, normalise, sweep, overlaps, counters; two true boxes each."""
    rng = np.random.default_rng(1)
    cams = [cv2.resize(score_map(rng, "smooth14", (56, 56)), (14, 14)) for _ in range(min(images, 500))]
    truths = np.tile(true_boxes(rng, (224, 224), 2), (64, 1))
    thresholds, offsets = thresholds_of(1000), 2 * np.arange(65)

    def hits(part: Sequence[np.ndarray]) -> np.ndarray:
        maps = np.stack([engine.normalize_score_map(engine.resize(cam, (224, 224))) for cam in part])
        of_part = truths[: 2 * len(part)], offsets[: len(part) + 1]
        return engine.box_sweep_hits(maps, thresholds, *of_part, LEVELS, Wsolfast.RULES[1], threads)

    case = f"{images} CAMs 14x14 to MaxBoxAccV2, 1000 thresholds, {threads} thread{'s' * (threads > 1)}"
    row = {"case": case, "task": "stream", "contender": OURS}
    for cam, found in zip(cams[:8], hits(cams[:8]), strict=True):
        whole = cv2.resize(cam, (224, 224), interpolation=cv2.INTER_CUBIC)
        whole = whole - whole.min()
        expected = Tuned.hits(whole / whole.max(), thresholds, True, truths[:2])
        if different := int((found != expected).sum()):
            yield row | {"status": f"wrong: {different} of {found.size} hits are not those of tuned"}
            return
    correct = np.zeros((1000, len(LEVELS)), dtype=np.int64)
    cpu, wall = time.process_time(), time.perf_counter()
    for begin in range(0, images, 64):
        correct += hits([cams[i % len(cams)] for i in range(begin, min(begin + 64, images))]).sum(0)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    each = 1e3 * (cpu if threads == 1 else wall) / images
    yield row | {
        "status": "ok",
        "ms": dict.fromkeys(("p20", "p50", "p80"), each),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "max_box_acc_v2": float(100 * correct.max(0).mean() / images),
    }


def cases(quick: bool):
    for kind, size, count, multi, truths in itertools.product(KINDS, SIZES, STEPS, (False, True), (1, 2)):
        # The published way needs minutes per map of noise, and the larger size tells the same for every kind.
        if size != SIZES[0] and kind not in ("smooth14", "segment"):
            continue
        if kind == "white" and (truths == 2 or count == 1000):
            continue
        if quick and (kind not in ("smooth14", "noisy") or size != SIZES[0] or truths == 1):
            continue
        yield kind, size, count, multi, truths


def notes(key: Key, rows: dict[str, dict]) -> list[str]:
    """Return the seconds that a stream took in all."""
    row = rows[OURS]
    if "wall_seconds" not in row:
        return []
    return [f"{row['cpu_seconds']:.1f} s CPU", f"{row['wall_seconds']:.1f} s wall"]


def work(what: Sequence[str], quick: bool) -> Iterator[Callable[[], Iterator[dict]]]:
    """Yield the cases to measure, each giving rows."""
    maps, budget = (3, 0.5) if quick else (6, 0.8)
    if "boxes" in what:
        for case in cases(quick):
            yield lambda case=case: measure(case, 2 if case[0] in ("noisy", "white") else maps, budget)
    if "labels" in what:
        for preset in labels.PRESETS:
            yield lambda preset=preset: labels.measure(preset, 0.5 if quick else 2.0)
    if "stream" in what:
        for threads in sorted({1, os.cpu_count()}):
            yield lambda threads=threads: stream(2000 if quick else 50000, threads)


def run(output: Output, *, what: Sequence[str] = WHAT, quick: bool = False) -> None:
    """Compare, time and show.

    Args:
        output: where results go.
        what: of ``WHAT``.
        quick: two kinds of maps at 224x224, fewer maps, a short stream.

    Raises:
        UsageError: for something else.
        BackendError: if there is nothing but a reference to time.
        CheckError: if results are wrong.
    """
    if unknown := [name for name in what if name not in WHAT]:
        raise UsageError(f"--what: expected {', '.join(WHAT)}, got {unknown[0]!r}")
    if "labels" in what and ops.extension_status() is not None:
        raise BackendError(f"nothing to compare: labels are served by their reference ({ops.extension_status()})")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = Recorder("eval", output.json, environment("cpu", 1))
    shown: list[Key] = []
    for part in work(what, quick):
        for row in part():
            found.add(row)
            shown.append(found.results.key(row))
    present(found.restricted(shown), notes, output)
