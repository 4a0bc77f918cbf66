"""Memory of an evaluation over the images it has seen: a rendered tree in ImageNet's layout, an untrained network.

python bench/memory.py runs/memory                     # 5,000 images: memory.png, memory.json, the run and the tree
python bench/memory.py runs/memory --images 50000      # as many as ImageNet's validation set has
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsolfast import data
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.report.charts import Series, line_chart, thin_out
from wsolfast.engine.report.training_charts import draw_charts
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder, write_bytes, write_json
from wsolfast.recipe import parse_recipe

RECIPE = """
summary = "an untrained network over a rendered tree"
[data]
name = "ilsvrc"
root = "{root}"
[[stage]]
name = "localizer"
method = "cam"
epochs = 0
[stage.backbone]
name = "small"
layout = "stride8"
[evaluate]
resize = {view}
batch_size = 32
[runtime]
device = "cpu"
workers = 1
"""
# Share of the images after which memory is expected to stay: buffers, threads and the allocator's pools are there, and
# the heap has taken the last step of its own, of 2 MB within the first thousand images.
WARM = 0.4


def render(root: Path, images: int, size: int) -> None:
    """Write the tree, as far as it is not there."""
    options = {"images": images, "train_images": 32, "classes": 32, "size": size, "world": 0}
    data.synth_imagenet(root, **options, task=Progress(quiet=True).task)


class Watched(Progress):
    """Progress that shows nothing, and notes the process's resident memory after every step of every task."""

    def __init__(self):
        super().__init__(quiet=True)
        self.samples: dict[str, list[tuple[int, float]]] = {}

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator:
        taken = self.samples.setdefault(what, [])

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal done
            done += steps
            taken.append((done, resident_mb()))

        yield advance


def resident_mb() -> float:
    """Return the resident memory of this process, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(samples: list[tuple[int, float]]) -> float:
    """Return the MB that memory rose by after the evaluation was warm."""
    warm = samples[int(WARM * len(samples))][1]
    return max(size for _, size in samples[int(WARM * len(samples)) :]) - warm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the tree, the run, memory.png and memory.json")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size", type=int, default=96, help="side of the images")
    parser.add_argument("--view", type=int, default=144, help="side of what the network sees, eight times that of maps")
    given = parser.parse_args()
    root = given.out / "tree"
    render(root, given.images, given.size)
    recipe = parse_recipe(RECIPE.format(root=root, view=given.view), "memory")
    watched = Watched()
    results = evaluate(RunFolder.create(given.out / "run", recipe, exist_ok=True), progress=watched)
    passes = dict(zip(("network and counters", "images one by one"), watched.samples.values(), strict=True))
    found = {
        "images": results.num_images,
        "growth_mb": {name: round(growth(samples), 2) for name, samples in passes.items()},
        "largest_mb": round(max(size for samples in passes.values() for _, size in samples), 1),
        "throughput": results.throughput.to_json(),
        "samples": passes,
    }
    write_json(given.out / "memory.json", found, indent=None)
    picture = draw_charts([[_chart(name, samples, results.num_images) for name, samples in passes.items()]])
    write_bytes(given.out / "memory.png", lambda stream: picture.save(stream, format="PNG"))
    rose = ", ".join(f"{name} {mb:+.1f} MB" for name, mb in found["growth_mb"].items())
    print(f"{found['images']} images, at most {found['largest_mb']:.0f} MB; after the first {WARM:.0%}: {rose}")
    print(given.out / "memory.png")


def _chart(name: str, samples: list[tuple[int, float]], images: int):
    # The second pass counts batches, the first one images.
    scale = images / samples[-1][0]
    x, y = thin_out([done * scale for done, _ in samples], [size for _, size in samples])
    says = f"resident memory from {y[0]:.0f} to {y[-1]:.0f} MB"
    top = round(max(y) * 1.2, -2)
    ticks = [top * k / 4 for k in range(5)]
    one = Series("resident memory", 0, x, y)
    return line_chart(name, [one], x_label="images", y_label="resident memory, MB", y_ticks=ticks, description=says)


if __name__ == "__main__":
    main()
