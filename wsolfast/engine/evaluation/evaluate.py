"""Evaluation of a run: the network sees every image once; its score maps, or boxes, go to disk and are counted."""

import time
from collections.abc import Sequence

from wsolfast import data
from wsolfast.engine.assembly.build import describe_device, eval_protocol
from wsolfast.engine.assembly.decoders import open_decoder
from wsolfast.engine.assembly.network import Network
from wsolfast.engine.assembly.preflight import check_recipe
from wsolfast.engine.evaluation.eval_pass import EvalPass
from wsolfast.engine.evaluation.eval_split import EvalShard, EvalSplit
from wsolfast.engine.evaluation.measure import SplitMetrics
from wsolfast.engine.evaluation.per_image import ImageRows, write_table
from wsolfast.engine.evaluation.stopwatch import describe, in_words
from wsolfast.engine.loggers.opening import observed
from wsolfast.engine.run.allocator import keep_freed_memory
from wsolfast.engine.run.determinism import deterministic_algorithms
from wsolfast.engine.run.distributed import is_first, on_first
from wsolfast.engine.run.environment import describe_environment, now
from wsolfast.engine.run.errors import InUseError, MissingError
from wsolfast.engine.run.observers import Observer
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults, ThresholdSweep
from wsolfast.engine.run.run_folder import RunFolder, write_json
from wsolfast.methods import method_of
from wsolfast.metrics import METRICS_VERSION
from wsolfast.recipe import Recipe, as_measured


def evaluate(
    run: RunFolder,
    recipe: Recipe | None = None,
    *,
    limit: int | None = None,
    merge_shards: int | None = None,
    gaussian: bool = False,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
) -> EvalResults:
    """Measure a run on ``recipe.evaluate.split`` and write ``eval/<split>/`` into its folder.

    Score maps go to ``maps/`` there, batch by batch. Those that are there and depend on the same weights, images and
    settings are used again, so an evaluation that was interrupted goes on where it stopped, and another protocol needs
    no network. A method that gives boxes leaves these instead; they have no threshold, and train_fullsup is not looked
    at. Several processes (see :func:`wsolfast.engine.run.distributed.processes`) share the images; all of them
    return the same results.

    Args:
        run: where the weights are and the results go.
        recipe: the run's own with changes, for instance another protocol; the run's own if None.
            Results with another ``post`` go to ``eval/<split>-<post>/``, a variant's to ``eval/<split>-<variant>/``.
        limit: take so many images only, evenly spread; the results go to ``eval/<split>-limit-<N>/``.
        merge_shards: the score maps are those that so many shards have left; the network does not run.
        gaussian: measure the central Gaussian too, which takes as long as measuring the method's maps.
        progress: where to show how far it is.
        observers: are told of the results, as the loggers of ``runtime.loggers`` are; one that fails is left out.

    Returns:
        The content of ``results.json``.

    Raises:
        MissingError: if the run, or a shard, is not finished.
        RecipeError: if a setting cannot be meant, the protocol's name for instance.
        BackendError: if this machine has not the device, or the decoder, that is asked for.
        Interrupted: a signal asked for a stop; what is done is kept.
    """
    recipe = as_measured(recipe or run.recipe)
    progress = progress if progress and is_first() else Progress(quiet=True)
    keep_freed_memory()
    started = time.monotonic()
    with run.starting(), run.lock(), deterministic_algorithms(recipe.runtime.deterministic):
        protocol = eval_protocol(recipe)
        network, test, fullsup = _open(run, recipe, limit, progress)
        _check_shards(merge_shards, test, fullsup)
        boxes = network.gives_boxes
        metrics = SplitMetrics(test.ground_truth, protocol, gaussian=gaussian, given_boxes=boxes)
        images = EvalPass(test, network, progress)
        seconds = images.count(metrics)
        thresholds: dict[str, float] = {}
        if fullsup is not None:
            chosen = SplitMetrics(fullsup.ground_truth, protocol, baselines=False)
            EvalPass(fullsup, network, progress).count(chosen)
            thresholds = chosen.best_thresholds
        counted = time.monotonic()
        measured = metrics.measure(thresholds)
        rows = ImageRows(metrics, measured.cam_threshold)
        on_first(test.remove_results)
        write_table(test.folder / "per_image.json", images.reload(), rows.describe, test.dataset.class_names)
        throughput = describe(len(test.indices), seconds)
        decoder = recipe.data.decoder or "auto"
        lossy = decoder in data.LOSSY
        progress.log(in_words(throughput))
        results = EvalResults(
            **vars(measured),
            error_split=rows.error_split(),
            split=recipe.evaluate.split,
            recipe=recipe.name,
            method=method_of(network.localizer.stage.method),
            localizer=network.localizer.stage.name,
            classifier=network.classifier_name,
            post=recipe.evaluate.post,
            variant=recipe.evaluate.variant,
            protocol=protocol.name,
            thresholds=None if boxes else _without_list(protocol.thresholds),
            metrics_version=METRICS_VERSION,
            limit=limit,
            ten_crop=recipe.evaluate.ten_crop,
            decoder=decoder if lossy else data.chosen_decoder(decoder),
            amp=network.amp,
            device=describe_device(network.device),
            images_per_second=round(len(test.indices) / seconds["all"], 2),
            throughput=throughput,
            seconds_metrics=round(time.monotonic() - counted, 2),
            seconds=round(time.monotonic() - started, 2),
            evaluated=now(),
            environment=describe_environment(),
            chosen_by_boxes=_chosen_by_boxes(network),
            lossy_decoder=decoder if lossy else None,
        )
        curves = metrics.curves()
        write_json(test.folder / "curves.json", {} if curves is None else curves.to_json(), indent=None)
        write_json(test.folder / "results.json", results.to_json())
        with observed(run, recipe.runtime.loggers, observers, progress):
            run.observers.tell(lambda one: one.on_evaluation(results))
    return results


def evaluate_shard(
    run: RunFolder,
    recipe: Recipe | None,
    shard: EvalShard,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> EvalResults | None:
    """Leave the score maps of one of several shards; whoever finds those of all of them there measures them.

    Shards know nothing of each other but the run's folder: they may run on several machines, side by side or one after
    the other, each in several processes or alone. Errors are those of :func:`evaluate`.

    Args:
        run, recipe, limit, progress: as for :func:`evaluate`, and the same in every shard.
        shard: which one.

    Returns:
        The results of :func:`evaluate`, the same as without shards; None if other shards are still at work.
    """
    changed, recipe = recipe, as_measured(recipe or run.recipe)
    progress = progress if progress and is_first() else Progress(quiet=True)
    keep_freed_memory()
    alone = run.lock(f"shard-{shard.number}-of-{shard.count}")
    with run.starting(), alone, deterministic_algorithms(recipe.runtime.deterministic):
        network, *splits = _open(run, recipe, limit, progress)
        for split in filter(None, splits):
            EvalPass(split, network, progress).compute_shard(shard)
        unfinished = _unfinished(shard.count, *splits)
    if unfinished:
        others = ", ".join(map(str, unfinished))
        progress.log(
            f"shard {shard} is done; the last one of the others ({others}) measures, or eval --merge-shards does"
        )
        return None
    try:
        return evaluate(run, changed, limit=limit, progress=progress)
    except InUseError:
        progress.log(f"shard {shard} is done, and another process measures")
        return None


def _open(
    run: RunFolder, recipe: Recipe, limit: int | None, progress: Progress
) -> tuple[Network, EvalSplit, EvalSplit | None]:
    """Open the networks, the split that is measured, and train_fullsup for its best thresholds, if these are needed."""
    check_recipe(recipe)
    test = EvalSplit(run, recipe, recipe.evaluate.split, limit)
    network = Network(run, recipe, len(test.dataset.class_names), progress.log)
    # Said here if it cannot be, and not behind the images of a cache or of an evaluation that is finished.
    open_decoder(recipe, network.device)
    fullsup = None
    if recipe.evaluate.split != "train_fullsup" and not network.gives_boxes:
        fullsup = EvalSplit.open_if_there(run, recipe, "train_fullsup", limit)
    for split in filter(None, (test, fullsup)):
        split.plan(network)
    if fullsup is not None:
        fullsup.keep_apart(test.folder, network)
    return network, test, fullsup


def _unfinished(shards: int, *splits: EvalSplit | None) -> list[EvalShard]:
    parts = (EvalShard(number, shards) for number in range(1, shards + 1))
    return [part for part in parts if any(split.missing(part) for split in splits if split is not None)]


def _check_shards(shards: int | None, test: EvalSplit, fullsup: EvalSplit | None) -> None:
    unfinished = [] if shards is None else _unfinished(shards, test, fullsup)
    if unfinished:
        raise MissingError(
            f"{test.maps.folder}: score maps of shard {', '.join(map(str, unfinished))} are not all there; "
            f"finish with: wsolfast eval {test.run.path} --shard {unfinished[0]}"
        )


def _chosen_by_boxes(network: Network) -> str | None:
    """Return what looked at boxes to choose the weights of one of the networks; None if nothing did."""
    recipes = {id(ref.recipe): ref.recipe for ref in (network.localizer, network.classifier) if ref is not None}
    return "; ".join(filter(None, (recipe.chosen_by_boxes for recipe in recipes.values()))) or None


def _without_list(thresholds: Sequence[float]) -> ThresholdSweep:
    return ThresholdSweep(len(thresholds), thresholds[0], thresholds[-1])
