"""Published rows again: recipes over seeds, and a table of the papers' numbers beside the measured ones."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from wsolfast.data import get_spec
from wsolfast.engine.assembly.preflight import check_recipe
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.engine.assembly.weights import settle_weights
from wsolfast.engine.loggers.opening import check_loggers
from wsolfast.engine.run.distributed import from_first, is_first, on_first
from wsolfast.engine.run.environment import describe_environment, now
from wsolfast.engine.run.errors import Interrupted, MissingError, RunError
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults, ReproducedRecipe, ReproducedRun, Reproduction
from wsolfast.engine.run.run_folder import to_json
from wsolfast.engine.run.run_records import read_runs
from wsolfast.engine.run_recipes import Job, Outcome, run_recipes
from wsolfast.engine.training.train import recipe_hash
from wsolfast.recipe import Recipe, RecipeError, as_measured, list_recipes, load_recipe

COLUMNS = {
    "top1_cls": "Top-1 Cls",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "gt_known_loc": "GT-known",
    "gt_known_transferred": "GT-known, transferred",
    "max_box_acc_v2": "MaxBoxAccV2",
    "px_ap": "PxAP",
    "p_iou": "pIoU",
    "p_iou_transferred": "pIoU, transferred",
    "peak_iou": "Peak-IoU",
    "peak_threshold": "Peak-T",
    "misclassified": "Misclassified",
    "part": "Part errors",
    "more": "More errors",
    "multi_instance": "Multi-instance errors",
    "other": "Other errors",
    "train_images_per_second": "training images/s",
    "eval_images_per_second": "evaluation images/s",
}
_NUMBERS, _TABLE = "reproduce.json", "reproduce.md"
_CENTRES = {"center_box": "centre box", "center_gaussian": "centre Gaussian"}
_LEGEND = (
    "Percent; Peak-T is a level of 0 to 255. Measured rows are the mean over seeds, the lowest and highest behind it. "
    "Accuracies are at the oracle threshold, the best one on the test split, as published ones are; *transferred* is "
    "the best one on train_fullsup. "
    "Misclassified and the kinds of error are shares of all images, of the Top-1 box at the transferred threshold "
    "(at the oracle threshold without train_fullsup); the rest is correct. Images a second are those of the stage that "
    "localises and of the network's pass over the test images."
)


def plan(
    output: Path,
    *,
    patterns: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    data: Mapping[str, str] | None = None,
    overrides: Iterable[str] = (),
) -> tuple[list[Job], list[str]]:
    """List the rows to make, one per recipe, variant and seed.

    Variants share the run of their recipe, in a folder that names recipe, seed and settings.

    Args:
        output: where the runs go.
        patterns: GLOBs over recipe names, or recipe files; every recipe with a published number if none is given.
        seeds: every recipe is trained once with each.
        data: folder by name of the data set; the one under ``""`` serves the data sets that are not named.
        overrides: ``key=value`` for every recipe.

    Returns:
        The jobs, and the names of recipes that are left out because their data's folder is not given.

    Raises:
        RecipeError: if a pattern matches nothing, or something in one of the recipes cannot be meant.
        BackendError: if the package of a logger is not installed.
        MissingError: if a folder of data is not there.
    """
    data, overrides = data or {}, list(overrides)
    for name, folder in data.items():
        if not Path(folder).is_dir():
            raise MissingError(f"--data {f'{name}=' * bool(name)}{folder}: no such folder")
    jobs, left_out = [], []
    for name in _matching(patterns):
        recipe = load_recipe(name, overrides)
        rendered = get_spec(recipe.data.name).rendered
        root = None if rendered else data.get(recipe.data.name, data.get(""))
        if root is None and recipe.data.root is None and not rendered:
            left_out.append(recipe.name)
            continue
        place = [] if root is None else [f"data.root={root}"]
        for seed in seeds:
            recipe = settle_weights(load_recipe(name, [*overrides, *place, f"seed={seed}"]))
            check_recipe(recipe)
            check_loggers(recipe.runtime.loggers)
            folder = f"{recipe.name.replace('/', '-')}-seed{seed}-{recipe_hash(recipe)[:8]}"
            jobs += [Job(output / "runs" / folder, recipe, name) for name in ("", *(v.name for v in recipe.variant))]
    return jobs, left_out


def reproduce(jobs: Sequence[Job], output: Path, progress: Progress | None = None) -> Reproduction:
    """Run the jobs that are not finished; ``reproduce.json`` and ``reproduce.md`` are written after each of them.

    Several processes share every job, and then stop at the first that fails.

    Args:
        jobs: those of :func:`plan`.
        output: folder of the two files.
        progress: where to show how far it is.

    Returns:
        The content of ``reproduce.json``.

    Raises:
        Interrupted: a signal asked for a stop; the same jobs continue where they stood.
        UsageError: if one of the two files is there and of another program.
    """
    outputs = Outputs(output)
    on_first(lambda: outputs.check(output / _TABLE, output / _NUMBERS))
    outcomes: list[Outcome] = []
    summary = summarize(outcomes)
    try:
        for outcome in run_recipes(jobs, progress or Progress(quiet=True), keep_going=True, gaussian=True):
            outcomes.append(outcome)
            # Elsewhere what the first process has written may not be seen yet.
            summary = from_first(summarize(outcomes) if is_first() else summary)
            outputs.write_text(output / _NUMBERS, to_json(summary.to_json()))
            outputs.write_text(output / _TABLE, to_markdown(summary))
    except Interrupted as error:
        raise Interrupted(f"{error}; or give the same command again to finish the list") from None
    return summary


def check(summary: Reproduction) -> None:
    """Raise an error if a run failed.

    Raises:
        RunError: that tells how many runs failed, and why the first one did.
    """
    runs = [run for row in summary.recipes.values() for run in row.runs]
    failed = [run for run in runs if run.failure is not None]
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} runs failed, first {failed[0].run}: {failed[0].failure}")


def summarize(outcomes: Sequence[Outcome]) -> Reproduction:
    """Collect the numbers of ``outcomes`` by recipe: the paper's, each run's, and their mean, lowest and highest."""
    runs: dict[str, list[ReproducedRun]] = {}
    papers: dict[str, dict[str, float]] = {}
    marks: dict[str, dict[str, str | None]] = {}
    centres: dict[str, dict[str, float]] = {}
    for outcome in outcomes:
        recipe, results, path = outcome.job.recipe, outcome.results, str(outcome.job.path)
        measured = as_measured(outcome.job.measured())
        papers.setdefault(outcome.job.name, _published(measured))
        marks[outcome.job.name] = {
            "chosen_by_boxes": measured.chosen_by_boxes if results is None else results.chosen_by_boxes,
            "lossy_decoder": None if results is None else results.lossy_decoder,
        }
        row = runs.setdefault(outcome.job.name, [])
        if results is None:
            row.append(ReproducedRun(recipe.seed, path, failure=outcome.failure))
            continue
        row.append(ReproducedRun(recipe.seed, path, _numbers(outcome.job, results)))
        where = f"{recipe.data.name} {results.split}, {results.protocol}"
        for key, title in _CENTRES.items():
            found = results.baselines.get(key)
            if found:
                wanted = ("gt_known_loc", "max_box_acc_v2", "px_ap", "p_iou", "peak_iou")
                centres.setdefault(f"{title} ({where})", {name: found[name] for name in wanted if name in found})
    rows = {name: _recipe(papers[name], row, marks[name]) for name, row in runs.items()}
    return Reproduction(rows, centres, now(), describe_environment())


def _recipe(paper: dict[str, float], runs: list[ReproducedRun], marks: Mapping[str, str | None]) -> ReproducedRecipe:
    given = [run.numbers for run in runs if run.numbers is not None]
    shared = [key for key in COLUMNS if given and all(key in numbers for numbers in given)]
    mean, lowest, highest = (
        {key: round(reduce([numbers[key] for numbers in given]), 4) for key in shared} for reduce in (fmean, min, max)
    )
    return ReproducedRecipe(paper, runs, mean, lowest, highest, **marks)


def to_markdown(summary: Reproduction) -> str:
    """Return the summary as a Markdown table, without the columns that nobody has a number for."""
    told = [*summary.centres.values()]
    told += [numbers for row in summary.recipes.values() for numbers in (row.paper, row.mean)]
    columns = [key for key in COLUMNS if any(key in numbers for numbers in told)]
    titles = " | ".join(COLUMNS[key] for key in columns)
    lines = [f"| recipe | numbers | {titles} |", "|---|---" + "|---:" * len(columns) + "|"]
    for name, row in summary.recipes.items():
        if row.paper:
            lines.append(_line(name, "paper", [_cell(row.paper, key) for key in columns]))
        seeds = [run.seed for run in row.runs if run.numbers is not None]
        if seeds:
            said = f"measured, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            said += ", **chosen by boxes**" * bool(row.chosen_by_boxes) + ", **lossy decoder**" * bool(
                row.lossy_decoder
            )
            lines.append(_line(name, said, [_spread(row, key) for key in columns]))
        for run in row.runs:
            if run.failure is not None:
                reason = run.failure.replace("|", "\\|")
                lines.append(_line(name, f"failed, seed {run.seed}: {reason}", ["–"] * len(columns)))
    for name, numbers in summary.centres.items():
        lines.append(_line(name, "measured", [_cell(numbers, key) for key in columns]))
    marks = [f"- {name}: {row.chosen_by_boxes}" for name, row in summary.recipes.items() if row.chosen_by_boxes]
    if marks:
        marks = ["", "Rows whose weights were chosen by boxes are not weakly supervised:", "", *marks]
    return "\n".join([*lines, "", _LEGEND, *marks]) + "\n"


def _matching(patterns: Sequence[str]) -> list[str]:
    known = list_recipes()
    if not patterns:
        return [name for name in known if load_recipe(name).paper is not None]
    found: list[str] = []
    for pattern in patterns:
        names = [pattern] if pattern.endswith(".toml") else fnmatch.filter(known, pattern)
        if not names:
            raise RecipeError(f"--recipes {pattern!r}: matches no recipe; wsolfast recipes lists them")
        found += [name for name in names if name not in found]
    return found


def _published(recipe: Recipe) -> dict[str, float]:
    return recipe.paper.numbers() if recipe.paper else {}


def _numbers(job: Job, results: EvalResults) -> dict[str, float]:
    measured = results.measured
    transferred = results.transferred or {}
    for short, name in (("gt_known", "gt_known_loc"), ("p_iou", "p_iou")):
        if name in transferred:
            measured[f"{short}_transferred"] = transferred[name]
    numbers = {key: measured[key] for key in COLUMNS if key in measured}
    (record,) = read_runs([job.path])
    localizer = localizer_of(as_measured(job.measured())).stage.name
    speeds = [row["images_per_second"] for row in record.history if row.get("stage") == localizer]
    if speeds:
        numbers["train_images_per_second"] = median(speeds)
    return numbers | {"eval_images_per_second": results.images_per_second}


def _line(name: str, what: str, cells: Iterable[str]) -> str:
    return f"| {name} | {what} | {' | '.join(cells)} |"


def _cell(numbers: Mapping[str, float], key: str) -> str:
    return f"{numbers[key]:.2f}" if key in numbers else "–"


def _spread(row: ReproducedRecipe, key: str) -> str:
    text = _cell(row.mean, key)
    several = sum(run.numbers is not None for run in row.runs) > 1
    return f"{text} ({_cell(row.lowest, key)} to {_cell(row.highest, key)})" if several and text != "–" else text
