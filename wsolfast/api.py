"""Training, evaluation and localisation in one line each: ``wsolfast.train``, ``evaluate``, ``localize``, ``load``.

The command line calls these functions, too. Each of them works alone and in several processes that torchrun or srun
started, except for ``localize`` and ``load``, which are for one process.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from wsolfast.engine.evaluation.evaluate import evaluate as evaluate_run
from wsolfast.engine.given_images import GivenImage
from wsolfast.engine.localizer import Localizer, Located
from wsolfast.engine.pretrained import adopt, recipe_of
from wsolfast.engine.run.distributed import processes
from wsolfast.engine.run.observers import Observer
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.targets import is_run, open_target, run_path, temporary_runs, training_recipe
from wsolfast.engine.training.train import change_runtime
from wsolfast.engine.training.train import train as train_run
from wsolfast.recipe import Recipe, RecipeError, dump_recipe, parse_recipe

__all__ = ["Localizer", "Located", "evaluate", "load", "localize", "train"]


def train(
    recipe: str | Path | None = None,
    *overrides: str,
    data: str | None = None,
    root: str | Path | None = None,
    resume: str | Path | RunFolder | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    exist_ok: bool = False,
    observers: Sequence[Observer] = (),
    quiet: bool = False,
) -> RunFolder:
    """Train a recipe, or a method on data of one's own, and return its run.

    Args:
        recipe: the name or file of a recipe, or a method's name, which takes ``cub50/<method>``: MobileNetV2 with
            ImageNet's weights, for a few thousand images.
        *overrides: changes of the recipe, ``"stage.epochs=3"`` for instance.
        data: name of the data set, ``"folder"`` for instance; None takes the recipe's.
        root: folder of the data.
        resume: continue this run instead, from its last checkpoint; ``overrides`` may change ``runtime`` alone.
        name: of the run's folder; the recipe's name if None.
        runs: holds that folder.
        exist_ok: start a run that exists over.
        observers: are told of epochs and validations, see :mod:`wsolfast.engine.run.observers`.
        quiet: show no progress.

    Returns:
        RunFolder: of the finished run.

    Raises:
        RecipeError: if there is no such recipe or method, a change does not fit it, or neither a recipe nor ``resume``
            is given.
        DataError: if a split cannot be read.
        UsageError: if the run's folder exists and ``exist_ok`` is false.
        MissingError: if there is no run to resume.
        Interrupted: if a signal asked for a stop; the checkpoint is written.
        RunError: if the loss or the gradient is not finite.
    """
    if (recipe is None) == (resume is None):
        raise RecipeError("give a recipe (wsolfast recipes lists them) or --resume RUN, one of the two")
    progress, run = Progress(quiet=quiet), None
    if resume is not None:
        run = resume if isinstance(resume, RunFolder) else RunFolder(resume)
        wanted = parse_recipe(dump_recipe(run.recipe), run.recipe.name, overrides)
    else:
        wanted = training_recipe(str(recipe), overrides, data=data, root=root)
    with processes(wanted.runtime.device, wanted.runtime.timeout_minutes):
        if run is None:
            run = RunFolder.create(run_path(runs, name, wanted.name), wanted, exist_ok=exist_ok)
        else:
            change_runtime(run, wanted)
        train_run(run, progress, observers=observers)
    return run


@contextmanager
def opened_for_evaluation(
    target: str | Path | RunFolder,
    overrides: Sequence[str] = (),
    *,
    weights: str | Path | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    exist_ok: bool = False,
) -> Iterator[tuple[RunFolder, Recipe]]:
    """Open a run, or make one of a network as it is, while processes that were started together share it.

    Args:
        target: a run, its folder, the name or file of a recipe, or ``timm:NAME``.
        overrides: changes of the recipe that is measured.
        weights: gives a recipe these weights, see :func:`wsolfast.engine.pretrained.adopt`.
        name: of the folder of a run that is made; the recipe's name if None.
        runs: holds that folder.
        exist_ok: start a run that exists over.

    Yields:
        tuple: the run, and the recipe that its evaluation follows.

    Raises:
        RecipeError: if the target is neither a run nor a recipe, or a change does not fit it.
        UsageError: if the recipe has to be trained first.
        MissingError: if there is no such run, or no such file of weights.
    """
    run = None
    if isinstance(target, RunFolder) or is_run(target):
        run = open_target(target, weights=weights)
        recipe = parse_recipe(dump_recipe(run.recipe), run.recipe.name, overrides)
    else:
        recipe = recipe_of(str(target), overrides)
    with processes(recipe.runtime.device, recipe.runtime.timeout_minutes):
        if run is None:
            file = None if weights is None else Path(weights)
            run = adopt(run_path(runs, name, recipe.name), recipe, file, exist_ok=exist_ok)
            recipe = replace(run.recipe, evaluate=recipe.evaluate, runtime=recipe.runtime)
        yield run, recipe


def evaluate(
    run: str | Path | RunFolder,
    *overrides: str,
    weights: str | Path | None = None,
    limit: int | None = None,
    merge_shards: int | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    exist_ok: bool = False,
    observers: Sequence[Observer] = (),
    quiet: bool = False,
) -> EvalResults:
    """Measure a run, or a recipe with weights from elsewhere, on a split of its data.

    Args:
        run: what :func:`train` returned, the folder of a run, the name or file of a recipe, or ``timm:NAME``.
        *overrides: changes of the recipe, ``"evaluate.split=train_fullsup"`` for instance.
        weights: gives a recipe these weights: a network's, or a trained run's ``model.safetensors``.
        limit: take only this many images, evenly spread.
        merge_shards: measure the score maps that this many shards have left.
        name: of the folder of a run that is made; the recipe's name if None.
        runs: holds that folder.
        exist_ok: start a run that exists over.
        observers: are told of the results.
        quiet: show no progress.

    Returns:
        EvalResults: the numbers, as ``results.json`` holds them.

    Raises:
        RecipeError: if the target is neither a run nor a recipe, or a change does not fit it.
        UsageError: if the recipe has to be trained first.
        MissingError: if there is no such run, it is not finished, or a shard is missing.
        DataError: if a split cannot be read.
        Interrupted: if a signal asked for a stop; what is done is kept.
    """
    opened = opened_for_evaluation(run, overrides, weights=weights, name=name, runs=runs, exist_ok=exist_ok)
    with opened as (folder, recipe):
        return evaluate_run(
            folder,
            recipe,
            limit=limit,
            merge_shards=merge_shards,
            progress=Progress(quiet=quiet),
            observers=observers,
        )


def load(
    run: str | Path | RunFolder,
    *overrides: str,
    weights: str | Path | None = None,
    threshold: float | None = None,
    device: str | None = None,
    post: str | None = None,
    bits: int | None = None,
    quiet: bool = False,
) -> Localizer:
    """Load the networks of a run, or of a recipe's or timm's network as it is, to localise images again and again.

    Nothing is written.

    Args:
        run: what :func:`train` returned, the folder of a run, the name or file of a recipe, or ``timm:NAME``.
        *overrides: changes of a recipe; a run has its own.
        weights: gives a recipe these weights: a network's, or a trained run's ``model.safetensors``.
        threshold: where maps are cut, in [0, 1]; None takes what the run's evaluation or the recipe says.
        device: where the networks run: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; None takes the recipe's.
        post: the refinement of the maps, or ``"none"``; None takes the recipe's.
        bits: how many bits the values of 16-bit files have: 10, 12, 14 or 16; None believes the file.
        quiet: show no progress of a download.

    Returns:
        Localizer: call it on images.

    Raises:
        RecipeError: if the target is neither a run nor a recipe, or changes or weights are given for a run.
        UsageError: if the recipe has to be trained first, or a threshold is given to a method that gives boxes.
        MissingError: if there is no such run, it is not finished, or there is no such file of weights.
    """
    # A folder that only a recipe needs, to be adopted in.
    with temporary_runs() as folder:
        opened = open_target(run, overrides, weights=weights, runs=folder)
        with opened.starting():
            return Localizer(
                opened, threshold=threshold, device=device, post=post, bits=bits, progress=Progress(quiet=quiet)
            )


def localize(
    run: str | Path | RunFolder | Localizer,
    images: GivenImage | Iterable[GivenImage],
    *,
    class_name: str | int | None = None,
    topk: int = 1,
    threshold: float | None = None,
) -> list[Located]:
    """Localise the objects in images: boxes, score maps, classes and scores.

    To call it more than once, :func:`load` the networks first.

    Args:
        run: what :func:`train` or :func:`load` returned, the folder of a run, the name or file of a recipe, or
            ``timm:NAME``.
        images: one or several: paths, also of folders and patterns; PIL images; uint8 arrays [H, W, 3] or
            [N, H, W, 3]; uint8 tensors [3, H, W] or [N, 3, H, W].
        class_name: name or number of the class to localise; None takes each image's most likely classes.
        topk: how many of these.
        threshold: where maps are cut, in [0, 1]; None takes what the run's evaluation or the recipe says.

    Returns:
        list[Located]: one per image, in order.

    Raises:
        DataError: if an image cannot be read.
        UsageError: if the run knows no such class, or the images are of no such type.
        RecipeError: if the target is neither a run nor a recipe.
        MissingError: if there is no such run or no image at a path, or the run is not finished.
    """
    localizer = run if isinstance(run, Localizer) else load(run)
    return localizer(images, class_name=class_name, topk=topk, threshold=threshold)
