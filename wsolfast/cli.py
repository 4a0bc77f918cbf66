"""The ``wsolfast`` command. Torch is imported inside the commands, so that help is instant."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsolfast import cli_bench
from wsolfast.cli_export import export
from wsolfast.recipe import (
    RecipeError,
    dump_recipe,
    list_recipes,
    load_recipe,
    override_value,
    parse_recipe,
    recipe_path,
)

if TYPE_CHECKING:
    from rich.table import Table

    from wsolfast.convert import Conversion
    from wsolfast.engine.progress import Progress
    from wsolfast.recipe import Paper

app = typer.Typer(
    name="wsolfast",
    help=(
        "Weakly supervised object localization: train on image labels, measure the boxes, look at them.\n\n"
        "Start with [bold]wsolfast demo[/bold]: no data, no GPU, no network needed."
    ),
    epilog="Exit codes: 0 ok, 1 run failed, 2 usage, 3 data or weights missing, 4 device unavailable, 5 check failed, "
    "130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look after data sets on disk.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(cli_bench.app, name="bench")
app.command()(export)

Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Amp = Annotated[str | None, typer.Option(help="none, or bf16 for mixed precision.")]
Workers = Annotated[int | None, typer.Option(help="Image loading processes, in evaluation threads; -1 chooses.")]
Decoder = Annotated[
    str | None, typer.Option(help="Who decodes JPEG: auto, pil, simplejpeg or cv2, all the same; fast is inexact.")
]
CacheGb = Annotated[
    float | None, typer.Option(min=0, help="Keep decoded images on disk, so many GB at most; see runtime.cache_dir.")
]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
Name = Annotated[str | None, typer.Option(help="Name of the run's folder; the recipe's name if not given.")]
ExistOk = Annotated[bool, typer.Option("--exist-ok", help="Start a run that exists over, replacing its results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave unreadable images out and say which, instead of stopping.")
]
Weights = Annotated[
    Path | None, typer.Option(help="For a recipe: a network's weights, or a trained run's model.safetensors.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Post = Annotated[str | None, typer.Option(help="How maps are refined: none, or scg; the recipe's if not given.")]
Protocol = Annotated[str | None, typer.Option(help="Evaluation protocol; the recipe's if not given.")]


def _of_maps(text: str, **settings: Any) -> typer.models.OptionInfo:
    return typer.Option(help=text, rich_help_panel="Score maps on disk", **settings)


def main() -> None:
    """Run the command line; user errors become one line on stderr and an exit code."""
    try:
        app()
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        sys.stderr.write(f"error: {error}\n".replace("\n", " ").rstrip() + "\n")
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    """What the error asks for; None for one that nobody foresaw, whose traceback is wanted."""
    if isinstance(error, OSError) or type(error).__name__ == "OutOfMemoryError":
        return 1
    if isinstance(error, ImportError) and "pip install" in str(error):
        return 4
    return getattr(error, "exit_code", None)


def _refuse_company(command: str) -> None:
    """Some work is not shared: several processes would do all of it each, in one folder."""
    from wsolfast.engine.distributed import find_place

    count = find_place().world_size
    if count > 1:
        raise RecipeError(f"{command}: work for one process, {count} were started; give it without torchrun or srun")


def _say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")


def _progress(quiet: bool) -> "Progress":
    from wsolfast.engine.progress import Progress

    return Progress(quiet=quiet)


def _runtime_overrides(**values: object) -> list[str]:
    return [f"runtime.{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def _decoder_override(decoder: str | None) -> list[str]:
    return [] if decoder is None else [f"data.decoder={json.dumps(decoder)}"]


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast train demo/spa\n\n"
    "  wsolfast train spa_cub_vgg16 data.root=/data/CUB_200_2011 --device cuda --amp bf16\n\n"
    "  wsolfast train cub50/cam data.root=DIR stage.backbone.weights=FILE stage.optim.lr=0.01 --name try2\n\n"
    "  wsolfast train --resume runs/try2\n\n"
    "  torchrun --nproc-per-node 8 -m wsolfast train spa_ilsvrc_vgg16 data.root=/data/ilsvrc",
)
def train(
    what: Annotated[list[str] | None, typer.Argument(metavar="RECIPE [KEY=VALUE]...", show_default=False)] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run from its last checkpoint.")] = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    exist_ok: ExistOk = False,
    device: Device = None,
    amp: Amp = None,
    channels_last: Annotated[bool | None, typer.Option(help="Keep images as [N, H, W, C] in memory.")] = None,
    workers: Workers = None,
    decoder: Decoder = None,
    cache_gb: CacheGb = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights, the order and the augmentation.")] = None,
    skip_bad: SkipBad = False,
    skip_nonfinite: Annotated[
        int | None, typer.Option(min=0, help="Leave out so many steps whose loss is not finite before stopping.")
    ] = None,
    deterministic: Annotated[
        bool | None, typer.Option(help="The same bits every time, also on a GPU, where it is slower.")
    ] = None,
    save_every: Annotated[
        str | None, typer.Option(help="Checkpoint also every so many steps (500) or minutes (10m).")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe's method on image labels; interrupt it at any time and continue with --resume.

    Under torchrun or srun, processes share each batch of the recipe.
    """
    words = what or []
    recipe_name = words.pop(0) if words and "=" not in words[0] else None
    overrides = words + _runtime_overrides(
        device=device,
        amp=amp,
        channels_last=channels_last,
        workers=workers,
        skip_nonfinite=skip_nonfinite,
        deterministic=deterministic,
        cache_gb=cache_gb,
        **_save_every(save_every),
    )
    overrides += _decoder_override(decoder)
    if seed is not None:
        overrides.append(f"seed={seed}")
    if skip_bad:
        overrides.append("data.skip_bad=true")
    if (recipe_name is None) == (resume is None):
        raise RecipeError("give a recipe (wsolfast recipes lists them) or --resume RUN, one of the two")

    from wsolfast.engine.distributed import is_first, processes
    from wsolfast.engine.run_folder import RunFolder
    from wsolfast.engine.train import change_runtime
    from wsolfast.engine.train import train as train_run

    run = None if resume is None else RunFolder(resume)
    if run is not None:
        recipe = parse_recipe(dump_recipe(run.recipe), run.recipe.name, overrides)
    else:
        assert recipe_name is not None
        recipe = load_recipe(recipe_name, overrides)
    with processes(recipe.runtime.device, recipe.runtime.timeout_minutes):
        if run is not None:
            change_runtime(run, recipe)
        else:
            run = RunFolder.create(_run_path(runs, name, recipe.name), recipe, exist_ok=exist_ok)
        train_run(run, _progress(quiet))
        quiet = quiet or not is_first()
    if not quiet:
        _say(f"trained: {run.path}\nmeasure it: wsolfast eval {run.path}")


def _save_every(text: str | None) -> dict[str, object]:
    if text is None:
        return {}
    number = text.removesuffix("m")
    try:
        return {"save_every_minutes": float(number)} if text.endswith("m") else {"save_every_steps": int(number)}
    except ValueError:
        raise RecipeError(f"--save-every: expected a number of steps (500) or minutes (10m), got {text!r}") from None


def _run_path(runs: Path, name: str | None, recipe_name: str) -> Path:
    name = name or recipe_name.replace("/", "-")
    if "/" in name or name in (".", ".."):
        raise RecipeError(f"--name: expected the name of a folder below --runs, got {name!r}")
    return runs / name


@app.command(
    name="eval",
    epilog="Examples:\n\n"
    "  wsolfast eval runs/demo/spa\n\n"
    "  wsolfast eval runs/try2 --split train_fullsup --protocol spa evaluate.ten_crop=true\n\n"
    "  wsolfast eval runs/try2 --post scg evaluate.scg.delta_h=0.2\n\n"
    "  wsolfast eval ilsvrc400/squeezenet --weights squeezenet1_1.pt data.root=DIR\n\n"
    "  wsolfast eval --scoremaps DIR --metadata metadata --dataset CUB --split test --compare opencv:64",
)
def evaluate(
    what: Annotated[list[str] | None, typer.Argument(metavar="RUN|RECIPE [KEY=VALUE]...", show_default=False)] = None,
    split: Annotated[str | None, typer.Option(help="test or train_fullsup.")] = None,
    protocol: Protocol = None,
    post: Post = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many images, evenly spread.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do the I-th of N parts; whoever is last measures them all.")
    ] = None,
    merge_shards: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Measure what N parts, done elsewhere, have left.")
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
    scoremaps: Annotated[
        Path | None, _of_maps("Measure these instead of a run: DIR/<image id>.npy, as wsolevaluation writes them.")
    ] = None,
    metadata: Annotated[Path | None, _of_maps("wsolevaluation's metadata folder.")] = None,
    dataset: Annotated[str | None, _of_maps("Its folder in the metadata: CUB, ILSVRC, OpenImages.")] = None,
    metrics: Annotated[str, _of_maps("Names with commas between, or all.")] = "all",
    mask_root: Annotated[Path | None, _of_maps("Folder of the masks: measure pixels, not boxes.")] = None,
    interval: Annotated[float | None, _of_maps("Step between thresholds; the protocol's if not given.")] = None,
    compare: Annotated[
        str | None,
        _of_maps("Hold so many images against plain OpenCV first; exit 5 at a difference.", metavar="opencv:N"),
    ] = None,
    thresholds_of: Annotated[
        Path | None, _of_maps("Results of another split's score maps: measure at its best thresholds, too.")
    ] = None,
    out: Annotated[Path | None, _of_maps("Where results go; RUNS/maps-<dataset>-<split> if not given.")] = None,
) -> None:
    """Measure a run, or a recipe with weights from elsewhere; or score maps on disk, with --scoremaps.

    Score maps are computed once and kept, batch by batch: what was interrupted goes on when it is started again. Under
    torchrun or srun, processes share the images of a run; --shard shares them among commands that know nothing of each
    other but the run's folder. Score maps on disk need --metadata and --dataset.
    """
    if scoremaps is not None:
        if what or weights or limit or shard or merge_shards or name or post or metadata is None or dataset is None:
            raise RecipeError("--scoremaps goes with --metadata DIR and --dataset NAME, and with no run or recipe")
        from wsolfast.engine.evaluate_maps import evaluate_maps

        _refuse_company("eval --scoremaps")
        split = split or "test"
        folder = out or runs / f"maps-{dataset}-{split}"
        found = evaluate_maps(
            scoremaps,
            metadata,
            dataset,
            split,
            folder,
            protocol=protocol or "wsolevaluation",
            interval=interval,
            metrics=metrics,
            mask_root=mask_root,
            compare=_compare_count(compare),
            thresholds_of=thresholds_of,
            progress=_progress(quiet or as_json),
        )
        if as_json:
            _say(json.dumps(found, indent=2))
        elif not quiet:
            _print_map_results(found, folder)
        return
    if metadata or dataset or mask_root or interval or compare or out or metrics != "all":
        raise RecipeError(
            "--metadata, --dataset, --metrics, --mask-root, --interval, --compare, --out need --scoremaps"
        )
    if not what:
        raise RecipeError("give a run, a recipe, or --scoremaps DIR")
    target, *overrides = what
    overrides += _runtime_overrides(device=device, amp=amp, workers=workers, cache_gb=cache_gb)
    overrides += _decoder_override(decoder)
    overrides += ["data.skip_bad=true"] if skip_bad else []
    given = {"split": split, "protocol": protocol, "post": post}
    overrides += [f"evaluate.{key}={value}" for key, value in given.items() if value]

    from wsolfast.engine.distributed import is_first, processes
    from wsolfast.engine.eval_split import Shard
    from wsolfast.engine.evaluate import evaluate as evaluate_run
    from wsolfast.engine.evaluate import evaluate_shard
    from wsolfast.engine.pretrained import adopt
    from wsolfast.engine.run_folder import RunFolder

    if shard and merge_shards:
        raise RecipeError("--shard does a part, --merge-shards measures all: give one of them")
    part = Shard.parse(shard) if shard else None
    if Path(target).is_dir():
        if weights is not None:
            raise RecipeError("--weights goes with a recipe; a run has its own")
        run = RunFolder(target)
        recipe = parse_recipe(dump_recipe(run.recipe), run.recipe.name, overrides)
    else:
        run, recipe = None, load_recipe(target, overrides)
    with processes(recipe.runtime.device, recipe.runtime.timeout_minutes):
        if run is None:
            run = adopt(_run_path(runs, name, recipe.name), recipe, weights, exist_ok=exist_ok)
            recipe = replace(run.recipe, evaluate=recipe.evaluate, runtime=recipe.runtime)
        told = _progress(quiet or as_json)
        results: dict | None
        if part is None:
            results = evaluate_run(run, recipe, limit=limit, merge_shards=merge_shards, progress=told)
        else:
            results = evaluate_shard(run, recipe, part, limit=limit, progress=told)
        first = is_first()
    if not first:
        return
    if as_json:
        _say(json.dumps(results, indent=2))
    elif results is not None and not quiet:
        _print_results(results, recipe.paper)


def _compare_count(text: str | None) -> int:
    if text is None:
        return 0
    peer, _, count = text.partition(":")
    if peer != "opencv" or not (count or "64").isdecimal():
        raise RecipeError(f"--compare: expected opencv:N, N images, got {text!r}")
    return int(count or "64")


_METRICS = {
    "top1_cls": "Top-1 Cls",
    "top5_cls": "Top-5 Cls",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "gt_known_loc": "GT-known Loc",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "px_ap": "PxAP",
    "p_iou": "pIoU",
    "peak_iou": "Peak-IoU",
}
_MAP_METRICS = _METRICS | {
    "iou30": "  IoU 0.3",
    "iou50": "  IoU 0.5",
    "iou70": "  IoU 0.7",
    "peak_t": "Peak-T",
    "peak_iou_per_image": "Peak-IoU, mean over images",
    "peak_t_per_image": "Peak-T, mean over images",
}


def _table(rows: dict[str, dict[str, str]], columns: list[str]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *(cells.get(column, "-") for column in columns))
    return table


def _print_results(results: dict, paper: "Paper | None") -> None:
    """One evaluation: a row per metric, the centre box beside it, and what the numbers rest on."""
    from rich.console import Console

    given = {
        "best threshold": results["metrics"] | results.get("pixel", {}),
        "threshold of train_fullsup": results.get("transferred"),
        "centre box": results["baselines"]["center_box"],
        "published": paper.numbers() if paper else None,
    }
    columns = {name: numbers for name, numbers in given.items() if numbers}
    rows = {
        title: {name: f"{numbers[key]:.1f}" for name, numbers in columns.items() if key in numbers}
        for key, title in _METRICS.items()
        if any(key in numbers for numbers in columns.values())
    }
    console = Console(highlight=False)
    console.print(_table(rows, list(columns)))
    split = results.get("error_split", {})
    if split:
        shares = ", ".join(f"{kind.replace('_', ' ')} {share:.1f}" for kind, share in split.items())
        console.print(f"top-1 boxes, percent: {shares}")
    if results.get("pixel"):
        pixel = results["pixel"]
        console.print(f"masks of {pixel['images']} images, Peak-T {pixel['peak_threshold']}")
    console.print(
        f"{results['num_images']} images of {results['split']}, protocol {results['protocol']}, "
        f"{'boxes' if split else 'regions'} at "
        f"{results['cam_threshold']:.3g} ({results['cam_threshold_source']}), "
        f"{results['images_per_second']:.1f} images/s"
    )


def _print_map_results(results: dict, out: Path) -> None:
    """One evaluation of score maps on disk: a row per metric, its threshold and the centre box beside it."""
    from rich.console import Console

    given = {
        "best threshold": results["metrics"],
        "at": results["oracle_threshold"],
        "other split's threshold": results.get("transferred"),
        "its": results.get("transferred_thresholds"),
        "centre box": results.get("baselines", {}).get("center_box"),
    }
    columns = {name: numbers for name, numbers in given.items() if numbers}
    thresholds = ("at", "its")
    rows = {
        _MAP_METRICS[key]: {
            name: f"{numbers[key]:.{3 if name in thresholds else 2}f}"
            for name, numbers in columns.items()
            if key in numbers
        }
        for key in results["metrics"]
    }
    console = Console(highlight=False)
    console.print(_table(rows, list(columns)))
    if "compared" in results:
        compared = results["compared"]
        console.print(
            f"{compared['images']} images × {compared['thresholds']} thresholds identical to {compared['with']}"
        )
    if results["maps_not_finite"]:
        console.print(f"{results['maps_not_finite']} score maps hold a NaN or an infinity: they count as empty")
    rate = results["images_per_second"]
    console.print(
        f"{results['num_images']} images of {results['dataset']} {results['split']}"
        + (f", protocol {results['protocol']}" if "protocol" in results else "")
        + (f", {rate:.0f} images/s" if rate else ", counted before")
        + f"; {out}"
    )


def _print_comparison(results: dict[str, dict]) -> None:
    """Several evaluations of the same images, a row each, and the centre box below them."""
    from rich.console import Console

    shown = ("top1_cls", "gt_known_loc", "max_box_acc", "max_box_acc_v2")
    titles = {key: _METRICS[key] for key in shown}
    rows = {
        name: {titles[key]: f"{found['metrics'][key]:.1f}" for key in titles}
        | {"images/s": f"{found['images_per_second']:.0f}"}
        for name, found in results.items()
    }
    center = next(iter(results.values()))["baselines"]["center_box"]
    rows["centre box"] = {titles[key]: f"{center[key]:.1f}" for key in titles if key != "top1_cls"}
    Console(highlight=False).print(_table(rows, [*titles.values(), "images/s"]))


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast localize runs/demo/spa photo.jpg\n\n"
    "  wsolfast localize runs/birds *.jpg --class Bobolink --out boxes/\n\n"
    "  wsolfast localize imagenet/resnet50 photo.jpg\n\n"
    "  wsolfast localize imagenet/squeezenet photo.jpg --weights squeezenet1_1.pt",
)
def localize(
    target: Annotated[str, typer.Argument(metavar="RUN|RECIPE", help="A trained run, or a network as it is.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMG...", help="Image files.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; RUN/localized if not given.")] = None,
    weights: Weights = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    class_: Annotated[str | None, typer.Option("--class", help="Name or number; the most likely if not given.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Where the map is cut; what eval chose if not given.")
    ] = None,
    post: Post = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Localise the object in image files: an overlay PNG for each, one boxes.json for all.

    The recipes imagenet/* take ImageNet classifiers as torchvision has trained them: no data and no training is needed.
    """
    from wsolfast.engine.localize import localize as localize_files
    from wsolfast.engine.localize import require_any
    from wsolfast.engine.pretrained import adopt
    from wsolfast.engine.run_folder import RunFolder

    _refuse_company("localize")
    require_any(images)
    if Path(target).is_dir():
        if weights is not None:
            raise RecipeError("--weights goes with a recipe; a run has its own")
        run = RunFolder(target)
    else:
        recipe = load_recipe(target)
        run = adopt(_run_path(runs, name, recipe.name), recipe, weights)
    output = out or run.path / "localized"
    found = localize_files(
        run,
        images,
        output,
        class_name=class_,
        threshold=threshold,
        device=device,
        post=post,
        progress=_progress(quiet),
    )
    if not quiet:
        for image in found["images"]:
            boxes = " ".join(str([round(value) for value in box]) for box in image["boxes"])
            label = image["class_name"] or image["class_id"]
            _say(f"{image['file']}: {label} ({image['score']:.2f}) {boxes}")
        _say(f"written: {output}/boxes.json")
    if found["failed"]:
        sys.stderr.write("".join(f"error: {failure['error']}\n" for failure in found["failed"]))
        raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast convert cub_epoch_100.pth.tar data.root=/data/CUB_200_2011\n\n"
    "  wsolfast convert net_train_vgg16_cub.pth --pool mask_train_vgg16_cub.pth --dry-run\n\n"
    "  wsolfast convert model-32 --source spol",
)
def convert(
    what: Annotated[list[str], typer.Argument(metavar="FILE [KEY=VALUE]...", help="A published checkpoint.")],
    source: Annotated[
        str | None, typer.Option(help="Code base it is from; told from its tensors if not given.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="What the weights are for; told from them if not given.")] = None,
    pool: Annotated[
        str | None, typer.Option(help="CI-CAM: file of the context pool, or none; looked for beside FILE.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print where every tensor goes and write nothing.")
    ] = False,
    name: Name = None,
    runs: Runs = Path("runs"),
    exist_ok: ExistOk = False,
    quiet: Quiet = False,
) -> None:
    """Turn a checkpoint of the authors' code into a finished run that eval and localize take; none of its code runs."""
    from wsolfast import convert as converter

    _refuse_company("convert")
    file, *overrides = what
    found = converter.read_checkpoint(Path(file), source=source, recipe=recipe, pool=pool, overrides=overrides)
    if dry_run:
        _print_mapping(found)
    else:
        run = converter.write_run(found, _run_path(runs, name, f"{found.recipe.name}-published"), exist_ok=exist_ok)
    if quiet:
        return
    _say(f"{found.network} of {found.origin}: {len(found.tensors)} tensors for recipe {found.recipe.name}")
    _say(_dropped(found.dropped))
    if not dry_run:
        needs = " data.root=DIR" * (not found.recipe.data.root) + " evaluate.classifier=RUN" * found.classless
        _say(f"run: {run.path}\nmeasure it: wsolfast eval {run.path}{needs}")


def _print_mapping(found: "Conversion") -> None:
    width = max(map(len, found.tensors))
    for key, tensor in found.tensors.items():
        _say(f"{key:<{width}}  <-  {found.names[key]}  {list(tensor.shape)}")
    for key, reason in found.dropped.items():
        _say(f"{'dropped':<{width}}  <-  {key}  ({reason})")


def _dropped(dropped: dict[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for key, reason in dropped.items():
        by_reason.setdefault(reason, []).append(key)
    parts = [f"{', '.join(keys[:3])}{' ...' * (len(keys) > 3)} ({reason})" for reason, keys in by_reason.items()]
    return f"dropped {len(dropped)} tensors" + (f": {'; '.join(parts)}" if parts else "")


@app.command(epilog="Examples:\n\n  wsolfast demo\n\n  wsolfast demo --minutes 1 --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of the weights, the order and the augmentation.")] = 0,
    minutes: Annotated[float, typer.Option(min=0.01, help="About how long to train, on two cores.")] = 3.0,
    baselines: Annotated[bool, typer.Option("--baselines", help="HaS, CutMix, ADL, ACoL and SPG, too.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train and measure every demo method on rendered images, and write a report: no data, no GPU, no network.

    Under torchrun or srun, processes share every run.
    """
    from wsolfast.engine.demo import demo as run_demo
    from wsolfast.engine.demo import demo_recipes
    from wsolfast.engine.distributed import is_first, processes

    runtime = load_recipe(demo_recipes(baselines=False)[0]).runtime
    with processes(runtime.device, runtime.timeout_minutes):
        results, page = run_demo(out, seed=seed, minutes=minutes, baselines=baselines, progress=_progress(quiet))
        first = is_first()
    if first:
        _print_comparison(results)
        _say(f"report: {page}")


@app.command(epilog="Examples:\n\n  wsolfast report runs/cub-cam runs/cub-spa --out cub.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs, the baseline first.")],
    images: Annotated[int, typer.Option(min=0, help="At most so many images in the gallery.")] = 48,
    out: Annotated[Path | None, typer.Option(help="The page; report/index.html in the last run if not given.")] = None,
    sheets: Annotated[
        bool,
        typer.Option(
            "--sheets",
            help="Also, for every run: worst, median and best images with their masks; training curves.",
        ),
    ] = False,
) -> None:
    """Write one self-contained page about runs: numbers, maps and boxes, curves, worst cases."""
    from wsolfast.engine.report import write_report

    _refuse_company("report")
    page = write_report(runs, out or runs[-1] / "report" / "index.html", images=images)
    _say(f"report: {page}")
    if sheets:
        from wsolfast.engine.contact_sheet import write_sheets

        files, notes = write_sheets(runs, page.parent / "sheets")
        for note in notes:
            _say(note)
        _say(f"sheets: {', '.join(map(str, files))}")


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast reproduce --data /data/CUB_200_2011 --recipes 'spa_cub_*' --seeds 0,1,2\n\n"
    "  wsolfast reproduce --data cub=/data/CUB_200_2011 --data ilsvrc=/data/ILSVRC --list\n\n"
    "  wsolfast reproduce --recipes 'demo/*' --seeds 0,1",
)
def reproduce(
    what: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]DIR", help="A data set's folder; NAME is cub, ilsvrc, ...")
    ] = None,
    recipes: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Names or files; every published row if not given.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="With commas between.")] = "0",
    output: Annotated[Path, typer.Option(help="Folder of the runs and of reproduce.md.")] = Path("runs/reproduce"),
    list_only: Annotated[bool, typer.Option("--list", help="Show what would run, and run nothing.")] = False,
    device: Device = None,
    amp: Amp = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate recipes over seeds, and write a table of the papers' numbers beside the measured ones.

    Finished runs are kept, interrupted ones continue, a failed one is a row with its reason. Under torchrun or srun,
    processes share every run, and the first that fails ends the list.
    """
    from wsolfast.engine import reproduce as reproducing
    from wsolfast.engine.distributed import find_place, processes

    overrides = [*(what or []), *_runtime_overrides(device=device, amp=amp, workers=workers)]
    folders = dict(word.partition("=")[::2] if "=" in word else ("", word) for word in data or [])
    jobs, left_out = reproducing.plan(
        output, patterns=recipes or (), seeds=_seeds(seeds), data=folders, overrides=overrides
    )
    first = find_place().rank == 0
    quiet = quiet or not first
    if list_only and first:
        for job in jobs:
            _say(f"{job.state():<8}  {job.path}")
    if left_out and not quiet:
        _say(f"left out, --data NAME=DIR is not given: {', '.join(left_out)}")
    if list_only:
        return
    if not jobs:
        raise RecipeError("nothing to run: give --data DIR, or --data NAME=DIR for each data set")
    runtime = jobs[0].recipe.runtime
    with processes(runtime.device, runtime.timeout_minutes):
        summary = reproducing.reproduce(jobs, output, _progress(quiet))
    if not quiet:
        _say(reproducing.to_markdown(summary))
        _say(f"table: {output / 'reproduce.md'}")
    reproducing.check(summary)


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise RecipeError(f"--seeds: expected numbers with commas between, such as 0,1,2, got {text!r}") from None


@app.command(epilog="Examples:\n\n  wsolfast recipes\n\n  wsolfast recipes 'spa_*'\n\n  wsolfast recipes spa_cub_vgg16")
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|GLOB]", help="Show this one, or list these.")] = None,
) -> None:
    """List the recipes with the numbers of their papers, or show one with the source of every value."""
    from fnmatch import filter as matching

    names = list_recipes()
    if name is not None and not (set("*?[") & set(name)):
        _say(recipe_path(name).read_text(encoding="utf-8").rstrip())
        return
    names = matching(names, name or "*")
    if not names:
        raise RecipeError(f"no recipe matches {name!r}")
    width = max(map(len, names))
    _say(f"{'recipe':<{width}}  Top-1 Loc  Top-5 Loc  GT-known  (published accuracies in percent)")
    for recipe in map(load_recipe, names):
        numbers = recipe.paper.numbers() if recipe.paper else {}
        cells = [f"{numbers[key]:.2f}" if key in numbers else "-" for key in ("top1_loc", "top5_loc", "gt_known_loc")]
        _say(f"{recipe.name:<{width}}  {cells[0]:>9}  {cells[1]:>9}  {cells[2]:>8}  {recipe.summary}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this installation can do: versions, devices, who serves each op, optional packages."""
    from wsolfast.engine.doctor import examine

    state = examine()
    if as_json:
        _say(json.dumps(state, indent=2))
        return
    for key, value in state.items():
        if key == "ops":
            width = max(map(len, value))
            _say(f"{'ops':<17}{'':<{width}}  cpu        cuda")
            for op, serves in value.items():
                _say(f"{'':<17}{op:<{width}}  {serves['cpu']:<9}  {serves['cuda']}")
        elif isinstance(value, dict):
            for i, (name, text) in enumerate(value.items()):
                _say(f"{key if i == 0 else '':<17}{name}: {text}")
        elif isinstance(value, list):
            _say(f"{key:<17}{', '.join(value)}")
        else:
            _say(f"{key.replace('_', ' '):<17}{value}")


@data_app.command(
    epilog="Examples:\n\n  wsolfast data check cub /data/CUB_200_2011 --decode\n\n"
    "  wsolfast data check openimages /data/OpenImages metadata=/data/metadata/OpenImages"
)
def check(
    name: Annotated[str, typer.Argument(help="cub, ilsvrc, openimages, folder, shards, parquet or synthetic.")],
    root: Annotated[Path | None, typer.Argument(help="The data set's folder.", show_default=False)] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="data.options of a recipe.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every image.")] = False,
) -> None:
    """Check a data set on disk and say what is missing; nothing is downloaded."""
    from wsolfast import data

    if name not in data.NAMES:
        raise RecipeError(f"data set: expected one of {', '.join(data.NAMES)}, got {name!r}")
    try:
        report = data.check(name, root, decode=decode, **_data_options(options or []))
    except ValueError as error:
        raise RecipeError(str(error)) from error
    _say(str(report))
    if not report.ok:
        raise typer.Exit(3)


@data_app.command(
    epilog="Examples:\n\n"
    "  wsolfast data index ilsvrc /data/ILSVRC\n\n"
    "  wsolfast data index cub /data/CUB_200_2011 metadata=/data/metadata/CUB --force",
)
def index(
    what: Annotated[
        list[str],
        typer.Argument(metavar="NAME ROOT [OPTION=VALUE]...", help="cub, ilsvrc, openimages, folder or shards."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Build it even if nothing seems to have changed.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; by the number of cores if not given.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write every image's path, size, label and boxes into one file, which opening the data then reads instead.

    The index is ROOT/.wsolfast/index-NAME.safetensors and is used by itself. When a folder of images or an annotation
    file has changed, it is left aside and that is said, until this command is given again. OPTION=VALUE are the
    data.options of a recipe; each set of them has an index of its own.
    """
    from wsolfast import data

    if len(what) < 2:
        raise RecipeError("expected NAME ROOT [OPTION=VALUE]..., such as: ilsvrc /data/ILSVRC")
    name, root, *words = what
    options = _data_options(words)
    try:
        summary = data.index(name, root, task=_progress(quiet).task, workers=workers, force=force, **options)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    for message in summary.unreadable:
        sys.stderr.write(f"unreadable: {message}\n")
    if not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in summary.images.items())
        _say(f"{'index' if summary.built else 'still holds'}: {summary.path} ({counts})")


def _data_options(words: list[str]) -> dict[str, object]:
    """``OPTION=VALUE`` words as options of a data set."""
    for word in words:
        if "=" not in word:
            raise RecipeError(f"{word!r}: expected OPTION=VALUE, such as metadata=/data/metadata/CUB")
    return {key: override_value(text) for key, _, text in (word.partition("=") for word in words)}


@data_app.command(
    epilog="Examples:\n\n"
    "  wsolfast data pack cub /data/CUB_200_2011 /data/cub-shards\n\n"
    "  wsolfast data pack parquet /data/hf-birds /data/bird-shards box_format=xywh\n\n"
    "  wsolfast train spa_cub_vgg16 data.name=shards data.root=/data/cub-shards",
)
def pack(
    what: Annotated[list[str], typer.Argument(metavar="NAME ROOT DIR [OPTION=VALUE]...", show_default=False)],
    per_shard: Annotated[int, typer.Option(min=1, help="Images in a tar file.")] = 1000,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; by the number of cores if not given.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a data set as tar files, which data.name=shards and WebDataset read; images are copied byte for byte.

    Interrupted, it is finished by giving the same command again. OPTION=VALUE are the data.options of a recipe.
    """
    from wsolfast import data

    if len(what) < 3 or any("=" not in word for word in what[3:]):
        raise RecipeError("expected NAME ROOT DIR [OPTION=VALUE]..., such as: cub /data/CUB_200_2011 /data/cub-shards")
    name, root, output, *words = what
    options = {key: override_value(text) for key, _, text in (word.partition("=") for word in words)}
    try:
        summary = data.pack(
            name, root, output, per_shard=per_shard, task=_progress(quiet).task, workers=workers, **options
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in summary.images.items())
        _say(f"{summary.root}: {summary.shards} shards, {summary.written} of them new ({counts})")


@data_app.command(
    name="synth-imagenet",
    epilog="Examples:\n\n"
    "  wsolfast data synth-imagenet runs/imagenet --images 5000\n\n"
    "  wsolfast data check ilsvrc runs/imagenet\n\n"
    "  wsolfast data index ilsvrc runs/imagenet",
)
def synth_imagenet(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or one that this command began.")],
    images: Annotated[int, typer.Option(min=1, help="Images of the validation set, with boxes.")] = 5000,
    train_images: Annotated[int, typer.Option(min=0, help="Images of the training set.")] = 64,
    classes: Annotated[int, typer.Option(min=2, max=32, help="Classes.")] = 32,
    size: Annotated[int, typer.Option(min=32, help="Side of the images in pixels.")] = 96,
    seed: Annotated[int, typer.Option(help="Of the images.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; by the number of cores if not given.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write rendered images in ImageNet's layout (JPEG, XML boxes, lists), to try large runs without ImageNet.

    Interrupted, it is finished by giving the same command again. The same options give the same annotations, to the
    byte.
    """
    from wsolfast import data

    summary = data.synth_imagenet(
        root,
        images=images,
        train_images=train_images,
        classes=classes,
        size=size,
        world=seed,
        task=_progress(quiet).task,
        workers=workers,
    )
    if not quiet:
        _say(f"{summary.root}: {summary.images} images, {summary.written} of them new")


@data_app.command(
    epilog="Examples:\n\n"
    "  wsolfast data fetch cub\n\n"
    "  wsolfast data fetch cub --accept-licence --output /data\n\n"
    "  wsolfast data fetch cub --accept-licence --output /data --url http://mirror/CUB_200_2011.tgz",
)
def fetch(
    name: Annotated[str, typer.Argument(help="cub.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the terms and keep to them.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where the data set's folder is made.")] = Path("."),
    url: Annotated[str | None, typer.Option(help="A mirror; the bytes must be the same.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Of what is at --url, if those are other bytes.")] = None,
    quiet: Quiet = False,
) -> None:
    """Download a data set; without --accept-licence, say where it is and on which terms, and exit with 2.

    Interrupted, the same command continues. The archive's SHA-256 is looked at before anything is unpacked; links,
    devices and paths that lead out of the folder are refused. ImageNet is not here: it is given on registration only.
    """
    from wsolfast import data

    try:
        folder = data.fetch(
            name, output, accept_licence=accept_licence, url=url, sha256=sha256, task=_progress(quiet).task
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not quiet:
        _say(f"data: {folder}\nlook it through: wsolfast data check {name} {folder}")
