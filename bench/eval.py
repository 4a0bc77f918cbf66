"""MaxBoxAcc per image: the per-threshold OpenCV loop, the same loop tuned, and the engine.

    python bench/eval.py [--quick] [--json FILE]

Three contestants do the same work in one process: (a) ``opencv``, one ``findContours`` per threshold and a search over
all boxes per threshold, as the published evaluator does it; (b) ``tuned``, one ``findContours`` per distinct cut and
segment maxima; (c) ``wsolfast``. A case is timed only after all three agree on boxes and hits. Times are the thread's
CPU time (the machine may be shared), medians over maps with the 20th and 80th percentile; OpenCV has one thread.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np

import wsolfast
from wsolfast import _numpy as engine

LEVELS = np.array([0.3, 0.5, 0.7])
SMOOTH = ("smooth7", "smooth14", "smooth28", "relu14")
KINDS = (*SMOOTH, "segment", "noisy", "white")
SIZES = ((224, 224), (375, 500))
STEPS = {1: None, 100: 0.01, 1000: 0.001}


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


def overlaps(boxes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    a, b = boxes[:, None], truths.astype(np.int64)[None]
    width = np.maximum(0, np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + 1)
    height = np.maximum(0, np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + 1)
    inter = width * height
    area_a = (a[..., 2] - a[..., 0] + 1) * (a[..., 3] - a[..., 1] + 1)
    area_b = (b[..., 2] - b[..., 0] + 1) * (b[..., 3] - b[..., 1] + 1)
    return inter / (area_a + area_b - inter)


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
        matrix = overlaps(boxes, truths)
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
        best = np.maximum.reduceat(overlaps(np.concatenate(found), truths).max(1), np.append(0, ends[:-1]))
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


CONTESTANTS = {"opencv": OpenCV, "tuned": Tuned, "wsolfast": Wsolfast}


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
    """All three give the same boxes and hits; the slow one is asked at every tenth threshold."""
    for some, contestant in ((thresholds, Tuned), (thresholds[::10], OpenCV)):
        boxes, counts = contestant.boxes(values, some, multi)
        found, found_counts = Wsolfast.boxes(values, some, multi)
        np.testing.assert_array_equal(counts, found_counts)
        np.testing.assert_array_equal(boxes, found)
        hits = contestant.hits(values, some, multi, truths)
        np.testing.assert_array_equal(hits, Wsolfast.hits(values, some, multi, truths))


def measure(case, maps: int, budget: float) -> dict:
    """One row: every contestant on the same maps, boxes alone and boxes with overlaps and hits."""
    kind, size, count, multi, truth_count = case
    rng = np.random.default_rng([KINDS.index(kind), size[0]])
    images = [score_map(rng, kind, size) for _ in range(maps)]
    truths = true_boxes(rng, size, truth_count)
    thresholds = thresholds_of(count)
    for values in images:
        assert_agreement(values, thresholds, multi, truths)
    row = {"maps": kind, "size": list(size), "thresholds": count, "multi": multi, "true_boxes": truth_count}
    for name, contestant in CONTESTANTS.items():
        repeats = 7 if name == "wsolfast" else 3
        runs = {
            "boxes": lambda values, c=contestant: c.boxes(values, thresholds, multi),
            "hits": lambda values, c=contestant: c.hits(values, thresholds, multi, truths),
        }
        for task, run in runs.items():
            times = timed(run, images, repeats, budget)
            p20, p50, p80 = np.percentile(times, (20, 50, 80))
            row[f"{name}_{task}_ms"] = {
                "median": float(f"{p50:.4g}"),
                "p20": float(f"{p20:.4g}"),
                "p80": float(f"{p80:.4g}"),
                "maps": len(times),
            }
    return row


def stream(images: int, threads: int) -> dict:
    """The whole of MaxBoxAccV2 from 14x14 CAMs: resize, normalise, sweep, overlaps, counters; two true boxes each."""
    rng = np.random.default_rng(1)
    cams = [cv2.resize(score_map(rng, "smooth14", (56, 56)), (14, 14)) for _ in range(500)]
    truths = np.tile(true_boxes(rng, (224, 224), 2), (64, 1))
    thresholds, offsets = thresholds_of(1000), 2 * np.arange(65)
    correct = np.zeros((1000, len(LEVELS)), dtype=np.int64)
    cpu, wall = time.process_time(), time.perf_counter()
    for begin in range(0, images, 64):
        part = [cams[i % len(cams)] for i in range(begin, min(begin + 64, images))]
        maps = np.stack([engine.normalize_score_map(engine.resize(cam, (224, 224))) for cam in part])
        hits = engine.box_sweep_hits(
            maps, thresholds, truths[: 2 * len(part)], offsets[: len(part) + 1], LEVELS, Wsolfast.RULES[1], threads
        )
        correct += hits.sum(0)
    return {
        "images": images,
        "threads": threads,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "max_box_acc_v2": float(100 * correct.max(0).mean() / images),
    }


def machine() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [
        line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "cpu family", "model\t"))
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": " / ".join(dict.fromkeys(named)) or platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "wsolfast": wsolfast.__version__,
        "commit": commit.stdout.strip(),
        "engine": dict(engine.build_info()),
        "clock": "thread CPU time",
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


def print_table(rows: list[dict]) -> None:
    columns = "maps, size, T, mode, true boxes, task, opencv ms, tuned ms, wsolfast ms [p20 p80], x opencv, x tuned"
    print("| " + " | ".join(columns.split(", ")) + " |\n" + "|---" * 11 + "|")
    for row in rows:
        size = "x".join(map(str, row["size"]))
        mode = "multi" if row["multi"] else "single"
        for task in ("boxes", "hits"):
            naive, tuned, ours = (row[f"{name}_{task}_ms"] for name in CONTESTANTS)
            print(
                f"| {row['maps']} | {size} | {row['thresholds']} | {mode} | {row['true_boxes']} | {task} | "
                f"{naive['median']:.3g} | {tuned['median']:.3g} | {ours['median']:.3g} "
                f"[{ours['p20']:.3g} {ours['p80']:.3g}] | {naive['median'] / ours['median']:.3g} | "
                f"{tuned['median'] / ours['median']:.3g} |"
            )


def write_result(path: Path, result: dict) -> None:
    """JSON with one line per row and stream."""
    parts = ['"machine": ' + json.dumps(result["machine"])]
    for name in ("rows", "streams"):
        parts.append(f'"{name}": [\n' + ",\n".join(map(json.dumps, result[name])) + "\n]")
    path.write_text("{" + ",\n".join(parts) + "}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two kinds of maps at 224x224, fewer maps, a short stream")
    parser.add_argument("--json", type=Path, help="write rows, stream and machine there")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    maps, budget = (3, 0.5) if options.quick else (6, 0.8)
    rows = [measure(case, 2 if case[0] in ("noisy", "white") else maps, budget) for case in cases(options.quick)]
    print_table(rows)
    images = 2000 if options.quick else 50000
    streams = [stream(images, threads) for threads in sorted({1, os.cpu_count()})]
    for run in streams:
        print(
            f"\n{run['images']} CAMs of 14x14 to MaxBoxAccV2, 1000 thresholds, two true boxes, "
            f"{run['threads']} thread(s): {run['cpu_seconds']:.1f} s CPU, {run['wall_seconds']:.1f} s wall"
        )
    if options.json:
        write_result(options.json, {"machine": machine(), "rows": rows, "streams": streams})


if __name__ == "__main__":
    main()
