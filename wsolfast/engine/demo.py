"""The demo: every ``demo/*`` recipe trained, measured and shown, on images that are rendered on the spot."""

from pathlib import Path

from wsolfast.engine.evaluate import evaluate
from wsolfast.engine.progress import Progress
from wsolfast.engine.report import write_report
from wsolfast.engine.run_folder import RunFolder
from wsolfast.engine.train import train
from wsolfast.recipe import list_recipes, load_recipe

# What the recipes' epochs take at most on two cores.
_MINUTES = 3.0


def demo(output: Path, *, seed: int = 0, minutes: float = _MINUTES, progress: Progress | None = None):
    """Run the demo; a demo that is there is done again.

    Args:
        output: folder of the runs and of ``report/index.html``.
        minutes: scales the recipes' epochs, which take about three minutes on two cores.

    Returns:
        The results by method and the report's file.
    """
    progress = progress or Progress(quiet=True)
    results, runs = {}, []
    for name in list_recipes():
        if not name.startswith("demo/"):
            continue
        stages = load_recipe(name).stage
        scaled = {stage.name: max(1, round(stage.epochs * minutes / _MINUTES)) for stage in stages}
        recipe = load_recipe(name, [f"seed={seed}", *(f"stage.{stage}.epochs={n}" for stage, n in scaled.items())])
        run = RunFolder.create(output / name.removeprefix("demo/"), recipe, exist_ok=True)
        train(run, progress)
        found = evaluate(run, progress=progress)
        results[found["method"]] = found
        runs.append(run.path)
    return results, write_report(runs, output / "report" / "index.html")
