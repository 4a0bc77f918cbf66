"""``wsolfast eval`` and ``wsolfast eval-maps``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsolfast.cli._options import (
    Amp,
    AsJson,
    CacheGb,
    Decoder,
    Device,
    ExistOk,
    Name,
    Post,
    Protocol,
    Quiet,
    Runs,
    SkipBad,
    Weights,
    Workers,
    decoder_override,
    echo,
    refuse_company,
    runtime_overrides,
    show_progress,
)
from wsolfast.cli._tables import print_map_results, print_results
from wsolfast.recipe import RecipeError, as_measured

if TYPE_CHECKING:
    from wsolfast.engine.run.results import EvalResults

app = typer.Typer()


@app.command(
    name="eval",
    epilog="Examples:\n\n"
    "  wsolfast eval runs/demo/spa\n\n"
    "  wsolfast eval runs/try2 --split train_fullsup --protocol spa evaluate.ten_crop=true\n\n"
    "  wsolfast eval runs/try2 --post scg evaluate.scg.delta_h=0.2\n\n"
    "  wsolfast eval ilsvrc400/squeezenet --weights squeezenet1_1.pt data.root=DIR\n\n"
    "To measure score maps of another program, use: wsolfast eval-maps",
)
def evaluate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|RECIPE [KEY=VALUE]...", help="Measure this run or recipe, with these changes of its keys."
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Measure this split: test or train_fullsup.")] = None,
    protocol: Protocol = None,
    post: Post = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Measure only this many images, spread evenly over the split.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do part I of N. The command that ends last measures all parts together."),
    ] = None,
    merge_shards: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Measure the score maps of N parts that other commands have made."),
    ] = None,
    weights: Weights = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    exist_ok: ExistOk = False,
    device: Device = None,
    amp: Amp = None,
    workers: Workers = None,
    decoder: Decoder = None,
    cache_gb: CacheGb = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure a run, or a recipe with given weights.

    Score maps are computed once and kept, batch by batch. A command that was interrupted continues when it is started
    again. Under torchrun or srun, processes share the images. --shard shares them among separate commands that use the
    same folder of the run.
    """
    target, *overrides = what
    overrides += runtime_overrides(device=device, amp=amp, workers=workers, cache_gb=cache_gb)
    overrides += decoder_override(decoder)
    overrides += ["data.skip_bad=true"] if skip_bad else []
    given = {"split": split, "protocol": protocol, "post": post}
    overrides += [f"evaluate.{key}={value}" for key, value in given.items() if value]

    from wsolfast.api import opened_for_evaluation
    from wsolfast.engine.evaluation.eval_split import EvalShard
    from wsolfast.engine.evaluation.evaluate import evaluate as evaluate_run
    from wsolfast.engine.evaluation.evaluate import evaluate_shard
    from wsolfast.engine.run.distributed import find_rank

    if shard and merge_shards:
        raise RecipeError("--shard does a part, --merge-shards measures all: give one of them")
    part = EvalShard.parse(shard) if shard else None
    opened = opened_for_evaluation(target, overrides, weights=weights, name=name, runs=runs, exist_ok=exist_ok)
    with opened as (run, recipe):
        progress = show_progress(quiet or as_json)
        results: EvalResults | None
        if part is None:
            results = evaluate_run(run, recipe, limit=limit, merge_shards=merge_shards, progress=progress)
        else:
            results = evaluate_shard(run, recipe, part, limit=limit, progress=progress)
    if find_rank().rank:
        return
    if as_json:
        echo(json.dumps(results and results.to_json(), indent=2))
    elif results is not None and not quiet:
        print_results(results, as_measured(recipe).paper)


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast eval-maps DIR/scoremaps --metadata DIR/metadata --dataset CUB --compare opencv:64\n\n"
    "  wsolfast eval-maps DIR/scoremaps --metadata DIR/metadata --dataset CUB --split val --out runs/val\n\n"
    "  wsolfast eval-maps DIR/scoremaps --metadata DIR/metadata --dataset CUB --thresholds-of runs/val\n\n"
    "  wsolfast eval-maps DIR/scoremaps --metadata DIR/metadata --dataset OpenImages --mask-root DIR/dataset",
)
def eval_maps(
    scoremaps: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Measure the score maps DIR/<image id>.npy, as wsolevaluation writes them."),
    ],
    metadata: Annotated[Path, typer.Option(help="Read annotations from this metadata folder of wsolevaluation.")],
    dataset: Annotated[str, typer.Option(help="Take this folder of the metadata: CUB, ILSVRC or OpenImages.")],
    split: Annotated[
        str, typer.Option(help="Measure this split: test, or train_fullsup, which is val in wsolevaluation.")
    ] = "test",
    protocol: Annotated[str, typer.Option(help="Measure GT-known Loc by this protocol.")] = "wsolevaluation",
    metrics: Annotated[str, typer.Option(help="Write these metrics, separated by commas, or all.")] = "all",
    mask_root: Annotated[
        Path | None, typer.Option(help="Measure pixels instead of boxes, with the masks in this folder.")
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="Use this step between thresholds. The default is the protocol's.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="opencv:N", help="First compare N images with plain OpenCV. Exit with 5 if they differ."),
    ] = None,
    thresholds_of: Annotated[
        Path | None,
        typer.Option(
            help="Also measure at transferred thresholds: the best ones in this folder of results of another split."
        ),
    ] = None,
    runs: Runs = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Write results into this folder. The default is RUNS/maps-<dataset>-<split>.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure score maps on disk, made by any program. No network runs, and no images are needed.

    A command that was interrupted continues when it is started again. Its counts are kept in the folder of the results.
    """
    from wsolfast.engine.evaluation.evaluate_maps import evaluate_maps

    refuse_company("eval-maps")
    folder = out or runs / f"maps-{dataset}-{split}"
    found = evaluate_maps(
        scoremaps,
        metadata,
        dataset,
        split,
        folder,
        protocol=protocol,
        interval=interval,
        metrics=metrics,
        mask_root=mask_root,
        compare=_compare_count(compare),
        thresholds_of=thresholds_of,
        progress=show_progress(quiet or as_json),
    )
    if as_json:
        echo(json.dumps(found.to_json(), indent=2))
    elif not quiet:
        print_map_results(found, folder)


def _compare_count(text: str | None) -> int:
    if text is None:
        return 0
    peer, _, count = text.partition(":")
    if peer != "opencv" or not (count or "64").isdecimal():
        raise RecipeError(f"--compare: expected opencv:N, N images, got {text!r}")
    return int(count or "64")
