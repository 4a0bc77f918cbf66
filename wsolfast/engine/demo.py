"""Demo: the ``demo/*`` recipes trained, measured and shown, on images that are rendered for it.

``demo_baselines/*`` are regularised CAMs and DDT, which are trained on request.
"""

from dataclasses import replace
from pathlib import Path

from wsolfast.engine.report.report import write_report
from wsolfast.engine.run.distributed import on_first
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run_recipes import Job, run_recipes
from wsolfast.recipe import list_recipes, load_recipe

# Longest time of the recipes' epochs on two cores.
_MINUTES = 3.0


def demo_recipes(*, baselines: bool) -> list[str]:
    """Return the names of the demo's recipes, with or without the regularised CAMs and DDT."""
    folders = ("demo", "demo_baselines") if baselines else ("demo",)
    return [name for name in list_recipes() if name.partition("/")[0] in folders]


def demo(
    output: Path,
    *,
    seed: int = 0,
    minutes: float = _MINUTES,
    baselines: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, EvalResults], Path]:
    """Run the demo; one that is there is run again. Several processes share every run of it.

    Args:
        output: folder of the runs and of ``report/index.html``.
        seed: of the weights, and of what training draws.
        minutes: scales the recipes' epochs, which take about three minutes on two cores.
        baselines: train the regularised CAMs and DDT too, in about as much time again.
        progress: where to show how far it is.

    Returns:
        The results by method and the report's file.
    """
    jobs = []
    for name in demo_recipes(baselines=baselines):
        recipe = load_recipe(name, [f"seed={seed}"])
        scaled = (replace(stage, epochs=_scaled(stage.epochs, minutes)) for stage in recipe.stage)
        jobs.append(Job(output / name.rpartition("/")[2], replace(recipe, stage=tuple(scaled))))
    outcomes = list(run_recipes(jobs, progress or Progress(quiet=True), again=True))
    page = output / "report" / "index.html"
    on_first(lambda: write_report([job.path for job in jobs], page))
    results = [outcome.results for outcome in outcomes if outcome.results is not None]
    return {one.method: one for one in results}, page


def _scaled(epochs: int, minutes: float) -> int:
    return max(1, round(epochs * minutes / _MINUTES)) if epochs else 0
