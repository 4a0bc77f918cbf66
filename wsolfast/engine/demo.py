"""The demo: every ``demo/*`` recipe trained, measured and shown, on images that are rendered on the spot."""

from dataclasses import replace
from pathlib import Path

from wsolfast.engine.progress import Progress
from wsolfast.engine.report import write_report
from wsolfast.engine.run_recipes import Job, run_recipes
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
    jobs = []
    for name in list_recipes():
        if name.startswith("demo/"):
            recipe = load_recipe(name, [f"seed={seed}"])
            scaled = (replace(stage, epochs=_scaled(stage.epochs, minutes)) for stage in recipe.stage)
            jobs.append(Job(output / name.removeprefix("demo/"), replace(recipe, stage=tuple(scaled))))
    outcomes = list(run_recipes(jobs, progress or Progress(quiet=True), again=True))
    page = write_report([job.path for job in jobs], output / "report" / "index.html")
    return {outcome.results["method"]: outcome.results for outcome in outcomes}, page


def _scaled(epochs: int, minutes: float) -> int:
    return max(1, round(epochs * minutes / _MINUTES)) if epochs else 0
