"""Numbers as tables in the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsolfast.cli._options import echo

if TYPE_CHECKING:
    from rich.table import Table

    from wsolfast.engine.run.results import EvalResults, MapResults
    from wsolfast.engine.run.run_list import ListedRun
    from wsolfast.recipe import Paper

_METRICS = {
    "top1_cls": "Top-1 Cls",
    "top5_cls": "Top-5 Cls",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "gt_known_loc": "GT-known Loc",
    "top1_loc_class_mean": "Top-1 Loc, mean over classes",
    "top5_loc_class_mean": "Top-5 Loc, mean over classes",
    "gt_known_loc_class_mean": "GT-known Loc, mean over classes",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "px_ap": "PxAP",
    "p_iou": "pIoU",
    "peak_iou": "Peak-IoU",
}
# The kinds of errors of Top-1 boxes as SPA's paper has them, and the other answers.
_ERRORS = {
    "misclassified": "Misclassified",
    "correct": "Correct",
    "multi_instance": "Multi-instance",
    "part": "Part",
    "more": "More",
    "other": "Other",
}
_NO_EDGE = 10_000
# Levels 0 to 255 among the metrics.
_LEVELS = ("peak_t", "peak_t_per_image")
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


def _print_table(table: "Table") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        # A file has no edge to wrap at.
        console.width = _NO_EDGE
    console.print(table)


def print_results(results: "EvalResults", paper: "Paper | None") -> None:
    """One evaluation: a row per metric, the centre box beside it, and what the numbers rest on."""
    from wsolfast.engine.run.words import count

    given = {
        "given boxes" if results.gives_boxes else "oracle threshold": results.measured,
        "transferred threshold": results.transferred,
        "centre box": results.baselines["center_box"],
        "published": paper.numbers() if paper else None,
    }
    columns = {name: numbers for name, numbers in given.items() if numbers}
    rows = {
        title: {name: f"{numbers[key]:.1f}" for name, numbers in columns.items() if key in numbers}
        for key, title in _METRICS.items()
        if any(key in numbers for numbers in columns.values())
    }
    _print_table(_table(rows, list(columns)))
    if results.error_split is not None:
        shares = ", ".join(f"{_ERRORS[kind]} {share:.1f}" for kind, share in vars(results.error_split).items())
        echo(f"Top-1 boxes, percent: {shares}")
    if results.pixel is not None:
        echo(f"masks of {count(results.pixel.images, 'image')}, Peak-T {results.pixel.peak_threshold}")
    _echo_constant(results.maps_constant)
    if results.chosen_by_boxes:
        echo(f"the weights were chosen by boxes ({results.chosen_by_boxes}): not weakly supervised")
    if results.lossy_decoder:
        echo(f"images were decoded by {results.lossy_decoder}, which is lossy: pixels are not Pillow's")
    cut = "boxes as they are given: no threshold"
    if results.cam_threshold is not None:
        what = "regions" if results.error_split is None else "boxes"
        cut = f"{what} at {results.cam_threshold:.3g} ({results.cam_threshold_source})"
    echo(
        f"{count(results.num_images, 'image')} of {results.split}, protocol {results.protocol}, {cut}, "
        f"{results.images_per_second:.1f} images/s"
    )


def _echo_constant(maps: int | None) -> None:
    from wsolfast.engine.run.words import count

    if maps:
        echo(
            f"{count(maps, 'score map')} {'has' if maps == 1 else 'have'} one value everywhere (maps_constant): "
            "the box of such a map is rounding noise"
        )


def print_map_results(results: "MapResults", out: Path) -> None:
    """One evaluation of score maps on disk: a row per metric, its threshold and the centre box beside it."""
    from wsolfast.engine.run.words import count

    given = {
        "oracle threshold": results.metrics,
        "at": results.oracle_threshold,
        "transferred threshold": results.transferred,
        "its": results.transferred_thresholds,
        "centre box": (results.baselines or {}).get("center_box"),
    }
    columns = {name: numbers for name, numbers in given.items() if numbers}
    thresholds = ("at", "its")
    rows = {
        _MAP_METRICS[key]: {
            name: f"{numbers[key]:.{0 if key in _LEVELS else 3 if name in thresholds else 2}f}"
            for name, numbers in columns.items()
            if key in numbers
        }
        for key in results.metrics
    }
    _print_table(_table(rows, list(columns)))
    compared, rate = results.compared, results.images_per_second
    if compared is not None:
        many = f"{count(compared.images, 'image')} × {count(compared.thresholds, 'threshold')}"
        echo(f"{many} identical to {compared.with_}")
    if results.maps_not_finite:
        several = results.maps_not_finite > 1
        maps = f"{count(results.maps_not_finite, 'score map')} {'hold' if several else 'holds'}"
        echo(f"{maps} a NaN or an infinity: {'they count' if several else 'it counts'} as empty")
    _echo_constant(results.maps_constant)
    echo(
        f"{count(results.num_images, 'image')} of {results.dataset} {results.split}"
        + (f", protocol {results.protocol}" if results.protocol else "")
        + (f", {rate:.0f} images/s" if rate else ", counted before")
        + f"; {out}"
    )


def print_comparison(results: "dict[str, EvalResults]") -> None:
    """Several evaluations of the same images, a row each, and the centre box below them."""
    shown = ("top1_cls", "gt_known_loc", "max_box_acc", "max_box_acc_v2")
    titles = {key: _METRICS[key] for key in shown}
    rows = {
        "".join([name, *(f" ({mark})" for mark in found.marks)]): {
            titles[key]: f"{found.metrics[key]:.1f}" for key in titles
        }
        | {"images/s": f"{found.images_per_second:.0f}"}
        for name, found in results.items()
    }
    center = next(iter(results.values())).baselines["center_box"]
    rows["centre box"] = {titles[key]: f"{center[key]:.1f}" for key in titles if key != "top1_cls"}
    _print_table(_table(rows, [*titles.values(), "images/s"]))


def print_runs(runs: "Sequence[ListedRun]") -> None:
    """Several runs, a row for each of their evaluations: state, method, seed, numbers and age."""
    from rich.table import Table

    from wsolfast.engine.run.run_list import in_words

    shown = ("top1_loc", "gt_known_loc", "max_box_acc_v2", "px_ap", "peak_iou")
    metrics = [key for key in shown if any(key in run.numbers for run in runs)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("run", "state", "method", "evaluation"):
        table.add_column(title)
    for title in ("seed", *(_METRICS[key] for key in metrics), "age"):
        table.add_column(title, justify="right")
    for run in runs:
        numbers = [f"{run.numbers[key]:.1f}" if key in run.numbers else "-" for key in metrics]
        seed = "-" if run.seed is None else str(run.seed)
        table.add_row(run.run, run.state, run.method or "-", run.evaluation or "-", seed, *numbers, in_words(run.age))
    _print_table(table)
